"""Local decisions: every request is answered where it is asked, at broadcast prices, without the controller.

What a request asks of a row costs what the controller last said that it is worth; whether there is room, the row's owner
says. So an answer needs nobody else's requests and takes no round trip to the controller, and it is as good as the
prices are fresh. Prices are made outside the decision, from what was asked (see `gainnet.orchestrator.broadcast`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from gainnet.orchestrator.bound import columns_of, row_price
from gainnet.orchestrator.kernels.local import answer, asking
from gainnet.orchestrator.matchers.certified import certified
from gainnet.orchestrator.plan import Plan
from gainnet.orchestrator.problem import Problem


@dataclass(frozen=True, slots=True)
class Local:
    """In order of arrival, each task takes its best pattern at the prices it was told whose rows have room.

    Attributes:
        iterations: most iterations of the ascent that certifies the plan and makes the next prices.
    """

    iterations: int

    def match(self, problem: Problem, warm: Float[np.ndarray, " row"], rng: np.random.Generator) -> Plan:  # noqa: ARG002 (part of the protocol)
        """See Matcher. Both the edges and the controller know ``warm``."""
        return self.answer(problem, warm, warm)

    def answer(self, problem: Problem, told: Float[np.ndarray, " row"], known: Float[np.ndarray, " row"]) -> Plan:
        """The edges' answers at the prices that they were ``told``.

        ``known`` are the controller's own last prices, from which its ascent goes on. Both are values per unit.
        """
        return certified(
            problem, known, self.iterations, lambda columns: answer(columns, row_price(told, problem.capacity))
        )


def at_once(
    problem: Problem, told: Float[np.ndarray, " row"]
) -> tuple[Int[np.ndarray, " task"], Float[np.ndarray, " pattern"]]:
    """What `Local` answers at the prices ``told`` (value per unit), not certified, and what each pattern is worth at them.

    That is net of the set-ups it would open; -inf where its rows are worth more to others, or where it doesn't fit at all.
    """
    columns, price = columns_of(problem), row_price(told, problem.capacity)
    _, choice = answer(columns, price)
    score, charge = asking(columns, price)
    worth = np.full(problem.patterns, -np.inf)
    worth[columns.origin] = score - np.append(charge, 0.0)[columns.setup].sum(axis=1)  # -1 is the appended none
    return np.append(columns.origin, -1)[choice], worth
