"""The joint greedy: repeatedly the best placement over all tasks."""

from __future__ import annotations

import numpy as np

from gainnet.compiled import njit
from gainnet.orchestrator.kernels.columns import SLACK, Columns, Floats, Ints, lacking
from gainnet.orchestrator.kernels.placement import place

SCARCITY_FLOOR = 1e-3
EXPONENTS = np.array([0.0, 0.5, 1.0])


@njit
def densest(
    task: int,
    exponent: float,
    task_ptr: Ints,
    value: Floats,
    ptr: Ints,
    stop: Ints,
    row: Ints,
    share: Floats,
    setup: Ints,
    setup_row: Ints,
    setup_share: Floats,
    setup_cost: Floats,
    left: Floats,
    uses: Ints,
) -> tuple[float, int]:
    """The fitting pattern of a task with the greatest density, and that density plus what the second would lose.

    Density is value, less the cost of set-ups to open, over scarcity to an exponent; scarcity is the sum of the shares
    that the pattern would take of what is left.
    """
    first, second, arg = 0.0, 0.0, -1
    for p in range(task_ptr[task], task_ptr[task + 1]):
        worth, scarcity = value[p], SCARCITY_FLOOR
        for side in range(2):
            m = setup[p, side]
            if m >= 0 and uses[m] == 0:
                worth -= setup_cost[m]
        if worth <= 0.0:
            continue
        if lacking(ptr[p], stop[p], row, share, setup[p], setup_row, setup_share, left, uses) >= 0:
            continue
        for k in range(ptr[p], stop[p]):
            scarcity += share[k] / max(left[row[k]], SLACK)
        density = worth / scarcity**exponent
        if density > first:
            first, second, arg = density, first, p
        elif density > second:
            second = density
    return first + (first - second), arg


@njit
def fill(columns: Columns, rows: int, exponent: float) -> tuple[float, Ints]:
    """Value and choice of one greedy pass.

    The task of the highest score is scored again before it is served, since rows have filled meanwhile; all are scored
    again when a set-up opens, since patterns that share it then cost less.
    """
    task_ptr, value, ptr, stop, row, share = (
        columns.task_ptr, columns.value, columns.ptr, columns.stop, columns.row, columns.share,
    )  # fmt: skip
    setup, setup_row, setup_share, setup_cost = (
        columns.setup, columns.setup_row, columns.setup_share, columns.setup_cost,
    )  # fmt: skip
    tasks = len(task_ptr) - 1
    left, uses = np.ones(rows), np.zeros(len(setup_row), np.int64)
    choice, score, total = np.full(tasks, -1), np.full(tasks, np.inf), 0.0
    while tasks > 0:
        task = int(np.argmax(score))
        known = score[task]
        if known == -np.inf:
            break
        score[task], p = densest(
            task, exponent, task_ptr, value, ptr, stop, row, share,
            setup, setup_row, setup_share, setup_cost, left, uses,
        )  # fmt: skip
        if p < 0:
            score[task] = -np.inf
        elif score[task] >= known * (1.0 - 1e-12):
            opens = False
            for side in range(2):
                opens |= setup[p, side] >= 0 and uses[setup[p, side]] == 0
            total += place(p, value, ptr, stop, row, share, setup, setup_row, setup_share, setup_cost, left, uses)
            choice[task], score[task] = p, -np.inf
            if opens:
                for other in range(tasks):
                    if score[other] > -np.inf:
                        score[other] = np.inf
    return total, choice


@njit
def joint_greedy(columns: Columns, rows: int) -> tuple[float, Ints]:
    """The best of three greedy passes: by value, by density, and halfway."""
    best, best_choice = -np.inf, np.empty(0, np.int64)
    for exponent in EXPONENTS:
        worth, choice = fill(columns, rows, exponent)
        if worth > best:
            best, best_choice = worth, choice
    return best, best_choice
