"""The links of each user to its candidates: small-scale fading, SINR and spectral efficiency, true and observed.

``ladder`` is that of ``link.ladder``.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from gainnet.compiled import njit

Reals = NDArray[np.float64]
Cells = NDArray[np.int64]


@njit
def climb(ladder: Reals, grid: Reals, column: int, level: float) -> float:
    """The ladder's ``column`` at the logarithm ``level`` of a SINR.

    ``grid`` is (lowest rung as a logarithm, rungs per unit of it, and as ratios the SINRs of the lowest rung that
    carries anything and of the first that carries most).
    """
    place = min(max((level - grid[0]) * grid[1], 0.0), ladder.shape[0] - 1.001)
    row = int(place)
    return ladder[row, column] + (place - row) * (ladder[row + 1, column] - ladder[row, column])


@njit
def efficiency(level: float, power: Reals, ladder: Reals, grid: Reals) -> float:
    """Efficiency at mean SINR ``exp(level)`` with fading ``power`` [sample].

    The effective SINR (see ``link.effective_sinr``), then the ladder. It lies between the smallest sample and the mean,
    so where these are above or below the ladder nothing is exponentiated.
    """
    least, mean = power[0], power[0]
    for sample in range(1, power.shape[0]):
        least = min(least, power[sample])
        mean += power[sample]
    sinr = math.exp(min(level, 60.0))
    if sinr * mean < grid[2] * power.shape[0]:
        return 0.0
    if sinr * least > grid[3]:
        return ladder[ladder.shape[0] - 1, 0]
    parameter = climb(ladder, grid, 1, level)
    total = 0.0
    for sample in range(power.shape[0]):
        total += math.exp(-sinr * (power[sample] - least) / parameter)
    effective = sinr * least - parameter * math.log(total / power.shape[0])
    return climb(ladder, grid, 0, math.log(effective)) if effective >= grid[2] else 0.0


@njit
def fade(old: Reals, keep: float, k: float, new: Reals, power: Reals) -> None:
    """One frame of fading: ``new`` [sample 2] from ``old`` by first-order autoregression, and its ``power`` [sample].

    The scatter is complex normal, ``keep`` its correlation over a frame; ``k`` the Rician ratio. ``new`` brings fresh
    standard normals.
    """
    ahead, scatter = math.sqrt(k / (k + 1.0)), math.sqrt(0.5 / (k + 1.0))
    grow = math.sqrt(1.0 - keep * keep)
    for sample in range(new.shape[0]):
        new[sample, 0] = keep * old[sample, 0] + grow * new[sample, 0]
        new[sample, 1] = keep * old[sample, 1] + grow * new[sample, 1]
        real, imaginary = ahead + scatter * new[sample, 0], scatter * new[sample, 1]
        power[sample] = real * real + imaginary * imaginary


@njit
def connect(
    candidate: Cells,
    position: Reals,
    cell_xy: Reals,
    drop_m: float,
    los: NDArray[np.bool_],
    known_los: NDArray[np.bool_],
    log_gain: Reals,
    gain: Reals,
    downlink_w: Reals,
    downlink: Reals,
    uplink: Reals,
    own_w: Reals,
    uplink_cell: Cells,
    seen_log_gain: Reals,
    seen_std: Reals,
    seen_downlink: Reals,
    constants: Reals,
    log_power: Reals,
    ladder: Reals,
    grid: Reals,
    keep: Reals,
    was: Cells,
    old: Reals,
    new: Reals,
    out: Reals,
) -> None:
    """Fade and rate every candidate link.

    ``constants`` is (noise of an end, noise of a cell, margin in deviations, Rician ratio, uplink alpha), ``log_power``
    the logarithms of (uplink P0, uplink limit, downlink power) per block.
    ``was`` [user candidate] are the cells that ``old`` [user candidate sample 2] belongs to; a cell that was no
    candidate starts afresh from ``new``, which brings standard normals. Writes ``new`` and ``out`` [8 user candidate]:
    gain, downlink and uplink efficiency, true then observed, uplink power, distance. A cell measures the interference it receives, so the
    uplink's is the same in both; the downlink's is expected from the observed gains.
    """
    end_w, cell_w, margin, k, alpha = constants[0], constants[1], constants[2], constants[3], constants[4]
    faded = np.empty(new.shape[2])
    for user in range(candidate.shape[0]):
        for place in range(candidate.shape[1]):
            cell = candidate[user, place]
            if cell < 0:
                out[:, user, place] = 0.0
                continue
            match = 0
            while match < was.shape[1] and was[user, match] != cell:
                match += 1
            ratio = k if los[user, cell] else 0.0
            if match == was.shape[1]:
                fade(new[user, place], 0.0, ratio, new[user, place], faded)
            else:
                fade(old[user, match], keep[user], ratio, new[user, place], faded)

            log_sent = min(log_power[1], log_power[0] - alpha * log_gain[user, cell])
            around = end_w + max(downlink[user] - downlink_w[cell] * gain[user, cell], 0.0)
            own = own_w[user] * gain[user, cell] if uplink_cell[user] != cell else 0.0
            log_risen = math.log(cell_w + max(uplink[cell] - own, 0.0))
            heard = log_power[2] + log_gain[user, cell] - math.log(around)
            out[0, user, place] = gain[user, cell]
            out[1, user, place] = efficiency(heard, faded, ladder, grid)
            out[2, user, place] = efficiency(log_sent + log_gain[user, cell] - log_risen, faded, ladder, grid)

            seen = math.exp(seen_log_gain[user, place])
            held = seen_log_gain[user, place] - margin * seen_std[user, place]
            others = end_w + max(seen_downlink[user] - downlink_w[cell] * seen, 0.0)
            asked = min(log_power[1], log_power[0] - alpha * seen_log_gain[user, place])
            column = 3 if known_los[user, cell] else 2
            out[3, user, place] = seen
            out[4, user, place] = climb(ladder, grid, column, log_power[2] + held - math.log(others))
            out[5, user, place] = climb(ladder, grid, column, asked + held - log_risen)
            out[6, user, place] = math.exp(log_sent)
            east, north = position[user, 0] - cell_xy[cell, 0], position[user, 1] - cell_xy[cell, 1]
            out[7, user, place] = math.sqrt(east * east + north * north + drop_m * drop_m)
