"""The dual bound holds for any prices, on any problem."""

from __future__ import annotations

from itertools import product

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import EDGE, Column, assemble, network

from gainnet.orchestrator.bound import ascend, dual_bound
from gainnet.orchestrator.checker import value_of, violations
from gainnet.orchestrator.plan import Plan, Status
from gainnet.orchestrator.problem import Problem

ROWS, SETUPS = 3, 2
amount = st.sampled_from([0.0, 0.25, 0.5, 1.0, 2.0])
columns = st.builds(
    lambda value, amounts, first, second: Column(
        value, {row: size for row, size in enumerate(amounts) if size > 0.0}, (first, second), EDGE, False
    ),
    st.floats(-1.0, 10.0),
    st.tuples(amount, amount, amount),
    st.integers(-1, SETUPS - 1),
    st.integers(-1, SETUPS - 1),
)
problems = st.builds(
    assemble,
    st.lists(st.lists(columns, max_size=3), min_size=1, max_size=4),
    st.tuples(amount, amount, amount).map(np.array),
    st.tuples(*[st.tuples(st.integers(-1, ROWS - 1), amount, st.floats(0.0, 5.0))] * SETUPS),
)
prices = st.tuples(*[st.floats(0.0, 20.0)] * ROWS).map(np.array)


def optimum(problem: Problem) -> float:
    """Value of the best plan, by trying them all with the checker."""
    best = 0.0
    options = [[-1, *range(problem.task_ptr[i], problem.task_ptr[i + 1])] for i in range(problem.tasks)]
    for choice in product(*options):
        plan = Plan(np.array(choice), np.zeros(problem.rows), 0.0, np.inf, Status.FEASIBLE, 0.0)
        value = value_of(problem, plan)
        honest = Plan(plan.choice, plan.price, value, np.inf, Status.FEASIBLE, 0.0)
        if value > best and not violations(problem, honest, tolerance=1e-12):
            best = value
    return best


@settings(deadline=None)  # the first case compiles
@given(problems, prices)
def test_any_prices_bound_the_optimum(problem: Problem, price: np.ndarray) -> None:
    best = optimum(problem)
    assert dual_bound(problem, price) >= best * (1.0 - 1e-12)
    climbed, bound = ascend(problem, price, 30)
    assert bound >= best * (1.0 - 1e-12)
    assert bound <= dual_bound(problem, price) * (1.0 + 1e-12)
    assert (climbed >= 0.0).all()


def test_ascent_improves_on_its_start() -> None:
    problem = network(np.random.default_rng(1), 20, 2.0)
    start = dual_bound(problem, np.zeros(problem.rows))
    price, bound = ascend(problem, np.zeros(problem.rows), 100)
    assert bound < 0.9 * start
    assert dual_bound(problem, price) < start
    # A warm start is never worse than where it starts.
    assert ascend(problem, price, 1)[1] <= dual_bound(problem, price) * (1.0 + 1e-12)
