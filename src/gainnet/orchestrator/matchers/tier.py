"""Matchers that always compute in one place: what a network does without orchestration."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float

from gainnet.orchestrator.kernels.placement import first_come
from gainnet.orchestrator.matchers.certified import certified
from gainnet.orchestrator.plan import Plan
from gainnet.orchestrator.problem import Problem

_TIER = {"end": 0, "edge": 1, "cloud": 2}


@dataclass(frozen=True, slots=True)
class FixedTier:
    """In order of arrival, each task takes the best allowed pattern that still fits, net of set-ups it must open.

    Attributes:
        place: where patterns may compute; "nearest" is the strongest cell's own edge.
        iterations: most iterations of the certificate's ascent.
    """

    place: Literal["end", "nearest", "edge", "cloud"]
    iterations: int

    def match(self, problem: Problem, warm: Float[np.ndarray, " row"], rng: np.random.Generator) -> Plan:  # noqa: ARG002 (part of the protocol)
        """See Matcher."""
        score = np.where(self.allowed(problem), problem.value, -np.inf)
        return certified(
            problem,
            warm,
            self.iterations,
            lambda columns: first_come(columns, problem.rows, score[columns.origin]),
        )

    def allowed(self, problem: Problem) -> Bool[np.ndarray, " pattern"]:
        """The patterns that compute where this matcher always does."""
        free = problem.tier < 0
        if self.place == "nearest":
            return np.asarray(free | (problem.nearest == 1))
        return np.asarray(free | (problem.tier == _TIER[self.place]))
