"""A task graph as the kernels read it, and an embedding of it in the making."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from gainnet.compiled import njit, pasted
from gainnet.orchestrator.kernels.columns import Floats, Words
from gainnet.orchestrator.kernels.paths import Ground, Index

Flags = np.ndarray
NOWHERE = np.uint32(2**32 - 1)
"""Place of a node that has none."""


class Wish(NamedTuple):
    """The task graph: node demands, link demands (largest first), and at each node its links.

    Those of node i are ``ptr[i]:ptr[i + 1]``, each to ``peer`` by ``link``; ``out`` where the link leaves i, true for
    all on an undirected substrate.
    """

    demand: Floats
    bandwidth: Floats
    ptr: Words
    peer: Index
    link: Index
    out: Flags


class Draft(NamedTuple):
    """An embedding in the making: what is left, the place of each node, paths as links from one end, charge."""

    link_left: Floats
    place: Index
    path: Index
    hops: Index
    charge: Floats


@pasted
def transcribe(source: Draft, target: Draft) -> None:
    """Make ``target`` equal to ``source``."""
    target.charge[0] = source.charge[0]
    for link in range(len(source.link_left)):
        target.link_left[link] = source.link_left[link]
    for i in range(len(source.place)):
        target.place[i] = source.place[i]
    for e in range(len(source.hops)):
        target.hops[e] = source.hops[e]
        for k in range(np.uint64(source.hops[e])):
            target.path[e, k] = source.path[e, k]


@njit
def blank(ground: Ground, wish: Wish) -> Draft:
    """A draft that places nothing yet."""
    places, nodes, links = len(ground.node_left), len(wish.demand), len(wish.bandwidth)
    return Draft(
        ground.link_left.copy(), np.full(nodes, NOWHERE), np.zeros((links, places), np.uint32),
        np.zeros(links, np.uint32), np.zeros(1),
    )  # fmt: skip
