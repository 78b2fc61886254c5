"""Matching problems to learn from: those that a scenario poses in the middle of runs, where something is scarce."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from gainnet.errors import InputError
from gainnet.orchestrator.bound import columns_of, dual_bound
from gainnet.orchestrator.kernels.columns import Columns
from gainnet.orchestrator.plan import Plan, Status
from gainnet.orchestrator.problem import Problem
from gainnet.rng import stream
from gainnet.run import Run
from gainnet.scenario.load import change
from gainnet.scenario.scenario import Scenario
from gainnet.workers.workers import Workers

RUNS, PROBLEMS_A_RUN = 28, 8
WARM_UP_FRAMES, FRAMES, SPACING = 20, 200, 4
TASKS_MAX = 200
ENDS_RANGE = (0.5, 8.0)
EXCESS_MIN = 1e-3
"""Problems whose bound at zero prices is nearer to the certified one teach nothing about prices."""


@dataclass(frozen=True, slots=True)
class Posing:
    """A run to take problems from."""

    scenario: Scenario
    index: int


def scarce(scenario: Scenario, workers: Workers) -> list[tuple[Columns, int]]:
    """Problems (columns, rows) that a matcher can't solve by taking each task's best pattern, in the order of their runs.

    Each run has between half and eight times the scenario's ends, and every second one no foresight, which leaves more
    contention to the matcher. InputError where nothing is ever scarce.
    """
    jobs = [Posing(_varied(scenario, index), index) for index in range(RUNS)]
    found = {job.index: problems for job, problems in workers.map(pose, jobs, lambda job: f"run {job.index}")}
    problems = [problem for index in sorted(found) for problem in found[index]]
    if not problems:
        raise InputError(f"{scenario.name}: nothing is scarce in it, even with more ends: nothing to learn prices from")
    return problems


def pose(job: Posing) -> list[tuple[Columns, int]]:
    """The contended problems of one run, a few frames apart, since neighbours are alike."""
    run, taken = Run(job.scenario), []
    for _ in range(WARM_UP_FRAMES):
        run.step()
    for frame in range(FRAMES):
        problem = run.observe()
        plan = run.match()
        if frame % SPACING == 0 and problem.tasks <= TASKS_MAX and _contended(problem, plan):
            taken.append((columns_of(problem), problem.rows))
            if len(taken) == PROBLEMS_A_RUN:
                break
        run.commit(plan)
    return taken


def _varied(scenario: Scenario, index: int) -> Scenario:
    factor = math.exp(stream(scenario.seed, f"training.problems{index}").uniform(*np.log(ENDS_RANGE)))
    duration_s = (WARM_UP_FRAMES + FRAMES + 1) * scenario.frame_s
    overrides = [
        f"network.ends={max(2, round(scenario.network.ends * factor))}",
        "orchestrator.matcher=price",
        *["orchestrator.foresight=0"] * (index % 2),
    ]
    return change(scenario, overrides, seed=scenario.seed + index, duration_s=max(duration_s, scenario.duration_s))


def _contended(problem: Problem, plan: Plan) -> bool:
    if plan.status is Status.OPTIMAL:
        return False
    return dual_bound(problem, np.zeros(problem.rows)) > plan.bound * (1.0 + EXCESS_MIN)
