"""The exact matcher: a mixed-integer linear program, solved by SciPy's HiGHS."""

from __future__ import annotations

import ctypes
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import coo_array, csr_array, hstack, vstack

from gainnet.orchestrator.bound import columns_of, row_price
from gainnet.orchestrator.kernels.columns import SLACK, Columns
from gainnet.orchestrator.kernels.decide import certify, price_guided, settle
from gainnet.orchestrator.matchers.certified import OPTIMAL_GAP, planned
from gainnet.orchestrator.plan import Plan, Status
from gainnet.orchestrator.problem import Problem

ITERATIONS = 80
"""Of the ascent that makes the prices."""
RESTARTS, EFFORT = 8, 10
"""Of the heuristic plan that stands in where HiGHS has none, or a worse one, at the time limit."""
HIGHS_TIME_LIMIT = 1


@dataclass(frozen=True, slots=True)
class Exact:
    """Optimal within ``relative_gap``, or at the time limit the better of HiGHS's plan and a price-guided one.

    Attributes:
        time_limit_s: time that HiGHS may take.
        relative_gap: gap to its bound at which HiGHS stops.
    """

    time_limit_s: float
    relative_gap: float

    def match(self, problem: Problem, warm: Float[np.ndarray, " row"], rng: np.random.Generator) -> Plan:
        """See Matcher."""
        started = time.perf_counter()
        columns, prices = columns_of(problem), row_price(warm, problem.capacity)
        seed = np.uint64(rng.integers(1, 2**63))
        value, choice, bound, whole = price_guided(columns, prices, ITERATIONS, RESTARTS, EFFORT, seed, SLACK)
        status = None
        if len(columns.value) > 0 and value < bound * (1.0 - OPTIMAL_GAP):
            answer = self._answer(columns, problem.rows)
            if answer.x is not None:
                # HiGHS may exceed rows by its own tolerance: a pattern that then does not fit is placed anew.
                milp_value, milp_choice = settle(columns, problem.rows, answer.x[: len(columns.value)])
                if milp_value > value:
                    value, choice = milp_value, milp_choice
            if answer.mip_dual_bound is not None and np.isfinite(answer.mip_dual_bound):
                bound = min(bound, -float(answer.mip_dual_bound) * scale)
        return planned(problem, columns, choice, value, bound, whole, time.perf_counter() - started)
