"""What is left of a substrate, what an embedding takes of it, and whom to move for one that finds no place."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from gainnet.orchestrator.kernels.columns import Floats, Ints
from gainnet.orchestrator.task_graph import Substrate, TaskGraph

HEADS = 24
"""Embeddings that others move with, at most."""
SPARE = 2.0
"""Times what the task graph's mean node or link demands, below which what is left of a node or link is scarce."""


class Taken(NamedTuple):
    """What an embedding takes: amounts of places, loads of links, one entry for each hop of each path."""

    places: Ints
    amounts: Floats
    links: Ints
    loads: Floats


class Room(NamedTuple):
    """What is left of each node and of each link of a substrate."""

    node: Floats
    link: Floats

    def without(self, taken: Taken, substrate: Substrate) -> Room | None:
        """What is left once this is taken as well; None where it exceeds what is left by more than rounding."""
        node, link = self.node.copy(), self.link.copy()
        np.subtract.at(node, taken.places, taken.amounts)
        np.subtract.at(link, taken.links, taken.loads)
        if (node < -1e-9 * substrate.node_capacity).any() or (link < -1e-9 * substrate.link_capacity).any():
            return None
        return Room(np.maximum(node, 0.0), np.maximum(link, 0.0))

    def beside(self, taken: Taken, substrate: Substrate) -> Room:
        """What is left once this is given back."""
        node, link = self.node.copy(), self.link.copy()
        np.add.at(node, taken.places, taken.amounts)
        np.add.at(link, taken.links, taken.loads)
        _snap(node, substrate.node_capacity)
        _snap(link, substrate.link_capacity)
        return Room(node, link)


def groups(held: Sequence[Taken], room: Room, graph: TaskGraph, size: int) -> Iterator[tuple[int, ...]]:
    """Numbers of embeddings that may make room for a task graph if they move, ``size`` in each group.

    Each group has a head: the one that holds the most of what is scarce, then the next. With it go those who hold the
    most of the same places and links, so that what is freed hangs together.

    Args:
        held: what each running embedding takes.
        room: what is left beside them.
        graph: what finds no place.
        size: how many may move.
    """
    if not held or size < 1:
        return
    scarce = Room(_scarcity(room.node, graph.wish.demand), _scarcity(room.link, graph.wish.bandwidth))
    for head in np.argsort(-_weighed(held, scarce), kind="stable")[:HEADS]:
        shared = together(held, int(head), room)
        shared[head] = -1.0
        yield (int(head), *np.argsort(-shared, kind="stable")[: min(size, len(held)) - 1].tolist())


def together(held: Sequence[Taken], head: int, room: Room) -> Floats:
    """What each embedding holds of the places and links that one of them uses; ``room`` is that of the substrate."""
    mask = Room(np.zeros(len(room.node)), np.zeros(len(room.link)))
    mask.node[held[head].places] = 1.0
    mask.link[held[head].links] = 1.0
    return _weighed(held, mask)


def _weighed(held: Sequence[Taken], weight: Room) -> Floats:
    """What each embedding holds, times the weights of its places and links."""
    owners = np.arange(len(held))
    at_place = np.repeat(owners, [len(one.places) for one in held])
    at_link = np.repeat(owners, [len(one.links) for one in held])
    places, amounts, links, loads = (np.concatenate(column) for column in zip(*held, strict=True))
    return _sums(at_place, amounts * weight.node[places], len(held)) + _sums(
        at_link, loads * weight.link[links], len(held)
    )


def _scarcity(left: Floats, demands: Floats) -> Floats:
    """From 1 where nothing is left to 0 where there is plenty for what is demanded on the mean."""
    usual = float(demands.mean()) if len(demands) else 0.0
    return 1.0 - np.minimum(1.0, left / (SPARE * usual)) if usual > 0.0 else np.zeros(len(left))


def _sums(owner: Ints, amounts: Floats, owners: int) -> Floats:
    return np.bincount(owner, amounts, owners).astype(np.float64)


def _snap(left: Floats, capacity: Floats) -> None:
    """Undo rounding: what is nearly whole is whole."""
    whole = left > capacity * (1.0 - 1e-12)
    left[whole] = capacity[whole]
