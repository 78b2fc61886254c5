"""Why a task graph does not fit: necessary conditions, each checked exactly, and else where the search got stuck."""

from __future__ import annotations

from collections.abc import Hashable
from typing import TypeAlias

import numpy as np
from scipy.sparse import coo_array, csr_array
from scipy.sparse.csgraph import breadth_first_order, connected_components, maximum_bipartite_matching

from gainnet.orchestrator.kernels.columns import Floats, Ints
from gainnet.orchestrator.task_graph import Substrate, TaskGraph

Cause: TypeAlias = tuple[Hashable, bool, str]
"""The task node or link, whether it is a link, and a sentence."""


def proven(substrate: Substrate, graph: TaskGraph, node_left: Floats, link_left: Floats) -> Cause | None:
    """A node or link of the task graph that cannot fit, or None where none of the conditions fails.

    Args:
        substrate: where it should go.
        graph: the task graph.
        node_left: what is left of each substrate node.
        link_left: what is left of each substrate link.
    """
    wish = graph.wish
    fits = graph.allowed & (node_left >= wish.demand[:, None])
    return (
        _without_place(graph, fits)
        or _too_much_around(substrate, graph, fits, link_left)
        or _without_path(substrate, graph, fits, link_left)
    )


def stuck(graph: TaskGraph, place: Ints) -> Cause:
    """What the best incomplete embedding leaves out: a link to a node that it placed, or else a node."""
    wish = graph.wish
    node = int(np.flatnonzero(place < 0)[0])
    for slot in range(wish.ptr[node], wish.ptr[node + 1]):
        if place[wish.peer[slot]] >= 0:
            link = graph.links[wish.link[slot]]
            return link, True, f"no path was found for task link {link!r} ({wish.bandwidth[wish.link[slot]]:g})"
    return graph.nodes[node], False, f"no place was found for task node {graph.nodes[node]!r} ({wish.demand[node]:g})"


def _without_place(graph: TaskGraph, fits: np.ndarray) -> Cause | None:
    """A node that no place has room for, or that is left over when as many nodes as possible have one of their own."""
    wish = graph.wish
    for i in np.flatnonzero(~fits.any(axis=1)):
        return graph.nodes[i], False, f"no substrate node has {wish.demand[i]:g} for task node {graph.nodes[i]!r}"
    own = maximum_bipartite_matching(csr_array(fits), perm_type="column")
    for i in np.flatnonzero(own < 0):
        return (
            graph.nodes[i],
            False,
            f"too few substrate nodes have room: none is left for task node {graph.nodes[i]!r}",
        )
    return None


def _too_much_around(substrate: Substrate, graph: TaskGraph, fits: np.ndarray, link_left: Floats) -> Cause | None:
    """The largest link of a node whose links, together, exceed what leaves or enters every place where it could go."""
    wish, places = graph.wish, len(substrate.nodes)
    leaving = np.bincount(substrate.tail, link_left, places)
    entering = np.bincount(substrate.head, link_left, places)
    for i in range(len(graph.nodes)):
        slots = slice(wish.ptr[i], wish.ptr[i + 1])
        bandwidth, out = wish.bandwidth[wish.link[slots]], wish.out[slots]
        if substrate.directed:
            room = (leaving >= bandwidth[out].sum() * (1.0 - 1e-12)) & (
                entering >= bandwidth[~out].sum() * (1.0 - 1e-12)
            )
        else:
            room = leaving + entering >= bandwidth.sum() * (1.0 - 1e-12)
        if len(bandwidth) and not (room & fits[i]).any():
            link = graph.links[wish.link[slots][0]]
            detail = f"no place for task node {graph.nodes[i]!r} has {bandwidth.sum():g} left on its links"
            return link, True, detail
    return None


def _without_path(substrate: Substrate, graph: TaskGraph, fits: np.ndarray, link_left: Floats) -> Cause | None:
    """A link for which no two places of its ends are joined by links with room for it."""
    wish, places = graph.wish, len(substrate.nodes)
    ends = _ends(graph)
    for e, link in enumerate(graph.links):
        room = link_left >= wish.bandwidth[e]
        tail, head = substrate.tail[room], substrate.head[room]
        roomy = csr_array(coo_array((np.ones(len(tail)), (tail, head)), shape=(places, places)))
        from_places, to_places = fits[ends[e, 0]], fits[ends[e, 1]]
        joined = _reaches if substrate.directed else _shares_component
        if not joined(roomy, from_places, to_places):
            return link, True, f"no path has {wish.bandwidth[e]:g} for task link {link!r}"
    return None


def _ends(graph: TaskGraph) -> Ints:
    """The task nodes that each link joins, (link, 2): first the one that it leaves."""
    index = {node: position for position, node in enumerate(graph.nodes)}
    return np.array([(index[tail], index[head]) for tail, head in graph.links], np.int64).reshape(-1, 2)


def _shares_component(roomy: csr_array, from_places: np.ndarray, to_places: np.ndarray) -> bool:
    """Whether one component has a place of either kind, and these are two places."""
    count, label = connected_components(roomy, directed=False)
    starts, stops = np.bincount(label[from_places], minlength=count), np.bincount(label[to_places], minlength=count)
    either = np.bincount(label[from_places | to_places], minlength=count)
    return bool(((starts > 0) & (stops > 0) & (either > 1)).any())


def _reaches(roomy: csr_array, from_places: np.ndarray, to_places: np.ndarray) -> bool:
    """Whether some place of the first kind reaches another of the second."""
    for start in np.flatnonzero(from_places):
        reached = breadth_first_order(roomy, int(start), return_predecessors=False)
        if to_places[reached[reached != start]].any():
            return True
    return False
