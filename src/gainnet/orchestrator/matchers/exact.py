"""The exact matcher: a mixed-integer linear program, solved by the HiGHS that SciPy carries."""

from __future__ import annotations

import ctypes
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
from jaxtyping import Float, Int
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import block_array, coo_array, csc_array

from gainnet.orchestrator.bound import columns_of, row_price
from gainnet.orchestrator.kernels.columns import Columns
from gainnet.orchestrator.kernels.placement import place_in_order
from gainnet.orchestrator.matchers.certified import OPTIMAL_GAP, planned
from gainnet.orchestrator.matchers.price import Price
from gainnet.orchestrator.plan import Plan, Status
from gainnet.orchestrator.problem import Problem

FALLBACK = Price(iterations=100, perturbations=7, effort=10, relative_gap=0.0)
"""Makes the prices, and the plan that stands where HiGHS has none or a worse one at its time limit."""

STATUS = {0: Status.OPTIMAL, 1: Status.TIME_LIMIT}
"""Of SciPy's codes; any other leaves the plan as good as its own gap says."""


@dataclass(frozen=True, slots=True)
class Exact:
    """Optimal within ``relative_gap``; at the time limit the better of HiGHS's plan and a price-guided one.

    Attributes:
        time_limit_s: time that HiGHS may take.
        relative_gap: gap to its bound at which HiGHS stops.
    """

    time_limit_s: float
    relative_gap: float

    def match(self, problem: Problem, warm: Float[np.ndarray, " row"], rng: np.random.Generator) -> Plan:
        """See Matcher. The bound is the smaller of HiGHS's and the dual ascent's."""
        started = time.perf_counter()
        columns = columns_of(problem)
        guess = row_price(warm, problem.capacity)
        choice, value, bound, price = FALLBACK.decide(columns, problem.rows, lambda: guess, rng)
        status = None
        if value < bound * (1.0 - OPTIMAL_GAP):
            scale = float(columns.value.max())
            with _silence():
                answer = milp(**_program(columns, problem.rows, scale), options=cast(Any, self._options()))
            status = STATUS.get(answer.status)
            if answer.x is not None:
                milp_value, milp_choice = _placed(columns, problem.rows, answer.x[: len(columns.value)])
                if milp_value > value:
                    value, choice = milp_value, milp_choice
            if answer.mip_dual_bound is not None:
                bound = min(bound, -float(answer.mip_dual_bound) * scale)
        plan = planned(problem, columns, choice, value, bound, price, time.perf_counter() - started)
        return plan if status is None else replace(plan, status=status)

    def _options(self) -> dict[str, float]:
        return {"time_limit": self.time_limit_s, "mip_rel_gap": self.relative_gap}


def _program(columns: Columns, rows: int, scale: float) -> dict[str, Any]:
    """The arguments of ``milp``: patterns, then set-ups; rows, then pairs (``sum x <= y``), then tasks."""
    patterns, setups, pairs = len(columns.value), len(columns.setup_row), len(columns.pair_setup)
    tasks = len(columns.task_ptr) - 1
    # The entries of a pattern are its demands and its pairs already.
    drawn = csc_array((columns.share, columns.row, columns.ptr), shape=(rows + pairs, patterns))
    # A set-up of infinite share fits nowhere, so no pattern needs it.
    sized = np.flatnonzero((columns.setup_row >= 0) & np.isfinite(columns.setup_share))
    opened = coo_array(
        (
            np.concatenate([columns.setup_share[sized], np.full(pairs, -1.0)]),
            (
                np.concatenate([columns.setup_row[sized], rows + np.arange(pairs)]),
                np.concatenate([sized, columns.pair_setup]),
            ),
        ),
        shape=(rows + pairs, setups),
    )
    task = np.repeat(np.arange(tasks), np.diff(columns.task_ptr))
    once = coo_array((np.ones(patterns), (task, np.arange(patterns))), shape=(tasks, patterns))
    limit = np.concatenate([np.ones(rows), np.zeros(pairs), np.ones(tasks)])
    return {
        "c": np.concatenate([-columns.value, columns.setup_cost]) / scale,
        "constraints": LinearConstraint(block_array([[drawn, opened], [once, None]], format="csr"), -np.inf, limit),
        "bounds": Bounds(0.0, 1.0),
        "integrality": np.ones(patterns + setups),
    }


def _placed(columns: Columns, rows: int, x: Float[np.ndarray, " kept"]) -> tuple[float, Int[np.ndarray, " task"]]:
    """Value and choice of a MILP answer; what exceeds a row by HiGHS's tolerance, but not by ours, is left out."""
    choice = np.full(len(columns.task_ptr) - 1, -1)
    left, uses = np.ones(rows), np.zeros(len(columns.setup_row), np.int64)
    score = np.where(x > 0.5, x, -np.inf)
    # No charge for opening: the program has weighed what the set-ups cost.
    value = place_in_order(columns, np.arange(len(choice)), score, np.zeros(len(uses)), left, uses, choice)
    return value, choice


@contextmanager
def _silence() -> Iterator[None]:
    """Keep HiGHS's stray messages (it prints some whatever its options) off standard output, which may be JSON."""
    flush = ctypes.CDLL(None).fflush
    sys.stdout.flush()
    flush(None)
    with open(os.devnull, "wb") as nowhere:
        kept = os.dup(1)
        os.dup2(nowhere.fileno(), 1)
        try:
            yield
        finally:
            flush(None)
            os.dup2(kept, 1)
            os.close(kept)
