"""The dual bound, and row prices that make it small.

For any prices mu >= 0 of the rows, and any split ``sum_i w_im = 1`` of each set-up m over the tasks i that have a
pattern needing it, no plan is worth more than

    D(mu, w) = sum_i max(0, max_p v_p - a_p . mu - sum_m w_im F_m(mu)) + mu . C,   F_m(mu) = cost_m + mu_row(m) size_m,

with m over the set-ups that p needs. Proof: a feasible plan x, y has ``x_p <= y_m`` where p needs m, so a task i that
uses m has y_m = 1, and m's full price ``F_m y_m = sum_i w_im F_m y_m`` is at least what its users are charged. Hence
``v.x - cost.y <= v.x - cost.y + mu.(C - a x - size y) = mu.C + sum_p (v_p - a_p.mu) x_p - sum_m F_m y_m
<= mu.C + sum_p (v_p - a_p.mu - sum_m w_im F_m) x_p <= D``. Patterns that do not fit an empty pool, or are worth
nothing, are in no plan worth having and are left out, which makes the bound smaller than the linear relaxation's.

A plan may exceed a row by rounding, ``SLACK`` of its capacity: the bounds here count that slack as capacity.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from gainnet.orchestrator.kernels.ascent import climb
from gainnet.orchestrator.kernels.columns import SLACK, Columns, columnise
from gainnet.orchestrator.kernels.search import decode
from gainnet.orchestrator.problem import Problem

SPRINT = 25
"""Iterations towards one target."""
CUT = 4.0


def columns_of(problem: Problem) -> Columns:
    """The problem as the kernels read it."""
    return columnise(
        problem.task_ptr,
        problem.value,
        problem.demand_ptr,
        problem.demand_row,
        problem.demand_amount,
        problem.capacity,
        problem.setup,
        problem.setup_row,
        problem.setup_size,
        problem.setup_cost,
    )


def row_price(price: Float[np.ndarray, " row"], capacity: Float[np.ndarray, " row"]) -> Float[np.ndarray, " row"]:
    """Price of a whole row from price per unit; what is no finite price >= 0 counts as 0."""
    whole = price * capacity
    return np.where((whole > 0.0) & (whole < np.inf), whole, 0.0)


def unit_price(whole: Float[np.ndarray, " row"], capacity: Float[np.ndarray, " row"]) -> Float[np.ndarray, " row"]:
    """Price per unit from price of a whole row; 0 for a row without capacity, which no plan can use."""
    unit = np.zeros_like(whole)
    np.divide(whole, capacity, out=unit, where=capacity > 0.0)
    return unit


def certify(
    columns: Columns, warm: Float[np.ndarray, " row"], value: float, iterations: int
) -> tuple[float, Float[np.ndarray, " row_and_pair"]]:
    """A bound around a plan worth ``value``, and prices of whole rows with burdens of pairs, from row prices ``warm``.

    The bound is that of the best of at most ``iterations`` points; the ascent stops early where it meets ``value``.
    """
    dual, price = climb(columns, warm, value, iterations)
    return dual + SLACK * float(price[: len(warm)].sum()), price


def sprint(
    columns: Columns, warm: Float[np.ndarray, " row"], bound: float, reach: float, iterations: int
) -> tuple[float, Float[np.ndarray, " row_and_pair"]]:
    """As ``certify``, where no plan is good enough to aim at: the target is ``reach`` below the best bound so far.

    Each sprint that misses its target divides the reach by CUT.
    """
    price = warm
    for _ in range(max(iterations // SPRINT, 1)):
        target = bound - reach
        climbed, price = certify(columns, price[: len(warm)], target, SPRINT)
        bound = min(bound, climbed)
        if climbed > target:
            reach /= CUT
    return bound, price


def dual_bound(problem: Problem, price: Float[np.ndarray, " row"]) -> float:
    """D at these row prices (value per unit), each set-up split equally. Valid for any prices >= 0."""
    return certify(columns_of(problem), row_price(price, problem.capacity), np.inf, 1)[0]


def ascend(
    problem: Problem, warm: Float[np.ndarray, " row"], iterations: int
) -> tuple[Float[np.ndarray, " row"], float]:
    """Row prices (value per unit) from ``warm``, and the least bound met on the way, over at most ``iterations``."""
    columns = columns_of(problem)
    # Steps aim at the value of some plan; any plan will do.
    value, _ = decode(columns, free_price(columns, problem.rows), problem.rows, 1, np.ones(1, np.uint64))
    bound, price = certify(columns, row_price(warm, problem.capacity), value, iterations)
    return unit_price(price[: problem.rows], problem.capacity), bound


def free_price(columns: Columns, rows: int) -> Float[np.ndarray, " row_and_pair"]:
    """Prices and burdens of zero."""
    return np.zeros(rows + len(columns.pair_setup))
