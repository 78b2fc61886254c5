"""The true radio field: line of sight, shadowing and gain of every user and cell, and the interference they make.

Gains travel as natural logarithms of power ratios beside the ratios themselves, so that no kernel takes the logarithm
of what another exponentiated. ``table`` is that of ``channel.tabulate``; the columns of ``field``, ``ends``, ``ties``
and ``cells`` and the fields of ``rules`` are those of ``columns``.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gainnet.compiled import inner, njit
from gainnet.network.columns import (
    AZIMUTH,
    CLEAR,
    DOWNLINK,
    EAST,
    GAIN,
    HEARD,
    LATENT,
    LOG_GAIN,
    MOVED,
    NORTH,
    OWN,
    SENT,
    SHADOW,
    SLOPE,
    TILE,
    UP,
)
from gainnet.network.far_kernel import hear_far, send_far

Reals = NDArray[np.float64]


@inner
def between(table: Reals, row: int, part: float, column: int) -> float:
    """The table's ``column`` at fraction ``part`` of the way from ``row`` to the next."""
    value: float = table[row, column] + part * (table[row + 1, column] - table[row, column])
    return value


@inner
def locate(distance: float, step_m: float, rows: int) -> tuple[int, float]:
    """Row of the table below ``distance`` and the fraction of the way to the next; past the end it extrapolates."""
    place = distance / step_m
    row = min(int(place), rows - 2)
    return row, place - row


@inner
def smooth_step(x: float) -> tuple[float, float, float, float, float, float, float]:
    """Transition of a once differentiable Gaussian field (Matern 3/2) and its slope over ``x`` correlation lengths.

    The field z and the slope w, both of unit variance, become ``(a z + b w + e n1, c z + d w + f n1 + g n2)``; the
    field's autocorrelation is ``(1 + x) exp(-x)``.
    """
    fade = math.exp(-x)
    a, b, c, d = fade * (1.0 + x), fade * x, -fade * x, fade * (1.0 - x)
    e = math.sqrt(max(1.0 - a * a - b * b, 0.0))
    f = -(a * c + b * d) / e if e > 0.0 else 0.0
    g = math.sqrt(max(1.0 - c * c - d * d - f * f, 0.0))
    return a, b, c, d, e, f, g


@inner
def sector_loss(aside: float, vertical: float, beamwidth: float, most: float) -> float:
    """Attenuation of a sector's antenna ``aside`` of its boresight, on top of that of the ``vertical`` cut
    (logarithms).

    The horizontal cut is ``min(12 (aside / beamwidth)^2, 30)`` dB, and both together stop at 30 dB = ``most`` (TR
    38.901 table 7.3-1); 12 dB is 0.4 of it.
    """
    turns = (aside - 2.0 * math.pi * math.floor(aside / (2.0 * math.pi) + 0.5)) / beamwidth
    return min(0.4 * turns * turns * most + vertical, most)


@njit
def block_power(log_gain: float, p0_w: float, alpha: float, limit_w: float) -> float:
    """Open-loop uplink power of a resource block, ``min(limit, P0 gain^-alpha)`` (TS 38.213 clause 7.1.1)."""
    return min(limit_w, p0_w * math.exp(min(-alpha * log_gain, 500.0)))


@inner
def propagate(
    user: int,
    position: Reals,
    previous: Reals,
    normals: Reals,
    cells: Reals,
    table: Reals,
    rules: Any,
    near: NDArray[np.int64],
    field: Reals,
) -> float:
    """Move the fields of one user with it and give the gain of each of its links; returns the way (m).

    The shadowing is a field of unit variance: an end that moved ``d`` keeps ``exp(-d / correlation)`` of it (TR 38.901
    clause 7.4.4). The link is in line of sight where the field behind its state is below the normal quantile of the
    probability. It must be smooth: one with exponential correlation would cross its threshold without end, and states
    would flicker over centimetres. ``normals`` [user slot 3] are fresh. Writes the user's ``field``.
    """
    rows, step_m = table.shape[0], rules[0].step_m
    beamwidth, most = rules[0].beamwidth_rad, rules[0].attenuation_max
    x, y = position[user, 0], position[user, 1]
    moved = math.hypot(x - previous[user, 0], y - previous[user, 1])
    a, b, c, d, e, f, g = smooth_step(moved / rules[0].state_m)
    keep_los = math.exp(-moved / rules[0].clear_m)
    keep_nlos = math.exp(-moved / rules[0].blocked_m)
    new_los = math.sqrt(1.0 - keep_los * keep_los)
    new_nlos = math.sqrt(1.0 - keep_nlos * keep_nlos)
    for slot in range(near.shape[1]):
        cell = near[user, slot]
        east, north = x - cells[cell, EAST], y - cells[cell, NORTH]
        row, part = locate(math.sqrt(east * east + north * north), step_m, rows)
        latent, slope, s = field[user, slot, LATENT], field[user, slot, SLOPE], field[user, slot, SHADOW]
        z = a * latent + b * slope + e * normals[user, slot, 0]
        slope = c * latent + d * slope + f * normals[user, slot, 0] + g * normals[user, slot, 1]
        clear = z < between(table, row, part, 3)
        if clear:
            s = keep_los * s + new_los * normals[user, slot, 2]
            total = between(table, row, part, 0) + between(table, row, part, 4) * s
        else:
            s = keep_nlos * s + new_nlos * normals[user, slot, 2]
            total = between(table, row, part, 1) + between(table, row, part, 5) * s
        if not math.isnan(cells[cell, AZIMUTH]):
            aside = math.atan2(north, east) - cells[cell, AZIMUTH]
            total -= sector_loss(aside, between(table, row, part, 6), beamwidth, most)
        field[user, slot, LATENT] = z
        field[user, slot, SLOPE] = slope
        field[user, slot, SHADOW] = s
        field[user, slot, CLEAR] = 1.0 if clear else 0.0
        field[user, slot, LOG_GAIN] = total
        field[user, slot, GAIN] = math.exp(total)
    return moved


@inner
def transmit(user: int, to: int, use: float, near: NDArray[np.int64], field: Reals, rules: Any, cells: Reals) -> float:
    """Let a user send to cell ``to`` and the other cells near it hear that; returns its mean power of a block (W).

    An end that still sends to a cell which is no longer near it does so at its limit.
    """
    own = 0
    while own < near.shape[1] and near[user, own] != to:
        own += 1
    power_w = rules[0].limit_w
    if own < near.shape[1]:
        power_w = block_power(field[user, own, LOG_GAIN], rules[0].p0_w, rules[0].alpha, rules[0].limit_w)
    sent: float = use * power_w
    for slot in range(near.shape[1]):
        if slot != own:
            cells[near[user, slot], HEARD] += sent * field[user, slot, GAIN]
    return sent


@njit
def radiate(
    position: Reals,
    previous: Reals,
    normals: Reals,
    downlink_use: Reals,
    up: NDArray[np.bool_],
    uplink_use: Reals,
    uplink_cell: NDArray[np.int64],
    table: Reals,
    rules: Any,
    far_cell: NDArray[np.int32],
    far_gain: NDArray[np.float32],
    rest_gain: Reals,
    far_w: Reals,
    sent_w: Reals,
    near: NDArray[np.int64],
    cells: Reals,
    field: Reals,
    ends: Reals,
    ties: NDArray[np.int64],
) -> None:
    """Move every field with its user, and give the mean power that each user and cell receives from others' traffic.

    Powers are per resource block: a cell or user sends its power times its use. Cells near a user count link by link,
    the others by their mean (see ``near``). Writes ``field``; of ``ends`` the way, ``DOWNLINK``, the serving cell's own
    part still in it, and ``OWN``; of ``cells`` ``UP``, ``SENT`` and ``HEARD``, without the cell's own users; ``far_w``
    and ``sent_w`` [tile].
    """
    for cell in range(cells.shape[0]):
        cells[cell, UP] = 1.0 if up[cell] else 0.0
        cells[cell, SENT] = rules[0].block_w * downlink_use[cell] * cells[cell, UP]
        cells[cell, HEARD] = 0.0
    hear_far(far_cell, far_gain, rest_gain, cells, far_w)
    sent_w[:] = 0.0
    for user in range(position.shape[0]):
        ends[user, MOVED] += propagate(user, position, previous, normals, cells, table, rules, near, field)
        total = far_w[ties[user, TILE]]
        for slot in range(near.shape[1]):
            total += cells[near[user, slot], SENT] * field[user, slot, GAIN]
        ends[user, DOWNLINK] = total
        ends[user, OWN] = 0.0
        if uplink_cell[user] >= 0 and uplink_use[user] > 0.0:
            sent = transmit(user, uplink_cell[user], uplink_use[user], near, field, rules, cells)
            ends[user, OWN] = sent
            sent_w[ties[user, TILE]] += sent
    send_far(far_cell, far_gain, rest_gain, sent_w, cells)
