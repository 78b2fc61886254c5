"""Make room for a task graph: running ones are taken out, few at a time, and embedded anew until it fits.

A large neighbourhood search (Shaw 1998). Those who may move are one that holds what is scarce and its neighbours
(``room.groups``), or all that run. A round takes out up to ``OUT`` of them that share places and links, and embeds
these and the new one again, mostly the large ones first. What takes no more than before is kept: also what takes as
much, for it shifts what is left from where nobody can use it to where somebody can.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import NamedTuple, TypeAlias

import numpy as np

from gainnet.orchestrator.kernels.columns import Floats, Ints
from gainnet.orchestrator.room import Room, Taken, groups, together
from gainnet.orchestrator.task_graph import Substrate, TaskGraph

OUT = 4
"""Taken out in a round, at most."""
ROUNDS = 60
"""Rounds in a group for each of its members."""
TURNS = 24
"""Members of all groups that have a turn, where fewer than this may move."""
SHAKE = 0.5
"""By how much demands are shaken before they are put in order."""
TRIED = 0.4
"""In how many rounds those that are nowhere are tried: what finds no place takes the longest."""
CHANCE = 0.2
"""What share of what two have in common counts for certain when neighbours are drawn."""
ROUNDING = 1e-9


class Found(NamedTuple):
    """An embedding in numbers: the place of each node, the links of each path, how many these are; what it takes."""

    place: Ints
    path: Ints
    hops: Ints
    taken: Taken
    cost: float


class Running(NamedTuple):
    """A task graph that runs, what it takes, and the sum of that."""

    graph: TaskGraph
    taken: Taken
    cost: float


Search: TypeAlias = Callable[[TaskGraph, Room], Found | None]
"""A short search for an embedding into some room; None where it finds none."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """Some that may move and, last, the new one: where each is, None where nowhere, and what is left beside them.

    ``moved`` has the next embedding of each that was embedded anew.
    """

    graphs: tuple[TaskGraph, ...]
    taken: tuple[Taken | None, ...]
    cost: Floats
    moved: dict[int, Found]
    room: Room

    @property
    def out(self) -> list[int]:
        """Those that are nowhere."""
        return [i for i, one in enumerate(self.taken) if one is None]

    @property
    def missing(self) -> float:
        """What those demand that are nowhere."""
        return float(sum(self.graphs[i].demand for i in self.out))

    @property
    def waste(self) -> float:
        """What the others take beyond what they demand: each further hop of a path."""
        return float(self.cost.sum()) - sum(graph.demand for graph in self.graphs) + self.missing


class Repacked(NamedTuple):
    """The embedding of the new one, and the next one of each that moves, by its number among the running."""

    new: Found
    moved: dict[int, Found]


def repack(
    graph: TaskGraph,
    held: Sequence[Running],
    room: Room,
    substrate: Substrate,
    search: Search,
    worthwhile: Callable[[float], bool],
    most: int,
    seed: int,
) -> Repacked | None:
    """Embeddings with which a task graph fits beside those that run; None where none is found.

    Args:
        graph: what found no place.
        held: those that run.
        room: what is left beside them.
        substrate: where they are.
        search: embeds one task graph.
        worthwhile: whether the new one is worth so much: its own cost, and by how much that of the others grows.
        most: how many may move.
        seed: of the random choices.
    """
    size = min(most, len(held))
    if size == 0 or not _conceivable(graph, held, room, substrate):
        return None
    rng = np.random.default_rng(seed)
    turns = max(1, TURNS // size) if size < len(held) else 1
    for group in islice(groups([one.taken for one in held], room, graph, size), turns):
        movers = [held[i] for i in group]
        attempt = Attempt(
            (*(one.graph for one in movers), graph),
            (*(one.taken for one in movers), None),
            np.array([*(one.cost for one in movers), 0.0]),
            {},
            room,
        )
        before = float(attempt.cost.sum())
        for _ in range(ROUNDS * size):
            attempt = _round(attempt, substrate, search, rng) or attempt
            if not attempt.out and worthwhile(float(attempt.cost.sum()) - before):
                moved = {group[i]: found for i, found in attempt.moved.items() if i < size}
                return Repacked(attempt.moved[size], moved)
    return None


def _conceivable(graph: TaskGraph, held: Sequence[Running], room: Room, substrate: Substrate) -> bool:
    """Whether any arrangement could hold them all: no move changes what nodes give in all, no path is below one hop."""
    bandwidth = graph.wish.bandwidth.sum() + sum(float(one.graph.wish.bandwidth.sum()) for one in held)
    nodes = graph.wish.demand.sum() <= room.node.sum() * (1.0 + ROUNDING)
    return bool(nodes and bandwidth <= substrate.link_capacity.sum() * (1.0 + ROUNDING))


def _drawn(attempt: Attempt, rng: np.random.Generator) -> list[int]:
    """Who is taken out: any of those that are somewhere, and some of those that have much in common with it."""
    inside = [i for i, one in enumerate(attempt.taken) if one is not None]
    held = [one for one in attempt.taken if one is not None]
    if not held:
        return []
    head = int(rng.integers(len(held)))
    shared = together(held, head, attempt.room) * (CHANCE + rng.random(len(held)))
    shared[head] = np.inf
    return [inside[j] for j in np.argsort(-shared, kind="stable")[: int(rng.integers(1, OUT + 1))]]


def _round(attempt: Attempt, substrate: Substrate, search: Search, rng: np.random.Generator) -> Attempt | None:
    """Some taken out and embedded anew, with those that are nowhere; None where that is worse."""
    graphs, missing = attempt.graphs, attempt.missing
    drawn, out = _drawn(attempt, rng), attempt.out
    tried = out if not drawn or rng.random() < TRIED else []
    taken, cost, moved, room = list(attempt.taken), attempt.cost.copy(), dict(attempt.moved), attempt.room
    for i in drawn:
        one, taken[i] = taken[i], None
        room = room.beside(one, substrate) if one is not None else room
    spare = float(cost[drawn].sum()) - sum(graphs[i].demand for i in drawn)
    cost[drawn] = 0.0
    lost = missing if not tried else 0.0
    for i in sorted([*drawn, *tried], key=lambda i: -graphs[i].demand * (1.0 + SHAKE * rng.random())):
        found = search(graphs[i], room)
        left = room.without(found.taken, substrate) if found is not None else None
        if found is None or left is None:
            lost += graphs[i].demand
        else:
            room, taken[i], cost[i], moved[i] = left, found.taken, found.cost, found
            spare -= found.cost - graphs[i].demand if i in drawn else 0.0
        if lost > missing * (1.0 + ROUNDING) or (lost >= missing and spare < -ROUNDING * attempt.waste - ROUNDING):
            return None
    after = replace(attempt, taken=tuple(taken), cost=cost, moved=moved, room=room)
    better = lost < missing * (1.0 - ROUNDING)
    return after if better or after.waste <= attempt.waste * (1.0 + ROUNDING) + ROUNDING else None
