"""Decisions one by one, each at prices alone."""

from __future__ import annotations

import numpy as np

from gainnet.compiled import njit
from gainnet.orchestrator.kernels.columns import Columns, Floats, Ints
from gainnet.orchestrator.kernels.placement import best_fit, place


@njit
def asking(columns: Columns, price: Floats) -> tuple[Floats, Floats]:
    """What each pattern is worth at these prices of whole rows, and what each set-up costs whoever opens it.

    A pattern that is worth nothing at them scores -inf: its rows are worth more to others.
    """
    value, ptr, stop, row, share = columns.value, columns.ptr, columns.stop, columns.row, columns.share
    setup_row, setup_share = columns.setup_row, columns.setup_share
    score, charge = value.copy(), columns.setup_cost.copy()
    for p in range(len(score)):
        for k in range(ptr[p], stop[p]):
            score[p] -= share[k] * price[row[k]]
        if score[p] <= 0.0:
            score[p] = -np.inf
    for m in range(len(charge)):
        if setup_row[m] >= 0 and price[setup_row[m]] > 0.0:
            charge[m] += setup_share[m] * price[setup_row[m]]
    return score, charge


@njit
def answer(columns: Columns, price: Floats) -> tuple[float, Ints]:
    """Value and choice when each task in turn takes its best pattern at ``price`` whose rows' owners have room.

    What a task knows of those before it is what their owners say: which of its patterns fit what is left, and which
    set-ups are open. One that must be opened is charged in full, and no pattern is taken at a loss.
    """
    task_ptr, value, ptr, stop, row, share = (
        columns.task_ptr, columns.value, columns.ptr, columns.stop, columns.row, columns.share,
    )  # fmt: skip
    setup, setup_row, setup_share, setup_cost = (
        columns.setup, columns.setup_row, columns.setup_share, columns.setup_cost,
    )  # fmt: skip
    score, charge = asking(columns, price)
    left, uses = np.ones(len(price)), np.zeros(len(setup_row), np.int64)
    choice, total = np.full(len(task_ptr) - 1, -1), 0.0
    for task in range(len(choice)):
        p = best_fit(
            task, score, charge, task_ptr, score, ptr, stop, row, share, setup, setup_row, setup_share, left, uses
        )
        choice[task] = p
        if p >= 0:
            total += place(p, value, ptr, stop, row, share, setup, setup_row, setup_share, setup_cost, left, uses)
    return total, choice
