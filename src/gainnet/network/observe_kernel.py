"""What soundings tell of the radio field, how that ages as ends move, and whom each end would be served by.

``memory`` [user cell 4] holds for each link what its last sounding left: horizontal distance, estimate of the
unit-variance shadowing field and the variance of its error, and attenuation of a sector's antenna (logarithm).
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
    fading (``spread`` is the variance of its power without and with line of sight), and 12 elements share its noise.
    The logarithm of the measured gain errs by the logarithm of one plus that. It is then weighed against the
    shadowing prior (Kalman), so a hopeless measurement leaves the mean path loss. The state of the link counts as
    seen. ``noise_w`` [cell] includes interference; ``normals`` [sounded cell] are fresh. Writes ``memory``,
    ``known_los`` and, to zero, ``moved_m``.
    """
    drawn = -1
    for user in range(position.shape[0]):
        if blocks[user] <= 0.0:
            continue
        drawn += 1
        moved_m[user] = 0.0
        sent = block_power(log_gain[user, serving[user]], power) if serving[user] >= 0 else power[2]
        for cell in range(cell_xy.shape[0]):
            east, north = position[user, 0] - cell_xy[cell, 0], position[user, 1] - cell_xy[cell, 1]
            distance = math.sqrt(east * east + north * north)
            row, part = locate(distance, step_m, table.shape[0])
            std = between(table, row, part, 4 if los[user, cell] else 5)
            mean = between(table, row, part, 0 if los[user, cell] else 1)
            ratio = max(sent * gain[user, cell] / noise_w[cell], 1e-9)
            fading = spread[1] if los[user, cell] else spread[0]
            relative = (fading + (2.0 / ratio + 1.0 / (ratio * ratio)) / 12.0) / blocks[user]
            error = math.log(1.0 + relative) / (std * std)
            memory[user, cell, 0] = distance
            memory[user, cell, 1] = (shadow[user, cell] + math.sqrt(error) * normals[drawn, cell]) / (1.0 + error)
            memory[user, cell, 2] = error / (1.0 + error)
            memory[user, cell, 3] = mean + std * shadow[user, cell] - log_gain[user, cell]
            known_los[user, cell] = los[user, cell]


@njit
def aged_variance(
    memory: Reals,
    user: int,
    cell: int,
    was_los: float,
    moved_m: float,
    keep: float,
    same: float,
    table: Reals,
    step_m: float,
) -> float:
    """Variance about the expected logarithm of a link's gain (see ``associate``), ``moved_m`` after its sounding.

    That of the mixture of both states, and of where the way led: along the link a way ``m`` of unknown direction
    deviates by ``m / sqrt(2)``, which counts by the slope of the path loss at the distance expected.
    """
    distance = math.sqrt(memory[user, cell, 0] * memory[user, cell, 0] + moved_m * moved_m)
    row, part = locate(distance, step_m, table.shape[0])
    los = (1.0 - same) * min(max(between(table, row, part, 2), 0.0), 1.0) + same * was_los
    clear_std, blocked_std = between(table, row, part, 4), between(table, row, part, 5)
    offset = keep * memory[user, cell, 1]
    apart = between(table, row, part, 0) - between(table, row, part, 1) + (clear_std - blocked_std) * offset
    field = los * clear_std * clear_std + (1.0 - los) * blocked_std * blocked_std
    likelier = 0 if los > 0.5 else 1
    along = (table[row + 1, likelier] - table[row, likelier]) / step_m * moved_m
    forgotten = 1.0 - keep * keep * (1.0 - memory[user, cell, 2])
    variance: float = forgotten * field + los * (1.0 - los) * apart * apart + 0.5 * along * along
    return variance


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
        lost: bool = best < 0 and old >= 0
        return lost
    if old >= 0 and level[old] > -math.inf:
        waited_s[user] = waited_s[user] + frame_s if rival[user] == best else 0.0
        rival[user] = best
        if waited_s[user] + 1e-9 < trigger_s:
            return False
    rival[user] = -1
    serving[user] = best
    changed: bool = old >= 0
    return changed


@njit
def rank(level: Reals, first: int, candidate: NDArray[np.int64]) -> None:
    """Write ``first`` and then the strongest other cells of ``level`` [cell] (-inf: down), -1 where there are none."""
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
def persist(moved_m: float, correlation_m: Reals) -> tuple[float, float, float]:
    """Weight of the state seen ``moved_m`` ago, and the shadowing kept with line of sight and without.

    The weight is ``(2 / pi) asin(rho)``, rho the correlation of the field behind the state: exact where both states are
    equally likely. ``correlation_m`` is that of ``channel_kernel.propagate``.
    """
    lengths = moved_m / correlation_m[0]
    same = 2.0 / math.pi * math.asin((1.0 + lengths) * math.exp(-lengths))
    return same, math.exp(-moved_m / correlation_m[1]), math.exp(-moved_m / correlation_m[2])


@njit
def associate(
    memory: Reals,
    known_los: NDArray[np.bool_],
    moved_m: Reals,
    up: NDArray[np.bool_],
    downlink_w: Reals,
    table: Reals,
    step_m: float,
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

    A way ``m`` of unknown direction leads from distance ``d`` to ``sqrt(d^2 + m^2)`` in the mean square; there the
    expectation is taken. The state seen persists as ``persist`` says, and is else as likely as anywhere there. ``rule``
    is (hysteresis, time to trigger, frame, farthest that an end can be from where it was sounded). Writes ``candidate``
    and for it the observed ``log_gain`` and its ``std`` [user candidate], ``handover`` and ``downlink`` [user], the
    expected power from all cells per block.
    """
    level = np.empty(memory.shape[1])
    for user in range(memory.shape[0]):
        way = min(moved_m[user], rule[3])
        same, keep_los, keep_nlos = persist(moved_m[user], correlation_m)
        best, total = -1, 0.0
        for cell in range(memory.shape[1]):
            seen = 1.0 if known_los[user, cell] else 0.0
            keep = keep_nlos + seen * (keep_los - keep_nlos)
            distance = math.sqrt(memory[user, cell, 0] * memory[user, cell, 0] + way * way)
            row, part = locate(distance, step_m, table.shape[0])
            los = (1.0 - same) * min(max(between(table, row, part, 2), 0.0), 1.0) + seen * same
            offset = keep * memory[user, cell, 1]
            clear = between(table, row, part, 0) + between(table, row, part, 4) * offset
            blocked = between(table, row, part, 1) + between(table, row, part, 5) * offset
            level[cell] = blocked + los * (clear - blocked) - memory[user, cell, 3]
        for cell in range(memory.shape[1]):
            total += downlink_w[cell] * math.exp(level[cell])
            if not up[cell]:
                level[cell] = -math.inf
            elif best < 0 or level[cell] > level[best]:
                best = cell
        downlink[user] = total
        handover[user] = serve(user, level, best, serving, rival, waited_s, rule[0], rule[1], rule[2])
        rank(level, serving[user], candidate[user])
        for place in range(candidate.shape[1]):
            cell = candidate[user, place]
            if cell >= 0:
                seen = 1.0 if known_los[user, cell] else 0.0
                keep = keep_nlos + seen * (keep_los - keep_nlos)
                variance = aged_variance(memory, user, cell, seen, way, keep, same, table, step_m)
                log_gain[user, place] = level[cell]
                std[user, place] = math.sqrt(variance)
