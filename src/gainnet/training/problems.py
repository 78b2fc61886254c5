"""Matching problems to learn from: those that a scenario poses in the middle of runs, where something is scarce."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from gainnet.orchestrator.bound import columns_of, dual_bound
from gainnet.orchestrator.kernels.columns import Columns
from gainnet.orchestrator.plan import Plan, Status
from gainnet.orchestrator.problem import Problem
from gainnet.rng import stream
from gainnet.run import Run
from gainnet.scenario.load import change
from gainnet.scenario.scenario import Scenario

WARM_UP_FRAMES = 20
FRAMES_A_RUN = 8
SPACING = 4
TASKS_MAX = 200
ENDS_RANGE = (0.5, 8.0)
EXCESS_MIN = 1e-3
"""Problems whose bound at zero prices is nearer to the certified one teach nothing about prices."""
TRIES = 8
"""Frames looked at, for each wanted, before a run is given up: nothing is scarce in it."""


def scarce(scenario: Scenario, count: int) -> Iterator[tuple[Columns, int]]:
    """``count`` problems (columns, rows) that a matcher can't solve by taking each task's best pattern.

    Each run has between half and eight times the scenario's ends, and every second one no foresight, which leaves more
    contention to the matcher. Frames are a few apart, since neighbours are alike.
    """
    rng, found, index = stream(scenario.seed, "training.problems"), 0, 0
    while found < count:
        factor = math.exp(rng.uniform(*np.log(ENDS_RANGE)))
        ends = max(2, round(scenario.network.ends * factor))
        overrides = [f"network.ends={ends}", "orchestrator.matcher=price"]
        overrides += ["orchestrator.foresight=0"] * (index % 2)
        run = Run(change(scenario, overrides, seed=scenario.seed + index))
        for _ in range(WARM_UP_FRAMES):
            run.step()
        taken, index = 0, index + 1
        for frame in range(FRAMES_A_RUN * TRIES * SPACING):
            problem = run.observe()
            plan = run.match()
            run.commit(plan)
            if frame % SPACING == 0 and problem.tasks <= TASKS_MAX and _contended(problem, plan):
                yield columns_of(problem), problem.rows
                taken, found = taken + 1, found + 1
            if taken == FRAMES_A_RUN or found == count:
                break


def _contended(problem: Problem, plan: Plan) -> bool:
    if plan.status is Status.OPTIMAL:
        return False
    return dual_bound(problem, np.zeros(problem.rows)) > plan.bound * (1.0 + EXCESS_MIN)
