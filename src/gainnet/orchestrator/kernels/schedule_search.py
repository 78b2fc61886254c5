"""Simulated annealing of schedules: an order of all stages and a node for each, played as early as they allow."""

from __future__ import annotations

import numpy as np

from gainnet.compiled import inner, njit
from gainnet.orchestrator.kernels.columns import Floats, Ints, Words
from gainnet.orchestrator.kernels.schedule import Stages, before, lower_bound, move_time, optimistic, seeds
from gainnet.orchestrator.kernels.search import ascending, uniform

HOT, COLD = 0.03, 0.005
"""Temperature at the start and at the end, in parts of the makespan."""
CRITICAL = 0.8
"""How often the stage that moves is one of the chain that makes the makespan."""
ELSEWHERE, BLOCK, PULL, END = 0.8, 0.2, 0.3, 0.4
"""How often a stage changes node; takes successors of its node along; goes where a neighbour is; how soon that ends."""
STARTS, FINALS = 4, 1
"""Seeds that are annealed, and how often the best is annealed once more."""
ROUNDING = 1e-12
MET = 1e-9
"""The search ends at a makespan this near the bound, relative."""
OLD_AT, NEW_AT, OLD_NODE, MOVED = 0, 1, 2, 3
"""What undoes a move: positions before and after of its first stage, the node before, and how many stages changed it."""


@inner
def play(
    first: int,
    limit: float,
    order: Ints,
    node: Ints,
    cost: Floats,
    pace: Floats,
    pred_ptr: Ints,
    pred: Ints,
    pred_data: Floats,
    tail: Floats,
    free: Floats,
    start: Floats,
    finish: Floats,
) -> float:
    """Start the stages from position ``first`` on as early as order and data allow; those before have their times.

    Returns the makespan, or inf as soon as it can't be below ``limit``.
    """
    makespan = 0.0
    for k in range(len(free)):
        free[k] = 0.0
    for index in range(first):
        t = order[index]
        free[node[t]] = finish[t]
        makespan = max(makespan, finish[t])
    for index in range(first, len(order)):
        t = order[index]
        k = node[t]
        begin = free[k]
        for e in range(pred_ptr[t], pred_ptr[t + 1]):
            begin = max(begin, finish[pred[e]] + move_time(pred_data[e], pace[node[pred[e]], k]))
        end = begin + cost[t, k]
        start[t], finish[t], free[k] = begin, end, end
        if not end + tail[t, k] < limit:
            return np.inf
        makespan = max(makespan, end)
    return makespan


@inner
def critical_chain(
    makespan: float,
    order: Ints,
    node: Ints,
    pace: Floats,
    pred_ptr: Ints,
    pred: Ints,
    pred_data: Floats,
    start: Floats,
    finish: Floats,
    last: Ints,
    earlier: Ints,
    chain: Ints,
    state: Words,
) -> int:
    """Stages that hold each other up, from one that ends last back to one that starts at 0; returns how many.

    Where several hold a stage up one of them is drawn.
    """
    for k in range(len(last)):
        last[k] = -1
    t, length, slack = -1, 0, ROUNDING * makespan
    for u in order:
        earlier[u] = last[node[u]]
        last[node[u]] = u
        if finish[u] >= makespan:
            t = u
    while t >= 0:
        chain[length] = t
        length += 1
        cause = -1
        if start[t] > 0.0:
            if earlier[t] >= 0 and finish[earlier[t]] >= start[t] - slack:
                cause = earlier[t]
            for e in range(pred_ptr[t], pred_ptr[t + 1]):
                there = finish[pred[e]] + move_time(pred_data[e], pace[node[pred[e]], node[t]])
                if there >= start[t] - slack and (cause < 0 or uniform(state) < 0.5):
                    cause = pred[e]
        t = cause
    return length


@inner
def shift(order: Ints, position: Ints, old: int, new: int) -> None:
    """Move the stage at position ``old`` to ``new``; those between close up."""
    t, step = order[old], 1 if new > old else -1
    at = old
    while at != new:
        order[at] = order[at + step]
        position[order[at]] = at
        at += step
    order[new], position[t] = t, new


@inner
def another_node(
    t: int, nodes: int, node: Ints, pred_ptr: Ints, pred: Ints, succ_ptr: Ints, succ: Ints, state: Words
) -> int:
    """A node for stage t: that of a neighbour in the graph, or any other one."""
    before_it, after_it = pred_ptr[t + 1] - pred_ptr[t], succ_ptr[t + 1] - succ_ptr[t]
    if before_it + after_it > 0 and uniform(state) < PULL:
        index = int(uniform(state) * (before_it + after_it))
        if index < before_it:
            return node[pred[pred_ptr[t] + index]]
        return node[succ[succ_ptr[t] + index - before_it]]
    k = int(uniform(state) * (nodes - 1))
    return k + 1 if k >= node[t] else k


@inner
def block_of(t: int, node: Ints, succ_ptr: Ints, succ: Ints, block: Ints, state: Words) -> int:
    """Stage t and some path of successors that are on its node; returns how many they are."""
    count = 1
    block[0] = t
    while uniform(state) >= END:
        following, choices, u = -1, 0, block[count - 1]
        for e in range(succ_ptr[u], succ_ptr[u + 1]):
            if node[succ[e]] == node[t]:
                choices += 1
                if uniform(state) * choices < 1.0:
                    following = succ[e]
        if following < 0:
            break
        block[count] = following
        count += 1
    return count


@inner
def move(
    t: int,
    nodes: int,
    order: Ints,
    position: Ints,
    node: Ints,
    pred_ptr: Ints,
    pred: Ints,
    succ_ptr: Ints,
    succ: Ints,
    block: Ints,
    undo: Ints,
    state: Words,
) -> bool:
    """Put stage t elsewhere in the order, on another node, or both; or a block on another node. False if nothing moved."""
    old = position[t]
    new, k, count = old, node[t], 1
    block[0] = t
    if nodes > 1 and uniform(state) < BLOCK:
        k = another_node(t, nodes, node, pred_ptr, pred, succ_ptr, succ, state)
        count = block_of(t, node, succ_ptr, succ, block, state)
    else:
        low, high = 0, len(order) - 1
        for e in range(pred_ptr[t], pred_ptr[t + 1]):
            low = max(low, position[pred[e]] + 1)
        for e in range(succ_ptr[t], succ_ptr[t + 1]):
            high = min(high, position[succ[e]] - 1)
        new = low + int(uniform(state) * (high - low + 1))
        if nodes > 1 and uniform(state) < ELSEWHERE:
            k = another_node(t, nodes, node, pred_ptr, pred, succ_ptr, succ, state)
    undo[OLD_AT], undo[NEW_AT], undo[OLD_NODE], undo[MOVED] = old, new, node[t], count
    if new == old and k == node[t]:
        return False
    for index in range(count):
        node[block[index]] = k
    shift(order, position, old, new)
    return True


@njit
def anneal(
    stages: Stages, tail: Floats, bound: float, evaluations: int, order: Ints, node: Ints, state: Words
) -> tuple[float, Ints, Ints]:
    """The best makespan met, its order and its nodes. ``order`` and ``node`` are where it begins, and are used up."""
    cost, pace, pred_ptr, pred, pred_data, succ_ptr, succ = (
        stages.cost, stages.pace, stages.pred_ptr, stages.pred, stages.pred_data, stages.succ_ptr, stages.succ,
    )  # fmt: skip
    count, nodes = cost.shape
    start, finish, free, position = np.zeros(count), np.zeros(count), np.zeros(nodes), np.empty(count, np.int64)
    undo, block, chain = np.zeros(4, np.int64), np.empty(count, np.int64), np.empty(count, np.int64)
    earlier, last, length = np.empty(count, np.int64), np.empty(nodes, np.int64), 0
    now = play(0, np.inf, order, node, cost, pace, pred_ptr, pred, pred_data, tail, free, start, finish)
    best, best_order, best_node = now, order.copy(), node.copy()
    trial_start, trial_finish = start.copy(), finish.copy()
    for index in range(count):
        position[order[index]] = index
    cooling, heat = (COLD / HOT) ** (1.0 / max(1, evaluations)), HOT * now
    for _ in range(evaluations):
        heat *= cooling
        if best <= bound * (1.0 + MET):
            break
        if length == 0:
            length = critical_chain(
                now, order, node, pace, pred_ptr, pred, pred_data, start, finish, last, earlier, chain, state
            )
        t = chain[int(uniform(state) * length)] if uniform(state) < CRITICAL else int(uniform(state) * count)
        if not move(t, nodes, order, position, node, pred_ptr, pred, succ_ptr, succ, block, undo, state):
            continue
        first = min(undo[OLD_AT], undo[NEW_AT])
        limit = (now - heat * np.log(1.0 - uniform(state))) * (1.0 + ROUNDING)
        makespan = play(
            first, limit, order, node, cost, pace, pred_ptr, pred, pred_data, tail, free, trial_start, trial_finish
        )
        if makespan < limit:
            now, length = makespan, 0
            for index in range(first, count):
                start[order[index]], finish[order[index]] = trial_start[order[index]], trial_finish[order[index]]
            if now < best * (1.0 - ROUNDING):
                best = now
                for t in range(count):
                    best_order[t], best_node[t] = order[t], node[t]
        else:
            for index in range(first, count):
                trial_start[order[index]], trial_finish[order[index]] = start[order[index]], finish[order[index]]
            for index in range(undo[MOVED]):
                node[block[index]] = undo[OLD_NODE]
            shift(order, position, undo[NEW_AT], undo[OLD_AT])
    return best, best_order, best_node


@njit
def order_of(start: Floats, finish: Floats) -> Ints:
    """Stages in the order of their starts, then finishes, then numbers: one that respects precedence."""
    order = np.empty(len(start), np.int64)
    for t in range(len(start)):
        at = t
        while at > 0 and before(t, order[at - 1], start, finish):
            order[at] = order[at - 1]
            at -= 1
        order[at] = t
    return order


@njit
def solve(stages: Stages, swiftness: Floats, evaluations: int, state: Words) -> tuple[float, Ints, Floats, Floats]:
    """A lower bound of every makespan; node, start and finish of each stage in the best schedule found.

    The best STARTS seeds are annealed, then the best schedule FINALS times more, in equal parts of ``evaluations``.
    """
    head, tail = optimistic(stages, False), optimistic(stages, True)
    bound = lower_bound(stages, head, tail)
    makespan, seed_node, seed_start, seed_finish = seeds(stages, tail, swiftness)
    best, count = np.inf, len(stages.cost)
    order, node = np.arange(count), np.zeros(count, np.int64)
    part = evaluations // (STARTS + FINALS)
    for seed in ascending(makespan)[:STARTS]:
        if makespan[seed] < np.inf and best > bound * (1.0 + MET):
            begin = order_of(seed_start[seed], seed_finish[seed])
            found, found_order, found_node = anneal(stages, tail, bound, part, begin, seed_node[seed], state)
            if found < best:
                best, order, node = found, found_order, found_node
    for _ in range(FINALS):
        best, order, node = anneal(stages, tail, bound, part, order.copy(), node.copy(), state)
    start, finish = np.zeros(count), np.zeros(count)
    play(
        0, np.inf, order, node, stages.cost, stages.pace, stages.pred_ptr, stages.pred, stages.pred_data, tail,
        np.zeros(len(swiftness)), start, finish,
    )  # fmt: skip
    return bound, node, start, finish
