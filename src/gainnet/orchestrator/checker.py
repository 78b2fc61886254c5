"""An independent judge of plans: slow, plain, and sharing no code with the matchers."""

from __future__ import annotations

from gainnet.orchestrator.plan import Plan
from gainnet.orchestrator.problem import Problem

TOLERANCE = 1e-6
"""Relative excess of a row, or error of a value, that counts as rounding (MILP codes stop at this)."""


def violations(problem: Problem, plan: Plan, tolerance: float = TOLERANCE) -> list[str]:
    """Everything that is wrong with a plan, one sentence each; empty when it is feasible and states its value."""
    if len(plan.choice) != problem.tasks:
        return [f"{len(plan.choice)} choices for {problem.tasks} tasks"]
    found: list[str] = []
    chosen: list[int] = []
    for task in range(problem.tasks):
        pattern = int(plan.choice[task])
        if pattern == -1:
            continue
        if problem.task_ptr[task] <= pattern < problem.task_ptr[task + 1]:
            chosen.append(pattern)
        else:
            found.append(f"task {task} has pattern {pattern}, which is not its own")
    drawn = [0.0] * problem.rows
    opened: set[int] = set()
    for pattern in chosen:
        for entry in range(problem.demand_ptr[pattern], problem.demand_ptr[pattern + 1]):
            drawn[int(problem.demand_row[entry])] += float(problem.demand_amount[entry])
        opened |= {int(setup) for setup in problem.setup[pattern] if setup >= 0}
    for setup in opened:
        if problem.setup_row[setup] >= 0:
            drawn[int(problem.setup_row[setup])] += float(problem.setup_size[setup])
    found += [
        f"row {row} has {problem.capacity[row]} and {drawn[row]} is drawn"
        for row in range(problem.rows)
        if drawn[row] > float(problem.capacity[row]) * (1.0 + tolerance)
    ]
    value = value_of(problem, plan)
    if abs(value - plan.value) > tolerance * max(1.0, abs(value)):
        found.append(f"the plan states value {plan.value}, it is worth {value}")
    if plan.bound < plan.value - tolerance * max(1.0, abs(plan.value)):
        found.append(f"the bound {plan.bound} is below the value {plan.value}")
    if any(not price >= 0.0 for price in plan.price):
        found.append("a price is negative or not a number")
    return found


def value_of(problem: Problem, plan: Plan) -> float:
    """Value of the chosen patterns less the cost of the set-ups that they need."""
    total = 0.0
    opened: set[int] = set()
    for pattern in plan.choice:
        if pattern >= 0:
            total += float(problem.value[pattern])
            opened |= {int(setup) for setup in problem.setup[pattern] if setup >= 0}
    return total - sum(float(problem.setup_cost[setup]) for setup in opened)
