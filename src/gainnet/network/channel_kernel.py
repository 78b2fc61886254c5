"""The true radio field: line of sight, shadowing and gain of every user and cell, and the interference they make.

Gains travel as natural logarithms of power ratios beside the ratios themselves, so that no kernel takes the logarithm
of what another exponentiated. ``table`` is that of ``channel.tabulate``.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from gainnet.compiled import njit

Reals = NDArray[np.float64]


@njit
def between(table: Reals, row: int, part: float, column: int) -> float:
    """The table's ``column`` at fraction ``part`` of the way from ``row`` to the next."""
    value: float = table[row, column] + part * (table[row + 1, column] - table[row, column])
    return value


@njit
def locate(distance: float, step_m: float, rows: int) -> tuple[int, float]:
    """Row of the table below ``distance`` and the fraction of the way to the next; past the end it extrapolates."""
    place = distance / step_m
    row = min(int(place), rows - 2)
    return row, place - row


@njit
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


@njit
def sector_loss(aside: float, vertical: float, beamwidth: float, most: float) -> float:
    """Attenuation of a sector's antenna ``aside`` of its boresight, on top of that of the ``vertical`` cut
    (logarithms).

    The horizontal cut is ``min(12 (aside / beamwidth)^2, 30)`` dB, and both together stop at 30 dB = ``most`` (TR
    38.901 table 7.3-1); 12 dB is 0.4 of it.
    """
    turns = (aside - 2.0 * math.pi * math.floor(aside / (2.0 * math.pi) + 0.5)) / beamwidth
    return min(0.4 * turns * turns * most + vertical, most)


@njit
def propagate(
    position: Reals,
    previous: Reals,
    normals: Reals,
    cell_xy: Reals,
    azimuth: Reals,
    table: Reals,
    step_m: float,
    correlation_m: Reals,
    attenuation_max: float,
    beamwidth: float,
    latent: Reals,
    shadow: Reals,
    los: NDArray[np.bool_],
    log_gain: Reals,
    gain: Reals,
    moved_m: Reals,
) -> None:
    """Move the fields with the users and give the gain of every link.

    ``shadow`` [user cell] is the unit-variance field of the shadowing: an end that moved ``d`` keeps ``exp(-d /
    correlation)`` of it (TR 38.901 clause 7.4.4). ``latent`` [user cell 2] is the field behind the state of the link
    and that field's slope along the way; the link is in line of sight where the field is below the normal quantile of
    the probability. It must be smooth: one with exponential correlation would cross its threshold without end, and
    states would flicker over centimetres. ``correlation_m`` is (length of the smooth field, line of sight, no line of
    sight), ``normals`` [user cell 3] fresh standard normals. Writes ``latent``, ``shadow``, ``los``, ``log_gain``,
    ``gain``, and adds what each user moved to ``moved_m``.
    """
    rows = table.shape[0]
    for user in range(position.shape[0]):
        x, y = position[user, 0], position[user, 1]
        moved = math.hypot(x - previous[user, 0], y - previous[user, 1])
        moved_m[user] += moved
        a, b, c, d, e, f, g = smooth_step(moved / correlation_m[0])
        keep_los = math.exp(-moved / correlation_m[1])
        keep_nlos = math.exp(-moved / correlation_m[2])
        new_los = math.sqrt(1.0 - keep_los * keep_los)
        new_nlos = math.sqrt(1.0 - keep_nlos * keep_nlos)
        for cell in range(cell_xy.shape[0]):
            east, north = x - cell_xy[cell, 0], y - cell_xy[cell, 1]
            row, part = locate(math.sqrt(east * east + north * north), step_m, rows)
            slope, s = latent[user, cell, 1], shadow[user, cell]
            z = a * latent[user, cell, 0] + b * slope + e * normals[user, cell, 0]
            slope = c * latent[user, cell, 0] + d * slope + f * normals[user, cell, 0] + g * normals[user, cell, 1]
            clear = z < between(table, row, part, 3)
            los[user, cell] = clear
            if clear:
                s = keep_los * s + new_los * normals[user, cell, 2]
                total = between(table, row, part, 0) + between(table, row, part, 4) * s
            else:
                s = keep_nlos * s + new_nlos * normals[user, cell, 2]
                total = between(table, row, part, 1) + between(table, row, part, 5) * s
            if not math.isnan(azimuth[cell]):
                aside = math.atan2(north, east) - azimuth[cell]
                total -= sector_loss(aside, between(table, row, part, 6), beamwidth, attenuation_max)
            latent[user, cell, 0] = z
            latent[user, cell, 1] = slope
            shadow[user, cell] = s
            log_gain[user, cell] = total
            gain[user, cell] = math.exp(total)


@njit
def block_power(log_gain: float, power: Reals) -> float:
    """Open-loop uplink power of a resource block, ``min(limit, P0 gain^-alpha)`` (TS 38.213 clause 7.1.1).

    ``power`` is (P0, alpha, limit).
    """
    sent: float = min(power[2], power[0] * math.exp(min(-power[1] * log_gain, 500.0)))
    return sent


@njit
def interfere(
    log_gain: Reals,
    gain: Reals,
    downlink_w: Reals,
    uplink_use: Reals,
    uplink_cell: NDArray[np.int64],
    power: Reals,
    downlink: Reals,
    uplink: Reals,
    own_w: Reals,
) -> None:
    """Mean power that each user and each cell receives from all the others' traffic, per resource block.

    ``downlink_w`` [cell] is the mean transmit power of a block: power times use. Writes ``downlink`` [user], the
    serving cell's own part still in it; ``uplink`` [cell], without the cell's own users; ``own_w`` [user], the mean
    power of a block that the user itself transmits.
    """
    uplink[:] = 0.0
    for user in range(gain.shape[0]):
        total = 0.0
        for cell in range(gain.shape[1]):
            total += downlink_w[cell] * gain[user, cell]
        downlink[user] = total
        own_w[user] = 0.0
        to = uplink_cell[user]
        if to >= 0 and uplink_use[user] > 0.0:
            sent = uplink_use[user] * block_power(log_gain[user, to], power)
            own_w[user] = sent
            for cell in range(gain.shape[1]):
                if cell != to:
                    uplink[cell] += sent * gain[user, cell]
