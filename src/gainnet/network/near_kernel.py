"""Which cells a user tracks as it crosses tiles, and mean gains of the others; see ``near``."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gainnet.compiled import inner, njit
from gainnet.network.channel_kernel import between, locate, sector_loss
from gainnet.network.columns import (
    AZIMUTH,
    DISTANCE,
    DOUBT,
    EAST,
    LATENT,
    LOSS,
    LOST,
    MOVED,
    NONE,
    NORTH,
    RIVAL,
    SEEN_CLEAR,
    SERVING,
    SHADE,
    SHADOW,
    SLOPE,
    TILE,
)

Reals = NDArray[np.float64]
Integers = NDArray[np.int64]


@inner
def antenna(east: float, north: float, azimuth: float, vertical: float, rules: Any) -> float:
    """Attenuation of a cell's antenna (logarithm) towards an end that lies so; none where it is omnidirectional."""
    if math.isnan(azimuth):
        return 0.0
    aside = math.atan2(north, east) - azimuth
    loss: float = sector_loss(aside, vertical, rules[0].beamwidth_rad, rules[0].attenuation_max)
    return loss


@njit
def mean_gains(points: Reals, cells: Reals, table: Reals, rules: Any, gain: Reals) -> None:
    """Write the mean ``gain`` [point cell] over the state of the links and their shadowing.

    ``p exp(m1 + s1^2 / 2) + (1 - p) exp(m0 + s0^2 / 2)`` with p the probability of line of sight, m the logarithms of
    the gain with and without it and s their deviations, less the antenna's attenuation.
    """
    for point in range(points.shape[0]):
        for cell in range(cells.shape[0]):
            east, north = points[point, 0] - cells[cell, EAST], points[point, 1] - cells[cell, NORTH]
            row, part = locate(math.sqrt(east * east + north * north), rules[0].step_m, table.shape[0])
            los = min(max(between(table, row, part, 2), 0.0), 1.0)
            clear_std, blocked_std = between(table, row, part, 4), between(table, row, part, 5)
            clear = los * math.exp(between(table, row, part, 0) + 0.5 * clear_std * clear_std)
            blocked = (1.0 - los) * math.exp(between(table, row, part, 1) + 0.5 * blocked_std * blocked_std)
            loss = antenna(east, north, cells[cell, AZIMUTH], between(table, row, part, 6), rules)
            gain[point, cell] = (clear + blocked) * math.exp(-loss)


@inner
def holds(cells: Integers, row: int, cell: int) -> bool:
    """Whether ``cell`` is in the ``row`` of ``cells``."""
    found = False
    for place in range(cells.shape[1]):
        found |= cells[row, place] == cell
    return found


@inner
def enter(
    user: int,
    slot: int,
    position: Reals,
    normals: Reals,
    cells: Reals,
    table: Reals,
    rules: Any,
    near: Integers,
    field: Reals,
    memory: Reals,
    ends: Reals,
) -> None:
    """Start the link of a slot whose cell has come near: its field anew, and of it nothing is known but the distance.

    ``normals`` [3] are fresh. The distance remembered is such that with the way gone since the last sounding (see
    ``observe_kernel.associate``) it is the present one.
    """
    field[user, slot, LATENT], field[user, slot, SLOPE], field[user, slot, SHADOW] = normals[0], normals[1], normals[2]
    cell = near[user, slot]
    east, north = position[user, 0] - cells[cell, EAST], position[user, 1] - cells[cell, NORTH]
    square = east * east + north * north
    row, part = locate(math.sqrt(square), rules[0].step_m, table.shape[0])
    way = min(ends[user, MOVED], rules[0].way_max_m)
    memory[user, slot, DISTANCE] = math.sqrt(max(square - way * way, 0.0))
    memory[user, slot, SHADE] = 0.0
    memory[user, slot, DOUBT] = 1.0
    memory[user, slot, LOSS] = antenna(east, north, cells[cell, AZIMUTH], between(table, row, part, 6), rules)
    memory[user, slot, SEEN_CLEAR] = min(max(between(table, row, part, 2), 0.0), 1.0)


@njit
def settle(
    users: Integers,
    tile: Integers,
    tile_near: Integers,
    position: Reals,
    normals: Reals,
    cells: Reals,
    table: Reals,
    rules: Any,
    near: Integers,
    field: Reals,
    memory: Reals,
    ends: Reals,
    ties: Integers,
) -> None:
    """Let ``users`` enter their ``tile`` [user], whose near cells are ``tile_near`` [tile slot].

    A cell that stays near keeps its slot and all that belongs to it. Those that leave are forgotten, and their slots
    go to the ones that come; a user whose serving cell leaves has lost it. ``normals`` [users slot 3] are fresh.
    """
    for index in range(users.shape[0]):
        user = users[index]
        into = tile[user]
        ties[user, TILE] = into
        slot = 0
        for place in range(tile_near.shape[1]):
            cell = tile_near[into, place]
            if holds(near, user, cell):
                continue
            while holds(tile_near, into, near[user, slot]):
                slot += 1
            near[user, slot] = cell
            enter(
                user, slot, position, normals[index, slot], cells, table, rules, near, field, memory, ends
            )  # fmt: skip
            if ties[user, SERVING] == slot:
                ties[user, SERVING] = LOST
            if ties[user, RIVAL] == slot:
                ties[user, RIVAL] = NONE
