"""Placing and removing patterns: the state is what is ``left`` of each row, ``uses`` of set-ups, and the ``choice``.

The hot helpers take bare arrays, not Columns: taking an array out of a tuple costs numba a reference count each time.
"""

from __future__ import annotations

import numpy as np

from gainnet.compiled import njit
from gainnet.orchestrator.kernels.columns import Columns, Floats, Ints, lacking


@njit
def place(
    p: int,
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
) -> float:
    """Place pattern p; returns the change of the plan's value: its own, less the cost of the set-ups that it opens."""
    gain = float(value[p])
    for k in range(ptr[p], stop[p]):
        left[row[k]] -= share[k]
    for side in range(2):
        m = setup[p, side]
        if m < 0:
            continue
        if uses[m] == 0:
            gain -= setup_cost[m]
            if setup_row[m] >= 0:
                left[setup_row[m]] -= setup_share[m]
        uses[m] += 1
    return gain


@njit
def remove(
    p: int,
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
) -> float:
    """Remove pattern p, closing the set-ups that nobody else uses; returns the change of the plan's value."""
    gain = -float(value[p])
    for k in range(ptr[p], stop[p]):
        left[row[k]] += share[k]
    for side in range(2):
        m = setup[p, side]
        if m < 0:
            continue
        uses[m] -= 1
        if uses[m] == 0:
            gain += setup_cost[m]
            if setup_row[m] >= 0:
                left[setup_row[m]] += setup_share[m]
    return gain


@njit
def best_fit(
    task: int,
    score: Floats,
    charge: Floats,
    task_ptr: Ints,
    value: Floats,
    ptr: Ints,
    stop: Ints,
    row: Ints,
    share: Floats,
    setup: Ints,
    setup_row: Ints,
    setup_share: Floats,
    left: Floats,
    uses: Ints,
) -> int:
    """The fitting pattern of a task with the greatest score less opening charges, -1 for none.

    A pattern that is worth no more than the charges of the set-ups it would open is not taken.
    """
    best, arg = -np.inf, -1
    for p in range(task_ptr[task], task_ptr[task + 1]):
        if score[p] <= best:
            continue
        cost = 0.0
        for side in range(2):
            m = setup[p, side]
            if m >= 0 and uses[m] == 0:
                cost += charge[m]
        worthwhile = score[p] - cost > best and value[p] > cost
        if worthwhile and lacking(ptr[p], stop[p], row, share, setup[p], setup_row, setup_share, left, uses) < 0:
            best, arg = score[p] - cost, p
    return arg


@njit
def place_in_order(
    columns: Columns, order: Ints, score: Floats, charge: Floats, left: Floats, uses: Ints, choice: Ints
) -> float:
    """Give each task of ``order`` in turn its best fitting pattern; returns the change of the plan's value."""
    task_ptr, value, ptr, stop, row, share = (
        columns.task_ptr, columns.value, columns.ptr, columns.stop, columns.row, columns.share,
    )  # fmt: skip
    setup, setup_row, setup_share, setup_cost = (
        columns.setup, columns.setup_row, columns.setup_share, columns.setup_cost,
    )  # fmt: skip
    gain = 0.0
    for task in order:
        p = best_fit(
            task, score, charge, task_ptr, value, ptr, stop, row, share, setup, setup_row, setup_share, left, uses
        )
        choice[task] = p
        if p >= 0:
            gain += place(p, value, ptr, stop, row, share, setup, setup_row, setup_share, setup_cost, left, uses)
    return gain


@njit
def occupy(columns: Columns, choice: Ints, left: Floats, uses: Ints) -> float:
    """Place every chosen pattern; returns the value of the choice."""
    value, ptr, stop, row, share = columns.value, columns.ptr, columns.stop, columns.row, columns.share
    setup, setup_row, setup_share, setup_cost = (
        columns.setup, columns.setup_row, columns.setup_share, columns.setup_cost,
    )  # fmt: skip
    gain = 0.0
    for p in choice:
        if p >= 0:
            gain += place(p, value, ptr, stop, row, share, setup, setup_row, setup_share, setup_cost, left, uses)
    return gain


@njit
def first_come(columns: Columns, rows: int, score: Floats) -> tuple[float, Ints]:
    """Each task in turn takes its fitting pattern of the greatest score less what set-ups cost; -inf: not allowed."""
    left, uses = np.ones(rows), np.zeros(len(columns.setup_row), np.int64)
    choice = np.full(len(columns.task_ptr) - 1, -1)
    value = place_in_order(columns, np.arange(len(choice)), score, columns.setup_cost, left, uses, choice)
    return value, choice
