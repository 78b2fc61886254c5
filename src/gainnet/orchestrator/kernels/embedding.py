"""Joint search for an embedding: greedy starts on shortest paths at prices, then ruin and recreate.

A task graph is placed node by node. A node goes where the charge for its place plus those for the shortest paths to
its placed peers, each at the prices of the links with room for it, is least; its links are then routed one by one on
what the earlier ones left. The search then takes out a few nodes that hang together and places them again, and keeps
what is not much worse (a threshold that falls to zero). Whatever cannot get below the best charge known, even if all
that is still open came at the least charge there is, is cut off. Distances come from kept trees (see ``paths.py``).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from gainnet.compiled import njit, pasted
from gainnet.orchestrator.kernels.columns import Floats, Ints, Words
from gainnet.orchestrator.kernels.draft import NOWHERE, Draft, Flags, Wish, blank, transcribe
from gainnet.orchestrator.kernels.paths import (
    ONE,
    Ground,
    Maze,
    Number,
    Trees,
    detour,
    maze_for,
    reachable,
    tree,
    trees_for,
)

MISSING = 1e9
"""Charge for each unit of demand that is not placed: far above what any path costs."""
TINY = 1e-12
"""Bandwidth of a link that demands none: it has no charge, and still no path where nothing leads."""
SHAKE_START = np.array([0.5, 1.0])
"""By how much the scores of places and the order of nodes are shaken in a start, and in a repair."""
SHAKE_REPAIR = np.array([0.4, 1.0])
CALM = np.array([0.0, 0.0])
TRIES = 6
"""Places tried for a node, in order of their scores, while the paths to the best cost more than its score said."""
USABLE = 0.9
"""Open links that a neighbour with room can serve; each beyond that is expected to take one hop more."""
HEAT = 0.15
"""Share of the least charge by which a repair may be worse at first."""
RUINED = 6
"""Nodes taken out at most before a repair."""
NOISE = 2048
"""Random numbers from which a shake may begin."""
CLOSE = 0.9
"""How often the next one is a peer of the last."""


class Desk(NamedTuple):
    """Working memory of the search.

    ``fee`` is the charge of each node at each place, ``least`` the least charge of each node and, last, of a unit of
    bandwidth, and ``open`` that of all that is open. ``room`` counts the useful neighbours of places, (class, place).
    ``noise`` has random numbers in [0, 1), of which a shake takes one for each place, from a random one on.
    """

    trees: Trees
    maze: Maze
    fee: Floats
    room: Floats
    least: Floats
    open: Floats
    bare: Floats
    score: Floats
    known: Flags
    skipped: Flags
    noise: Floats
    state: Words


@pasted
def uniform(state: Words) -> float:
    """The next number in [0, 1) of a xorshift generator (Marsaglia 2003) whose 64 bits are ``state[0]``, never 0."""
    x = state[0]
    x ^= x << np.uint64(13)
    x ^= x >> np.uint64(7)
    x ^= x << np.uint64(17)
    state[0] = x
    return np.float64(x >> np.uint64(11)) / 9007199254740992.0


@pasted
def take_out(ground: Ground, wish: Wish, draft: Draft, i: Number, desk: Desk) -> None:
    """Free the place of node i and the paths of its links."""
    v = draft.place[i]
    if v == NOWHERE:
        return
    for a in range(wish.ptr[i], wish.ptr[i + ONE]):
        e = wish.link[a]
        for k in range(np.uint64(draft.hops[e])):
            link = draft.path[e, k]
            draft.link_left[link] += wish.bandwidth[e]
            draft.charge[0] -= ground.link_price[link] * wish.bandwidth[e]
        draft.hops[e] = 0
    draft.place[i] = NOWHERE
    draft.charge[0] -= desk.fee[i, v]


@pasted
def route(ground: Ground, wish: Wish, draft: Draft, i: Number, a: int, spare: float, desk: Desk) -> float:
    """Route link ``a`` of the placed node i to its placed peer at up to ``spare`` above the kept distance.

    Returns what it costs above it, infinite where there is no such path.
    """
    e, v, end = wish.link[a], draft.place[i], draft.place[wish.peer[a]]
    way, amount = (0 if wish.out[a] else 1), wish.bandwidth[e]
    row = tree(ground, desk.trees, way, desk.trees.rank[e], end)
    distance, via_link, via_node = desk.trees.distance[row], desk.trees.via_link[row], desk.trees.via_node[row]
    usual, unit, start, whole = distance[v], distance[v], v, True
    while v != end and whole:
        whole = draft.link_left[via_link[v]] >= amount
        v = via_node[v]
    if not whole:
        limit = usual + spare / amount if amount > 0.0 else np.inf
        arcs, enter = (ground.ahead, ground.back) if way == 0 else (ground.back, ground.ahead)
        if not reachable(enter, draft.link_left, end, amount):
            return np.inf
        unit = detour(arcs, desk.maze, ground.link_price, draft.link_left, distance, (start, end), amount, limit)
        if unit == np.inf:
            return np.inf
        via_link, via_node, start, end = desk.maze.via_link, desk.maze.via_node, end, start
    v, hops = start, np.uint64(0)
    while v != end:
        draft.path[e, hops] = via_link[v]
        draft.link_left[via_link[v]] -= amount
        v = via_node[v]
        hops += ONE
    draft.hops[e] = hops
    draft.charge[0] += unit * amount
    return (unit - usual) * amount


@pasted
def put(ground: Ground, wish: Wish, draft: Draft, i: Number, v: Number, spare: float, desk: Desk) -> float:
    """Place node i on v and route its links to placed peers at up to ``spare`` above their kept distances.

    Returns what they cost above these; infinite, and nothing changed, if one finds no such path.
    """
    draft.place[i] = v
    draft.charge[0] += desk.fee[i, v]
    more = 0.0
    for a in range(wish.ptr[i], wish.ptr[i + ONE]):
        if draft.place[wish.peer[a]] != NOWHERE:
            more += route(ground, wish, draft, i, a, spare - more, desk)
            if more == np.inf:
                take_out(ground, wish, draft, i, desk)
                break
    return more


@pasted
def appraise(ground: Ground, wish: Wish, draft: Draft, i: Number, slack: float, shake: float, desk: Desk) -> float:
    """Score all places for node i: charges on kept distances (``bare``), what its other links may lack, a shake.

    None may cost more than ``slack`` above the least charges of the node and its links to placed peers, which it returns.
    """
    bare, score, fee, places = desk.bare, desk.score, desk.fee[i], np.uint64(len(desk.bare))
    own, links, amount = desk.least[i], 0.0, 0.0
    for v in range(places):
        bare[v] = fee[v]
        desk.known[v] = False
    for j in range(np.uint64(len(draft.place))):
        if draft.place[j] != NOWHERE:
            bare[draft.place[j]] = np.inf
    for a in range(wish.ptr[i], wish.ptr[i + ONE]):
        e, peer = wish.link[a], draft.place[wish.peer[a]]
        if peer == NOWHERE:
            links += 1.0
            amount += wish.bandwidth[e]
            continue
        own += desk.least[-1] * wish.bandwidth[e]
        load = max(wish.bandwidth[e], TINY)
        row = desk.trees.distance[tree(ground, desk.trees, 0 if wish.out[a] else 1, desk.trees.rank[e], peer)]
        for v in range(places):
            bare[v] += row[v] * load
    most, rank, mean = slack + own, 0, 0.0
    if links > 0.0:
        mean = amount / links
        while rank + 1 < len(desk.room) and desk.trees.level[rank + 1] * links <= amount:
            rank += 1
    room, noise = desk.room[rank], desk.noise
    shift = np.uint64(uniform(desk.state) * (len(noise) - len(bare)))
    for v in range(places):
        usual = (bare[v] if bare[v] <= most else np.inf) + mean * max(0.0, links - USABLE * room[v])
        score[v] = usual * (1.0 + shake * noise[v + shift])
    return own


@pasted
def cheapest(score: Floats) -> np.int64:
    """The place of the least score; -1 where all are infinite. Two minima: one would wait for itself at each step."""
    even, odd, places, v = np.inf, np.inf, np.uint64(len(score)), ONE
    while v < places:
        even = min(even, score[v - ONE])
        odd = min(odd, score[v])
        v += ONE + ONE
    if v == places:
        even = min(even, score[v - ONE])
    best, v = min(even, odd), np.uint64(0)
    if best == np.inf:
        return np.int64(-1)
    while score[v] != best:
        v += ONE
    return np.int64(v)


@pasted
def settle(ground: Ground, wish: Wish, draft: Draft, i: Number, shake: float, budget: float, desk: Desk) -> bool:
    """Place node i where it costs least, scores shaken by up to ``shake``; False if it finds no place in the budget."""
    score, slack = desk.score, budget - draft.charge[0] - desk.open[0]
    if slack < 0.0:
        return False
    own = appraise(ground, wish, draft, i, slack, shake, desk)
    for tried in range(TRIES):
        least = cheapest(score)
        if least < 0:
            return False
        v = np.uint64(least)
        more = put(ground, wish, draft, i, v, slack + own - desk.bare[v], desk)
        score[v] += 0.0 if desk.known[v] else more
        desk.known[v] = True
        if draft.place[i] == NOWHERE:
            continue
        if tried == TRIES - 1 or cheapest(score) == least:
            desk.open[0] -= own
            return True
        take_out(ground, wish, draft, i, desk)
    return False


@pasted
def foremost(wish: Wish, draft: Draft, shake: float, desk: Desk) -> np.int64:
    """The unplaced node to place next: joined to placed ones by the most bandwidth; -1 when none is left."""
    best, arg = -1.0, np.int64(-1)
    for i in range(np.uint64(len(draft.place))):
        if draft.place[i] != NOWHERE or desk.skipped[i]:
            continue
        joined, total, linked = 0.0, 0.1 * wish.demand[i], False
        for a in range(wish.ptr[i], wish.ptr[i + ONE]):
            if draft.place[wish.peer[a]] != NOWHERE:
                joined += wish.bandwidth[wish.link[a]]
                linked = True
            else:
                total += 0.25 * wish.bandwidth[wish.link[a]]
        rank = (joined + total) * (1.0 + shake * uniform(desk.state)) + (MISSING if linked else 0.0)
        if rank > best:
            best, arg = rank, np.int64(i)
    return arg


@pasted
def complete(ground: Ground, wish: Wish, draft: Draft, shake: Floats, budget: float, whole: bool, desk: Desk) -> float:
    """Place all nodes that have no place. Returns the charge of the draft, MISSING a unit for what found none.

    No node is placed beyond the budget; where all must be (``whole``), the charge is infinite once one is not.
    """
    missing = 0.0
    desk.open[0] = -1e-9
    for i in range(np.uint64(len(draft.place))):
        desk.skipped[i] = False
        if draft.place[i] == NOWHERE:
            desk.open[0] += desk.least[i]
        for a in range(wish.ptr[i], wish.ptr[i + ONE]):
            j = wish.peer[a]
            if i < j and (draft.place[i] == NOWHERE or draft.place[j] == NOWHERE):
                desk.open[0] += desk.least[-1] * wish.bandwidth[wish.link[a]]
    while True:
        first = foremost(wish, draft, shake[1], desk)
        if first < 0:
            return draft.charge[0] + MISSING * missing
        node = np.uint64(first)
        if not settle(ground, wish, draft, node, shake[0], budget, desk):
            if whole:
                return np.inf
            desk.skipped[node] = True
            missing += 1.0 + wish.demand[node]
            for a in range(wish.ptr[node], wish.ptr[node + ONE]):
                missing += wish.bandwidth[wish.link[a]]


@pasted
def ruin(ground: Ground, wish: Wish, draft: Draft, desk: Desk) -> None:
    """Take out a random node and a few more, mostly each a peer of the one before."""
    nodes = len(draft.place)
    i = np.uint64(uniform(desk.state) * nodes)
    take_out(ground, wish, draft, i, desk)
    for _ in range(int(uniform(desk.state) * min(RUINED, nodes))):
        degree, j = wish.ptr[i + ONE] - wish.ptr[i], np.uint64(uniform(desk.state) * nodes)
        if degree > 0 and uniform(desk.state) < CLOSE:
            j = np.uint64(wish.peer[wish.ptr[i] + np.uint64(uniform(desk.state) * degree)])
        take_out(ground, wish, draft, j, desk)
        i = j


@njit
def desk_for(ground: Ground, wish: Wish, fee: Floats, seed: int) -> Desk:
    """Working memory for one search."""
    nodes, places = fee.shape
    arcs, usual, least = len(ground.ahead.head), wish.demand.mean(), np.zeros(nodes + 1)
    for i in range(nodes):
        least[i] = fee[i].min() if places > 0 else np.inf
    if arcs > 0:
        least[nodes] = ground.link_price.min()
    trees = trees_for(wish.bandwidth, places)
    room = np.zeros((len(trees.level), places))
    for rank in range(len(room)):
        for v in range(places):
            for a in range(ground.ahead.ptr[v], ground.ahead.ptr[v + 1]):
                if ground.link_left[ground.ahead.link[a]] >= trees.level[rank]:
                    room[rank, v] += 1.0 if ground.node_left[ground.ahead.head[a]] >= usual else 0.0
    state, noise = np.array([seed], np.uint64), np.empty(NOISE + places)
    for k in range(len(noise)):
        noise[k] = uniform(state)
    return Desk(
        trees, maze_for(places, arcs), fee, room, least, np.zeros(1), np.zeros(places), np.zeros(places),
        np.zeros(places, np.bool_), np.zeros(nodes, np.bool_), noise, state,
    )  # fmt: skip


@njit
def search(
    ground: Ground, wish: Wish, fee: Floats, limit: float, starts: int, rounds: int, seed: int
) -> tuple[float, Ints, Ints, Ints]:
    """The embedding of least charge found in ``starts`` greedy starts and ``rounds`` of ruin and recreate.

    Args:
        ground: the substrate, what is left of it, and its prices.
        wish: the task graph, with at least one node.
        fee: what each node costs at each place, (node, place), infinite where it may not go.
        limit: the charge that it may have at most.
        starts: greedy passes, the first as it is, the others shaken.
        rounds: repairs of the best of them.
        seed: above 0.

    Returns:
        Its charge (MISSING or more where nodes are left out), the place of each node or -1, the links of each path from
        one end, and how many these are.
    """
    desk = desk_for(ground, wish, fee, seed)
    empty, draft, held, best = blank(ground, wish), blank(ground, wish), blank(ground, wish), blank(ground, wish)
    least, now = np.inf, np.inf
    for step in range(starts + rounds):
        begins, whole = step < starts, least < MISSING
        bar = least if begins else now
        if begins:
            transcribe(empty, draft)
        else:
            ruin(ground, wish, draft, desk)
            if whole:
                bar += HEAT * least * (1.0 - (step - starts) / rounds) * uniform(desk.state) ** 2
        shake = (SHAKE_START if step > 0 else CALM) if begins else SHAKE_REPAIR
        found = complete(ground, wish, draft, shake, bar if whole else limit, whole, desk)
        if found < least:
            least = found
            transcribe(draft, best)
        if (found < now) if begins else (found <= bar):
            now = found
            transcribe(draft, held)
        elif not begins or step == starts - 1:
            transcribe(held, draft)
    place = np.empty(len(best.place), np.int64)
    for i in range(len(place)):
        place[i] = -1 if best.place[i] == NOWHERE else best.place[i]
    return least, place, best.path.astype(np.int64), best.hops.astype(np.int64)
