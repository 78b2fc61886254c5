"""The price matcher: row prices by dual ascent, regret decodings at those prices, ejection search."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from gainnet.orchestrator.bound import row_price, columns_of
from gainnet.orchestrator.kernels.decide import price_guided
from gainnet.orchestrator.kernels.columns import SLACK
from gainnet.orchestrator.matchers.certified import planned
from gainnet.orchestrator.plan import Plan
from gainnet.orchestrator.problem import Problem


@dataclass(frozen=True, slots=True)
class Price:
    """Where nothing is scarce, each task's best pattern; else prices, decodings, search, until the gap is closed.

    Attributes:
        iterations: most iterations of the dual ascent.
        perturbations: decodings at perturbed prices, besides the one at the prices.
        effort: rounds of local search for each task.
    """

    iterations: int
    perturbations: int
    effort: int

    def match(self, problem: Problem, warm: Float[np.ndarray, " row"], rng: np.random.Generator) -> Plan:
        """See Matcher."""
        started = time.perf_counter()
        columns = columns_of(problem)
        # The search's own generator is compiled; its 64 bits must not all be 0.
        seed = np.uint64(rng.integers(1, 2**63))
        value, choice, bound, whole = price_guided(
            columns,
            row_price(warm, problem.capacity),
            self.iterations,
            1 + self.perturbations,
            self.effort,
            seed,
            SLACK,
        )
        return planned(problem, columns, choice, value, bound, whole, time.perf_counter() - started)
