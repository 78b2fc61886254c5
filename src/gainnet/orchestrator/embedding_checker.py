"""An independent judge of embeddings: plain dictionaries, and no code shared with the search."""

from __future__ import annotations

import itertools
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

TOLERANCE = 1e-6
Pair = tuple[Hashable, Hashable]


@dataclass(frozen=True)
class Stay:
    """An accepted task graph, its embedding, and when it holds what it takes: [begin, end).

    Stays of one ``task`` (not None) are those of a task graph that moved.
    """

    begin: float
    end: float
    node_demand: Mapping[Hashable, float]
    link_demand: Mapping[Pair, float]
    mapping: Mapping[Hashable, Hashable]
    paths: Mapping[Pair, Sequence[Hashable]]
    task: Hashable = None


def violations(
    node_capacity: Mapping[Hashable, float],
    link_capacity: Mapping[Pair, float],
    stays: Sequence[Stay],
    *,
    directed: bool = False,
) -> list[str]:
    """Everything that is wrong with a history of embeddings, one sentence each; empty when all hold at all times.

    Args:
        node_capacity: of each substrate node.
        link_capacity: of each substrate link; one capacity for both directions unless ``directed``.
        stays: the accepted task graphs, in any order.
        directed: whether paths must follow the direction of links.
    """
    whole = {**link_capacity}
    found: list[str] = []
    events: list[tuple[float, int, Hashable, float]] = []
    for number, stay in enumerate(stays):
        found += [f"stay {number}: {fault}" for fault in _misplaced(stay, node_capacity)]
        draws: list[tuple[Hashable, float]] = [
            (("node", stay.mapping[node]), demand) for node, demand in stay.node_demand.items() if node in stay.mapping
        ]
        for link, demand in stay.link_demand.items():
            hops, fault = _hops(link, stay, whole, directed)
            if fault:
                found.append(f"stay {number}: {fault}")
            draws += [(("link", hop), demand) for hop in hops]
        for resource, demand in draws:
            events += [(stay.end, 0, resource, -demand), (stay.begin, 1, resource, demand)]
    capacity: dict[Hashable, float] = {("node", node): amount for node, amount in node_capacity.items()}
    capacity |= {("link", link): amount for link, amount in whole.items()}
    return found + _interrupted(stays) + _overdrawn(events, capacity)


def _misplaced(stay: Stay, node_capacity: Mapping[Hashable, float]) -> list[str]:
    """What is wrong with the mapping."""
    found = [f"task node {node!r} has no place" for node in stay.node_demand if node not in stay.mapping]
    found += [f"{place!r} is no substrate node" for place in stay.mapping.values() if place not in node_capacity]
    if len(set(stay.mapping.values())) < len(stay.mapping):
        found.append("two task nodes share a place")
    if stay.end < stay.begin:
        found.append("it ends before it begins")
    return found


def _interrupted(stays: Sequence[Stay]) -> list[str]:
    """Task graphs that moved and were nowhere, or at two places, in between, or were no longer the same."""
    found: list[str] = []
    last: dict[Hashable, Stay] = {}
    for stay in sorted((stay for stay in stays if stay.task is not None), key=lambda stay: (stay.begin, stay.end)):
        before = last.get(stay.task, stay)
        if before is not stay and before.end != stay.begin:
            found.append(f"task {stay.task!r} leaves at {before.end:g} and is next embedded from {stay.begin:g}")
        if (before.node_demand, before.link_demand) != (stay.node_demand, stay.link_demand):
            found.append(f"task {stay.task!r} demands something else after its move")
        last[stay.task] = stay
    return found


def _hops(link: Pair, stay: Stay, whole: Mapping[Pair, float], directed: bool) -> tuple[list[Pair], str]:
    """The substrate links on the path of a task link, and what is wrong with it ("" if nothing)."""
    path = stay.paths.get(link)
    if not path:
        return [], f"task link {link!r} has no path"
    if len(set(path)) < len(path):
        return [], f"the path of {link!r} visits a node twice"
    if path[0] != stay.mapping.get(link[0]) or path[-1] != stay.mapping.get(link[1]):
        return [], f"the path of {link!r} does not join the places of its ends"
    hops: list[Pair] = []
    for tail, head in itertools.pairwise(path):
        if (tail, head) in whole:
            hops.append((tail, head))
        elif not directed and (head, tail) in whole:
            hops.append((head, tail))
        else:
            return [], f"the path of {link!r} uses {tail!r} -> {head!r}, which is no substrate link"
    return hops, ""


def _overdrawn(events: list[tuple[float, int, Hashable, float]], capacity: Mapping[Hashable, float]) -> list[str]:
    """Resources that are ever drawn beyond their capacity; what ends at an instant is free for what begins at it."""
    found: list[str] = []
    drawn = dict.fromkeys(capacity, 0.0)
    for time, begins, resource, amount in sorted(events, key=lambda event: event[:2]):
        if resource not in drawn:
            continue
        drawn[resource] += amount
        if begins and drawn[resource] > capacity[resource] + TOLERANCE * max(1.0, capacity[resource]):
            found.append(f"{resource!r} has {capacity[resource]:g} and {drawn[resource]:g} is drawn at {time:g}")
    return found
