"""What soundings tell of the radio field, how that ages as ends move, and whom each end would be served by.

``memory`` [user cell 8] holds for each link what its last sounding left: mean gain (logarithm) in the state seen then
and in the other one, probability of the state seen, estimate of the unit-variance shadowing field and the variance of
its error, shadowing deviation in the two states, and how fast the mean gain changes over ground (1/m).
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from gainnet.compiled import njit
from gainnet.network.channel_kernel import between, block_power, locate

Reals = NDArray[np.float64]


@njit
def sound(
    position: Reals,
    cell_xy: Reals,
    table: Reals,
    step_m: float,
    blocks: Reals,
    serving: NDArray[np.int64],
    shadow: Reals,
    los: NDArray[np.bool_],
    log_gain: Reals,
    gain: Reals,
    noise_w: Reals,
    power: Reals,
    spread: Reals,
    memory: Reals,
    known_los: NDArray[np.bool_],
    moved_m: Reals,
    normals: Reals,
) -> None:
    """Measure the links of each user that spent pilots (``blocks`` [user] > 0) to all cells.

    With b blocks at signal-to-noise ratio s per resource element the mean power of a fading channel is known with the
    relative variance ``spread / b + (2 / s + 1 / s^2) / (12 b)``: blocks lie apart in frequency, so each sees its own
    fading (``spread`` is the variance of its power: without and with line of sight), and 12 elements share its noise.
    The logarithm of the measured gain errs by the logarithm of one plus that. It is then weighed against the shadowing
    prior (Kalman), so a hopeless measurement leaves the mean path loss. The state of the link counts as seen.
    ``noise_w`` [cell] includes interference; ``normals`` [sounded cell] are fresh. Writes ``memory``, ``known_los`` and, to zero, ``moved_m``.
    """
    rows, drawn = table.shape[0], -1
    for user in range(position.shape[0]):
        if blocks[user] <= 0.0:
            continue
        drawn += 1
        moved_m[user] = 0.0
        if serving[user] >= 0:
            sent = block_power(log_gain[user, serving[user]], power)
        else:
            sent = power[2]
        for cell in range(cell_xy.shape[0]):
            east, north = position[user, 0] - cell_xy[cell, 0], position[user, 1] - cell_xy[cell, 1]
            row, part = locate(math.sqrt(east * east + north * north), step_m, rows)
            seen = 0 if los[user, cell] else 1
            here = between(table, row, part, 4 + seen)
            offset = between(table, row, part, 1 - seen) - between(table, row, part, seen)
            chance = min(max(between(table, row, part, 2), 0.0), 1.0)
            ratio = max(sent * gain[user, cell] / noise_w[cell], 1e-9)
            relative = (spread[1 - seen] + (2.0 / ratio + 1.0 / (ratio * ratio)) / 12.0) / blocks[user]
            error = math.log(1.0 + relative) / (here * here)
            mean = log_gain[user, cell] - here * shadow[user, cell]
            memory[user, cell, 0] = mean
            memory[user, cell, 1] = mean + offset
            memory[user, cell, 2] = chance if seen == 0 else 1.0 - chance
            memory[user, cell, 3] = (shadow[user, cell] + math.sqrt(error) * normals[drawn, cell]) / (1.0 + error)
            memory[user, cell, 4] = error / (1.0 + error)
            memory[user, cell, 5] = here
            memory[user, cell, 6] = between(table, row, part, 5 - seen)
            memory[user, cell, 7] = abs(table[row + 1, seen] - table[row, seen]) / step_m
            known_los[user, cell] = los[user, cell]


@njit
def aged_mean(memory: Reals, user: int, cell: int, keep: float, same: float) -> float:
    """Expected logarithm of the gain, when the shadowing kept ``keep`` and the state persists with weight ``same``."""
    stays = memory[user, cell, 2] + (1.0 - memory[user, cell, 2]) * same
    offset = keep * memory[user, cell, 3]
    return stays * (memory[user, cell, 0] + memory[user, cell, 5] * offset) + (1.0 - stays) * (
        memory[user, cell, 1] + memory[user, cell, 6] * offset
    )


@njit
def aged_variance(memory: Reals, user: int, cell: int, keep: float, same: float, moved_m: float) -> float:
    """Variance of that logarithm: shadowing forgotten, the state perhaps changed, and the way perhaps along the link.

    Of a way of unknown direction the square root of one half counts, in the mean square, along the link.
    """
    stays = memory[user, cell, 2] + (1.0 - memory[user, cell, 2]) * same
    here, there = memory[user, cell, 5], memory[user, cell, 6]
    between_states = memory[user, cell, 0] - memory[user, cell, 1] + (here - there) * keep * memory[user, cell, 3]
    forgotten = 1.0 - keep * keep * (1.0 - memory[user, cell, 4])
    field = forgotten * (stays * here * here + (1.0 - stays) * there * there)
    along = memory[user, cell, 7] * moved_m
    return field + stays * (1.0 - stays) * between_states * between_states + 0.5 * along * along


@njit
def serve(
    user: int,
    level: Reals,
    best: int,
    serving: NDArray[np.int64],
    rival: NDArray[np.int64],
    waited_s: Reals,
    hysteresis: float,
    trigger_s: float,
    frame_s: float,
) -> bool:
    """Choose the user's serving cell from the observed ``level`` [cell] (-inf: down), and say whether it changed.

    Event A3 (TS 38.331 clause 5.5.4.4): the best cell takes over when it has been better by ``hysteresis`` for
    ``trigger_s``. A cell that is down loses its users at once. The first association is no hand-over.
    """
    old = serving[user]
    if best < 0 or (old >= 0 and level[old] > -math.inf and level[best] <= level[old] + hysteresis):
        rival[user] = -1
        if best < 0:
            serving[user] = -1
        return best < 0 and old >= 0
    if old >= 0 and level[old] > -math.inf:
        waited_s[user] = waited_s[user] + frame_s if rival[user] == best else 0.0
        rival[user] = best
        if waited_s[user] + 1e-9 < trigger_s:
            return False
    rival[user] = -1
    serving[user] = best
    return old >= 0


@njit
def rank(level: Reals, first: int, candidate: NDArray[np.int64]) -> None:
    """Write ``first`` and then the strongest other cells of ``level`` [cell] (-inf: down), -1 where there are no more."""
    candidate[:] = -1
    candidate[0] = first
    if first < 0:
        return
    for cell in range(level.shape[0]):
        if cell == first or level[cell] == -math.inf:
            continue
        place = candidate.shape[0]
        while place > 1 and (candidate[place - 1] < 0 or level[candidate[place - 1]] < level[cell]):
            place -= 1
        for lower in range(candidate.shape[0] - 1, place, -1):
            candidate[lower] = candidate[lower - 1]
        if place < candidate.shape[0]:
            candidate[place] = cell


@njit
def associate(
    memory: Reals,
    known_los: NDArray[np.bool_],
    moved_m: Reals,
    up: NDArray[np.bool_],
    downlink_w: Reals,
    correlation_m: Reals,
    rule: Reals,
    serving: NDArray[np.int64],
    rival: NDArray[np.int64],
    waited_s: Reals,
    candidate: NDArray[np.int64],
    handover: NDArray[np.bool_],
    log_gain: Reals,
    std: Reals,
    downlink: Reals,
) -> None:
    """From what is remembered: observed gains, expected interference, serving cell and candidates of each user.

    ``rule`` is (hysteresis, time to trigger, frame). The state of a link keeps the weight ``(2 / pi) asin(rho)`` of what
    was seen, rho the correlation of the latent field: exact where both states are equally likely. Writes ``candidate``
    and for it the observed ``log_gain`` and its ``std`` [user candidate], ``handover`` and ``downlink`` [user], the
    expected power from all cells per block.
    """
    level = np.empty(memory.shape[1])
    for user in range(memory.shape[0]):
        keep_los = math.exp(-moved_m[user] / correlation_m[1])
        keep_nlos = math.exp(-moved_m[user] / correlation_m[2])
        same = 2.0 / math.pi * math.asin(math.exp(-moved_m[user] / correlation_m[0]))
        best, total = -1, 0.0
        for cell in range(memory.shape[1]):
            level[cell] = -math.inf
            if up[cell]:
                keep = keep_los if known_los[user, cell] else keep_nlos
                level[cell] = aged_mean(memory, user, cell, keep, same)
                if downlink_w[cell] > 0.0:
                    total += downlink_w[cell] * math.exp(level[cell])
                if best < 0 or level[cell] > level[best]:
                    best = cell
        downlink[user] = total
        handover[user] = serve(user, level, best, serving, rival, waited_s, rule[0], rule[1], rule[2])
        rank(level, serving[user], candidate[user])
        for place in range(candidate.shape[1]):
            cell = candidate[user, place]
            if cell >= 0:
                keep = keep_los if known_los[user, cell] else keep_nlos
                log_gain[user, place] = level[cell]
                std[user, place] = math.sqrt(aged_variance(memory, user, cell, keep, same, moved_m[user]))
