"""The links of each user to its candidates: small-scale fading, SINR and spectral efficiency, true and observed.

``ladder`` is that of ``link.ladder``; the columns of ``field``, ``ends`` and ``cells`` and the fields of ``rules`` are
those of ``columns``.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gainnet.compiled import inner, njit
from gainnet.network.columns import (
    CLEAR,
    DOWNLINK,
    EAST,
    GAIN,
    HEARD,
    HELD_CLEAR,
    HELD_LOG_GAIN,
    HELD_STD,
    LOG_GAIN,
    NORTH,
    OWN,
    SEEN_DOWNLINK,
    SENT,
    TRUE_CLEAR,
    TRUE_GAIN,
    TRUE_LOG_GAIN,
)
from gainnet.network.observe_kernel import associate, sound

Reals = NDArray[np.float64]
Integers = NDArray[np.int64]


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


@inner
def pick(slots: Integers, field: Reals, links: Reals) -> None:
    """Copy the true half of ``links`` from the ``field``: gathered at once, the way to memory is gone side by side."""
    for user in range(slots.shape[0]):
        for place in range(slots.shape[1]):
            slot = max(slots[user, place], 0)
            links[user, place, TRUE_CLEAR] = field[user, slot, CLEAR]
            links[user, place, TRUE_LOG_GAIN] = field[user, slot, LOG_GAIN]
            links[user, place, TRUE_GAIN] = field[user, slot, GAIN]


@inner
def fade(
    candidate: Integers,
    links: Reals,
    k: float,
    velocity: Reals,
    doppler: Reals,
    was: Integers,
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
            ratio = k if links[user, place, TRUE_CLEAR] > 0.5 else 0.0
            grow = math.sqrt(1.0 - keep * keep)
            ahead, scatter = math.sqrt(ratio / (ratio + 1.0)), math.sqrt(0.5 / (ratio + 1.0))
            for sample in range(new.shape[2]):
                real = keep * old[user, match, sample, 0] + grow * normals[user, place, sample, 0]
                imaginary = keep * old[user, match, sample, 1] + grow * normals[user, place, sample, 1]
                new[user, place, sample, 0] = real
                new[user, place, sample, 1] = imaginary
                power[user, place, sample] = (ahead + scatter * real) ** 2 + (scatter * imaginary) ** 2


@inner
def rate(
    candidate: Integers,
    links: Reals,
    position: Reals,
    uplink_cell: Integers,
    cells: Reals,
    ends: Reals,
    rules: Any,
    ladder: Reals,
    grid: Reals,
    out: Reals,
) -> None:
    """Rate every candidate link but for the fading.

    Writes ``out`` [9 user candidate]: true gain and logarithms of the mean SINR down and up, observed gain and
    efficiency down and up, uplink power, distance, deviation of the observed gain (logarithm). A cell measures the
    interference it receives, so the uplink's is the same in both; the downlink's is expected from the observed gains.
    """
    rule = rules[0]
    log_p0, log_limit, log_block = math.log(rule.p0_w), math.log(rule.limit_w), math.log(rule.block_w)
    for user in range(candidate.shape[0]):
        for place in range(candidate.shape[1]):
            cell = candidate[user, place]
            if cell < 0:
                for row in range(out.shape[0]):
                    out[row, user, place] = 0.0
                out[1, user, place] = out[2, user, place] = -60.0
                continue
            gain, log_gain, sent = links[user, place, TRUE_GAIN], links[user, place, TRUE_LOG_GAIN], cells[cell, SENT]
            log_sent = min(log_limit, log_p0 - rule.alpha * log_gain)
            around = rule.end_noise_w + max(ends[user, DOWNLINK] - sent * gain, 0.0)
            own = ends[user, OWN] * gain if uplink_cell[user] != cell else 0.0
            log_risen = math.log(rule.cell_noise_w + max(cells[cell, HEARD] - own, 0.0))
            out[0, user, place] = gain
            out[1, user, place] = log_block + log_gain - math.log(around)
            out[2, user, place] = log_sent + log_gain - log_risen

            expected, std = links[user, place, HELD_LOG_GAIN], links[user, place, HELD_STD]
            seen_gain, held = math.exp(expected), expected - rule.margin * std
            others = rule.end_noise_w + max(ends[user, SEEN_DOWNLINK] - sent * seen_gain, 0.0)
            asked = min(log_limit, log_p0 - rule.alpha * expected)
            column = 3 if links[user, place, HELD_CLEAR] > 0.5 else 2
            out[3, user, place] = seen_gain
            out[4, user, place] = climb(ladder, grid, column, log_block + held - math.log(others))
            out[5, user, place] = climb(ladder, grid, column, asked + held - log_risen)
            out[6, user, place] = math.exp(log_sent)
            east, north = position[user, 0] - cells[cell, EAST], position[user, 1] - cells[cell, NORTH]
            out[7, user, place] = math.sqrt(east * east + north * north + rule.drop_m * rule.drop_m)
            out[8, user, place] = std


@njit
def connect(
    position: Reals,
    velocity: Reals,
    uplink_cell: Integers,
    pilots: Reals,
    pilot_normals: Reals,
    normals: Reals,
    table: Reals,
    rules: Any,
    ladder: Reals,
    grid: Reals,
    doppler: Reals,
    far_w: Reals,
    near: Integers,
    cells: Reals,
    field: Reals,
    memory: Reals,
    ends: Reals,
    ties: Integers,
    was: Integers,
    old: Reals,
    new: Reals,
    faded: Reals,
    level: Reals,
    slots: Integers,
    links: Reals,
    candidate: Integers,
    handover: NDArray[np.bool_],
    out: Reals,
) -> None:
    """Sound whom ``pilots`` say, associate all, fade and rate every candidate link; writes what those write.

    Nobody is sounded where ``pilot_normals`` is empty. ``out`` has the true efficiencies down and up as its second and
    third row.
    """
    if pilot_normals.shape[0] > 0:
        sound(position, pilots, pilot_normals, cells, table, rules, near, field, memory, ends, ties)
    associate(cells, table, rules, near, memory, far_w, ends, ties, level, candidate, slots, handover, links)
    pick(slots, field, links)
    fade(candidate, links, rules[0].rician_k, velocity, doppler, was, old, normals, new, faded)
    rate(candidate, links, position, uplink_cell, cells, ends, rules, ladder, grid, out)
    carry(faded, ladder, grid, out[1:3])
