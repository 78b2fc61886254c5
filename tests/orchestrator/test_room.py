"""What is left of a substrate, and whom to move: who holds what is scarce first, together with its neighbours."""

from __future__ import annotations

import networkx as nx
import numpy as np

from gainnet.orchestrator.room import HEADS, Room, Taken, groups, together
from gainnet.orchestrator.task_graph import Substrate, TaskGraph, substrate_of, task_graph_of


def _line(nodes: int) -> Substrate:
    graph = nx.path_graph(nodes)
    nx.set_node_attributes(graph, 4.0, "capacity")
    nx.set_edge_attributes(graph, 4.0, "capacity")
    return substrate_of(graph, "capacity", "capacity")


def _pair(substrate: Substrate) -> TaskGraph:
    graph = nx.path_graph(2)
    nx.set_node_attributes(graph, 2.0, "demand")
    nx.set_edge_attributes(graph, 2.0, "demand")
    return task_graph_of(graph, substrate, "demand", "demand", {})


def _taken(places: list[int], links: list[int], amount: float = 1.0) -> Taken:
    return Taken(
        np.array(places, np.int64), np.full(len(places), amount), np.array(links, np.int64), np.full(len(links), amount)
    )


def test_what_is_taken_and_given_back_leaves_the_same() -> None:
    substrate = _line(3)
    whole = Room(substrate.node_capacity, substrate.link_capacity)
    taken = _taken([0, 2], [0, 1, 1], 0.1)  # twice over one link
    left = whole.without(taken, substrate)
    assert left is not None
    np.testing.assert_allclose(left.node, [3.9, 4.0, 3.9])
    np.testing.assert_allclose(left.link, [3.9, 3.8])
    again = left.beside(taken, substrate)
    assert (again.node == whole.node).all()
    assert (again.link == whole.link).all()
    assert whole.without(_taken([1], [], 4.1), substrate) is None
    assert whole.without(_taken([], [0, 0], 2.1), substrate) is None


def test_who_holds_what_is_scarce_comes_first_and_neighbours_go_with_it() -> None:
    substrate = _line(6)
    held = [_taken([0, 1], [0]), _taken([4, 5], [4], 2.0), _taken([1, 2], [1]), _taken([3, 4], [3])]
    room = Room(np.array([4.0, 4.0, 4.0, 3.0, 1.0, 0.0]), np.array([4.0, 4.0, 4.0, 4.0, 0.0]))
    assert list(groups(held, room, _pair(substrate), 1)) == [(1,), (3,), (0,), (2,)]
    assert list(groups(held, room, _pair(substrate), 2)) == [(1, 3), (3, 1), (0, 2), (2, 0)]
    assert together(held, 1, room).tolist() == [0.0, 6.0, 0.0, 1.0]  # two places and a link of its own; a place of 3


def test_groups_have_the_size_that_is_allowed_or_all_that_run() -> None:
    substrate = _line(4)
    room, task = Room(np.ones(4), np.ones(3)), _pair(substrate)
    assert list(groups([], room, task, 3)) == []
    assert list(groups([_taken([0], [])], room, task, 3)) == [(0,)]
    many = [_taken([number % 4], []) for number in range(HEADS + 5)]
    assert list(groups(many, room, task, 0)) == []
    found = list(groups(many, room, task, 3))
    assert len(found) == HEADS
    assert {len(group) for group in found} == {3}
    assert all(len(set(group)) == len(group) for group in found)
