"""What pattern enumeration and execution read of a run in every frame, packed for the compiler.

A few structured arrays instead of many plain ones: a compiled function takes each as one argument, and a field is a load.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gainnet.demand.service import Services
from gainnet.models.card import Cards
from gainnet.network.compute import Nodes
from gainnet.network.energy import END_AMPLIFIER_EFFICIENCY
from gainnet.network.sensing import Radar
from gainnet.network.topology import Topology
from gainnet.orchestrator.pool import Pool
from gainnet.scenario.hardware import base_station
from gainnet.scenario.network import Radio
from gainnet.scenario.orchestrator import Objective
from gainnet.units import dbm_to_w

NODE_FIELDS = (
    "count", "flop_per_s", "byte_per_s", "memory_byte", "load_byte_per_s", "load_overhead_s", "price_per_s", "batch_max",
    "step_overhead_s", "text_overhead_s", "request_overhead_s",
)  # fmt: skip
ARTIFACT_FIELDS = (
    "size_byte", "flop_per_token", "attention_flop_per_token2", "kv_byte_per_token", "step_flop", "fixed_flop",
    "overhead_s", "image_bit", "quality", "steps_scale", "quality_gain", "load_s",
)  # fmt: skip
POOL_FIELDS = (
    "cells", "fixed", "users", "slots", "radio_parts", "compute_parts", "compute_start", "end_start", "link_start",
    "memory_start", "power_start",
)  # fmt: skip
RADAR_FIELDS = (
    "wavelength_m", "subcarrier_hz", "end_noise_figure", "cell_noise_figure", "cross_section_m2",
    "false_alarm_probability", "range_error_max_m",
)  # fmt: skip


class Tables(NamedTuple):
    """Constants of a run. Fields have the names and units they have in Pool, Topology, Nodes, Cards, Radar and Services.

    ``run`` has one record: the scalars. ``node``, ``artifact``, ``link`` and ``level`` (of sensing) have one for each.
    ``busy_w`` is what a busy second adds to a node's idle power; ``cell_j_per_block_s`` what a resource-block-second of
    transmission costs a cell.
    """

    run: NDArray[Any]
    node: NDArray[Any]
    artifact: NDArray[Any]
    link: NDArray[Any]
    level: NDArray[Any]
    slot_edge_s: NDArray[np.float64]
    cell_edge: NDArray[np.int64]
    path_ptr: NDArray[np.int64]
    path_link: NDArray[np.int64]
    path_latency_s: NDArray[np.float64]
    service_kind: NDArray[np.int64]
    service_nearest: NDArray[np.int64]
    model_ptr: NDArray[np.int64]
    model_index: NDArray[np.int64]


def records(**columns: Any) -> NDArray[Any]:
    """A structured array with the given columns; integers become int64, all else float64."""
    arrays = {name: np.atleast_1d(np.asarray(column)) for name, column in columns.items()}
    types = [(name, np.int64 if array.dtype.kind in "iu" else np.float64) for name, array in arrays.items()]
    packed = np.empty(len(next(iter(arrays.values()))), np.dtype(types, align=True))
    for name, array in arrays.items():
        packed[name] = array
    return packed


def build(
    pool: Pool,
    topology: Topology,
    nodes: Nodes,
    cards: Cards,
    services: Services,
    radar: Radar,
    radio: Radio,
    objective: Objective,
    *,
    blocks: int,
    block_hz: float,
    block_power_w: float,
) -> Tables:
    """Pack the parts of a run; ``block_power_w`` is the downlink power of a cell in one resource block."""
    run = records(
        **{name: getattr(pool, name) for name in POOL_FIELDS},
        **{name: getattr(radar, name) for name in RADAR_FIELDS},
        end_radar_gain=radar.end_gain,
        cell_radar_gain=radar.cell_gain,
        blocks=float(blocks),
        block_hz=block_hz,
        block_power_w=block_power_w,
        cell_j_per_block_s=base_station(radio.base_station).slope * block_power_w,
        end_power_max_w=dbm_to_w(radio.end_power_max_dbm),
        end_efficiency=END_AMPLIFIER_EFFICIENCY,
        interruption_s=radio.handover_interruption_s,
        cost_weight=objective.cost_weight,
        energy_price_per_j=objective.energy_price_per_j,
        latency_weight=objective.latency_weight,
    )
    node = records(
        tier=nodes.tier,
        busy_w=nodes.peak_w - nodes.idle_w,
        **{name: getattr(nodes, name).astype(np.float64) for name in NODE_FIELDS},
    )
    artifact = records(kind=cards.kind, base=cards.base, **{name: getattr(cards, name) for name in ARTIFACT_FIELDS})
    level = records(block=radar.block, symbol=radar.symbol, cost_block_s=radar.cost_block_s)
    return Tables(
        run=run,
        node=node,
        artifact=artifact,
        link=records(bit_per_s=topology.link_bit_per_s, latency_s=topology.link_latency_s),
        level=level,
        slot_edge_s=pool.slot_edge_s,
        cell_edge=topology.cell_edge,
        path_ptr=topology.path_ptr,
        path_link=topology.path_link,
        path_latency_s=topology.path_latency_s,
        service_kind=services.kind,
        service_nearest=services.nearest.astype(np.int64),
        model_ptr=services.model_ptr,
        model_index=services.model_index,
    )
