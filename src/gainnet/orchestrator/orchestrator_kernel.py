"""What the orchestrator does beside matching: choosing ends to sound, and what new tasks would use of each resource."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from gainnet.compiled import njit


@njit
def choose_sounded(
    order: NDArray[np.int64], serving: NDArray[np.int64], most: int, cells: int, blocks: float, out: NDArray[np.float64]
) -> None:
    """Give ``blocks`` resource blocks of pilots to the first ``most`` users of each cell in the given order."""
    count = np.zeros(cells, np.int64)
    out[:] = 0.0
    for user in order:
        cell = serving[user]
        if cell >= 0 and count[cell] < most:
            count[cell] += 1
            out[user] = blocks


@njit
def offer(
    task_ptr: NDArray[np.int64],
    value: NDArray[np.float64],
    demand_ptr: NDArray[np.int64],
    demand_row: NDArray[np.int64],
    demand_amount: NDArray[np.float64],
    row_id: NDArray[np.int64],
    arrival_s: NDArray[np.float64],
    since_s: float,
    slots: int,
    offered: NDArray[np.float64],
) -> float:
    """Add what the best pattern of every task that arrived at or after ``since_s`` draws on each resource.

    The last slot's row holds all of it.
    Returns the value of those patterns. Rows from ``len(offered) * slots`` on (memory, power) are no resources.
    """
    worth = 0.0
    for i in range(len(task_ptr) - 1):
        if arrival_s[i] < since_s or task_ptr[i] == task_ptr[i + 1]:
            continue
        best = task_ptr[i]
        for p in range(task_ptr[i] + 1, task_ptr[i + 1]):
            if value[p] > value[best]:
                best = p
        worth += value[best]
        for k in range(demand_ptr[best], demand_ptr[best + 1]):
            resource, slot = divmod(row_id[demand_row[k]], slots)
            if resource < len(offered) and slot == slots - 1:
                offered[resource] += demand_amount[k]
    return worth
