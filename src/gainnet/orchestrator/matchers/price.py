"""The price matcher: row prices by dual ascent, regret decodings at those prices, ejection search."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import NDArray

from gainnet.orchestrator.bound import certify, columns_of, free_price, row_price
from gainnet.orchestrator.kernels.columns import Columns
from gainnet.orchestrator.kernels.search import decode, search
from gainnet.orchestrator.matchers.certified import OPTIMAL_GAP, planned
from gainnet.orchestrator.plan import Plan
from gainnet.orchestrator.problem import Problem

Prices = Float[np.ndarray, " row_and_pair"]
Proposal = Callable[[Prices, NDArray[np.uint64]], Iterable[Prices]]
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
        self,
        columns: Columns,
        rows: int,
        guess: Callable[[], Float[np.ndarray, " row"]],
        rng: np.random.Generator,
        propose: Proposal | None = None,
    ) -> tuple[Int[np.ndarray, " task"], float, float, Float[np.ndarray, " row_and_pair"]]:
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
        climbed, price = certify(columns, guess(), value, self.iterations)
        bound = min(bound, climbed)
        decoded, other = decode(columns, price, rows, 1 + self.perturbations, state)
        if decoded > value:
            value, choice = decoded, other
        for proposed in propose(price, state) if propose is not None else ():
            decoded, other = decode(columns, proposed, rows, 1, state)
            if decoded > value:
                value, choice = decoded, other
        rounds = self.effort * (len(choice) + SMALL)
        value = search(columns, price, rows, value, choice, bound, rounds, self.relative_gap, state)
        return choice, value, bound, price
