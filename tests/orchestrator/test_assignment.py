"""The price matcher where every pattern draws on exactly one row: assignment problems, with and without refusals."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from problems import EDGE, Column, assemble, assignment, network

from gainnet.orchestrator.bound import columns_of
from gainnet.orchestrator.checker import violations
from gainnet.orchestrator.matchers.exact import Exact
from gainnet.orchestrator.matchers.price import Price, single_row
from gainnet.orchestrator.plan import Plan
from gainnet.orchestrator.problem import Problem

NONE = (-1, -1)


def drawn(seed: int, tasks: int, rows: int, patterns: int, prize: float) -> Problem:
    """A random problem of single-row patterns, several of a task on the same row; the greater the prize, the worse a
    refusal."""
    rng = np.random.default_rng(seed)
    columns = [
        [
            Column(prize + rng.uniform(-1.0, 9.0), {int(rng.integers(rows)): rng.uniform(1.0, 10.0)}, NONE, EDGE, False)
            for _ in range(patterns)
        ]
        for _ in range(tasks)
    ]
    return assemble(columns, rng.uniform(0.8, 1.4, rows) * 4.0 * tasks / rows)


def optimum(problem: Problem) -> float:
    """Value of the best plan, by trying them all."""
    best = 0.0
    options = [[-1, *range(problem.task_ptr[i], problem.task_ptr[i + 1])] for i in range(problem.tasks)]
    for choice in product(*options):
        taken = [pattern for pattern in choice if pattern >= 0]
        used = np.bincount(problem.demand_row[taken], problem.demand_amount[taken], problem.rows) if taken else 0.0
        if (used <= problem.capacity).all():
            best = max(best, float(problem.value[taken].sum()))
    return best


def match(problem: Problem, effort: int, seed: int = 1, *, iterations: int = 200, relative_gap: float = 0.0) -> Plan:
    matcher = Price(iterations=iterations, perturbations=5, effort=effort, relative_gap=relative_gap)
    return matcher.match(problem, np.zeros(problem.rows), np.random.default_rng(seed))


@pytest.mark.parametrize("prize", [0.0, 200.0])
@pytest.mark.parametrize("seed", range(10))
@pytest.mark.untraced
def test_tiny_problems_are_solved(seed: int, prize: float) -> None:
    problem = drawn(seed, 6, 3, 4, prize)
    best = optimum(problem)
    plan = match(problem, 100)
    assert violations(problem, plan, tolerance=1e-8) == []
    # Where some task must be refused at a loss far above all other differences the search may freeze next to the best.
    assert plan.value == pytest.approx(best, rel=1e-6 if prize == 0.0 else 1e-3)
    assert plan.value <= best * (1.0 + 1e-12)
    assert plan.bound >= best * (1.0 - 1e-12)


@pytest.mark.parametrize("seed", range(5))
def test_refusals_that_pay_are_made(seed: int) -> None:
    problem = drawn(seed, 40, 4, 3, 0.0)
    scarce = assemble(
        [
            [Column(float(problem.value[p]), {int(problem.demand_row[p]): float(problem.demand_amount[p])}, NONE, EDGE, True)
             for p in range(problem.task_ptr[i], problem.task_ptr[i + 1])]
            for i in range(problem.tasks)
        ],
        problem.capacity / 4.0,
    )  # fmt: skip
    plan, best = match(scarce, 100), Exact(10.0, 1e-6).match(scarce, np.zeros(4), np.random.default_rng(1))
    assert violations(scarce, plan) == []
    assert (plan.choice < 0).any()
    assert best.value * 0.99 <= plan.value <= best.value * (1.0 + 1e-6)
    assert plan.bound >= best.value * (1.0 - 1e-9)


@pytest.mark.parametrize(("agents", "jobs"), [(5, 40), (10, 60)])
def test_hard_assignments_are_near_the_optimum(agents: int, jobs: int) -> None:
    problem = assignment(np.random.default_rng(5), agents, jobs)
    plan = match(problem, 100)
    assert violations(problem, plan) == []
    assert (plan.choice >= 0).all()
    # Values are 1000 less the cost: the gap is that of the costs, and the bound is near the linear relaxation's.
    cost, least = 1000.0 * jobs - plan.value, 1000.0 * jobs - plan.bound
    assert cost - least < 0.03 * least


def test_more_effort_is_better_and_prices_are_good() -> None:
    problem = assignment(np.random.default_rng(2), 10, 100)
    values = [np.mean([match(problem, effort, seed).value for seed in range(3)]) for effort in (0, 5, 100)]
    assert values[0] < values[1] < values[2]
    assert match(problem, 5, iterations=200).bound <= match(problem, 5, iterations=10).bound


def test_enough_is_enough() -> None:
    problem = assignment(np.random.default_rng(2), 5, 100)
    near = match(problem, 100, relative_gap=0.01)
    assert near.gap <= 0.01
    assert near.value < match(problem, 100).value


def test_warm_prices_are_a_start() -> None:
    problem = assignment(np.random.default_rng(4), 5, 50)
    plan = match(problem, 10)
    warm = Price(25, 0, 0, 0.0).match(problem, plan.price, np.random.default_rng(1))
    assert warm.bound < match(problem, 0, iterations=25).bound


def test_only_single_rows_count() -> None:
    assert single_row(columns_of(assignment(np.random.default_rng(1), 3, 5)))
    assert not single_row(columns_of(network(np.random.default_rng(1), 5)))
    loose = Column(1.0, {}, NONE, EDGE, True)
    pair = Column(1.0, {0: 1.0, 1: 1.0}, NONE, EDGE, True)
    opened = Column(1.0, {0: 1.0}, (0, -1), EDGE, True)
    for odd in (loose, pair, opened):
        problem = assemble([[odd, Column(1.0, {0: 1.0}, NONE, EDGE, True)]], np.ones(2), [(-1, 0.0, 0.5)])
        assert not single_row(columns_of(problem))
    # On average one entry each is not enough.
    assert not single_row(columns_of(assemble([[loose, pair]], np.ones(2))))


def test_dear_refusals_leave_the_prices_alone() -> None:
    plain = assignment(np.random.default_rng(6), 10, 80)
    dear = replace(plain, value=plain.value + 1e5)
    assert match(dear, 50).bound - 80 * 1e5 == pytest.approx(match(plain, 50).bound, rel=1e-3)
