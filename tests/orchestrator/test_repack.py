"""Running task graphs are embedded anew, few at a time, until another one fits beside them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import networkx as nx
import numpy as np
import pytest

from gainnet.orchestrator.embedding import Admission, Answer, Effort, Embedder, Embedding, Reason, Refusal
from gainnet.orchestrator.kernels.columns import Floats
from gainnet.orchestrator.repack import Found, Repacked, Running, repack
from gainnet.orchestrator.room import Room, Taken
from gainnet.orchestrator.task_graph import Substrate, TaskGraph, substrate_of, task_graph_of

NONE = np.zeros(0, np.int64)


def _substrate(capacities: Sequence[float]) -> Substrate:
    graph = nx.empty_graph(len(capacities))
    nx.set_node_attributes(graph, dict(enumerate(capacities)), "capacity")
    return substrate_of(graph, "capacity", "capacity")


def _single(substrate: Substrate, demand: float) -> TaskGraph:
    graph = nx.empty_graph(1)
    nx.set_node_attributes(graph, demand, "demand")
    return task_graph_of(graph, substrate, "demand", "demand", {})


def _at(demand: float, place: int) -> Found:
    taken = Taken(np.array([place]), np.array([demand]), NONE, np.zeros(0))
    return Found(np.array([place]), np.zeros((0, 0), np.int64), NONE, taken, demand)


def _tightest(graph: TaskGraph, room: Room) -> Found | None:
    """The place where least is left beside it."""
    demand = float(graph.wish.demand[0])
    fits = np.flatnonzero(room.node >= demand)
    return _at(demand, int(fits[np.argmin(room.node[fits])])) if len(fits) else None


def _repack(
    capacities: Sequence[float], running: Sequence[tuple[float, int]], demand: float, most: int, worth: float = 99.0
) -> tuple[Repacked | None, Floats]:
    """What comes of it, and what is then left of each place."""
    substrate, left = _substrate(capacities), np.array(capacities)
    held = []
    for amount, place in running:
        held.append(Running(_single(substrate, amount), _at(amount, place).taken, amount))
        left[place] -= amount
    room = Room(left.copy(), np.zeros(0))
    new = _single(substrate, demand)
    packed = repack(new, held, room, substrate, _tightest, lambda cost: worth >= cost, most, seed=3)
    if packed is not None:
        for i, found in packed.moved.items():
            left[running[i][1]] += running[i][0]
            left[found.place[0]] -= running[i][0]
        left[packed.new.place[0]] -= demand
    return packed, left


def test_one_that_was_pushed_out_pushes_out_the_next() -> None:
    capacities, running = [6.0, 4.0, 3.0], [(4.0, 0), (3.0, 1)]
    assert _repack(capacities, running, 6.0, 1)[0] is None
    packed, left = _repack(capacities, running, 6.0, 2)
    assert packed is not None
    assert {i: int(found.place[0]) for i, found in packed.moved.items()} == {0: 1, 1: 2}
    assert left.tolist() == [0.0, 0.0, 0.0]


def test_a_full_house_is_packed_to_the_brim() -> None:
    capacities = [10.0, 9.0, 8.0, 7.0, 6.0]  # 5 + 5, 6 + 3, 4 + 4, 7, 6: what comes last finds 1 and 5 left in pieces
    running = [(5.0, 0), (4.0, 0), (5.0, 1), (4.0, 1), (6.0, 2), (6.0, 3), (3.0, 4)]
    packed, left = _repack(capacities, running, 7.0, 7)
    assert packed is not None
    assert left.tolist() == [0.0] * 5


def test_what_all_together_cannot_hold_is_not_searched_for() -> None:
    def never(graph: TaskGraph, room: Room) -> Found | None:
        raise AssertionError((graph, room))

    substrate = _substrate([3.0, 3.0])
    held = [Running(_single(substrate, 2.0), _at(2.0, 0).taken, 2.0)]
    room, new = Room(np.array([1.0, 3.0]), np.zeros(0)), _single(substrate, 4.5)
    assert repack(new, held, room, substrate, never, lambda _: True, 1, seed=1) is None
    assert repack(new, [], room, substrate, never, lambda _: True, 1, seed=1) is None


def test_it_is_told_what_it_costs_and_turned_down() -> None:
    capacities, running = [3.0, 2.0], [(2.0, 0)]
    assert _repack(capacities, running, 3.0, 1, worth=3.0)[0] is not None
    assert _repack(capacities, running, 3.0, 1, worth=2.9)[0] is None


def _ring() -> Any:
    ring = nx.cycle_graph(4)
    nx.set_node_attributes(ring, 2.0, "capacity")
    nx.set_edge_attributes(ring, 1.0, "capacity")
    return ring


def _pair(embedder: Embedder, tail: int, *heads: int) -> Answer:
    """A pair of stages, one pinned and the other nearly; committed where it fits."""
    pair = nx.path_graph(2)
    nx.set_node_attributes(pair, 1.0, "demand")
    nx.set_edge_attributes(pair, 1.0, "demand")
    answer = embedder.embed(pair, allowed={0: {tail}, 1: set(heads)})
    if isinstance(answer, Embedding):
        embedder.commit(answer)
    return answer


@pytest.mark.parametrize("moves", [0, 1])
@pytest.mark.untraced
def test_a_path_that_went_around_is_shortened_for_one_that_needs_its_links(moves: int) -> None:
    embedder = Embedder(_ring(), effort=Effort(4, 20), moves=moves)
    passing, around = _pair(embedder, 1, 2), _pair(embedder, 1, 2)
    assert isinstance(passing, Embedding)
    assert isinstance(around, Embedding)
    assert around.paths[0, 1] == (1, 0, 3, 2)
    embedder.release(passing)
    answer = _pair(embedder, 0, 3)
    if moves == 0:
        assert isinstance(answer, Refusal)
        return
    assert isinstance(answer, Embedding)
    assert [(old, new.paths[0, 1]) for old, new in answer.moved] == [(around, (1, 2))]
    assert embedder.left[1] == {(0, 1): 1.0, (0, 3): 0.0, (1, 2): 0.0, (2, 3): 1.0}


@pytest.mark.untraced
def test_another_moves_for_one_that_would_be_too_dear() -> None:
    for moves in (0, 1):
        embedder = Embedder(_ring(), effort=Effort(4, 20), moves=moves, admission=Admission(least=0.65, most=0.7))
        passing = _pair(embedder, 0, 1)
        aside = _pair(embedder, 1, 0, 2)
        assert isinstance(passing, Embedding)
        assert isinstance(aside, Embedding)
        assert aside.mapping[1] == 2
        embedder.release(passing)
        answer = _pair(embedder, 1, 2)  # worth 3; the way round takes 5, which is worth 0.6 a unit
        if moves == 0:
            assert isinstance(answer, Refusal)
            assert answer.reason == Reason.PRICE
        else:
            assert isinstance(answer, Embedding)
            assert answer.cost == 3.0
            assert [(old, new.mapping[1]) for old, new in answer.moved] == [(aside, 0)]
