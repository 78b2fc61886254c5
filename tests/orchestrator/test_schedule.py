"""Schedules of task graphs: against brute force, the checker and the bound, and what is refused."""

from __future__ import annotations

import math
from itertools import product

import networkx as nx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gainnet.errors import InputError
from gainnet.orchestrator.schedule import Schedule, schedule
from gainnet.orchestrator.schedule_checker import transfer, violations


def dag(works: list[float], edges: dict[tuple[int, int], float]) -> nx.DiGraph:
    graph = nx.DiGraph()
    graph.add_nodes_from((index, {"weight": work}) for index, work in enumerate(works))
    graph.add_edges_from((*edge, {"weight": data}) for edge, data in edges.items())
    return graph


def network(speeds: list[float], links: dict[tuple[int, int], float], directed: bool = False) -> nx.Graph:
    graph = nx.DiGraph() if directed else nx.Graph()
    graph.add_nodes_from((f"n{index}", {"weight": speed}) for index, speed in enumerate(speeds))
    graph.add_edges_from((f"n{tail}", f"n{head}", {"weight": strength}) for (tail, head), strength in links.items())
    return graph


def complete(speeds: list[float], strength: float) -> nx.Graph:
    count = len(speeds)
    return network(speeds, {(a, b): strength for a in range(count) for b in range(a)})


def wrongs(stages: nx.DiGraph, resources: nx.Graph, found: Schedule) -> list[str]:
    return violations(stages, resources, found.node, found.start, found.finish)


def optimum(stages: nx.DiGraph, resources: nx.Graph) -> float:
    """The least makespan over all orders and assignments, each played as early as it allows."""
    best = math.inf
    nodes = [node for node in resources if resources.nodes[node]["weight"] > 0.0]
    for order in nx.all_topological_sorts(stages):
        for choice in product(nodes, repeat=len(stages)):
            node = dict(zip(order, choice, strict=True))
            free, end = dict.fromkeys(nodes, 0.0), {}
            for stage in order:
                begin = free[node[stage]]
                for tail, _, data in stages.in_edges(stage, data="weight"):
                    begin = max(begin, end[tail] + transfer(resources, node[tail], node[stage], data, "weight"))
                end[stage] = begin + stages.nodes[stage]["weight"] / resources.nodes[node[stage]]["weight"]
                free[node[stage]] = end[stage]
            best = min(best, max(end.values()))
    return best


def drawn(rng: np.random.Generator, stages: int, nodes: int, density: float) -> tuple[nx.DiGraph, nx.Graph]:
    edges = {(a, b): float(rng.uniform(0.0, 3.0)) for b in range(stages) for a in range(b) if rng.uniform() < density}
    links = {(a, b): float(rng.uniform(0.3, 2.0)) for b in range(nodes) for a in range(b) if rng.uniform() < 0.8}
    works = [float(rng.uniform(0.1, 2.0)) for _ in range(stages)]
    return dag(works, edges), network([float(rng.uniform(0.3, 2.0)) for _ in range(nodes)], links)


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.untraced
def test_tiny_graphs_are_solved_to_the_optimum(seed: int) -> None:
    stages, resources = drawn(np.random.default_rng(seed), 5, 2 + seed % 2, 0.6)
    found, best = schedule(stages, resources), optimum(stages, resources)
    assert found.makespan == pytest.approx(best, rel=1e-9)
    assert found.bound <= best * (1.0 + 1e-9)
    assert wrongs(stages, resources, found) == []


amount = st.one_of(st.just(0.0), st.floats(1e-3, 1e3))


@st.composite
def problems(draw: st.DrawFn) -> tuple[nx.DiGraph, nx.Graph]:
    count, nodes, directed = draw(st.integers(0, 12)), draw(st.integers(1, 5)), draw(st.booleans())
    pairs = [(a, b) for b in range(count) for a in range(b)]
    edges = draw(st.dictionaries(st.sampled_from(pairs), amount, max_size=20)) if pairs else {}
    ends = [(a, b) for a in range(nodes) for b in range(nodes) if a < b or directed]
    links = draw(st.dictionaries(st.sampled_from(ends), amount)) if ends else {}
    speeds = [draw(st.floats(1e-2, 1e2)), *(draw(amount) for _ in range(nodes - 1))]
    return dag([draw(amount) for _ in range(count)], edges), network(speeds, links, directed)


@settings(max_examples=150, deadline=None)
@given(problems(), st.integers(0, 3))
@pytest.mark.untraced
def test_every_schedule_is_feasible_and_above_its_bound(problem: tuple[nx.DiGraph, nx.Graph], seed: int) -> None:
    stages, resources = problem
    found, seeds = (schedule(stages, resources, evaluations=n, seed=seed) for n in (400, 0))
    assert wrongs(stages, resources, found) == []
    assert wrongs(stages, resources, seeds) == []
    assert found.makespan == max(found.finish.values(), default=0.0)
    assert found.bound <= found.makespan <= seeds.makespan
    assert seeds.bound == pytest.approx(found.bound)
    fastest = max(speed for _, speed in resources.nodes(data="weight"))
    assert found.makespan <= sum(work for _, work in stages.nodes(data="weight")) / fastest * (1.0 + 1e-9)
    assert 0.0 <= found.gap <= 1.0


@pytest.mark.untraced
def test_the_bound_holds_against_brute_force() -> None:
    for seed in range(20):
        stages, resources = drawn(np.random.default_rng(100 + seed), 4, 3, 0.5)
        assert schedule(stages, resources, evaluations=0).bound <= optimum(stages, resources) * (1.0 + 1e-9)


@pytest.mark.compiles
def test_same_seed_same_schedule() -> None:
    stages, resources = drawn(np.random.default_rng(3), 40, 4, 0.1)
    one, same, other = (schedule(stages, resources, seed=seed) for seed in (1, 1, 2))
    assert (one.node, one.start, one.finish, one.bound) == (same.node, same.start, same.finish, same.bound)
    assert (one.node, one.start) != (other.node, other.start)


def test_a_chain_stays_on_the_one_fast_node() -> None:
    stages = dag([2.0, 4.0, 6.0], {(0, 1): 1.0, (1, 2): 1.0})
    found = schedule(stages, complete([1.0, 4.0, 2.0], 1.0))
    assert set(found.node.values()) == {"n1"}
    assert found.makespan == found.bound == 3.0
    assert found.gap == 0.0


def test_stages_without_edges_spread_evenly() -> None:
    found = schedule(dag([1.0] * 12, {}), complete([1.0] * 4, 1.0))
    assert found.makespan == found.bound == 3.0


def test_heavy_data_is_computed_where_it_is() -> None:
    fork = dag([1.0] * 5, {(0, leaf): 100.0 for leaf in range(1, 5)})
    assert schedule(fork, complete([1.0] * 4, 1.0)).makespan == 5.0
    assert schedule(fork, complete([1.0] * 4, 1e6)).makespan == pytest.approx(2.0, rel=1e-3)


def test_search_betters_the_seeds() -> None:
    stages, resources = drawn(np.random.default_rng(5), 40, 5, 0.1)
    assert schedule(stages, resources).makespan < 0.97 * schedule(stages, resources, evaluations=0).makespan


def test_nothing_and_one_stage() -> None:
    empty = schedule(nx.DiGraph(), nx.Graph())
    assert (empty.node, empty.makespan, empty.bound, empty.gap) == ({}, 0.0, 0.0, 0.0)
    one = schedule(dag([3.0], {}), complete([1.0, 2.0], 1.0))
    assert (one.node, one.start, one.finish, one.gap) == ({0: "n1"}, {0: 0.0}, {0: 1.5}, 0.0)


def test_a_node_of_speed_zero_is_never_used() -> None:
    found = schedule(dag([1.0, 0.0, 1.0], {}), complete([0.0, 1.0], 1.0))
    assert set(found.node.values()) == {"n1"}
    with pytest.raises(InputError, match="no node with weight above 0"):
        schedule(dag([1.0], {}), complete([0.0, 0.0], 1.0))


def test_data_needs_a_link_of_some_strength() -> None:
    join = dag([1.0, 1.0, 1.0], {(0, 2): 1.0, (1, 2): 1.0})
    for links in ({}, {(0, 1): 0.0}):
        apart = network([1.0, 1.0], links)
        assert schedule(join, apart).makespan == 3.0
    free = dag([1.0, 1.0, 1.0], {(0, 2): 0.0, (1, 2): 0.0})
    assert schedule(free, network([1.0, 1.0], {})).makespan == 2.0


def test_links_may_be_directed_and_infinite() -> None:
    chain = dag([1.0, 8.0], {(0, 1): 1.0})
    pinned = network([1.0, 8.0], {(0, 1): 0.001, (1, 0): math.inf}, directed=True)
    assert schedule(chain, pinned).makespan == 1.125
    join = dag([1.0, 1.0, 0.0], {(0, 2): 5.0, (1, 2): 5.0})
    assert schedule(join, network([1.0, 1.0], {(0, 1): math.inf}, directed=True)).makespan == 1.0


def test_attributes_have_the_names_they_are_given() -> None:
    stages, resources = nx.DiGraph(), nx.Graph()
    stages.add_node("a", flop=4.0)
    stages.add_node("b", flop=4.0)
    stages.add_edge("a", "b", bit=1.0)
    resources.add_node("x", flop_per_s=2.0)
    found = schedule(stages, resources, work="flop", data="bit", speed="flop_per_s", strength="bit_per_s")
    assert found.makespan == 4.0


@pytest.mark.parametrize(
    ("stages", "resources", "message"),
    [
        (dag([1.0, 1.0], {(0, 1): 1.0, (1, 0): 1.0}), complete([1.0], 1.0), "0 -> 1 -> 0 is a cycle"),
        (dag([1.0], {(0, 0): 1.0}), complete([1.0], 1.0), "0 -> 0 is a cycle"),
        (dag([math.nan], {}), complete([1.0], 1.0), r"stages\[0\].weight: nan"),
        (dag([-1.0], {}), complete([1.0], 1.0), r"stages\[0\].weight: -1.0"),
        (dag([math.inf], {}), complete([1.0], 1.0), r"stages\[0\].weight: inf"),
        (dag([10**400], {}), complete([1.0], 1.0), r"stages\[0\].weight: 1000"),
        (dag([1.0, 1.0], {(0, 1): math.nan}), complete([1.0], 1.0), r"stages\[0, 1\].weight: nan"),
        (dag(["2"], {}), complete([1.0], 1.0), r"stages\[0\].weight: '2'"),  # type: ignore[list-item]
        (dag([1.0], {}), complete([math.nan], 1.0), r"resources\['n0'\].weight: nan"),
        (dag([1.0], {}), network([1.0, 1.0], {(0, 1): -1.0}), r"resources\['n0', 'n1'\].weight: -1.0"),
        (nx.DiGraph({0: {1: {}}}), complete([1.0], 1.0), r"stages\[0\].weight: missing"),
        (nx.MultiDiGraph(), complete([1.0], 1.0), "stages: must be a directed graph without parallel edges"),
        (dag([1.0], {}), nx.MultiGraph(), "resources: must be a graph without parallel links"),
        (dag([1e300], {}), complete([1e-300], 1.0), "no schedule of finite length"),
    ],
)
def test_what_is_wrong_is_named_in_one_line(stages: nx.DiGraph, resources: nx.Graph, message: str) -> None:
    with pytest.raises(InputError, match=message) as raised:
        schedule(stages, resources)
    assert "\n" not in str(raised.value)


def test_negative_evaluations_are_refused() -> None:
    with pytest.raises(InputError, match="evaluations: -1"):
        schedule(dag([1.0], {}), complete([1.0], 1.0), evaluations=-1)


def test_the_checker_sees_each_wrong() -> None:
    stages, resources = dag([1.0, 1.0], {(0, 1): 2.0}), network([1.0, 2.0, 0.0], {(0, 1): 1.0})
    node, start, finish = {0: "n0", 1: "n1"}, {0: 0.0, 1: 3.0}, {0: 1.0, 1: 3.5}
    assert violations(stages, resources, node, start, finish) == []
    assert "not scheduled" in violations(stages, resources, {0: "n0"}, {0: 0.0}, {0: 1.0})[0]
    assert "its data" in violations(stages, resources, node, {0: 0.0, 1: 2.5}, {0: 1.0, 1: 3.0})[0]
    assert "its work" in violations(stages, resources, node, start, {0: 1.0, 1: 3.4})[0]
    assert "starts at -1.0" in violations(stages, resources, node, {0: -1.0, 1: 3.0}, {0: 0.0, 1: 3.5})[0]
    assert "can't run" in violations(stages, resources, {0: "n0", 1: "n2"}, start, finish)[0]
    assert "can't run" in violations(stages, resources, {0: "n0", 1: "elsewhere"}, start, finish)[0]
    together = violations(dag([1.0, 1.0], {}), resources, {0: "n0", 1: "n0"}, {0: 0.0, 1: 0.5}, {0: 1.0, 1: 1.5})
    assert together == ["stages 0 and 1 overlap on 'n0'"]


def test_large_graphs_end_soon() -> None:
    stages, resources = drawn(np.random.default_rng(7), 600, 20, 0.01)
    found = schedule(stages, resources, evaluations=1000)
    assert wrongs(stages, resources, found) == []
    assert found.decision_s < 30.0


def test_no_worse_than_peers_where_they_are_installed() -> None:
    schedulers = pytest.importorskip("saga.schedulers")
    from saga.schedulers.data.random import gen_parallel_chains, gen_random_networks

    draws = iter(np.random.default_rng(2).uniform(0.2, 2.0, 1000).tolist())
    graph = gen_parallel_chains(1, 5, 5, lambda *_: next(draws), lambda *_: next(draws))[0]
    nodes = gen_random_networks(1, 5, lambda *_: next(draws), lambda *_: next(draws))[0]
    ours = schedule(graph.graph, nodes.graph)
    for name in ("HeftScheduler", "CpopScheduler", "ETFScheduler", "SufferageScheduler", "DPSScheduler"):
        theirs = getattr(schedulers, name)().schedule(nodes, graph)
        assert ours.bound <= theirs.makespan * (1.0 + 1e-9)
        assert ours.makespan <= theirs.makespan * (1.0 + 1e-6)
