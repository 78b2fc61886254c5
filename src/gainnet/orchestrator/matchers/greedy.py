"""The classical joint greedy: no prices, but every row and every task in view."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from gainnet.orchestrator.kernels.greedy import joint_greedy
from gainnet.orchestrator.matchers.certified import certified
from gainnet.orchestrator.plan import Plan
from gainnet.orchestrator.problem import Problem


@dataclass(frozen=True, slots=True)
class Greedy:
    """Again and again, over all tasks, the placement with the most value for what it takes of what is left.

    Attributes:
        iterations: most iterations of the certificate's ascent.
    """

    iterations: int

    def match(self, problem: Problem, warm: Float[np.ndarray, " row"], rng: np.random.Generator) -> Plan:  # noqa: ARG002 (part of the protocol)
        """See Matcher."""
        return certified(problem, warm, self.iterations, lambda columns: joint_greedy(columns, problem.rows))
