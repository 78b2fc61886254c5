"""A matching problem and what its tasks and patterns mean."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float, Int

from gainnet.demand.task import Tasks
from gainnet.orchestrator import stage_kernel as stages
from gainnet.orchestrator.plan import Plan
from gainnet.orchestrator.problem import Problem
from gainnet.orchestrator.task_kernel import TaskColumns
from gainnet.orchestrator.ways import Way, Ways


@dataclass(frozen=True, slots=True)
class Posed:
    """A matching problem and what its tasks and patterns mean.

    Attributes:
        problem: what the matcher sees.
        tasks: the tasks, in the problem's order.
        columns: the same, flat, for the kernels.
        ints: description of each pattern: see the column names in `gainnet.orchestrator.pattern_kernel`.
        floats: its steps, quality, energy (J), cost, planned completion (s from now) and least latency (s).
        placed: of tasks that are not matched, the pattern (a row of ints and floats past those of the problem), -1 for all
            others; None where every service is matched.
        ways: how patterns answer, None where each asks one model.
    """

    problem: Problem
    tasks: Tasks
    columns: TaskColumns
    ints: Int[np.ndarray, "pattern description"]
    floats: Float[np.ndarray, "pattern number"]
    placed: Int[np.ndarray, " task"] | None = None
    ways: Ways | None = None

    def choice(self, plan: Plan) -> Int[np.ndarray, " task"]:
        """The pattern of every task, -1 for a refusal: what the plan chose, and that of tasks that are not matched."""
        return plan.choice if self.placed is None else np.where(self.placed >= 0, self.placed, plan.choice)

    def asked(self, pattern: int) -> int:
        """The machine that a request of a pattern is sent to: the smaller model's, where two answer."""
        return int(self.asked_of()[pattern])

    def asked_of(self) -> Int[np.ndarray, " pattern"]:
        """The same of every pattern."""
        node = self.ints[:, stages.NODE]
        return node if self.ways is None else np.where(self.ways.way == Way.SPECULATION, self.ways.node, node)


def set_apart(posed: Posed, apart: Bool[np.ndarray, " task"]) -> Posed:
    """Take the patterns of some tasks out of the problem: each gets its best, and the rows keep what these leave."""
    problem = posed.problem
    counts, lengths = np.diff(problem.task_ptr), np.diff(problem.demand_ptr)
    keep = ~np.repeat(apart, counts)
    found = np.flatnonzero(apart & (counts > 0))
    chosen = np.array(
        [p + np.argmax(problem.value[p : p + n]) for p, n in zip(problem.task_ptr[found], counts[found], strict=True)],
        np.int64,
    )
    entries = np.repeat(np.bincount(chosen, minlength=problem.patterns), lengths) > 0
    setups = np.unique(problem.setup[chosen])
    setups = setups[(setups >= 0) & (problem.setup_row[setups] >= 0)]
    taken = np.bincount(problem.demand_row[entries], problem.demand_amount[entries], problem.rows)
    taken += np.bincount(problem.setup_row[setups], problem.setup_size[setups], problem.rows)
    placed = np.full(problem.tasks, -1)
    placed[found] = np.count_nonzero(keep) + np.arange(len(found))
    kept_entries = np.repeat(keep, lengths)
    left = replace(
        problem,
        task_ptr=np.concatenate([[0], np.cumsum(np.where(apart, 0, counts))]),
        value=problem.value[keep],
        demand_ptr=np.concatenate([[0], np.cumsum(lengths[keep])]),
        demand_row=problem.demand_row[kept_entries],
        demand_amount=problem.demand_amount[kept_entries],
        capacity=np.maximum(problem.capacity - taken, 0.0),
        setup=problem.setup[keep],
        tier=problem.tier[keep],
        nearest=problem.nearest[keep],
    )
    rows = np.concatenate([np.flatnonzero(keep), chosen])
    ways = None if posed.ways is None else posed.ways.taken(rows)
    return Posed(left, posed.tasks, posed.columns, posed.ints[rows], posed.floats[rows], placed, ways)
