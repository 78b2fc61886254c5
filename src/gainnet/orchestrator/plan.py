"""What a matcher answers: one pattern a task or a refusal, row prices, and a certificate."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from jaxtyping import Float, Int


class Status(StrEnum):
    """How far a matcher got. Failure is a value, not an exception."""

    OPTIMAL = "optimal"
    FEASIBLE = "feasible"
    TIME_LIMIT = "time_limit"
    EMPTY = "empty"


@dataclass(frozen=True, slots=True)
class Plan:
    """A feasible answer to a Problem, with its certificate.

    Attributes:
        choice: the pattern of each task, -1 for a refusal.
        price: price >= 0 of each row (value per unit); zero where the matcher makes none.
        value: value of the choice, less the cost of the set-ups it needs.
        bound: no plan of this problem is worth more.
        status: how far the matcher got.
        decision_s: wall-clock time of the decision, in s.
    """

    choice: Int[np.ndarray, " task"]
    price: Float[np.ndarray, " row"]
    value: float
    bound: float
    status: Status
    decision_s: float

    @property
    def gap(self) -> float:
        """Certified relative gap ``(bound - value) / bound``, in [0, 1] where value >= 0; 0 for an empty problem."""
        return max(0.0, self.bound - self.value) / self.bound if self.bound > 0.0 else 0.0
