"""Any graph of stages matched onto any graph of nodes and links: where and when each stage runs, least makespan first.

The cost model is that of the schedulers of the literature, related machines without contention on links: a stage takes
its work over the speed of its node; its data takes data over the strength of the direct link to the node that needs it,
and no time within a node; a node runs one stage at a time, without interruption. Data is not routed over other nodes,
and no stage runs twice. Where a link is missing, or its strength is 0, data can't pass; a dependency without data
needs no link. A node of speed 0 is never used. Minimising the makespan is NP-hard: the answer carries a bound.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from numbers import Real
from typing import Any

import networkx as nx
import numpy as np
from jaxtyping import Float, Int

from gainnet import rng
from gainnet.errors import InputError
from gainnet.orchestrator.kernels.schedule import Stages
from gainnet.orchestrator.kernels.schedule_search import solve

EVALUATIONS = 20_000
"""Schedules that the search looks at; each takes time in proportion to stages and dependencies."""
LARGEST = sys.float_info.max


@dataclass(frozen=True, slots=True)
class Schedule:
    """Where and when each stage runs, with its certificate. Times are in units of work over speed.

    Attributes:
        node: the node of each stage.
        start: when each stage starts; the schedule begins at 0.
        finish: when each ends.
        makespan: when the last ends.
        bound: no schedule of this graph has a smaller makespan.
        decision_s: wall-clock time of the decision, in s.
    """

    node: Mapping[Hashable, Hashable]
    start: Mapping[Hashable, float]
    finish: Mapping[Hashable, float]
    makespan: float
    bound: float
    decision_s: float

    @property
    def gap(self) -> float:
        """Certified relative gap ``(makespan - bound) / makespan``, in [0, 1]; 0 where the makespan is 0."""
        return max(0.0, self.makespan - self.bound) / self.makespan if self.makespan > 0.0 else 0.0


def schedule(
    stages: nx.DiGraph,
    resources: nx.Graph,
    *,
    work: str = "weight",
    data: str = "weight",
    speed: str = "weight",
    strength: str = "weight",
    evaluations: int = EVALUATIONS,
    seed: int = 0,
) -> Schedule:
    """Match a graph of stages onto a graph of nodes and links: list-scheduling seeds, then simulated annealing.

    Args:
        stages: acyclic; each stage has ``work``, each edge the ``data`` that its head needs from its tail.
        resources: nodes with ``speed``, links with ``strength`` (data per unit of time); directed if the graph is.
            Links from a node to itself are ignored.
        work: name of the attribute that holds a stage's work.
        data: that of an edge's data.
        speed: that of a node's speed.
        strength: that of a link's strength.
        evaluations: how long to search; 0 gives the best of the seeds.
        seed: drives the search: same graphs in the same order and same seed, same schedule.

    Raises:
        InputError: a cycle, parallel edges, a value that is no number >= 0, or no node that can run anything.
    """
    began = time.perf_counter()
    if evaluations < 0:
        raise InputError(f"evaluations: {evaluations}, must be >= 0")
    names, graph = _stages(stages, work, data)
    nodes, swiftness, pace = _resources(resources, speed, strength)
    if not names:
        return Schedule({}, {}, {}, 0.0, 0.0, time.perf_counter() - began)
    if not nodes:
        raise InputError(f"resources: no node with {speed} above 0 to run {len(names)} stages")
    state = rng.stream(seed, "schedule").integers(1, 2**63, 1, dtype=np.uint64)
    columns = graph.on(swiftness, pace)
    bound, place, start, finish = solve(columns, swiftness, evaluations, state)
    makespan = float(finish.max())
    if not math.isfinite(makespan):
        raise InputError(f"stages: no schedule of finite length; {work} over {speed} is too large a number")
    return Schedule(
        node={name: nodes[k] for name, k in zip(names, place, strict=True)},
        start=dict(zip(names, start.tolist(), strict=True)),
        finish=dict(zip(names, finish.tolist(), strict=True)),
        makespan=makespan,
        bound=min(bound, makespan),
        decision_s=time.perf_counter() - began,
    )


@dataclass(frozen=True, slots=True)
class _Graph:
    """Stages in a topological order, and edges from ``tail`` to ``head``, by head, then by tail."""

    work: Float[np.ndarray, " stage"]
    tail: Int[np.ndarray, " edge"]
    head: Int[np.ndarray, " edge"]
    data: Float[np.ndarray, " edge"]

    def on(self, swiftness: Float[np.ndarray, " node"], pace: Float[np.ndarray, "node node"]) -> Stages:
        """The graph as the kernels read it, on nodes of these speeds."""
        count, outward = len(self.work), np.lexsort((self.head, self.tail))
        with np.errstate(over="ignore"):
            cost, fluid = self.work[:, None] / swiftness[None, :], self.work / swiftness.sum()
        return Stages(
            cost=cost,
            pace=pace,
            pred_ptr=np.searchsorted(self.head, np.arange(count + 1)),
            pred=self.tail,
            pred_data=self.data,
            succ_ptr=np.searchsorted(self.tail[outward], np.arange(count + 1)),
            succ=self.head[outward],
            succ_data=self.data[outward],
            fluid=fluid,
        )


def _stages(stages: nx.DiGraph, work: str, data: str) -> tuple[list[Hashable], _Graph]:
    """The names of the stages in a topological order, and their graph."""
    if not stages.is_directed() or stages.is_multigraph():
        raise InputError("stages: must be a directed graph without parallel edges (networkx.DiGraph)")
    try:
        names = list(nx.topological_sort(stages))
    except nx.NetworkXUnfeasible:
        cycle = [tail for tail, _ in nx.find_cycle(stages)]
        path = " -> ".join(repr(stage) for stage in [*cycle, cycle[0]])
        raise InputError(f"stages: must be acyclic, and {path} is a cycle") from None
    index = {name: number for number, name in enumerate(names)}
    works = [_number(f"stages[{name!r}].{work}", stages.nodes[name].get(work), LARGEST) for name in names]
    edges = sorted(
        (index[head], index[tail], _number(f"stages[{tail!r}, {head!r}].{data}", found.get(data), LARGEST))
        for tail, head, found in stages.edges(data=True)
    )
    columns = np.array(edges, dtype=np.float64).reshape(-1, 3)
    head, tail = columns[:, 0].astype(np.int64), columns[:, 1].astype(np.int64)
    return names, _Graph(np.array(works, dtype=np.float64), tail, head, columns[:, 2].copy())


def _resources(
    resources: nx.Graph, speed: str, strength: str
) -> tuple[list[Hashable], Float[np.ndarray, " node"], Float[np.ndarray, "node node"]]:
    """Nodes of some speed, their speeds, and time per unit of data from each to each (inf: no link)."""
    if resources.is_multigraph():
        raise InputError("resources: must be a graph without parallel links (networkx.Graph or DiGraph)")
    speeds = {
        name: _number(f"resources[{name!r}].{speed}", found.get(speed), LARGEST)
        for name, found in resources.nodes(data=True)
    }
    nodes = [name for name in speeds if speeds[name] > 0.0]
    index = {name: number for number, name in enumerate(nodes)}
    pace = np.full((len(nodes), len(nodes)), np.inf)
    np.fill_diagonal(pace, 0.0)
    for tail, head, found in resources.edges(data=True):
        if tail == head:
            continue
        rate = _number(f"resources[{tail!r}, {head!r}].{strength}", found.get(strength), math.inf)
        if rate > 0.0 and tail in index and head in index:
            pace[index[tail], index[head]] = 1.0 / rate
            if not resources.is_directed():
                pace[index[head], index[tail]] = 1.0 / rate
    return nodes, np.array([speeds[name] for name in nodes], dtype=np.float64), pace


def _number(field: str, value: Any, most: float) -> float:
    """A number from 0 to ``most``; InputError names the field."""
    allowed = "a number >= 0" if most == math.inf else "a finite number >= 0"
    if value is None:
        raise InputError(f"{field}: missing, must be {allowed}")
    try:
        number = float(value) if isinstance(value, Real) else math.nan
    except OverflowError:
        number = math.inf
    if not 0.0 <= number <= most:
        raise InputError(f"{field}: {value!r}, must be {allowed}")
    return number
