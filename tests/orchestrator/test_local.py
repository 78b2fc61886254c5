"""Local decisions: what each task takes at the prices it was told, and whose prices the certificate goes on from."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from problems import CLOUD, EDGE, END, Column, assemble, network

from gainnet.orchestrator.checker import violations
from gainnet.orchestrator.matchers.local import Local
from gainnet.orchestrator.matchers.price import Price
from gainnet.orchestrator.plan import Plan
from gainnet.orchestrator.problem import Problem

NONE = (-1, -1)
LOCAL = Local(100)


def told(problem: Problem, price: list[float] | np.ndarray) -> Plan:
    """The answers at these prices of a unit of each row."""
    plan = LOCAL.answer(problem, np.asarray(price, dtype=np.float64), np.zeros(problem.rows))
    assert violations(problem, plan) == []
    return plan


def two_places(tasks: int, capacity: list[float]) -> Problem:
    """Tasks that would rather go to row 0 than to row 1."""
    columns = [Column(3.0, {0: 1.0}, NONE, EDGE, True), Column(2.0, {1: 1.0}, NONE, CLOUD, False)]
    return assemble([columns] * tasks, np.array(capacity))


@pytest.mark.parametrize("seed", range(4))
def test_where_nothing_is_scarce_local_and_price_choose_alike(seed: int) -> None:
    problem = network(np.random.default_rng(seed), 25, 0.0, setup_cost=0.0)
    central = Price(100, 3, 5, 2e-3).match(problem, np.zeros(problem.rows), np.random.default_rng(1))
    plan = LOCAL.match(problem, np.zeros(problem.rows), np.random.default_rng(1))
    np.testing.assert_array_equal(plan.choice, central.choice)
    assert plan.value == pytest.approx(central.value)


def test_a_full_row_sends_the_next_in_line_to_its_next_best() -> None:
    np.testing.assert_array_equal(told(two_places(4, [1.0, 2.0]), [0.0, 0.0]).choice, [0, 3, 5, -1])


def test_prices_move_everyone_and_no_pattern_is_taken_at_a_loss() -> None:
    problem = two_places(3, [9.0, 9.0])
    np.testing.assert_array_equal(told(problem, [0.9, 0.0]).choice, [0, 2, 4])
    np.testing.assert_array_equal(told(problem, [1.1, 0.0]).choice, [1, 3, 5])
    np.testing.assert_array_equal(told(problem, [3.1, 2.1]).choice, [-1, -1, -1])


def test_nobody_waits_for_who_is_worth_more() -> None:
    tasks = [[Column(value, {0: 1.0}, NONE, EDGE, True)] for value in (1.0, 5.0)]
    np.testing.assert_array_equal(told(assemble(tasks, np.array([1.0])), [0.5]).choice, [0, -1])
    np.testing.assert_array_equal(told(assemble(tasks, np.array([1.0])), [1.5]).choice, [-1, 1])


@pytest.mark.parametrize("kept", [1, 7, 19])
def test_no_task_looks_at_those_behind_it(kept: int) -> None:
    problem = network(np.random.default_rng(5), 20, 2.0)
    price = np.random.default_rng(6).uniform(0.0, 0.5, problem.rows) / np.maximum(problem.capacity, 1e-9)
    whole = told(problem, price)
    fewer = dataclasses.replace(
        problem,
        task_ptr=problem.task_ptr[: kept + 1],
        **{name: getattr(problem, name)[: problem.task_ptr[kept]] for name in ("value", "setup", "tier", "nearest")},
        demand_ptr=problem.demand_ptr[: problem.task_ptr[kept] + 1],
    )
    assert (whole.choice >= 0).any()
    np.testing.assert_array_equal(told(fewer, price).choice, whole.choice[:kept])


def test_who_opens_a_set_up_pays_for_it_and_its_memory_and_others_share_it() -> None:
    home = Column(1.0, {}, NONE, END, False)
    tasks = [[Column(value, {0: 1.0}, (0, -1), EDGE, True), home] for value in (1.8, 2.2, 1.1)]
    problem = assemble(tasks, np.array([9.0, 4.0]), [(1, 2.0, 0.5)])
    # Opening costs 0.5 and 2 units of memory at 0.25 each: too dear for the first, not for the second.
    np.testing.assert_array_equal(told(problem, [0.0, 0.25]).choice, [1, 2, 4])
    np.testing.assert_array_equal(told(problem, [0.0, 0.0]).choice, [0, 2, 4])
    np.testing.assert_array_equal(told(problem, [0.0, 9.0]).choice, [1, 3, 5])


def test_the_certificate_goes_on_from_what_the_controller_knows() -> None:
    problem = network(np.random.default_rng(3), 30, 1.5)
    best = Price(300, 3, 5, 0.0).match(problem, np.zeros(problem.rows), np.random.default_rng(1))
    short, stale = Local(1), np.zeros(problem.rows)
    assert short.answer(problem, stale, best.price).bound < short.answer(problem, stale, stale).bound
    np.testing.assert_array_equal(
        short.answer(problem, stale, best.price).choice, short.answer(problem, stale, stale).choice
    )


def test_good_prices_make_good_local_answers() -> None:
    lost = []
    for seed in range(6):
        problem = network(np.random.default_rng(seed), 40, 1.5, setup_cost=0.0)
        best = Price(300, 3, 5, 0.0).match(problem, np.zeros(problem.rows), np.random.default_rng(1))
        blind, priced = told(problem, np.zeros(problem.rows)), told(problem, best.price)
        assert priced.value <= best.bound
        lost.append((1.0 - blind.value / best.value, 1.0 - priced.value / best.value))
    assert np.mean([priced for _, priced in lost]) < np.mean([blind for blind, _ in lost])
