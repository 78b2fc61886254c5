"""What a frame used: meters, and how a grant is booked on them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from gainnet.compiled import inner
from gainnet.execution.running_kernel import R_CELL, R_COST, R_ENERGY, R_MODEL, R_NODE, R_STAGE, R_USER, Running
from gainnet.orchestrator.stage_kernel import (
    BLOCK_W,
    DECODE,
    DOWNLINK,
    FLOP,
    KIND,
    RATE,
    RESOURCE,
    SENSE,
    TRAIN,
    TRANSFER,
    UNIT,
    UPLINK,
    UPLOAD,
)
from gainnet.orchestrator.tables import Tables
from gainnet.orchestrator.worth_kernel import stage_cost

UP_BIT, DOWN_BIT, FLOPS, LOOKS, DETECTIONS = range(5)
TOTALS = 5


class Meters(NamedTuple):
    """What a frame used: resource units, transmissions, energy, and counts; zeroed by the caller.

    ``token`` over ``token_share`` is the batch of each node and model, the harmonic mean over its tokens: at that batch
    the linearised cost of a token is what the frame paid.
    """

    used: NDArray[np.float64]
    radar_block_s: NDArray[np.float64]
    transmit_block_s: NDArray[np.float64]
    uplink_block_s: NDArray[np.float64]
    uplink_cell: NDArray[np.int64]
    uplink_j: NDArray[np.float64]
    busy_s: NDArray[np.float64]
    token: NDArray[np.float64]
    token_share: NDArray[np.float64]
    totals: NDArray[np.float64]


@inner
def charge(tables: Tables, running: Running, meters: Meters, row: int, grant: float) -> None:
    """Book what a grant did: resource time, energy, price, bits, flop."""
    ints, floats = running.ints[row], running.floats[row]
    s = ints[R_STAGE]
    kind, resource = running.stage_ints[row, s, KIND], running.stage_ints[row, s, RESOURCE]
    numbers = running.stage_floats[row, s]
    user, node, cell = ints[R_USER], ints[R_NODE], ints[R_CELL]
    energy, price = stage_cost(tables, user, kind, node, grant, numbers[BLOCK_W])
    floats[R_ENERGY] += energy
    floats[R_COST] += price + energy * tables.run[0].energy_price_per_j
    meters.used[resource] += grant
    if kind == SENSE:
        meters.radar_block_s[cell] += grant
        if numbers[BLOCK_W] == tables.run[0].block_power_w:
            meters.transmit_block_s[cell] += grant
        else:
            meters.uplink_j[user] += energy
    elif kind == DOWNLINK:
        meters.transmit_block_s[cell] += grant
        meters.totals[DOWN_BIT] += grant / numbers[UNIT]
    elif kind in (UPLINK, UPLOAD):
        meters.uplink_block_s[user] += grant
        meters.uplink_cell[user] = cell
        meters.uplink_j[user] += energy
        meters.totals[UP_BIT] += grant / numbers[UNIT]
    elif kind != TRANSFER:
        if kind == DECODE:
            key = node * len(tables.artifact) + ints[R_MODEL]
            meters.token[key] += grant / numbers[UNIT]
            meters.token_share[key] += grant / numbers[UNIT] * numbers[RATE]
        meters.busy_s[tables.run[0].fixed + user if kind == TRAIN else node] += grant
        meters.totals[FLOPS] += grant / numbers[UNIT] * numbers[FLOP]
