"""Joint search for an embedding: greedy starts on shortest paths at prices, then ruin and recreate.

A task graph is placed node by node. A node goes where the charge for its place plus those for the shortest paths to
its placed peers, each at the prices of the links with room for it, is least; its links are then routed one by one on
what the earlier ones left. The search then takes out a node and some of its peers and places them again, and keeps what
is not much worse (a threshold that falls to zero). Whatever cannot get below the best charge known, even if all that is
still open came at the least charge there is, is cut off.

A unit of a node or link costs its price times ``1 + steepness * use ** 3`` of that resource, integrated over what is
taken. A negative steepness fills what is in use already and keeps whole links for large demands.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from gainnet.compiled import inner, njit
from gainnet.orchestrator.kernels.columns import Floats, Ints, Words

Flags = np.ndarray
MISSING = 1e9
"""Charge for each unit of demand that is not placed: far above what any path costs."""
TRIES = 3
USABLE = 0.7
CLOSE = 0.7
SHAKE_START = np.array([0.3, 0.5])
SHAKE_REPAIR = np.array([0.15, 0.5])
CALM = np.array([0.0, 0.0])
HEAT = 0.03
RUINED = 3


class Arcs(NamedTuple):
    """Arcs in order of the node they leave: those of v are ``ptr[v]:ptr[v + 1]``, each to ``head`` over ``link``."""

    ptr: Ints
    head: Ints
    link: Ints


class Ground(NamedTuple):
    """The substrate: arcs along and against the direction of the links, capacities, prices, steepness (node, link)."""

    ahead: Arcs
    back: Arcs
    node_capacity: Floats
    link_capacity: Floats
    node_price: Floats
    link_price: Floats
    steep: Floats


class Wish(NamedTuple):
    """The task graph: node demands, link demands (largest first), and at each node its links.

    Those of node i are ``ptr[i]:ptr[i + 1]``, each to ``peer`` by ``link``; ``out`` where the link leaves i, which only
    matters on a directed substrate. ``allowed`` is (node, place).
    """

    demand: Floats
    bandwidth: Floats
    ptr: Ints
    peer: Ints
    link: Ints
    out: Flags
    allowed: Flags


class Draft(NamedTuple):
    """An embedding in the making: what is left, the place of each node (-1: none), paths as links from one end, charge."""

    node_left: Floats
    link_left: Floats
    place: Ints
    taken: Flags
    path: Ints
    hops: Ints
    charge: Floats


class Desk(NamedTuple):
    """Working memory of the search; ``least`` is the least charge of a unit (node, link), ``open`` that of what is open."""

    distance: Floats
    settled: Flags
    via_link: Ints
    via_node: Ints
    key: Floats
    item: Ints
    score: Floats
    least: Floats
    open: Floats
    skipped: Flags
    state: Words


@inner
def uniform(state: Words) -> float:
    """The next number in [0, 1) of a xorshift generator (Marsaglia 2003) whose 64 bits are ``state[0]``, never 0."""
    x = state[0]
    x ^= x << np.uint64(13)
    x ^= x >> np.uint64(7)
    x ^= x << np.uint64(17)
    state[0] = x
    return np.float64(x >> np.uint64(11)) / 9007199254740992.0


@inner
def charge(price: float, capacity: float, left: float, amount: float, steep: float) -> float:
    """What ``amount`` costs on a resource of which ``left`` is free: the integral of the unit charge."""
    before = 1.0 - left / capacity
    after = before + amount / capacity
    before *= before
    after *= after
    return price * (amount + 0.25 * steep * capacity * (after * after - before * before))


@inner
def push(key: Floats, item: Ints, size: int, value: float, node: int) -> int:
    """Put a node on the binary heap of ``size`` entries; returns the new size."""
    at = size
    while at > 0 and key[(at - 1) // 2] > value:
        key[at], item[at] = key[(at - 1) // 2], item[(at - 1) // 2]
        at = (at - 1) // 2
    key[at], item[at] = value, node
    return size + 1


@inner
def pop(key: Floats, item: Ints, size: int) -> int:
    """Take the least entry off the binary heap of ``size`` entries; returns the new size."""
    size -= 1
    value, node, at = key[size], item[size], 0
    while 2 * at + 1 < size:
        child = 2 * at + 1
        if child + 1 < size and key[child + 1] < key[child]:
            child += 1
        if key[child] >= value:
            break
        key[at], item[at] = key[child], item[child]
        at = child
    key[at], item[at] = value, node
    return size


@inner
def shortest(ground: Ground, arcs: Arcs, left: Floats, source: int, target: int, amount: float, limit: float, desk: Desk) -> float:  # fmt: skip # noqa: E501
    """Dijkstra over the links with room for ``amount``: all distances up to ``limit``, or that of ``target`` >= 0."""
    distance, settled, key, item = desk.distance, desk.settled, desk.key, desk.item
    for v in range(len(distance)):
        distance[v] = np.inf
        settled[v] = False
    distance[source] = 0.0
    size = push(key, item, 0, 0.0, source)
    while size > 0:
        near, v = key[0], item[0]
        size = pop(key, item, size)
        if settled[v]:
            continue
        settled[v] = True
        if v == target:
            return near
        for a in range(arcs.ptr[v], arcs.ptr[v + 1]):
            u, link = arcs.head[a], arcs.link[a]
            if settled[u] or left[link] < amount:
                continue
            far = near + charge(
                ground.link_price[link], ground.link_capacity[link], left[link], amount, ground.steep[1]
            )
            if far < distance[u] and far <= limit:
                distance[u], desk.via_link[u], desk.via_node[u] = far, link, v
                size = push(key, item, size, far, u)
    return np.inf


@inner
def take_out(ground: Ground, wish: Wish, draft: Draft, i: int) -> None:
    """Free the place of node i and the paths of its links."""
    for a in range(wish.ptr[i], wish.ptr[i + 1]):
        e = wish.link[a]
        for k in range(draft.hops[e]):
            link = draft.path[e, k]
            draft.link_left[link] += wish.bandwidth[e]
            draft.charge[0] -= charge(
                ground.link_price[link], ground.link_capacity[link], draft.link_left[link], wish.bandwidth[e],
                ground.steep[1],
            )  # fmt: skip
        draft.hops[e] = 0
    v = draft.place[i]
    if v >= 0:
        draft.node_left[v] += wish.demand[i]
        draft.taken[v] = False
        draft.place[i] = -1
        draft.charge[0] -= charge(
            ground.node_price[v], ground.node_capacity[v], draft.node_left[v], wish.demand[i], ground.steep[0]
        )


@inner
def route(ground: Ground, wish: Wish, draft: Draft, i: int, a: int, limit: float, desk: Desk) -> bool:
    """Route link ``a`` of the placed node i to its placed peer, if there is a path of charge up to ``limit``."""
    e = wish.link[a]
    source, v = draft.place[i], draft.place[wish.peer[a]]
    arcs = ground.ahead if wish.out[a] else ground.back
    found = shortest(ground, arcs, draft.link_left, source, v, wish.bandwidth[e], limit, desk)
    if found == np.inf:
        return False
    hops = 0
    while v != source:
        draft.path[e, hops] = desk.via_link[v]
        draft.link_left[desk.via_link[v]] -= wish.bandwidth[e]
        v = desk.via_node[v]
        hops += 1
    draft.hops[e] = hops
    draft.charge[0] += found
    return True


@inner
def put(ground: Ground, wish: Wish, draft: Draft, i: int, v: int, budget: float, desk: Desk) -> bool:
    """Place node i on v and route its links to placed peers; False, and nothing changed, if one finds no path."""
    opened = desk.open[0]
    draft.place[i] = v
    draft.taken[v] = True
    draft.charge[0] += charge(
        ground.node_price[v], ground.node_capacity[v], draft.node_left[v], wish.demand[i], ground.steep[0]
    )
    draft.node_left[v] -= wish.demand[i]
    desk.open[0] -= desk.least[0] * wish.demand[i]
    for a in range(wish.ptr[i], wish.ptr[i + 1]):
        if draft.place[wish.peer[a]] < 0:
            continue
        least = desk.least[1] * wish.bandwidth[wish.link[a]]
        if not route(ground, wish, draft, i, a, budget - draft.charge[0] - desk.open[0] + least, desk):
            take_out(ground, wish, draft, i)
            desk.open[0] = opened
            return False
        desk.open[0] -= least
    return True


@inner
def detour(ground: Ground, wish: Wish, draft: Draft, i: int, v: int, usual: float) -> float:
    """What links of node i to unplaced peers would cost more on place v because too few neighbours have room.

    ``usual`` is the node demand that a neighbour should have room for.
    """
    links, amount = 0, 0.0
    for a in range(wish.ptr[i], wish.ptr[i + 1]):
        if draft.place[wish.peer[a]] < 0:
            links += 1
            amount += wish.bandwidth[wish.link[a]]
    if links == 0:
        return 0.0
    amount /= links
    room = 0
    for a in range(ground.ahead.ptr[v], ground.ahead.ptr[v + 1]):
        u = ground.ahead.head[a]
        if not draft.taken[u] and draft.link_left[ground.ahead.link[a]] >= amount and draft.node_left[u] >= usual:
            room += 1
    return 0.5 * amount * max(0.0, links - USABLE * room)


@inner
def settle(ground: Ground, wish: Wish, draft: Draft, i: int, shake: float, budget: float, usual: float, desk: Desk) -> bool:  # fmt: skip # noqa: E501
    """Place node i where it costs least, scores shaken by up to ``shake``; False if it finds no place in the budget."""
    score, slack = desk.score, budget - draft.charge[0] - desk.open[0]
    if slack < 0.0:
        return False
    for v in range(len(score)):
        score[v] = np.inf
        if not draft.taken[v] and draft.node_left[v] >= wish.demand[i] and wish.allowed[i, v]:
            score[v] = detour(ground, wish, draft, i, v, usual) + charge(
                ground.node_price[v], ground.node_capacity[v], draft.node_left[v], wish.demand[i], ground.steep[0]
            )
    for a in range(wish.ptr[i], wish.ptr[i + 1]):
        peer = draft.place[wish.peer[a]]
        if peer >= 0:
            arcs, amount = (ground.back if wish.out[a] else ground.ahead), wish.bandwidth[wish.link[a]]
            shortest(ground, arcs, draft.link_left, peer, -1, amount, slack + desk.least[1] * amount, desk)
            for v in range(len(score)):
                score[v] += desk.distance[v]
    if shake > 0.0:
        for v in range(len(score)):
            score[v] *= 1.0 + shake * uniform(desk.state)
    for _ in range(TRIES):
        best, arg = np.inf, -1
        for v in range(len(score)):
            if score[v] < best:
                best, arg = score[v], v
        if arg < 0:
            return False
        if put(ground, wish, draft, i, arg, budget, desk):
            return True
        score[arg] = np.inf
    return False


@inner
def foremost(wish: Wish, draft: Draft, shake: float, desk: Desk) -> int:
    """The unplaced node to place next: joined to placed ones by the most bandwidth; -1 when none is left."""
    best, arg = -1.0, -1
    for i in range(len(draft.place)):
        if draft.place[i] >= 0 or desk.skipped[i]:
            continue
        joined, total, linked = 0.0, 0.1 * wish.demand[i], False
        for a in range(wish.ptr[i], wish.ptr[i + 1]):
            if draft.place[wish.peer[a]] >= 0:
                joined += wish.bandwidth[wish.link[a]]
                linked = True
            else:
                total += 0.25 * wish.bandwidth[wish.link[a]]
        rank = (joined + total) * (1.0 + shake * uniform(desk.state)) + (MISSING if linked else 0.0)
        if rank > best:
            best, arg = rank, i
    return arg


@inner
def complete(
    ground: Ground, wish: Wish, draft: Draft, shake: Floats, budget: float, whole: bool, usual: float, desk: Desk
) -> float:
    """Place all nodes that have no place. Returns the charge of the draft, MISSING a unit for what found none.

    No node is placed beyond the budget; where all must be (``whole``), the charge is infinite once one is not.
    """
    missing = 0.0
    desk.open[0] = -1e-9
    for i in range(len(draft.place)):
        desk.skipped[i] = False
        if draft.place[i] < 0:
            desk.open[0] += desk.least[0] * wish.demand[i]
        for a in range(wish.ptr[i], wish.ptr[i + 1]):
            j = wish.peer[a]
            if i < j and (draft.place[i] < 0 or draft.place[j] < 0):
                desk.open[0] += desk.least[1] * wish.bandwidth[wish.link[a]]
    while True:
        i = foremost(wish, draft, shake[1], desk)
        if i < 0:
            return draft.charge[0] + MISSING * missing
        if not settle(ground, wish, draft, i, shake[0], budget, usual, desk):
            if whole:
                return np.inf
            desk.skipped[i] = True
            missing += 1.0 + wish.demand[i]
            for a in range(wish.ptr[i], wish.ptr[i + 1]):
                missing += wish.bandwidth[wish.link[a]]


@inner
def ruin(ground: Ground, wish: Wish, draft: Draft, desk: Desk) -> None:
    """Take out a random node and up to RUINED - 1 more, mostly peers of it."""
    nodes = len(draft.place)
    i = int(uniform(desk.state) * nodes)
    take_out(ground, wish, draft, i)
    for _ in range(int(uniform(desk.state) * min(RUINED, nodes))):
        degree, j = wish.ptr[i + 1] - wish.ptr[i], int(uniform(desk.state) * nodes)
        if degree > 0 and uniform(desk.state) < CLOSE:
            j = wish.peer[wish.ptr[i] + int(uniform(desk.state) * degree)]
        take_out(ground, wish, draft, j)


@inner
def transcribe(source: Draft, target: Draft) -> None:
    """Make ``target`` equal to ``source``."""
    target.charge[0] = source.charge[0]
    for v in range(len(source.node_left)):
        target.node_left[v], target.taken[v] = source.node_left[v], source.taken[v]
    for link in range(len(source.link_left)):
        target.link_left[link] = source.link_left[link]
    for i in range(len(source.place)):
        target.place[i] = source.place[i]
    for e in range(len(source.hops)):
        target.hops[e] = source.hops[e]
        for k in range(source.hops[e]):
            target.path[e, k] = source.path[e, k]


@njit
def blank(node_left: Floats, link_left: Floats, nodes: int, links: int) -> Draft:
    """A draft that places nothing yet."""
    places = len(node_left)
    return Draft(
        node_left.copy(), link_left.copy(), np.full(nodes, -1), np.zeros(places, np.bool_),
        np.zeros((links, places), np.int64), np.zeros(links, np.int64), np.zeros(1),
    )  # fmt: skip


@njit
def desk_for(ground: Ground, nodes: int, seed: int) -> Desk:
    """Working memory for one search."""
    places, arcs = len(ground.node_capacity), len(ground.ahead.head)
    least = np.zeros(2)
    if places > 0:
        least[0] = ground.node_price.min() * (1.0 + min(ground.steep[0], 0.0))
    if arcs > 0:
        least[1] = ground.link_price.min() * (1.0 + min(ground.steep[1], 0.0))
    return Desk(
        np.zeros(places), np.zeros(places, np.bool_), np.zeros(places, np.int64), np.zeros(places, np.int64),
        np.zeros(arcs + 2), np.zeros(arcs + 2, np.int64), np.zeros(places), least, np.zeros(1),
        np.zeros(nodes, np.bool_), np.array([seed], np.uint64),
    )  # fmt: skip


@njit
def search(ground: Ground, wish: Wish, node_left: Floats, link_left: Floats, limit: float, starts: int, rounds: int, seed: int) -> tuple[float, Ints, Ints, Ints]:  # fmt: skip # noqa: E501
    """The embedding of least charge found in ``starts`` greedy starts and ``rounds`` of ruin and recreate.

    Args:
        ground: the substrate at its prices.
        wish: the task graph, with at least one node.
        node_left: what is left of each node.
        link_left: what is left of each link.
        limit: the charge that it may have at most.
        starts: greedy passes, the first as it is, the others shaken.
        rounds: repairs of the best of them.
        seed: above 0.

    Returns:
        Its charge (MISSING or more where nodes are left out), the place of each node or -1, the links of each path from
        one end, and how many these are.
    """
    nodes, links = len(wish.demand), len(wish.bandwidth)
    desk, usual = desk_for(ground, nodes, seed), wish.demand.mean()
    empty, draft = blank(node_left, link_left, nodes, links), blank(node_left, link_left, nodes, links)
    held, best = blank(node_left, link_left, nodes, links), blank(node_left, link_left, nodes, links)
    least = np.inf
    for start in range(starts):
        transcribe(empty, draft)
        whole, shake = least < MISSING, SHAKE_START if start > 0 else CALM
        found = complete(ground, wish, draft, shake, least if whole else limit, whole, usual, desk)
        if found < least:
            least = found
            transcribe(draft, best)
    now = least
    transcribe(best, draft)
    transcribe(best, held)
    for step in range(rounds):
        ruin(ground, wish, draft, desk)
        whole, bar = least < MISSING, now
        if whole:
            bar += HEAT * least * (1.0 - step / rounds) * uniform(desk.state) ** 2
        found = complete(ground, wish, draft, SHAKE_REPAIR, bar if whole else limit, whole, usual, desk)
        if found <= bar:
            now = found
            transcribe(draft, held)
            if found < least:
                least = found
                transcribe(draft, best)
        else:
            transcribe(held, draft)
    return least, best.place, best.path, best.hops
