"""What soundings tell of the radio field, how that ages as ends move, and whom each end would be served by.

The columns of ``field``, ``memory``, ``ends``, ``ties`` and ``cells`` and the fields of ``rules`` are those of
``columns``.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gainnet.compiled import inner, njit
from gainnet.network.channel_kernel import between, block_power, locate
from gainnet.network.columns import (
    CLEAR,
    DISTANCE,
    DOUBT,
    EAST,
    GAIN,
    HEARD,
    HELD_CLEAR,
    HELD_LOG_GAIN,
    HELD_STD,
    LOG_GAIN,
    LOSS,
    MOVED,
    NONE,
    NORTH,
    RIVAL,
    SEEN_CLEAR,
    SEEN_DOWNLINK,
    SENT,
    SERVING,
    SHADE,
    SHADOW,
    TILE,
    UP,
    WAITED,
)

Reals = NDArray[np.float64]
Integers = NDArray[np.int64]


@inner
def sound(
    position: Reals,
    blocks: Reals,
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
    """Measure the links of each user that spent pilots (``blocks`` [user] > 0) to all cells near it.

    With b blocks at signal-to-noise ratio s per resource element the mean power of a fading channel is known with the
    relative variance ``spread / b + (2 / s + 1 / s^2) / (12 b)``: blocks lie apart in frequency, so each sees its own
    fading (``spread`` is the variance of its power without and with line of sight), and 12 elements share its noise.
    The logarithm of the measured gain errs by the logarithm of one plus that. It is then weighed against the
    shadowing prior (Kalman), so a hopeless measurement leaves the mean path loss. The state of the link counts as
    seen. Noise includes interference; ``normals`` [sounded slot] are fresh. Writes ``memory`` and of ``ends`` the way.
    """
    drawn, rule = -1, rules[0]
    for user in range(position.shape[0]):
        if blocks[user] <= 0.0:
            continue
        drawn += 1
        ends[user, MOVED] = 0.0
        sent = rule.limit_w
        if ties[user, SERVING] >= 0:
            sent = block_power(field[user, ties[user, SERVING], LOG_GAIN], rule.p0_w, rule.alpha, rule.limit_w)
        for slot in range(near.shape[1]):
            cell, clear, shadow = near[user, slot], field[user, slot, CLEAR] > 0.5, field[user, slot, SHADOW]
            east, north = position[user, 0] - cells[cell, EAST], position[user, 1] - cells[cell, NORTH]
            distance = math.sqrt(east * east + north * north)
            row, part = locate(distance, rule.step_m, table.shape[0])
            std = between(table, row, part, 4 if clear else 5)
            mean = between(table, row, part, 0 if clear else 1)
            ratio = max(sent * field[user, slot, GAIN] / (rule.cell_noise_w + cells[cell, HEARD]), 1e-9)
            fading = rule.clear_spread if clear else rule.spread
            relative = (fading + (2.0 / ratio + 1.0 / (ratio * ratio)) / 12.0) / blocks[user]
            error = math.log(1.0 + relative) / (std * std)
            memory[user, slot, DISTANCE] = distance
            memory[user, slot, SHADE] = (shadow + math.sqrt(error) * normals[drawn, slot]) / (1.0 + error)
            memory[user, slot, DOUBT] = error / (1.0 + error)
            memory[user, slot, LOSS] = mean + std * shadow - field[user, slot, LOG_GAIN]
            memory[user, slot, SEEN_CLEAR] = field[user, slot, CLEAR]


@inner
def aged_variance(
    memory: Reals,
    user: int,
    slot: int,
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
    distance = math.sqrt(memory[user, slot, DISTANCE] * memory[user, slot, DISTANCE] + moved_m * moved_m)
    row, part = locate(distance, step_m, table.shape[0])
    los = (1.0 - same) * min(max(between(table, row, part, 2), 0.0), 1.0) + same * memory[user, slot, SEEN_CLEAR]
    clear_std, blocked_std = between(table, row, part, 4), between(table, row, part, 5)
    offset = keep * memory[user, slot, SHADE]
    apart = between(table, row, part, 0) - between(table, row, part, 1) + (clear_std - blocked_std) * offset
    field = los * clear_std * clear_std + (1.0 - los) * blocked_std * blocked_std
    likelier = 0 if los > 0.5 else 1
    along = (table[row + 1, likelier] - table[row, likelier]) / step_m * moved_m
    forgotten = 1.0 - keep * keep * (1.0 - memory[user, slot, DOUBT])
    variance: float = forgotten * field + los * (1.0 - los) * apart * apart + 0.5 * along * along
    return variance


@njit
def serve(user: int, level: Reals, best: int, ties: Integers, ends: Reals, rules: Any) -> bool:
    """Choose the user's serving cell from the observed ``level`` [slot] (-inf: down), and say whether it changed.

    Event A3 (TS 38.331 clause 5.5.4.4): the best cell takes over when it has been better by the hysteresis for the
    time to trigger. A cell that is down, or no longer near, loses its users at once. The first association is no
    hand-over.
    """
    old, before = ties[user, SERVING], ties[user, RIVAL]
    served: bool = old != NONE
    ties[user, RIVAL] = NONE
    if best < 0:
        ties[user, SERVING] = NONE
        return served
    if old >= 0 and level[old] > -math.inf:
        if level[best] <= level[old] + rules[0].hysteresis:
            return False
        ends[user, WAITED] = ends[user, WAITED] + rules[0].frame_s if before == best else 0.0
        if ends[user, WAITED] + 1e-9 < rules[0].trigger_s:
            ties[user, RIVAL] = best
            return False
    ties[user, SERVING] = best
    return served


@njit
def rank(level: Reals, first: int, candidate: Integers) -> None:
    """Write ``first`` and then the strongest others of ``level`` [slot] (-inf: down), -1 where there are none."""
    candidate[:] = -1
    candidate[0] = first
    if first < 0:
        return
    last = candidate.shape[0] - 1
    for slot in range(level.shape[0]):
        if slot == first or level[slot] == -math.inf or last == 0:
            continue
        if candidate[last] >= 0 and level[candidate[last]] >= level[slot]:
            continue
        place = last
        while place > 1 and (candidate[place - 1] < 0 or level[candidate[place - 1]] < level[slot]):
            candidate[place] = candidate[place - 1]
            place -= 1
        candidate[place] = slot


@inner
def persist(moved_m: float, rules: Any) -> tuple[float, float, float]:
    """Weight of the state seen ``moved_m`` ago, and the shadowing kept with line of sight and without.

    The weight is ``(2 / pi) asin(rho)``, rho the correlation of the field behind the state: exact where both states are
    equally likely.
    """
    lengths = moved_m / rules[0].state_m
    same = 2.0 / math.pi * math.asin((1.0 + lengths) * math.exp(-lengths))
    return same, math.exp(-moved_m / rules[0].clear_m), math.exp(-moved_m / rules[0].blocked_m)


@inner
def expect(
    user: int, table: Reals, rules: Any, near: Integers, memory: Reals, ends: Reals, cells: Reals, level: Reals
) -> tuple[int, float]:
    """Expected logarithm of the gain of each link of a user in ``level`` [slot], -inf if the cell is down.

    Returns the slot of the strongest cell that is up, -1 for none, and the power expected from all near cells per block
    (W). See ``associate``.
    """
    way, best, total = min(ends[user, MOVED], rules[0].way_max_m), -1, 0.0
    same, keep_los, keep_nlos = persist(ends[user, MOVED], rules)
    for slot in range(near.shape[1]):
        seen = memory[user, slot, SEEN_CLEAR]
        keep = keep_nlos + seen * (keep_los - keep_nlos)
        distance = math.sqrt(memory[user, slot, DISTANCE] * memory[user, slot, DISTANCE] + way * way)
        row, part = locate(distance, rules[0].step_m, table.shape[0])
        los = (1.0 - same) * min(max(between(table, row, part, 2), 0.0), 1.0) + seen * same
        offset = keep * memory[user, slot, SHADE]
        clear = between(table, row, part, 0) + between(table, row, part, 4) * offset
        blocked = between(table, row, part, 1) + between(table, row, part, 5) * offset
        level[slot] = blocked + los * (clear - blocked) - memory[user, slot, LOSS]
    for slot in range(near.shape[1]):
        cell = near[user, slot]
        total += cells[cell, SENT] * math.exp(level[slot])
        if cells[cell, UP] < 0.5:
            level[slot] = -math.inf
        elif best < 0 or level[slot] > level[best]:
            best = slot
    return best, total


@inner
def associate(
    cells: Reals,
    table: Reals,
    rules: Any,
    near: Integers,
    memory: Reals,
    far_w: Reals,
    ends: Reals,
    ties: Integers,
    level: Reals,
    candidate: Integers,
    slots: Integers,
    handover: NDArray[np.bool_],
    links: Reals,
) -> None:
    """From what is remembered: observed gains, expected interference, serving cell and candidates of each user.

    A way ``m`` of unknown direction leads from distance ``d`` to ``sqrt(d^2 + m^2)`` in the mean square; there the
    expectation is taken. The state seen persists as ``persist`` says, and is else as likely as anywhere there.
    ``far_w`` [tile] is the power of the cells that are not near, whose mean counts as known; ``level`` [slot] is
    scratch. Writes ``candidate``, its ``slots`` and the observed half of its ``links``, ``handover`` [user], and of
    ``ends`` the expected power from all cells per block.
    """
    for user in range(near.shape[0]):
        best, total = expect(user, table, rules, near, memory, ends, cells, level)
        ends[user, SEEN_DOWNLINK] = total + far_w[ties[user, TILE]]
        handover[user] = serve(user, level, best, ties, ends, rules)
        rank(level, ties[user, SERVING], slots[user])
        way = min(ends[user, MOVED], rules[0].way_max_m)
        same, keep_los, keep_nlos = persist(ends[user, MOVED], rules)
        for place in range(slots.shape[1]):
            slot = slots[user, place]
            candidate[user, place] = near[user, slot] if slot >= 0 else -1
            if slot >= 0:
                keep = keep_nlos + memory[user, slot, SEEN_CLEAR] * (keep_los - keep_nlos)
                variance = aged_variance(memory, user, slot, way, keep, same, table, rules[0].step_m)
                links[user, place, HELD_CLEAR] = memory[user, slot, SEEN_CLEAR]
                links[user, place, HELD_LOG_GAIN] = level[slot]
                links[user, place, HELD_STD] = math.sqrt(variance)
