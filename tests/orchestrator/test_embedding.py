"""Embedding of task graphs: feasible by the independent judge, optimal where that can be counted out, honest when not."""

from __future__ import annotations

import itertools
import random
from typing import Any

import networkx as nx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gainnet.errors import InputError
from gainnet.orchestrator.embedding import Admission, Effort, Embedder, Embedding, Reason, Refusal, embed
from gainnet.orchestrator.embedding_checker import Stay, violations

STAR, RING, TREE = nx.star_graph(3), nx.cycle_graph(4), nx.balanced_tree(2, 2)
LINE, GRID = nx.path_graph(8), nx.convert_node_labels_to_integers(nx.grid_2d_graph(4, 4))
QUICK = Effort(8, 30)


def _with(graph: Any, name: str, node: float = 1.0, link: float = 1.0) -> Any:
    """A copy with the same amount on every node and on every link."""
    graph = graph.copy()
    nx.set_node_attributes(graph, node, name)
    nx.set_edge_attributes(graph, link, name)
    return graph


def _stay(task: Any, found: Embedding, begin: float = 0.0, end: float = 1.0) -> Stay:
    links = {(tail, head): amount for tail, head, amount in task.edges(data="demand")}
    return Stay(begin, end, dict(task.nodes(data="demand")), links, found.mapping, found.paths)


def _faults(task: Any, substrate: Any, *stays: Stay) -> list[str]:
    links = {(tail, head): amount for tail, head, amount in substrate.edges(data="capacity")}
    return violations(dict(substrate.nodes(data="capacity")), links, stays, directed=substrate.is_directed())


def _least_cost(task: Any, substrate: Any) -> float:
    """The least cost over all maps and simple paths, by counting them out; infinite where none fits."""
    best = float("inf")
    for places in itertools.permutations(substrate.nodes, len(task)):
        mapping = dict(zip(task.nodes, places, strict=True))
        if any(task.nodes[i]["demand"] > substrate.nodes[v]["capacity"] for i, v in mapping.items()):
            continue
        routes = [list(nx.all_simple_paths(substrate, mapping[i], mapping[j])) for i, j in task.edges]
        for paths in itertools.product(*routes):
            nodes, edges = dict(task.nodes(data="demand")), list(task.edges(data="demand"))
            demand = {(tail, head): amount for tail, head, amount in edges}
            stay = Stay(0.0, 1.0, nodes, demand, mapping, dict(zip(task.edges, paths, strict=True)))
            if not _faults(task, substrate, stay):
                hops = zip(edges, paths, strict=True)
                links = sum(amount * (len(path) - 1) for (_, _, amount), path in hops)
                best = min(best, links + sum(amount for _, amount in task.nodes(data="demand")))
    return best


@st.composite
def _pairs(draw: st.DrawFn) -> tuple[Any, Any]:
    """A task graph of up to 4 nodes and a substrate of up to 6, of one kind."""
    kind = draw(st.sampled_from([nx.Graph, nx.DiGraph]))

    def graph(nodes: int, name: str, most: int) -> Any:
        made = kind()
        for node in range(nodes):
            made.add_node(node, **{name: float(draw(st.integers(0, most)))})
        for pair in itertools.permutations(range(nodes), 2):
            if (made.is_directed() or pair[0] < pair[1]) and draw(st.booleans()):
                made.add_edge(*pair, **{name: float(draw(st.integers(0, most)))})
        return made

    return graph(draw(st.integers(0, 4)), "demand", 3), graph(draw(st.integers(1, 6)), "capacity", 6)


@settings(max_examples=150, deadline=None)
@given(_pairs())
@pytest.mark.untraced
def test_what_is_embedded_is_feasible_and_what_is_proven_impossible_is(pair: tuple[Any, Any]) -> None:
    task, substrate = pair
    answer = embed(task, substrate, effort=QUICK)
    if isinstance(answer, Embedding):
        assert _faults(task, substrate, _stay(task, answer)) == []
        hops = {link: len(path) - 1 for link, path in answer.paths.items()}
        links = sum(amount * hops[i, j] for i, j, amount in task.edges(data="demand"))
        assert answer.cost == links + sum(amount for _, amount in task.nodes(data="demand"))
    elif answer.proven and len(task) <= 3 and len(substrate) <= 5:
        assert _least_cost(task, substrate) == float("inf")


@settings(max_examples=40, deadline=None)
@given(_pairs())
def test_none_beats_the_best_of_all_and_small_ones_are_found(pair: tuple[Any, Any]) -> None:
    task, substrate = pair
    if len(task) <= 3 and len(substrate) <= 5:
        best, answer = _least_cost(task, substrate), embed(task, substrate, effort=Effort(30, 100))
        if isinstance(answer, Embedding):
            assert answer.cost >= best
        else:
            assert best == float("inf") or not answer.proven


@pytest.mark.parametrize(
    ("task", "substrate", "cost"),
    [
        (nx.path_graph(5), LINE, 9.0),
        (STAR, LINE, 8.0),  # the third leaf is two hops from the centre
        (RING, LINE, 10.0),  # three hops back for one link
        (TREE, GRID, 13.0),
        (RING, GRID, 8.0),
        (STAR, GRID, 7.0),
        (nx.complete_graph(3), GRID, 7.0),  # a grid has no triangle
        (nx.empty_graph(3), LINE, 3.0),
    ],
)
def test_shapes_on_lines_and_grids_take_the_least(task: Any, substrate: Any, cost: float) -> None:
    task, substrate = _with(task, "demand"), _with(substrate, "capacity", 1.0, 2.0)
    answer = embed(task, substrate)
    assert isinstance(answer, Embedding)
    assert _faults(task, substrate, _stay(task, answer)) == []
    assert answer.cost == cost
    assert answer.value == len(task) + task.size()
    assert answer.revenue_to_cost == answer.value / cost


@pytest.mark.parametrize("seed", range(6))
def test_an_embedding_that_takes_one_hop_a_link_is_found_among_links_that_are_half_used(seed: int) -> None:
    rng = random.Random(seed)
    substrate = _with(nx.gnp_random_graph(40, 0.25, seed=seed), "capacity", 30.0)
    for edge in substrate.edges:
        substrate.edges[edge]["capacity"] = float(rng.randint(0, 40))
    members = [0]  # a connected part of the substrate becomes the task graph: it fits where it comes from
    while len(members) < 9:
        members.append(rng.choice(sorted(set(substrate[rng.choice(members)]) - set(members)) or members[:1]))
        members = list(dict.fromkeys(members))
    task = nx.relabel_nodes(nx.Graph(substrate.subgraph(members).edges), {v: f"t{v}" for v in members})
    nx.set_node_attributes(task, 10.0, "demand")
    for tail, head in task.edges:
        task.edges[tail, head]["demand"] = substrate.edges[int(tail[1:]), int(head[1:])]["capacity"]
    answer = embed(task, substrate)
    assert isinstance(answer, Embedding)
    assert _faults(task, substrate, _stay(task, answer)) == []
    assert answer.revenue_to_cost > 0.95


def test_links_go_around_what_is_full() -> None:
    substrate = _with(nx.cycle_graph(4), "capacity", 1.0, 5.0)
    substrate.edges[0, 1]["capacity"] = 1.0
    task = _with(nx.path_graph(2), "demand", 1.0, 3.0)
    answer = embed(task, substrate, allowed={0: {0}, 1: {1}})
    assert isinstance(answer, Embedding)
    assert answer.paths == {(0, 1): (0, 3, 2, 1)}


def test_links_go_around_what_the_same_task_uses_up() -> None:
    pins = {"a": {0}, "b": {2}, "c": {3}}
    for kind in (nx.Graph, nx.DiGraph):
        task = _with(kind([("a", "b"), ("a", "c")]), "demand", 1.0, 3.0)
        ring = _with(kind(nx.cycle_graph(7)), "capacity", 1.0, 5.0)  # both ways in a DiGraph
        answer = embed(task, ring, allowed=pins)
        assert isinstance(answer, Embedding)
        assert answer.paths["a", "b"] == (0, 1, 2)
        assert answer.paths["a", "c"] == (0, 6, 5, 4, 3)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6))
def test_a_link_between_pinned_nodes_takes_the_fewest_hops_with_room(seed: int) -> None:
    rng = random.Random(seed)
    substrate = _with(nx.gnp_random_graph(30, 0.15, seed=seed), "capacity", 100.0)
    for edge in substrate.edges:
        substrate.edges[edge]["capacity"] = float(rng.randint(1, 9))
    task, demand = _with(nx.path_graph(2), "demand", 1.0, 4.0), 4.0
    roomy = nx.Graph([edge for edge in substrate.edges if substrate.edges[edge]["capacity"] >= demand])
    answer = embed(task, substrate, allowed={0: {0}, 1: {29}}, effort=QUICK)
    if roomy.has_node(0) and roomy.has_node(29) and nx.has_path(roomy, 0, 29):
        assert isinstance(answer, Embedding)
        assert len(answer.paths[0, 1]) == len(nx.shortest_path(roomy, 0, 29))
    else:
        assert isinstance(answer, Refusal)


def test_directed_paths_follow_the_links() -> None:
    substrate = _with(nx.cycle_graph(4, create_using=nx.DiGraph), "capacity", 1.0, 5.0)
    task = _with(nx.DiGraph([("a", "b")]), "demand")
    answer = embed(task, substrate, allowed={"a": {1}, "b": {0}})
    assert isinstance(answer, Embedding)
    assert answer.paths == {("a", "b"): (1, 2, 3, 0)}
    with pytest.raises(InputError, match="give a DiGraph"):
        embed(task.to_undirected(), substrate)
    both = embed(_with(nx.DiGraph([(0, 1), (1, 0)]), "demand", 1.0, 2.0), substrate)
    assert isinstance(both, Embedding)
    assert both.cost == 2.0 + 2.0 * 4.0  # there and back goes once around


@pytest.mark.parametrize(
    ("task", "allowed", "reason", "item"),
    [
        (_with(nx.path_graph(2), "demand", 6.0, 1.0), {}, Reason.NODE_CAPACITY, 0),
        (_with(nx.path_graph(9), "demand", 1.0, 0.1), {}, Reason.NODE_CAPACITY, None),
        (_with(nx.path_graph(2), "demand"), {0: {3}, 1: {3}}, Reason.NODE_CAPACITY, None),
        (_with(nx.path_graph(2), "demand"), {1: set()}, Reason.NODE_CAPACITY, 1),
        (_with(nx.path_graph(2), "demand", 1.0, 7.0), {}, Reason.LINK_CAPACITY, (0, 1)),
        (_with(nx.star_graph(3), "demand", 1.0, 4.0), {}, Reason.LINK_CAPACITY, (0, 1)),
    ],
)
def test_a_refusal_says_what_does_not_fit(task: Any, allowed: Any, reason: Reason, item: Any) -> None:
    answer = embed(task, _with(LINE, "capacity", 5.0, 5.0), allowed=allowed)
    assert isinstance(answer, Refusal)
    assert (answer.reason, answer.proven) == (reason, True)
    assert item in (None, answer.item)
    assert answer.detail


def test_a_refusal_that_is_not_proven_says_so() -> None:
    ring = embed(_with(RING, "demand", 1.0, 1.0), _with(LINE, "capacity", 1.0, 1.0))
    assert isinstance(ring, Refusal)
    assert (ring.reason, ring.proven) == (Reason.LINK_CAPACITY, False)


def test_parts_that_are_not_joined_have_no_path() -> None:
    substrate = _with(nx.disjoint_union(nx.path_graph(2), nx.path_graph(2)), "capacity")
    answer = embed(_with(nx.path_graph(2), "demand"), substrate, allowed={0: {0}, 1: {2, 3}})
    assert isinstance(answer, Refusal)
    assert (answer.reason, answer.item, answer.proven) == (Reason.LINK_CAPACITY, (0, 1), True)


def test_a_task_graph_without_nodes_takes_nothing() -> None:
    answer = embed(nx.Graph(), _with(LINE, "capacity"))
    assert isinstance(answer, Embedding)
    assert (answer.mapping, answer.paths, answer.cost, answer.revenue_to_cost) == ({}, {}, 0.0, 1.0)
    nowhere = embed(_with(nx.empty_graph(1), "demand"), nx.Graph())
    assert isinstance(nowhere, Refusal)


def test_names_of_attributes_are_free() -> None:
    task, substrate = nx.path_graph(2), nx.path_graph(2)
    nx.set_node_attributes(task, 1, "flops")
    nx.set_edge_attributes(task, 2, "bits")
    nx.set_node_attributes(substrate, 1, "speed")
    nx.set_edge_attributes(substrate, 2, "rate")
    names = {"node_capacity": "speed", "link_capacity": "rate", "node_demand": "flops", "link_demand": "bits"}
    assert isinstance(embed(task, substrate, **names), Embedding)


@pytest.mark.parametrize("value", [None, -1.0, float("nan"), float("inf"), "much"])
def test_malformed_amounts_are_named(value: Any) -> None:
    good, bad = _with(LINE, "capacity"), _with(LINE, "capacity")
    bad.nodes[3]["capacity"] = value
    with pytest.raises(InputError, match="substrate node 3"):
        Embedder(bad)
    task = _with(nx.path_graph(3), "demand")
    task.edges[1, 2]["demand"] = value
    with pytest.raises(InputError, match=r"task link \(1, 2\)"):
        embed(task, good)


@pytest.mark.parametrize(
    ("task", "message"),
    [(nx.MultiGraph(), "MultiGraph"), ([1], "not a list"), (nx.Graph([(0, 0)]), "joins a node to itself")],
)
def test_malformed_graphs_are_named(task: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        embed(task, _with(LINE, "capacity"))
    with pytest.raises(InputError, match=message):
        Embedder(task)


def test_unknown_places_are_named() -> None:
    task = _with(nx.path_graph(2), "demand")
    with pytest.raises(InputError, match="'x' is no node of the task graph"):
        embed(task, _with(LINE, "capacity"), allowed={"x": {0}})
    with pytest.raises(InputError, match="99 is no node of the substrate"):
        embed(task, _with(LINE, "capacity"), allowed={0: {99}})


def test_what_is_committed_is_taken_until_it_is_released() -> None:
    embedder, task = (
        Embedder(_with(nx.path_graph(3), "capacity", 0.3, 0.7)),
        _with(nx.path_graph(3), "demand", 0.3, 0.7),
    )
    whole, first = embedder.left, embedder.embed(task)
    assert isinstance(first, Embedding)
    rival = embedder.embed(task)
    assert isinstance(rival, Embedding)
    embedder.commit(first)
    assert max(embedder.left[0].values()) == 0.0
    assert isinstance(embedder.embed(task), Refusal)
    with pytest.raises(InputError, match="committed already"):
        embedder.commit(first)
    with pytest.raises(InputError, match="taken since"):
        embedder.commit(rival)
    embedder.release(first)
    assert embedder.left == whole
    with pytest.raises(InputError, match="not committed"):
        embedder.release(first)
    embedder.commit(rival)


def test_a_price_refuses_what_is_not_worth_it() -> None:
    embedder = Embedder(_with(LINE, "capacity"), admission=Admission(least=0.5, most=0.6))
    task = _with(nx.path_graph(2), "demand")
    for value in (1.0, 0.0):
        poor = embedder.embed(task, value=value)
        assert isinstance(poor, Refusal)
        assert (poor.reason, poor.item, poor.proven) == (Reason.PRICE, None, False)
    with pytest.raises(InputError, match="value = nan"):
        embedder.embed(task, value=float("nan"))
    assert isinstance(embedder.embed(task), Embedding)


def test_the_price_rises_while_tasks_find_no_room_and_falls_when_they_do() -> None:
    embedder = Embedder(_with(LINE, "capacity"), admission=Admission(least=0.0, most=1.0, target=0.1, step=0.2))
    for _ in range(3):
        embedder.embed(_with(nx.path_graph(2), "demand", 9.0))
    raised = embedder.price
    embedder.embed(_with(nx.path_graph(2), "demand", 1.0))
    assert raised == pytest.approx(0.54)
    assert embedder.price == pytest.approx(0.52)


def _single(demand: float) -> Any:
    return _with(nx.empty_graph(1), "demand", demand)


def _places(*capacities: float) -> Any:
    graph = nx.empty_graph(len(capacities))
    nx.set_node_attributes(graph, dict(enumerate(capacities)), "capacity")
    return graph


def _running(embedder: Embedder, demand: float, **options: Any) -> Embedding:
    found = embedder.embed(_single(demand), **options)
    assert isinstance(found, Embedding)
    embedder.commit(found)
    return found


def test_a_running_one_moves_for_one_that_finds_no_place() -> None:
    embedder = Embedder(_places(3.0, 2.0), moves=1)
    small = _running(embedder, 2.0)
    assert small.mapping == {0: 0}  # more is left there
    assert isinstance(Embedder(_places(1.0, 2.0)).embed(_single(3.0)), Refusal)
    large = embedder.embed(_single(3.0))
    assert isinstance(large, Embedding)
    ((before, after),) = large.moved
    assert (large.mapping, before, after.mapping, after.value) == ({0: 0}, small, {0: 1}, 2.0)
    assert embedder.left[0] == {0: 1.0, 1: 2.0}  # nothing has moved yet
    embedder.commit(large)
    assert embedder.left[0] == {0: 0.0, 1: 0.0}
    with pytest.raises(InputError, match="not committed"):
        embedder.release(small)
    embedder.release(after)
    embedder.release(large)
    assert embedder.left[0] == {0: 3.0, 1: 2.0}


def test_no_more_move_than_are_allowed() -> None:
    for moves, fits in ((0, False), (1, False), (2, True)):
        embedder = Embedder(_places(4.0, 2.0, 2.0), moves=moves)
        fillers = [_running(embedder, 2.0, allowed={0: {place}}) for place in (1, 2)]
        small = {_running(embedder, 2.0) for _ in range(2)}
        for filler in fillers:
            embedder.release(filler)
        answer = embedder.embed(_single(4.0))
        assert isinstance(answer, Embedding) == fits
        if isinstance(answer, Embedding):
            assert {before for before, _ in answer.moved} == small
            embedder.commit(answer)
            assert set(embedder.left[0].values()) == {0.0}


def test_one_that_may_only_be_where_it_is_does_not_move() -> None:
    embedder = Embedder(_places(3.0, 2.0), moves=1)
    _running(embedder, 2.0, allowed={0: {0}})
    assert isinstance(embedder.embed(_single(3.0)), Refusal)


def test_none_moves_for_what_is_not_worth_it() -> None:
    for value, embedded in ((3.0, True), (1.0, False)):
        embedder = Embedder(_places(3.0, 2.0), moves=1, admission=Admission(least=0.5, most=0.6))
        _running(embedder, 2.0)
        assert isinstance(embedder.embed(_single(3.0), value=value), Embedding) == embedded


def test_one_that_others_move_for_has_found_room_and_lowers_the_price() -> None:
    for moves, price in ((0, 0.59), (1, 0.49)):
        rule = Admission(least=0.0, most=1.0, target=0.1, step=0.1)
        embedder = Embedder(_places(3.0, 2.0), moves=moves, admission=rule)
        _running(embedder, 2.0)
        embedder.price = 0.5
        embedder.embed(_single(3.0))
        assert embedder.price == pytest.approx(price)


def test_who_should_move_and_has_left_makes_the_answer_void() -> None:
    embedder = Embedder(_places(3.0, 2.0), moves=1)
    small, large = _running(embedder, 2.0), embedder.embed(_single(3.0))
    assert isinstance(large, Embedding)
    embedder.release(small)
    with pytest.raises(InputError, match="should move for it is not committed"):
        embedder.commit(large)
    small, large = _running(embedder, 2.0), embedder.embed(_single(3.0))
    assert isinstance(large, Embedding)
    _running(embedder, 1.0, allowed={0: {1}})
    with pytest.raises(InputError, match="taken since"):
        embedder.commit(large)
    assert embedder.left[0] == {0: 1.0, 1: 1.0}


def test_moves_are_none_or_more() -> None:
    with pytest.raises(InputError, match="moves = -1"):
        Embedder(_places(1.0), moves=-1)


@pytest.mark.untraced
def test_whatever_moves_the_judge_finds_no_fault() -> None:
    rng, moved = random.Random(4), 0
    embedder, running, stays = Embedder(_with(GRID, "capacity", 3.0, 4.0), effort=QUICK, moves=2), {}, []

    def leave(name: int, end: float) -> None:
        task, begin, where = running.pop(name)
        stays.append(Stay(begin, end, *_demands(task), where.mapping, where.paths, name))

    for now in range(30):
        if len(running) > 5:
            name = rng.choice(sorted(running))
            embedder.release(running[name][2])
            leave(name, float(now))
        task = _with(rng.choice([STAR, RING, nx.path_graph(3)]), "demand", float(rng.randint(1, 2)), 1.0)
        answer = embedder.embed(task)
        if isinstance(answer, Embedding):
            embedder.commit(answer)
            for before, after in answer.moved:
                name = next(name for name, (_, _, where) in running.items() if where is before)
                kept = running[name][0]
                leave(name, float(now))
                running[name] = kept, float(now), after
                moved += 1
            running[now] = task, float(now), answer
    for name in list(running):
        leave(name, 30.0)
    assert moved > 0
    substrate = _with(GRID, "capacity", 3.0, 4.0)
    links = {(tail, head): amount for tail, head, amount in substrate.edges(data="capacity")}
    assert violations(dict(substrate.nodes(data="capacity")), links, stays) == []


def _demands(task: Any) -> tuple[Any, Any]:
    return dict(task.nodes(data="demand")), {(tail, head): amount for tail, head, amount in task.edges(data="demand")}


@pytest.mark.compiles
def test_the_same_seed_answers_the_same() -> None:
    task, substrate = _with(TREE, "demand"), _with(GRID, "capacity", 1.0, 2.0)
    first, second = (embed(task, substrate, seed=3) for _ in range(2))
    assert isinstance(first, Embedding)
    assert isinstance(second, Embedding)
    assert (first.mapping, first.paths) == (second.mapping, second.paths)


@pytest.mark.parametrize(
    ("mapping", "paths", "end", "fault"),
    [
        ({0: 0, 1: 0}, {(0, 1): (0,)}, 1.0, "share a place"),
        ({0: 0}, {(0, 1): (0, 1)}, 1.0, "has no place"),
        ({0: 0, 1: 9}, {(0, 1): (0, 9)}, 1.0, "no substrate node"),
        ({0: 0, 1: 1}, {}, 1.0, "has no path"),
        ({0: 0, 1: 1}, {(0, 1): (0, 2, 1)}, 1.0, "no substrate link"),
        ({0: 0, 1: 1}, {(0, 1): (1, 0)}, 1.0, "does not join"),
        ({0: 0, 1: 1}, {(0, 1): (0, 1, 0, 1)}, 1.0, "visits a node twice"),
        ({0: 0, 1: 1}, {(0, 1): (0, 1)}, -1.0, "ends before"),
    ],
)
def test_the_judge_sees_every_fault(mapping: Any, paths: Any, end: float, fault: str) -> None:
    substrate = dict.fromkeys(range(3), 1.0), {(0, 1): 1.0, (1, 2): 1.0}
    stay = Stay(0.0, end, {0: 1.0, 1: 1.0}, {(0, 1): 1.0}, mapping, paths)
    assert any(fault in sentence for sentence in violations(*substrate, [stay]))


def test_the_judge_lets_one_begin_where_another_ends_and_no_sooner() -> None:
    substrate = {0: 1.0, 1: 1.0}, {(0, 1): 1.0}

    def stay(begin: float, end: float) -> Stay:
        return Stay(begin, end, {0: 1.0, 1: 1.0}, {(0, 1): 1.0}, {0: 0, 1: 1}, {(0, 1): (0, 1)})

    assert violations(*substrate, [stay(0.0, 1.0), stay(1.0, 2.0)]) == []
    assert len(violations(*substrate, [stay(0.0, 1.0), stay(0.9, 2.0)])) == 3
    backwards = Stay(0.0, 1.0, {0: 1.0, 1: 1.0}, {(0, 1): 1.0}, {0: 1, 1: 0}, {(0, 1): (1, 0)})
    assert violations(*substrate, [backwards]) == []
    assert violations(*substrate, [backwards], directed=True) != []


@pytest.mark.parametrize(
    ("begin", "demand", "fault"),
    [(1.0, 1.0, None), (1.5, 1.0, "is next embedded from 1.5"), (0.5, 1.0, "from 0.5"), (1.0, 0.5, "something else")],
)
def test_the_judge_wants_one_that_moves_to_be_somewhere_at_all_times(
    begin: float, demand: float, fault: str | None
) -> None:
    stays = [Stay(0.0, 1.0, {0: 1.0}, {}, {0: 0}, {}, "a"), Stay(begin, 2.0, {0: demand}, {}, {0: 1}, {}, "a")]
    found = violations({0: 1.0, 1: 1.0}, {}, stays)
    assert len(found) == (fault is not None)
    assert fault is None or fault in found[0]
