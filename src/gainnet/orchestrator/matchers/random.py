"""The random matcher: the floor that anything deliberate must beat."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from gainnet.orchestrator.kernels.placement import first_come
from gainnet.orchestrator.matchers.certified import certified
from gainnet.orchestrator.plan import Plan
from gainnet.orchestrator.problem import Problem


@dataclass(frozen=True, slots=True)
class Random:
    """In order of arrival, each task takes one of its patterns that fit and are worth their set-ups, uniformly.

    Attributes:
        iterations: most iterations of the certificate's ascent.
    """

    iterations: int

    def match(self, problem: Problem, warm: Float[np.ndarray, " row"], rng: np.random.Generator) -> Plan:
        """See Matcher."""
        return certified(
            problem,
            warm,
            self.iterations,
            # Uniform scores: the greatest among those that fit is any of them, equally likely.
            lambda columns: first_come(columns, problem.rows, rng.random(len(columns.value))),
        )
