"""What the orchestrator does beside matching: choosing ends to sound, and what new tasks would use of each resource."""

from __future__ import annotations

import math

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
def set_aside(
    timed: NDArray[np.float64],
    committed: NDArray[np.float64],
    sounding_block_s: NDArray[np.float64],
    memory_byte: NDArray[np.float64],
    memory_used_byte: NDArray[np.float64],
    pinned: NDArray[np.int64],
    size_byte: NDArray[np.float64],
    power_block_s: float,
    radio_parts: int,
    slots: int,
    free: NDArray[np.float64],
) -> None:
    """What is left of every pool row: of resources, less running tasks and sounding; of memory, less what tasks hold."""
    for row in range(len(timed)):
        free[row] = timed[row] - committed[row]
    for cell in range(len(sounding_block_s)):
        for slot in range(slots):
            free[cell * radio_parts * slots + slot] -= sounding_block_s[cell]
    row = len(timed)
    for node in range(len(memory_byte)):
        left = memory_byte[node] - memory_used_byte[node]
        for artifact in range(len(size_byte)):
            if pinned[node, artifact] > 0:
                left -= size_byte[artifact]
        free[row] = left
        row += 1
    free[row:] = power_block_s


@njit
def rank_edges(
    free: NDArray[np.float64],
    whole: NDArray[np.float64],
    edges: NDArray[np.int64],
    compute_start: int,
    compute_parts: int,
    slots: int,
    spare: NDArray[np.float64],
    ranked: NDArray[np.int64],
) -> None:
    """Edges in order of the free fraction of their time over the horizon (mean over slots and parts), most first."""
    for e in range(len(edges)):
        first = (compute_start + edges[e] * compute_parts) * slots
        share = 0.0
        for row in range(first, first + compute_parts * slots):
            share += free[row] / max(whole[row], 1e-12)
        j = e
        while j > 0 and spare[j - 1] < share:
            spare[j], ranked[j] = spare[j - 1], ranked[j - 1]
            j -= 1
        spare[j], ranked[j] = share, edges[e]


@njit
def move_bids(
    offered: NDArray[np.float64],
    capacity: NDArray[np.float64],
    frame_s: float,
    rate: float,
    least: float,
    ends: int,
    links: int,
    bid: NDArray[np.float64],
) -> None:
    """Multiplicative dual descent: a bid grows by ``exp(rate (offered / given - 1))``, and is worth ``least`` a frame at least.

    Resources ``ends:links`` (the ends' own time) have no bid, and one that gives nothing now keeps its own.
    """
    for resource in range(len(bid)):
        given = capacity[resource] * frame_s
        if ends <= resource < links or given <= 0.0:
            continue
        excess = min(3.0, offered[resource] / given - 1.0)
        bid[resource] = max(bid[resource] * math.exp(rate * excess), least / given)


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
    """Set ``offered`` to what the best pattern of every task that arrived at or after ``since_s`` draws on each resource.

    The last slot's row holds all of it.
    Returns the value of those patterns. Rows from ``len(offered) * slots`` on (memory, power) are no resources.
    """
    worth = 0.0
    offered[:] = 0.0
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


@njit
def surcharge(
    demand_ptr: NDArray[np.int64],
    demand_row: NDArray[np.int64],
    demand_amount: NDArray[np.float64],
    row_id: NDArray[np.int64],
    slots: int,
    extra: NDArray[np.float64],
    value: NDArray[np.float64],
) -> None:
    """Take ``extra`` for each unit of a resource that a pattern draws in all (on its last slot's row) off its value."""
    for p in range(len(value)):
        for k in range(demand_ptr[p], demand_ptr[p + 1]):
            resource, slot = divmod(row_id[demand_row[k]], slots)
            if resource < len(extra) and slot == slots - 1:
                value[p] -= extra[resource] * demand_amount[k]
