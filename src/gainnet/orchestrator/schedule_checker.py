"""An independent judge of schedules: slow, plain, from the definitions alone, sharing no code with the search."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping
from itertools import pairwise

import networkx as nx

TOLERANCE = 1e-9
"""Part of the makespan by which times may be off through rounding."""


def violations(
    stages: nx.DiGraph,
    resources: nx.Graph,
    node: Mapping[Hashable, Hashable],
    start: Mapping[Hashable, float],
    finish: Mapping[Hashable, float],
    *,
    work: str = "weight",
    data: str = "weight",
    speed: str = "weight",
    strength: str = "weight",
    tolerance: float = TOLERANCE,
) -> list[str]:
    """Everything that is wrong with a schedule, one sentence each; empty when it is feasible.

    Every stage runs once, on a node of some speed, for work over speed, from 0 on; it starts when all its data is there;
    a node runs one stage at a time.
    """
    if not set(node) == set(start) == set(finish) == set(stages):
        return [f"{len(set(stages) - set(node))} stages of {len(stages)} are not scheduled, or others are"]
    slack = tolerance * max(finish.values(), default=0.0)
    found: list[str] = []
    for stage in stages:
        rate = resources.nodes[node[stage]][speed] if node[stage] in resources else 0.0
        if not rate > 0.0:
            found.append(f"stage {stage!r} is on {node[stage]!r}, which can't run anything")
        elif not abs(finish[stage] - start[stage] - stages.nodes[stage][work] / rate) <= slack:
            found.append(f"stage {stage!r} doesn't run for its work over the speed of {node[stage]!r}")
        if not start[stage] >= -slack:
            found.append(f"stage {stage!r} starts at {start[stage]}")
    for tail, head in stages.edges:
        there = finish[tail] + transfer(resources, node[tail], node[head], stages.edges[tail, head][data], strength)
        if not there <= start[head] + slack:
            found.append(f"stage {head!r} starts at {start[head]}, its data from {tail!r} is there at {there}")
    for place in set(node.values()):
        here = sorted((stage for stage in stages if node[stage] == place), key=lambda s: (start[s], finish[s]))
        for one, other in pairwise(here):
            if not finish[one] <= start[other] + slack:
                found.append(f"stages {one!r} and {other!r} overlap on {place!r}")
    return found


def transfer(resources: nx.Graph, origin: Hashable, target: Hashable, amount: float, strength: str) -> float:
    """Time that data takes from node to node: none within a node, or where there is none; inf without a link."""
    if origin == target or amount == 0.0:
        return 0.0
    rate = resources.edges[origin, target][strength] if resources.has_edge(origin, target) else 0.0
    return amount / rate if rate > 0.0 else math.inf
