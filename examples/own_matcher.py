"""Drive a run with a matcher of your own: the best-value pattern that fits, tasks in the order of their values."""

from __future__ import annotations

import time

import numpy as np

import gainnet
from gainnet.measurement.record import Recorder
from gainnet.orchestrator.bound import ascend
from gainnet.orchestrator.plan import Plan, Status
from gainnet.orchestrator.problem import Problem


def most_valuable_first(problem: Problem) -> Plan:
    """A plan in value order that never exceeds a row, with a bound from dual ascent."""
    began = time.perf_counter()
    left, choice = problem.capacity.copy(), np.full(problem.tasks, -1)
    loaded: set[int] = set()
    owner = np.repeat(np.arange(problem.tasks), np.diff(problem.task_ptr))
    value = 0.0
    for pattern in np.argsort(-problem.value, kind="stable"):
        if choice[owner[pattern]] >= 0:
            continue
        demand = slice(problem.demand_ptr[pattern], problem.demand_ptr[pattern + 1])
        need = np.zeros(problem.rows)
        need[problem.demand_row[demand]] = problem.demand_amount[demand]
        new = [setup for setup in problem.setup[pattern] if setup >= 0 and setup not in loaded]
        for setup in new:
            if problem.setup_row[setup] >= 0:
                need[problem.setup_row[setup]] += problem.setup_size[setup]
        worth = problem.value[pattern] - problem.setup_cost[new].sum()
        if worth > 0.0 and (need <= left).all():
            left -= need
            loaded.update(new)
            choice[owner[pattern]] = pattern
            value += float(worth)
    decision_s = time.perf_counter() - began
    price, bound = ascend(problem, np.zeros(problem.rows), 50)
    return Plan(choice, price, value, max(bound, value), Status.FEASIBLE, decision_s)


def main() -> None:
    """Run `campus` with it and print what the report says."""
    scenario = gainnet.load("campus", ["duration_s=5"])
    run, recorder = gainnet.Run(scenario), Recorder(scenario)
    for _ in range(scenario.frames):
        run.commit(most_valuable_first(run.observe()), recorder)
    report = gainnet.report(recorder.close(run.execution.still_open(scenario.duration_s)))
    print(report["tasks"], report["qos"]["satisfaction"], report["orchestration"]["gap"])


if __name__ == "__main__":
    main()
