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
    value: float = ladder[row, column] + (place - row) * (ladder[row + 1, column] - ladder[row, column])
    return value


@njit
def carry(power: Reals, ladder: Reals, grid: Reals, levels: Reals) -> None:
    """Replace mean SINRs, as logarithms in ``levels`` [direction user candidate], by efficiencies under fading.

    The effective SINR (see ``link.effective_sinr``) over the samples of ``power`` [user candidate sample], then the
    ladder. It lies between the smallest sample and the mean, so where these are off the ladder nothing is
    exponentiated.
    """
    samples = power.shape[2]
    for direction in range(levels.shape[0]):
        for user in range(levels.shape[1]):
            for place in range(levels.shape[2]):
                least, mean = power[user, place, 0], power[user, place, 0]
                for sample in range(1, samples):
                    least = min(least, power[user, place, sample])
                    mean += power[user, place, sample]
                level = levels[direction, user, place]
                sinr = math.exp(min(level, 60.0))
                effective = sinr * least
                if sinr * mean < grid[2] * samples:
                    levels[direction, user, place] = 0.0
                    continue
                if effective < grid[3]:
                    parameter = climb(ladder, grid, 1, level)
                    total = 0.0
                    for sample in range(samples):
                        total += math.exp(-sinr * (power[user, place, sample] - least) / parameter)
                    effective -= parameter * math.log(total / samples)
                carried = climb(ladder, grid, 0, math.log(effective)) if effective >= grid[2] else 0.0
                levels[direction, user, place] = carried


@njit
def fade(
    candidate: Cells,
    los: NDArray[np.bool_],
    k: float,
    velocity: Reals,
    doppler: Reals,
    was: Cells,
    old: Reals,
    normals: Reals,
    new: Reals,
    power: Reals,
) -> None:
    """One frame of small-scale fading of every candidate link.

    The scatter is complex normal and first-order autoregressive with the correlation that ``doppler`` (see
    ``link.doppler``) gives at the user's speed; ``k`` is the Rician ratio in line of sight. ``was`` [user candidate]
    are the cells that ``old`` [user candidate sample 2] belongs to; a cell that was no candidate starts afresh.
    Writes ``new`` likewise, and ``power`` [user candidate sample].
    """
    for user in range(candidate.shape[0]):
        speed = math.sqrt(velocity[user, 0] * velocity[user, 0] + velocity[user, 1] * velocity[user, 1])
        at = min(speed * doppler[0], doppler.shape[0] - 2.5)
        row = int(at)
        kept = doppler[1 + row] + (at - row) * (doppler[2 + row] - doppler[1 + row])
        for place in range(candidate.shape[1]):
            cell = candidate[user, place]
            if cell < 0:
                continue
            match = 0
            while match < was.shape[1] and was[user, match] != cell:
                match += 1
            keep = kept if match < was.shape[1] else 0.0
            match = min(match, was.shape[1] - 1)
            ratio = k if los[user, cell] else 0.0
            grow = math.sqrt(1.0 - keep * keep)
            ahead, scatter = math.sqrt(ratio / (ratio + 1.0)), math.sqrt(0.5 / (ratio + 1.0))
            for sample in range(new.shape[2]):
                real = keep * old[user, match, sample, 0] + grow * normals[user, place, sample, 0]
                imaginary = keep * old[user, match, sample, 1] + grow * normals[user, place, sample, 1]
                new[user, place, sample, 0] = real
                new[user, place, sample, 1] = imaginary
                power[user, place, sample] = (ahead + scatter * real) ** 2 + (scatter * imaginary) ** 2


@njit
def rate(
    candidate: Cells,
    position: Reals,
    cell_xy: Reals,
    drop_m: float,
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
    out: Reals,
) -> None:
    """Rate every candidate link but for the fading.

    ``constants`` is (noise of an end, noise of a cell, margin in deviations, uplink alpha), ``log_power`` the
    logarithms of (uplink P0, uplink limit, downlink power) per block. Writes ``out`` [9 user candidate]: true gain and
    logarithms of the mean SINR down and up, observed gain and efficiency down and up, uplink power, distance, deviation
    of the observed gain (logarithm). A cell measures the interference it receives, so the
    uplink's is the same in both; the downlink's is expected from the observed gains.
    """
    end_w, cell_w, margin, alpha = constants[0], constants[1], constants[2], constants[3]
    for user in range(candidate.shape[0]):
        for place in range(candidate.shape[1]):
            cell = candidate[user, place]
            if cell < 0:
                for row in range(out.shape[0]):
                    out[row, user, place] = 0.0
                out[1, user, place] = out[2, user, place] = -60.0
                continue
            log_sent = min(log_power[1], log_power[0] - alpha * log_gain[user, cell])
            around = end_w + max(downlink[user] - downlink_w[cell] * gain[user, cell], 0.0)
            own = own_w[user] * gain[user, cell] if uplink_cell[user] != cell else 0.0
            log_risen = math.log(cell_w + max(uplink[cell] - own, 0.0))
            out[0, user, place] = gain[user, cell]
            out[1, user, place] = log_power[2] + log_gain[user, cell] - math.log(around)
            out[2, user, place] = log_sent + log_gain[user, cell] - log_risen

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
            out[8, user, place] = seen_std[user, place]


@njit
def connect(
    candidate: Cells,
    position: Reals,
    velocity: Reals,
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
    seen: Reals,
    seen_downlink: Reals,
    k: float,
    doppler: Reals,
    constants: Reals,
    log_power: Reals,
    ladder: Reals,
    grid: Reals,
    was: Cells,
    old: Reals,
    normals: Reals,
    new: Reals,
    faded: Reals,
    out: Reals,
) -> None:
    """Fade and rate every candidate link: ``fade``, ``rate`` and ``carry``; ``seen`` [2 user candidate] is observed.

    Writes what they write, ``out`` with the true efficiencies down and up as its second and third row.
    """
    fade(candidate, los, k, velocity, doppler, was, old, normals, new, faded)
    rate(
        candidate, position, cell_xy, drop_m, known_los, log_gain, gain, downlink_w, downlink, uplink, own_w,
        uplink_cell, seen[0], seen[1], seen_downlink, constants, log_power, ladder, grid, out,
    )  # fmt: skip
    carry(faded, ladder, grid, out[1:3])
