"""Paths at prices for the search of embeddings: trees that are kept, and detours around what a draft has used up.

Within one search prices stay and a draft only takes from what is left at the start. So a shortest-path tree over the
links with room at the start, kept for each place and class of demands, bounds from below what any draft must pay; it
is exact while the links of a path still have room, which costs a few comparisons to see. Where they have not, A*
with the kept distances as its bound (Hart, Nilsson and Raphael 1968) finds the cheapest way around.
"""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from gainnet.compiled import inner, njit, pasted
from gainnet.orchestrator.kernels.columns import Floats, Ints, Words

Index: TypeAlias = NDArray[np.uint32]
"""Numbers of places, links or nodes: a signed one would be looked at, each time, for whether it counts from the end."""

Number: TypeAlias = int | np.uint64
ONE = np.uint64(1)
CLASSES = 6
"""Demands of one class share their trees; more classes bound more tightly and need more trees."""
KEPT = 4_000_000
"""Entries of all trees that are kept; the oldest tree makes room for the next."""


class Arcs(NamedTuple):
    """Arcs in order of the node they leave: those of v are ``ptr[v]:ptr[v + 1]``, each to ``head`` over ``link``."""

    ptr: Words
    head: Index
    link: Index


class Ground(NamedTuple):
    """The substrate: arcs along and against the direction of the links, what is left, and a unit's price on each link."""

    ahead: Arcs
    back: Arcs
    node_left: Floats
    link_left: Floats
    link_price: Floats


class Trees(NamedTuple):
    """Kept shortest-path trees: row ``row[way, class, place]`` (-1: none) of ``distance``, ``via_link`` and ``via_node``.

    Way 0 leads to the place, way 1 from it; ``distance`` is the price of a unit of bandwidth. ``level`` is the least
    demand of each class and ``rank`` the class of each task link. ``owner`` is (tree, 3), ``made`` how many were.
    """

    level: Floats
    rank: Ints
    row: Ints
    owner: Ints
    made: Ints
    distance: Floats
    via_link: Index
    via_node: Index
    queue: Index
    waits: np.ndarray


class Maze(NamedTuple):
    """Working memory of a detour: ``mark`` says of each place whether it was reached (``made``) or settled (one more).

    What has another mark is stale.
    """

    made: Words
    mark: Words
    near: Floats
    via_link: Index
    via_node: Index
    key: Floats
    item: Index


@njit
def trees_for(bandwidth: Floats, places: int) -> Trees:
    """No trees yet, for task links of these demands, the largest first."""
    links = len(bandwidth)
    level, rank = np.zeros(CLASSES), np.zeros(links, np.int64)
    for e in range(links):
        rank[e] = (links - 1 - e) * CLASSES // links
        level[rank[e]] = bandwidth[e]
    for k in range(1, CLASSES):
        level[k] = max(level[k], level[k - 1])
    kept = min(2 * CLASSES * places, max(2, KEPT // max(1, places)))
    return Trees(
        level, rank, np.full((2, CLASSES, places), -1), np.full((kept, 3), -1), np.zeros(1, np.int64),
        np.empty((kept, places)), np.empty((kept, places), np.uint32), np.empty((kept, places), np.uint32),
        np.zeros(places, np.uint32), np.zeros(places, np.bool_),
    )  # fmt: skip


@njit
def maze_for(places: int, arcs: int) -> Maze:
    """Working memory for detours in a substrate of so many places and arcs."""
    return Maze(
        np.zeros(1, np.uint64), np.zeros(places, np.uint64), np.zeros(places), np.zeros(places, np.uint32),
        np.zeros(places, np.uint32), np.zeros(arcs + 2), np.zeros(arcs + 2, np.uint32),
    )  # fmt: skip


@pasted
def push(key: Floats, item: Index, size: int, value: float, node: Number) -> int:
    """Put a node on the binary heap of ``size`` entries; returns the new size."""
    at = np.uint64(size)
    while at > 0:
        above = (at - ONE) >> ONE
        if key[above] <= value:
            break
        key[at], item[at] = key[above], item[above]
        at = above
    key[at], item[at] = value, node
    return size + 1


@pasted
def pop(key: Floats, item: Index, size: int) -> int:
    """Take the least entry off the binary heap of ``size`` entries; returns the new size."""
    last = np.uint64(size - 1)
    value, node, at, child = key[last], item[last], np.uint64(0), ONE
    while child < last:
        right = child + ONE
        if right < last and key[right] < key[child]:
            child = right
        if key[child] >= value:
            break
        key[at], item[at] = key[child], item[child]
        at, child = child, (child << ONE) + ONE
    key[at], item[at] = value, node
    return size - 1


@pasted
def tree(ground: Ground, trees: Trees, way: int, rank: int, place: int) -> int:
    """The row of the tree of a place over the links with room, at the start, for the least demand of a class."""
    row = trees.row[way, rank, place]
    return row if row >= 0 else plant(ground, trees, way, rank, place)


@inner
def plant(ground: Ground, trees: Trees, way: int, rank: int, place: int) -> int:
    """The row of the tree of a place over the links with room, at the start, for the least demand of a class."""
    row = trees.made[0] % len(trees.owner)
    trees.made[0] += 1
    owner = trees.owner[row]
    if owner[0] >= 0:
        trees.row[owner[0], owner[1], owner[2]] = -1
    owner[0], owner[1], owner[2] = way, rank, place
    trees.row[way, rank, place] = row
    grow(ground, ground.back if way == 0 else ground.ahead, trees, row, trees.level[rank], place)
    return row


@pasted
def grow(ground: Ground, arcs: Arcs, trees: Trees, row: int, amount: float, place: int) -> None:
    """Fill a row by label correction, first in first out: prices are alike, so that hardly a node is labelled twice."""
    distance, via_link, via_node = trees.distance[row], trees.via_link[row], trees.via_node[row]
    queue, waits, places = trees.queue, trees.waits, np.uint64(len(trees.queue))
    for far_off in range(places):
        distance[far_off] = np.inf
    distance[place] = 0.0
    queue[0], first, size = place, np.uint64(0), ONE
    while size > 0:
        v = np.uint64(queue[first])
        first = first + ONE if first + ONE < places else np.uint64(0)
        size -= ONE
        waits[v] = False
        here = distance[v]
        for a in range(arcs.ptr[v], arcs.ptr[v + ONE]):
            u, link = arcs.head[a], arcs.link[a]
            far = here + ground.link_price[link]
            if far < distance[u] and ground.link_left[link] >= amount:
                distance[u], via_link[u], via_node[u] = far, link, v
                if not waits[u]:
                    waits[u] = True
                    last = first + size
                    queue[last if last < places else last - places] = u
                    size += ONE


@pasted
def reachable(arcs: Arcs, left: Floats, place: int, amount: float) -> bool:
    """Whether any of the arcs of a place has so much left."""
    for a in range(arcs.ptr[place], arcs.ptr[place + ONE]):  # noqa: SIM110, the compiler knows no generators
        if left[arcs.link[a]] >= amount:
            return True
    return False


@pasted
def detour(
    arcs: Arcs,
    maze: Maze,
    price: Floats,
    left: Floats,
    bound: Floats,
    pair: tuple[int, int],
    amount: float,
    limit: float,
) -> float:
    """The least unit price of a path between a pair, over links that have ``amount`` left; infinite above ``limit``.

    A*: ``bound`` is the kept distance of each place from the second of the pair. ``maze`` has the way back.
    """
    source, target = np.uint64(pair[0]), np.uint64(pair[1])
    mark, near, via_link, via_node = maze.mark, maze.near, maze.via_link, maze.via_node
    maze.made[0] += np.uint64(2)
    reached = maze.made[0]
    settled = reached + ONE
    if not bound[source] <= limit:
        return np.inf
    near[source], mark[source] = 0.0, reached
    size = push(maze.key, maze.item, 0, bound[source], source)
    while size > 0:
        v = np.uint64(maze.item[0])
        size = pop(maze.key, maze.item, size)
        if mark[v] == settled:
            continue
        mark[v] = settled
        here = near[v]
        if v == target:
            return here
        for a in range(arcs.ptr[v], arcs.ptr[v + ONE]):
            u, link = arcs.head[a], arcs.link[a]
            if left[link] < amount or mark[u] == settled:
                continue
            far = here + price[link]
            key = far + bound[u]
            if key <= limit and (mark[u] != reached or far < near[u]):
                near[u], mark[u], via_link[u], via_node[u] = far, reached, link, v
                size = push(maze.key, maze.item, size, key, u)
    return np.inf
