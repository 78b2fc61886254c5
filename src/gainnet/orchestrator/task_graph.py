"""networkx graphs as the flat arrays that the embedding kernels read."""

from __future__ import annotations

import math
from collections.abc import Collection, Hashable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import networkx as nx
import numpy as np

from gainnet.errors import InputError
from gainnet.orchestrator.kernels.columns import Floats, Ints
from gainnet.orchestrator.kernels.draft import Wish
from gainnet.orchestrator.kernels.paths import Arcs

Link: TypeAlias = tuple[Hashable, Hashable]


@dataclass(frozen=True, slots=True)
class Substrate:
    """What tasks are embedded onto.

    Attributes:
        nodes: its nodes, in order.
        links: its links, in order; each is one capacity, shared by both directions unless ``directed``.
        index: place of each node in ``nodes``.
        directed: whether paths follow the direction of the links.
        node_capacity: one for each node, >= 0.
        link_capacity: one for each link, >= 0.
        tail: the node that each link leaves.
        head: the node that it enters.
        ahead: its arcs in the direction of paths.
        back: its arcs against it.
    """

    nodes: tuple[Hashable, ...]
    links: tuple[Link, ...]
    index: Mapping[Hashable, int]
    directed: bool
    node_capacity: Floats
    link_capacity: Floats
    tail: Ints
    head: Ints
    ahead: Arcs
    back: Arcs


@dataclass(frozen=True, slots=True)
class TaskGraph:
    """What is embedded: nodes and links (the largest demand first), the arrays of both, and who may go where.

    ``allowed`` is (node, place) of bool.
    """

    nodes: tuple[Hashable, ...]
    links: tuple[Link, ...]
    wish: Wish
    allowed: np.ndarray

    @property
    def demand(self) -> float:
        """Sum of its node and link demands."""
        return float(self.wish.demand.sum() + self.wish.bandwidth.sum())


def substrate_of(graph: Any, node_capacity: str, link_capacity: str) -> Substrate:
    """The arrays of a substrate.

    Args:
        graph: a networkx Graph or DiGraph.
        node_capacity: the attribute of nodes that holds their capacity.
        link_capacity: that of links.

    Raises:
        InputError: a multigraph, a self-loop, or a capacity that is missing, negative or not finite.
    """
    nodes, links = _parts(graph, "substrate")
    index = {node: position for position, node in enumerate(nodes)}
    tail = np.array([index[tail] for tail, _ in links], np.int64)
    head = np.array([index[head] for _, head in links], np.int64)
    each = np.arange(len(links))
    directed = bool(graph.is_directed())
    if directed:
        ahead, back = _arcs(len(nodes), tail, head, each), _arcs(len(nodes), head, tail, each)
    else:
        both = np.concatenate([tail, head]), np.concatenate([head, tail])
        ahead = back = _arcs(len(nodes), *both, np.concatenate([each, each]))
    return Substrate(
        nodes, links, index, directed,
        _amounts(graph.nodes, nodes, node_capacity, "substrate node"),
        _amounts(graph.edges, links, link_capacity, "substrate link"),
        tail, head, ahead, back,
    )  # fmt: skip


def task_graph_of(
    graph: Any,
    substrate: Substrate,
    node_demand: str,
    link_demand: str,
    allowed: Mapping[Hashable, Collection[Hashable]],
) -> TaskGraph:
    """The arrays of a task graph.

    Args:
        graph: a networkx Graph or DiGraph; a DiGraph on an undirected substrate draws on links in either direction.
        substrate: where it is to go.
        node_demand: the attribute of nodes that holds their demand.
        link_demand: that of links.
        allowed: the substrate nodes where a node may go; one that is not named may go anywhere.

    Raises:
        InputError: a multigraph, a self-loop, an undirected task graph for a directed substrate, a demand that is
            missing, negative or not finite, or an unknown node in ``allowed``.
    """
    nodes, links = _parts(graph, "task graph")
    if substrate.directed and not graph.is_directed():
        raise InputError("task graph: it is undirected and the substrate directed: give a DiGraph")
    bandwidth = _amounts(graph.edges, links, link_demand, "task link")
    order = np.argsort(-bandwidth, kind="stable")
    links = tuple(links[e] for e in order)
    index = {node: position for position, node in enumerate(nodes)}
    tail = np.array([index[tail] for tail, _ in links], np.int64)
    head = np.array([index[head] for _, head in links], np.int64)
    each = np.arange(len(links))
    slots = _arcs(len(nodes), np.concatenate([tail, head]), np.concatenate([head, tail]), np.concatenate([each, each]))
    leaves = tail[slots.link] == np.repeat(np.arange(len(nodes)), np.diff(slots.ptr).astype(np.int64))
    leaves |= not substrate.directed
    wish = Wish(
        _amounts(graph.nodes, nodes, node_demand, "task node"), bandwidth[order], slots.ptr, slots.head, slots.link,
        leaves,
    )  # fmt: skip
    return TaskGraph(nodes, links, wish, _allowed(index, substrate, allowed))


def _parts(graph: Any, what: str) -> tuple[tuple[Hashable, ...], tuple[Link, ...]]:
    if not isinstance(graph, nx.Graph) or graph.is_multigraph():
        raise InputError(f"{what}: a networkx Graph or DiGraph is needed, not a {type(graph).__name__}")
    links = tuple((tail, head) for tail, head in graph.edges)
    for tail, head in links:
        if tail == head:
            raise InputError(f"{what}: link {tail!r} -> {head!r} joins a node to itself")
    return tuple(graph.nodes), links


def _amounts(view: Any, items: tuple[Any, ...], attribute: str, what: str) -> Floats:
    """The attribute of each item; InputError where it is missing or no finite number >= 0."""
    amounts = np.empty(len(items))
    for position, item in enumerate(items):
        value = view[item].get(attribute)
        if value is None:
            raise InputError(f"{what} {item!r}: it has no attribute {attribute!r}")
        try:
            amount = float(value)
        except (TypeError, ValueError):
            amount = math.nan
        if not 0.0 <= amount < math.inf:
            raise InputError(f"{what} {item!r}: {attribute} = {value!r} is not a finite number of at least 0")
        amounts[position] = amount
    return amounts


def _arcs(nodes: int, tail: Ints, head: Ints, link: Ints) -> Arcs:
    """Arcs in order of their tail, and of their link within one."""
    order = np.lexsort((link, tail))
    ptr = np.zeros(nodes + 1, np.uint64)
    ptr[1:] = np.cumsum(np.bincount(tail, minlength=nodes))
    return Arcs(ptr, head[order].astype(np.uint32), link[order].astype(np.uint32))


def _allowed(
    index: Mapping[Hashable, int], substrate: Substrate, allowed: Mapping[Hashable, Collection[Hashable]]
) -> np.ndarray:
    """Which node may go to which place: (node, place) of bool."""
    found = np.ones((len(index), len(substrate.nodes)), np.bool_)
    for node, places in allowed.items():
        if node not in index:
            raise InputError(f"allowed: {node!r} is no node of the task graph")
        found[index[node]] = False
        for place in places:
            if place not in substrate.index:
                raise InputError(f"allowed[{node!r}]: {place!r} is no node of the substrate")
            found[index[node], substrate.index[place]] = True
    return found
