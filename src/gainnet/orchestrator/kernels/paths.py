"""Paths at prices for the search of embeddings: trees that are kept, and detours around what a draft has used up.

Within one search prices stay and a draft only takes from what is left at the start. So a shortest-path tree over the
links with room at the start, kept for each place and class of demands, bounds from below what any draft must pay; it
is exact while the links of a path still have room, which costs a few comparisons to see. Where they have not, A*
with the kept distances as its bound (Hart, Nilsson and Raphael 1968) finds the cheapest way around.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from gainnet.compiled import inner, njit
from gainnet.orchestrator.kernels.columns import Floats, Ints

CLASSES = 6
"""Demands of one class share their trees; more classes bound more tightly and need more trees."""
KEPT = 4_000_000
"""Entries of all trees that are kept; the oldest tree makes room for the next."""


class Arcs(NamedTuple):
    """Arcs in order of the node they leave: those of v are ``ptr[v]:ptr[v + 1]``, each to ``head`` over ``link``."""

    ptr: Ints
    head: Ints
    link: Ints


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
    via_link: Ints
    via_node: Ints
    queue: Ints
    waits: np.ndarray


class Maze(NamedTuple):
    """Working memory of a detour; what ``mark`` does not say is of this one (``mark[-1]``) is stale."""

    mark: Ints
    settled: Ints
    near: Floats
    via_link: Ints
    via_node: Ints
    key: Floats
    item: Ints


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
        np.empty((kept, places)), np.empty((kept, places), np.int64), np.empty((kept, places), np.int64),
        np.zeros(places, np.int64), np.zeros(places, np.bool_),
    )  # fmt: skip


@njit
def maze_for(places: int, arcs: int) -> Maze:
    """Working memory for detours in a substrate of so many places and arcs."""
    return Maze(
        np.zeros(places + 1, np.int64), np.zeros(places, np.int64), np.zeros(places), np.zeros(places, np.int64),
        np.zeros(places, np.int64), np.zeros(arcs + 2), np.zeros(arcs + 2, np.int64),
    )  # fmt: skip


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
def tree(ground: Ground, trees: Trees, way: int, rank: int, place: int) -> int:
    """The row of the tree of a place over the links with room, at the start, for the least demand of a class."""
    row = trees.row[way, rank, place]
    if row >= 0:
        return row
    row = trees.made[0] % len(trees.owner)
    trees.made[0] += 1
    owner = trees.owner[row]
    if owner[0] >= 0:
        trees.row[owner[0], owner[1], owner[2]] = -1
    owner[0], owner[1], owner[2] = way, rank, place
    trees.row[way, rank, place] = row
    grow(ground, ground.back if way == 0 else ground.ahead, trees, row, trees.level[rank], place)
    return row


@inner
def grow(ground: Ground, arcs: Arcs, trees: Trees, row: int, amount: float, place: int) -> None:
    """Fill a row by label correction, first in first out: prices are alike, so that hardly a node is labelled twice."""
    distance, via_link, via_node = trees.distance[row], trees.via_link[row], trees.via_node[row]
    queue, waits, places = trees.queue, trees.waits, len(trees.queue)
    for v in range(places):
        distance[v] = np.inf
    distance[place] = 0.0
    queue[0], first, size = place, 0, 1
    while size > 0:
        v = queue[first]
        first = first + 1 if first + 1 < places else 0
        size -= 1
        waits[v] = False
        for a in range(arcs.ptr[v], arcs.ptr[v + 1]):
            u, link = arcs.head[a], arcs.link[a]
            far = distance[v] + ground.link_price[link]
            if far < distance[u] and ground.link_left[link] >= amount:
                distance[u], via_link[u], via_node[u] = far, link, v
                if not waits[u]:
                    waits[u] = True
                    last = first + size
                    queue[last if last < places else last - places] = u
                    size += 1


@inner
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
    source, target = pair
    maze.mark[-1] += 1
    now = maze.mark[-1]
    if not bound[source] <= limit:
        return np.inf
    maze.near[source], maze.mark[source] = 0.0, now
    size = push(maze.key, maze.item, 0, bound[source], source)
    while size > 0:
        v = maze.item[0]
        size = pop(maze.key, maze.item, size)
        if maze.settled[v] == now:
            continue
        maze.settled[v] = now
        if v == target:
            return maze.near[v]
        for a in range(arcs.ptr[v], arcs.ptr[v + 1]):
            u, link = arcs.head[a], arcs.link[a]
            if maze.settled[u] == now or left[link] < amount:
                continue
            near = maze.near[v] + price[link]
            if near + bound[u] <= limit and (maze.mark[u] != now or near < maze.near[u]):
                maze.near[u], maze.mark[u], maze.via_link[u], maze.via_node[u] = near, now, link, v
                size = push(maze.key, maze.item, size, near + bound[u], u)
    return np.inf
