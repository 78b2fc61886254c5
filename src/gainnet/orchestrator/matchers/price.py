"""The price matcher: row prices by dual ascent, regret decodings at those prices, ejection search."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from jaxtyping import Float, Int

from gainnet.orchestrator.bound import certify, columns_of, free_price, row_price, sprint
from gainnet.orchestrator.kernels.assignment import exchange, stake
from gainnet.orchestrator.kernels.columns import Columns, Words
from gainnet.orchestrator.kernels.search import decode, search
from gainnet.orchestrator.matchers.certified import OPTIMAL_GAP, planned
from gainnet.orchestrator.plan import Plan
from gainnet.orchestrator.problem import Problem

Prices: TypeAlias = Float[np.ndarray, " row_and_pair"]
Guess: TypeAlias = Callable[[], Float[np.ndarray, " row"]]
Proposal: TypeAlias = Callable[[Prices, Words], Iterable[Prices]]
Choice: TypeAlias = Int[np.ndarray, " task"]
Decision: TypeAlias = tuple[Choice, float, float, Prices]

SMALL = 30
"""Tasks by which a small problem's search is longer than its size asks for."""


@dataclass(frozen=True, slots=True)
class Price:
    """Where nothing is scarce, each task's best pattern; else prices, decodings, search, until the gap is closed.

    Attributes:
        iterations: most iterations of the dual ascent.
        perturbations: decodings at perturbed prices, besides the one at the prices.
        effort: rounds of local search for each task.
        relative_gap: certified gap at which the search has done enough.
    """

    iterations: int
    perturbations: int
    effort: int
    relative_gap: float

    def match(self, problem: Problem, warm: Float[np.ndarray, " row"], rng: np.random.Generator) -> Plan:
        """See Matcher."""
        started = time.perf_counter()
        columns = columns_of(problem)
        decision = self.decide(columns, problem.rows, lambda: row_price(warm, problem.capacity), rng)
        return planned(problem, columns, *decision, time.perf_counter() - started)

    def decide(
        self, columns: Columns, rows: int, guess: Guess, rng: np.random.Generator, propose: Proposal | None = None
    ) -> Decision:
        """Choice, value, bound and prices, in the kernels' indices and units.

        ``guess`` gives the prices of whole rows from which the ascent starts; it is asked where something is scarce.
        ``propose`` makes further prices to decode at of those that the ascent found.
        """
        free = free_price(columns, rows)
        # The kernels' generator has 64 bits of state, which must not all be 0.
        state = rng.integers(1, 2**63, size=1).astype(np.uint64)
        value, choice = decode(columns, free, rows, 1, state)
        # Two points at zero prices: the second splits each set-up over those who used it at the first.
        bound, price = certify(columns, free[:rows], value, 2)
        if value >= bound * (1.0 - OPTIMAL_GAP):
            return choice, value, bound, price
        if single_row(columns):
            return self._exchanged(columns, guess(), value, choice, bound, state, propose)
        climbed, price = certify(columns, guess(), value, self.iterations)
        bound = min(bound, climbed)
        value, choice = self._decoded(columns, price, rows, value, choice, state, propose)
        value = search(columns, price, rows, value, choice, bound, self._rounds(choice), self.relative_gap, state)
        return choice, value, bound, price

    def _exchanged(
        self,
        columns: Columns,
        warm: Float[np.ndarray, " row"],
        value: float,
        choice: Choice,
        bound: float,
        state: Words,
        propose: Proposal | None,
    ) -> Decision:
        """Where tasks compete for single rows: the first plan may be far off, so prices come before it and after it.

        Where that plan refuses what must not be refused its value would throw the prices out of all proportion.
        """
        rows, reach = len(warm), bound - value
        varied = stake(columns)
        climbed, price = sprint(columns, warm, bound, min(reach, varied) if varied > 0.0 else reach, self.iterations)
        value, choice = self._decoded(columns, price, rows, value, choice, state, propose)
        value = exchange(columns, price, rows, value, choice, climbed, self._rounds(choice), self.relative_gap, state)
        bound, price = certify(columns, price[:rows], value, self.iterations)
        return choice, value, min(bound, climbed), price

    def _decoded(
        self,
        columns: Columns,
        price: Prices,
        rows: int,
        value: float,
        choice: Choice,
        state: Words,
        propose: Proposal | None,
    ) -> tuple[float, Choice]:
        """The best of a plan, the decodings at and around the prices, and those at what is proposed."""
        decoded, other = decode(columns, price, rows, 1 + self.perturbations, state)
        if decoded > value:
            value, choice = decoded, other
        for proposed in propose(price, state) if propose is not None else ():
            decoded, other = decode(columns, proposed, rows, 1, state)
            if decoded > value:
                value, choice = decoded, other
        return value, choice

    def _rounds(self, choice: Choice) -> int:
        """Rounds of local search."""
        return self.effort * (len(choice) + SMALL)


def single_row(columns: Columns) -> bool:
    """Whether every pattern draws on exactly one row and needs no set-up, as in an assignment problem."""
    patterns = len(columns.value)
    return len(columns.pair_setup) == 0 and len(columns.row) == patterns and bool((np.diff(columns.ptr) == 1).all())
