"""Schedules of task graphs beside those of the package anrg-saga, on the package's own random instances.

Every scheduler that the package registers is run on every instance, but the brute force, the SMT solver (neither ends in
time) and the hybrid (which only picks among others it is given). Each schedule is judged by the independent checker under
the same rules, and played again in its own order on its own nodes as early as they allow, which never makes it longer.
The best of those that are feasible is what ours is measured against. Schedulers break ties in the order of Python sets,
so that their figures move a little from call to call unless PYTHONHASHSEED is set; the instances and ours do not.

The package's default weights are all equal to 2 (its `max(min(...))` is the wrong way round): the family `equal_weights`
has them as they are, the others pass in what was meant, a normal draw of mean 1 and deviation 1/3, clipped to (0, 2]. Its
`wfcommons` workflows are left out: version 2.0.2 can't read what wfcommons 1.6 writes.
"""

from __future__ import annotations

import random
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from logging import WARNING, disable
from typing import Any

import networkx as nx
import numpy as np

from gainnet.orchestrator.schedule import Schedule, schedule
from gainnet.orchestrator.schedule_checker import transfer, violations

RATIOS = (0.2, 0.5, 1.0, 2.0, 5.0)
"""Mean time of a transfer over that of a task, about; the families `equal_weights` and `riotbench` have their own."""
REPEATS = 4
"""Instances of each family and ratio."""
TIMED = 3
LEFT_OUT = {"BruteForceScheduler", "SMTScheduler", "HybridScheduler"}
FAILURES = (ValueError, RuntimeError, KeyError, IndexError, ZeroDivisionError)
ROUNDING = 1e-6
"""Relative difference that counts as none: the package charges transfers within a node at a strength of 1e9."""

MEANING = {
    "ratio_to_best_mean": "our makespan over the least of all schedulers of anrg-saga, mean over instances; at most 1.0",
    "ratio_to_best_max": "the largest of these ratios",
    "better_share": "instances where ours is shorter than the best of theirs",
    "equal_share": "where it is as long",
    "ratio_to_best_stated_mean": "the same mean against the least makespan they state, infeasible schedules included",
    "gap_mean": "certified: (makespan - bound) / makespan of ours",
    "decision_s_p50": "median time of a schedule, networkx graphs in and out",
    "peers.decision_s_p50": "the same of one scheduler of anrg-saga on its own graphs, median over schedulers and instances",
    "all_s_p50": "median time that all schedulers of anrg-saga together take for an instance: the price of their best",
    "violations": "wrongs that the independent checker finds in our schedules; must be 0",
    "bound_violations": "instances where a schedule of theirs is below our bound; must be 0",
    "infeasible": "schedules of theirs that break a rule, most by leaving tasks out (not counted as best)",
    "failed": "calls of theirs that raised an error",
    "instances": "how many",
}


@dataclass(frozen=True)
class Instance:
    """A random task graph and network of the package, as it has them and as networkx graphs in the order of names."""

    family: str
    task_graph: Any
    network: Any

    @property
    def stages(self) -> nx.DiGraph:
        """The tasks."""
        return _in_order(self.task_graph.graph, nx.DiGraph())

    @property
    def resources(self) -> nx.Graph:
        """The nodes and links."""
        return _in_order(self.network.graph, nx.Graph())


@dataclass
class Peers:
    """What the schedulers of the package did on one instance."""

    best: float = np.inf
    best_stated: float = np.inf
    infeasible: int = 0
    failed: int = 0
    seconds: list[float] = field(default_factory=list)


def figures(quick: bool = False) -> dict[str, float]:
    """Measure; ``quick`` takes a quarter of the instances. Nothing where anrg-saga is not installed."""
    try:
        import saga.schedulers  # noqa: F401
    except ImportError:
        return {}
    disable(WARNING)
    try:
        return _compare(list(instances(1 if quick else REPEATS)))
    finally:
        disable(0)


def instances(repeats: int) -> Iterator[Instance]:
    """The package's random families, ``repeats`` of each at each of RATIOS, always the same."""
    from saga.schedulers.data import riotbench
    from saga.schedulers.data.random import gen_in_trees, gen_out_trees, gen_parallel_chains, gen_random_networks
    from saga.utils.random_graphs import get_branching_dag, get_network

    workflows = (
        riotbench.get_etl_task_graphs, riotbench.get_stats_task_graphs,
        riotbench.get_train_task_graphs, riotbench.get_predict_task_graphs,
    )  # fmt: skip
    with _seeded():
        for ratio in RATIOS:
            for repeat in range(repeats):

                def network(ratio: float = ratio) -> Any:
                    return gen_random_networks(1, random.randint(3, 8), _speed, lambda *_: _speed() / ratio)[0]

                branching, levels = random.randint(2, 3), random.randint(2, 4)
                yield Instance("in_trees", gen_in_trees(1, levels, branching, _weight, _weight)[0], network())
                levels = random.randint(2, 5)
                yield Instance("out_trees", gen_out_trees(1, levels, 2, _weight, _weight)[0], network())
                chains, length = random.randint(2, 6), random.randint(2, 6)
                yield Instance("chains", gen_parallel_chains(1, chains, length, _weight, _weight)[0], network())
                graph = get_branching_dag(random.randint(3, 5), 2, _Uniform(1.0))
                nodes = random.randint(3, 8)
                yield Instance("branching", graph, get_network(nodes, None, _Uniform(1.0), _Uniform(1.0 / ratio)))
                chains, length = random.randint(2, 5), random.randint(2, 5)
                yield Instance("equal_weights", gen_parallel_chains(1, chains, length)[0], gen_random_networks(1, 4)[0])
                workflow = workflows[repeat % len(workflows)](1)[0]
                yield Instance("riotbench", workflow, riotbench.get_fog_networks(1, 12, 3, 2)[0])


def _compare(found: list[Instance]) -> dict[str, float]:
    """The figures over these instances."""
    schedule(found[0].stages, found[0].resources)  # compiles
    ratios, by_family, stated, gaps, ours_s, peers_s = [], defaultdict(list), [], [], [], []
    wrong = below = infeasible = failed = 0
    for instance in found:
        peers = _peers(instance)
        plans = [schedule(instance.stages, instance.resources) for _ in range(TIMED)]
        plan = plans[0]
        ratios.append(plan.makespan / peers.best)
        by_family[instance.family].append(ratios[-1])
        stated.append(plan.makespan / peers.best_stated)
        gaps.append(plan.gap)
        ours_s.append(float(np.median([plan.decision_s for plan in plans])))
        peers_s.append(peers.seconds)
        wrong += _wrongs(instance, plan)
        below += peers.best < plan.bound * (1.0 - ROUNDING)
        infeasible += peers.infeasible
        failed += peers.failed
    ratio = np.array(ratios)
    return {
        "ratio_to_best_mean": float(ratio.mean()),
        "ratio_to_best_max": float(ratio.max()),
        "better_share": float((ratio < 1.0 - ROUNDING).mean()),
        "equal_share": float((np.abs(ratio - 1.0) <= ROUNDING).mean()),
        "ratio_to_best_stated_mean": float(np.mean(stated)),
        **{f"{family}.ratio_to_best_mean": float(np.mean(values)) for family, values in by_family.items()},
        "gap_mean": float(np.mean(gaps)),
        "decision_s_p50": float(np.median(ours_s)),
        "peers.decision_s_p50": float(np.median(np.concatenate(peers_s))),
        "peers.all_s_p50": float(np.median([sum(seconds) for seconds in peers_s])),
        "violations": float(wrong),
        "bound_violations": float(below),
        "peers.infeasible": float(infeasible),
        "peers.failed": float(failed),
        "instances": float(len(found)),
    }


def _peers(instance: Instance) -> Peers:
    """Every scheduler of the package on the instance."""
    stages, resources, found = instance.stages, instance.resources, Peers()
    for scheduler in _schedulers():
        began = time.perf_counter()
        try:
            answer = scheduler.schedule(instance.network, instance.task_graph)
        except FAILURES:
            found.failed += 1
            continue
        found.seconds.append(time.perf_counter() - began)
        found.best_stated = min(found.best_stated, answer.makespan)
        placed = [task for tasks in answer.mapping.values() for task in tasks]
        node = {task.name: task.node for task in placed}
        start = {task.name: task.start for task in placed}
        finish = {task.name: task.end for task in placed}
        wrongs = violations(stages, resources, node, start, finish, tolerance=ROUNDING)
        if wrongs or len(placed) != len(node):
            found.infeasible += 1
        else:
            found.best = min(found.best, replayed(stages, resources, node, start, finish))
    return found


def _schedulers() -> list[Any]:
    """A scheduler of each kind that the package registers."""
    import saga.schedulers as package
    from saga.schedulers.parametric.components import schedulers as parametric

    kinds = [getattr(package, name)() for name in package.__all__ if name not in LEFT_OUT]
    return [*kinds, *parametric.values()]


def replayed(
    stages: nx.DiGraph, resources: nx.Graph, node: dict[str, str], start: dict[str, float], finish: dict[str, float]
) -> float:
    """The makespan when each node keeps its order of stages and each starts as early as that and its data allow."""
    number = {stage: index for index, stage in enumerate(nx.topological_sort(stages))}
    free: dict[str, float] = defaultdict(float)
    end: dict[str, float] = {}
    for stage in sorted(stages, key=lambda s: (start[s], finish[s], number[s])):
        begin = free[node[stage]]
        for tail, _, size in stages.in_edges(stage, data="weight"):
            begin = max(begin, end[tail] + transfer(resources, node[tail], node[stage], size, "weight"))
        end[stage] = begin + stages.nodes[stage]["weight"] / resources.nodes[node[stage]]["weight"]
        free[node[stage]] = end[stage]
    return max(end.values())


def _wrongs(instance: Instance, plan: Schedule) -> int:
    """How much the checker finds wrong with a schedule of ours."""
    found = violations(instance.stages, instance.resources, plan.node, plan.start, plan.finish)
    return len(found) + (plan.makespan != max(plan.finish.values())) + (plan.bound > plan.makespan)


def _weight(*_: Any) -> float:
    """What the package's default weights are meant to be."""
    return min(max(random.gauss(1.0, 1.0 / 3.0), 1e-9), 2.0)


def _speed(*_: Any) -> float:
    """The same, away from 0: a machine or link a billion times slower than its peers decides nothing."""
    return max(_weight(), 0.1)


@dataclass(frozen=True)
class _Uniform:
    """The package's default distribution, U(0.1, 1) times ``scale``; its own samples are arrays, which it rejects."""

    scale: float

    def sample(self) -> float:
        """One draw."""
        return self.scale * random.uniform(0.1, 1.0)


@contextmanager
def _seeded() -> Iterator[None]:
    """The package draws from the global generators: seed them, and put them back."""
    before, before_numpy = random.getstate(), np.random.get_state()  # noqa: NPY002
    random.seed(1)
    np.random.seed(1)  # noqa: NPY002
    try:
        yield
    finally:
        random.setstate(before)
        np.random.set_state(before_numpy)  # noqa: NPY002


def _in_order(graph: Any, ordered: Any) -> Any:
    """The graph with nodes and edges in the order of their names: the package keeps them in sets."""
    ordered.add_nodes_from(sorted(graph.nodes(data=True)))
    ends = (edge if graph.is_directed() else tuple(sorted(edge)) for edge in graph.edges)
    ordered.add_edges_from((*edge, graph.edges[edge]) for edge in sorted(ends))
    return ordered


if __name__ == "__main__":
    for name, value in figures().items():
        print(f"{name:36s} {value:.6g}")  # noqa: T201
