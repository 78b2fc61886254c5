"""Seeds for schedules of stages on nodes: optimistic times, list scheduling, and what no schedule can beat.

Stages are numbered in a topological order. ``cost`` (stage, node) is run time; ``pace`` (from, to) is time per unit of
data, 0 on the diagonal and inf where there is no link. Data that is 0 takes no time, and needs no link.
"""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from gainnet.compiled import inner, njit
from gainnet.orchestrator.kernels.columns import Floats, Ints
from gainnet.orchestrator.kernels.search import ascending

Flags: TypeAlias = NDArray[np.bool_]

PRIORITY, SHORTEST, LONGEST, REGRET, EARLIEST = 0, 1, 2, 3, 4
"""Which ready stage is next: the highest priority; the earliest, or the latest, best score; the one that loses most
where its best node is taken; the earliest start."""
UPWARD, AHEAD, CRITICAL = 0, 1, 2
"""Priorities: mean time to the end, optimistic time after the stage, mean time of the longest path through it."""
RULES = (
    (PRIORITY, UPWARD, 0), (PRIORITY, UPWARD, 1), (PRIORITY, AHEAD, 1), (PRIORITY, CRITICAL, 0), (SHORTEST, UPWARD, 0),
    (LONGEST, UPWARD, 0), (REGRET, UPWARD, 0), (REGRET, UPWARD, 1), (EARLIEST, UPWARD, 0),
)  # fmt: skip
"""Next stage, priority, and whether a node's score is the finish (0) or the finish and the optimistic time after it (1).

In this order: HEFT (Topcuoglu et al. 2002), the same with lookahead, PEFT (Arabnejad and Barbosa 2014, with the links'
own times in its table), CPOP (Topcuoglu et al. 2002), min-min, max-min, sufferage (Maheswaran et al. 1999), the same
with lookahead, ETF (Hwang et al. 1989).
"""
LOOKS = 30_000_000
"""Rules that look at every ready stage are left out where they would look at more placements than this."""


class Stages(NamedTuple):
    """A graph of stages, numbered topologically, and what each costs where.

    Attributes:
        cost: run time of each stage on each node.
        pace: time per unit of data from node to node.
        pred_ptr: edges into stage t are ``pred_ptr[t]:pred_ptr[t + 1]``.
        pred: the stage that each comes from.
        pred_data: data of each.
        succ_ptr: edges out of each stage, likewise.
        succ: the stage that each goes to.
        succ_data: data of each.
        fluid: run time of each stage if all nodes could share it.
    """

    cost: Floats
    pace: Floats
    pred_ptr: Ints
    pred: Ints
    pred_data: Floats
    succ_ptr: Ints
    succ: Ints
    succ_data: Floats
    fluid: Floats


@inner
def move_time(data: float, pace: float) -> float:
    """Time of a transfer."""
    return data * pace if data > 0.0 else 0.0


@njit
def optimistic(stages: Stages, backward: bool) -> Floats:
    """Least time (stage, node) before a stage starts on a node or, ``backward``, from its finish there to the end.

    No schedule does better, since each chain of stages is given the nodes to itself.
    """
    cost, pace, ptr, other, data = stages.cost, stages.pace, stages.pred_ptr, stages.pred, stages.pred_data
    if backward:
        pace, ptr, other, data = stages.pace.T.copy(), stages.succ_ptr, stages.succ, stages.succ_data
    count, nodes = cost.shape
    found = np.zeros((count, nodes))
    for index in range(count):
        t = count - 1 - index if backward else index
        for k in range(nodes):
            for e in range(ptr[t], ptr[t + 1]):
                least = np.inf
                for m in range(nodes):
                    least = min(least, found[other[e], m] + cost[other[e], m] + move_time(data[e], pace[m, k]))
                found[t, k] = max(found[t, k], least)
    return found


@njit
def lower_bound(stages: Stages, head: Floats, tail: Floats) -> float:
    """What no makespan is below: the longest chain, and the work that lies between any release and any delivery.

    For any times r and q, the stages that start no earlier than r and end q or more before the end need
    ``r + sum fluid + q``.
    """
    cost, fluid = stages.cost, stages.fluid
    count, nodes = cost.shape
    bound, soonest, delivery = 0.0, np.empty(count), np.empty(count)
    for t in range(count):
        through = soonest[t] = delivery[t] = np.inf
        for k in range(nodes):
            through = min(through, head[t, k] + cost[t, k] + tail[t, k])
            soonest[t], delivery[t] = min(soonest[t], head[t, k]), min(delivery[t], tail[t, k])
        bound = max(bound, through)
    latest = ascending(-delivery)
    for a in range(count):
        load = 0.0
        for t in latest:
            if soonest[t] >= soonest[a]:
                load += fluid[t]
                bound = max(bound, soonest[a] + load + delivery[t])
    return bound


@njit
def priorities(stages: Stages, tail: Floats) -> Floats:
    """(priority, stage), with the mean run time over nodes and the mean pace over links."""
    cost, pace = stages.cost, stages.pace
    count, nodes = cost.shape
    total, links = 0.0, 0
    for k in range(nodes):
        for m in range(nodes):
            if k != m and pace[k, m] < np.inf:
                total += pace[k, m]
                links += 1
    mean_pace, found, down = total / max(1, links), np.zeros((3, count)), np.zeros(count)
    for index in range(count):
        t = count - 1 - index
        for e in range(stages.succ_ptr[t], stages.succ_ptr[t + 1]):
            after = found[UPWARD, stages.succ[e]] + stages.succ_data[e] * mean_pace
            found[UPWARD, t] = max(found[UPWARD, t], after)
        found[UPWARD, t] += cost[t].mean()
        found[AHEAD, t] = tail[t].mean()
    for t in range(count):
        for e in range(stages.pred_ptr[t], stages.pred_ptr[t + 1]):
            p = stages.pred[e]
            down[t] = max(down[t], down[p] + cost[p].mean() + stages.pred_data[e] * mean_pace)
        found[CRITICAL, t] = found[UPWARD, t] + down[t]
    return found


@njit
def pin_critical(cost: Floats, priority: Floats, allowed: Flags) -> None:
    """Allow the stages of the longest path only the node that runs all of them soonest."""
    count, nodes = cost.shape
    longest, best, arg = priority.max() * (1.0 - 1e-9), np.inf, -1
    for k in range(nodes):
        total = 0.0
        for t in range(count):
            if priority[t] >= longest:
                total += cost[t, k] if allowed[t, k] else np.inf
        if total < best:
            best, arg = total, k
    for t in range(count):
        if priority[t] >= longest and arg >= 0:
            for k in range(nodes):
                allowed[t, k] = k == arg


@inner
def arrival(
    t: int, k: int, pace: Floats, pred_ptr: Ints, pred: Ints, pred_data: Floats, node: Ints, finish: Floats
) -> float:
    """When all that stage t needs is at node k."""
    latest = 0.0
    for e in range(pred_ptr[t], pred_ptr[t + 1]):
        latest = max(latest, finish[pred[e]] + move_time(pred_data[e], pace[node[pred[e]], k]))
    return latest


@inner
def earliest(ready: float, cost: float, k: int, slot: Ints, used: Ints, start: Floats, finish: Floats) -> float:
    """First start from ``ready`` on at which node k is free for ``cost``, between its stages or after them."""
    free = 0.0
    for index in range(used[k]):
        begin = max(ready, free)
        if begin + cost <= start[slot[k, index]]:
            return begin
        free = max(free, finish[slot[k, index]])
    return max(ready, free)


@inner
def insert(t: int, k: int, slot: Ints, used: Ints, start: Floats, finish: Floats) -> None:
    """Add stage t to the stages of node k, which are in the order of their starts."""
    at = used[k]
    while at > 0 and before(t, slot[k, at - 1], start, finish):
        slot[k, at] = slot[k, at - 1]
        at -= 1
    slot[k, at] = t
    used[k] += 1


@inner
def before(t: int, other: int, start: Floats, finish: Floats) -> bool:
    """Whether stage t goes before one that is already in the order."""
    return start[t] < start[other] or (start[t] == start[other] and finish[t] < finish[other])


@inner
def best_node(
    t: int,
    earliest_start: bool,
    cost: Floats,
    pace: Floats,
    pred_ptr: Ints,
    pred: Ints,
    pred_data: Floats,
    after: Floats,
    allowed: Flags,
    node: Ints,
    start: Floats,
    finish: Floats,
    slot: Ints,
    used: Ints,
) -> tuple[int, float, float, float]:
    """The node of least score for stage t, the start there, that score, and the second least; -1 where all are inf."""
    arg, at, best, second = -1, 0.0, np.inf, np.inf
    for k in range(len(used)):
        if allowed[t, k]:
            there = arrival(t, k, pace, pred_ptr, pred, pred_data, node, finish)
            begin = earliest(there, cost[t, k], k, slot, used, start, finish)
            score = begin if earliest_start else begin + cost[t, k] + after[t, k]
            if score < best:
                arg, at, best, second = k, begin, score, best
            elif score < second:
                second = score
    return arg, at, best, second


@inner
def release(t: int, succ_ptr: Ints, succ: Ints, waiting: Ints, ready: Ints, readies: int) -> int:
    """Stage t is placed: add what waited for it alone to ``ready``; returns how many are there."""
    for e in range(succ_ptr[t], succ_ptr[t + 1]):
        waiting[succ[e]] -= 1
        if waiting[succ[e]] == 0:
            ready[readies] = succ[e]
            readies += 1
    return readies


@njit
def list_schedule(
    stages: Stages,
    rule: int,
    priority: Floats,
    after: Floats,
    allowed: Flags,
    node: Ints,
    start: Floats,
    finish: Floats,
) -> float:
    """Place one ready stage after another on the node of least finish plus ``after``, in gaps where it fits.

    ``rule`` says which is next. Fills node, start and finish; returns the makespan, inf where a stage has no node that
    all its data can reach.
    """
    cost, pace, pred_ptr, pred, pred_data = stages.cost, stages.pace, stages.pred_ptr, stages.pred, stages.pred_data
    count, nodes = cost.shape
    slot, used = np.empty((nodes, count), np.int64), np.zeros(nodes, np.int64)
    waiting, ready, readies = np.empty(count, np.int64), np.empty(count, np.int64), 0
    for t in range(count):
        waiting[t] = pred_ptr[t + 1] - pred_ptr[t]
        if waiting[t] == 0:
            ready[readies] = t
            readies += 1
    while readies > 0:
        first, last, chosen, urgency = 0, readies, -1, -np.inf
        if rule == PRIORITY:
            for index in range(readies):
                if priority[ready[index]] > priority[ready[first]]:
                    first = index
            last = first + 1
        for index in range(first, last):
            k, begin, best, second = best_node(
                ready[index], rule == EARLIEST, cost, pace, pred_ptr, pred, pred_data, after, allowed,
                node, start, finish, slot, used,
            )  # fmt: skip
            if k < 0:
                return np.inf
            urgent = best if rule == LONGEST else second - best if rule == REGRET else -best
            if chosen < 0 or urgent > urgency:
                chosen, urgency = index, urgent
                node[ready[index]], start[ready[index]] = k, begin
        t = ready[chosen]
        finish[t] = start[t] + cost[t, node[t]]
        insert(t, node[t], slot, used, start, finish)
        ready[chosen] = ready[readies - 1]
        readies = release(t, stages.succ_ptr, stages.succ, waiting, ready, readies - 1)
    return float(finish.max())


@njit
def clique(pace: Floats, swiftness: Floats) -> Flags:
    """Nodes that all reach each other, of much speed together: the best of one greedy choice from each node."""
    nodes = len(swiftness)
    best, most, fastest = np.zeros(nodes, np.bool_), -1.0, ascending(-swiftness)
    for first in range(nodes):
        member, total = np.zeros(nodes, np.bool_), swiftness[first]
        member[first] = True
        for k in fastest:
            joins = not member[k]
            for m in range(nodes):
                joins &= not member[m] or (pace[k, m] < np.inf and pace[m, k] < np.inf)
            if joins:
                member[k] = True
                total += swiftness[k]
        if total > most:
            best, most = member, total
    return best


@njit
def seeds(stages: Stages, tail: Floats, swiftness: Floats) -> tuple[Floats, Ints, Floats, Floats]:
    """Makespan (seed), node, start and finish (seed, stage) of every rule, and of the fastest node alone.

    Where some links are missing each rule runs twice: on all nodes, and on a clique, where it can't paint itself into
    a corner. Rules that were left out, or did, have makespan inf.
    """
    cost = stages.cost
    count, nodes = cost.shape
    priority, member, nothing = priorities(stages, tail), clique(stages.pace, swiftness), np.zeros((count, nodes))
    runs = len(RULES) if member.all() else 2 * len(RULES)
    makespan, node = np.full(runs + 1, np.inf), np.zeros((runs + 1, count), np.int64)
    start, finish = np.zeros((runs + 1, count)), np.zeros((runs + 1, count))
    for run in range(runs):
        rule, ranked, lookahead = RULES[run % len(RULES)]
        if rule != PRIORITY and (count + len(stages.pred)) * count * nodes > LOOKS:
            continue
        allowed = np.ones((count, nodes), np.bool_)
        if run >= len(RULES):
            for t in range(count):
                for k in range(nodes):
                    allowed[t, k] = member[k]
        if ranked == CRITICAL:
            pin_critical(cost, priority[ranked], allowed)
        makespan[run] = list_schedule(
            stages, rule, priority[ranked], tail if lookahead == 1 else nothing, allowed,
            node[run], start[run], finish[run],
        )  # fmt: skip
    alone = np.argmax(swiftness)
    now = 0.0
    for t in range(count):
        node[runs, t], start[runs, t] = alone, now
        now += cost[t, alone]
        finish[runs, t] = now
    makespan[runs] = now
    return makespan, node, start, finish
