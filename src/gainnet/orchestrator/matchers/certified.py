"""Plans of matchers that make no prices: decide first, then certify by a dual ascent outside the decision's time."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
from jaxtyping import Float, Int

from gainnet.orchestrator.bound import certify, columns_of, row_price, unit_price
from gainnet.orchestrator.kernels.columns import Columns
from gainnet.orchestrator.plan import Plan, Status
from gainnet.orchestrator.problem import Problem

OPTIMAL_GAP = 1e-8
"""Relative gap under which a plan counts as optimal: the bound's allowance for rounding is smaller."""

Decision = Callable[[Columns], tuple[float, Int[np.ndarray, " task"]]]


def certified(problem: Problem, warm: Float[np.ndarray, " row"], iterations: int, decide: Decision) -> Plan:
    """The plan that ``decide`` makes (its value, and its choice in columns), certified by an ascent from ``warm``."""
    started = time.perf_counter()
    columns = columns_of(problem)
    value, choice = decide(columns)
    decision_s = time.perf_counter() - started
    bound, price = certify(columns, row_price(warm, problem.capacity), value, iterations)
    return planned(problem, columns, choice, value, bound, price, decision_s)


def planned(
    problem: Problem,
    columns: Columns,
    choice: Int[np.ndarray, " task"],
    value: float,
    bound: float,
    price: Float[np.ndarray, " row_and_pair"],
    decision_s: float,
) -> Plan:
    """A Plan in the problem's own indices and units, from the kernels' (``price``: whole rows, then pairs)."""
    status = Status.OPTIMAL if value >= bound * (1.0 - OPTIMAL_GAP) else Status.FEASIBLE
    if problem.tasks == 0:
        status = Status.EMPTY
    # A refusal is -1, the last place: the appended -1.
    original = np.append(columns.origin, -1)[choice]
    unit = unit_price(price[: problem.rows], problem.capacity)
    return Plan(original, unit, float(value), max(bound, float(value)), status, decision_s)
