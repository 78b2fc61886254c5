"""One task's choice among its patterns: which are offered, which fit what is left, and what they take."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from gainnet.compiled import njit
from gainnet.orchestrator.kernels.columns import SLACK, Columns, lacking
from gainnet.orchestrator.kernels.placement import place
from gainnet.orchestrator.pattern_kernel import ASAP_S, COMPLETION_S, COST, ENERGY_J, QUALITY
from gainnet.orchestrator.pool import MEMORY, POOL_KINDS

PATTERN_FEATURES = (
    "fits", "worth", *(f"takes_{kind}" for kind in POOL_KINDS), "takes_all", "end", "edge", "cloud", "nearest",
    "quality", "completion", "least_latency", "energy", "cost", "setups",
)  # fmt: skip
KINDS = len(POOL_KINDS)
TAKES, TAKES_ALL, TIER = 2, 2 + KINDS, 3 + KINDS
REST = TIER + 3
MOST = 2.0


@njit
def offer(
    task: int,
    columns: Columns,
    left: NDArray[np.float64],
    uses: NDArray[np.int64],
    offered: NDArray[np.int64],
    worth: NDArray[np.float64],
    fits: NDArray[np.bool_],
) -> tuple[int, int]:
    """Set what a task may choose from: patterns by value less the cost of set-ups to open, greatest first.

    Where it has more patterns than there is room for, those that do not fit now give way, the least worth first.

    Args:
        task: which task.
        columns: the frame's problem.
        left: share that is left of each row.
        uses: placed patterns that need each set-up.
        offered: set to the patterns, in columns' indices, -1 where there are fewer.
        worth: set to what each is worth.
        fits: set to whether it fits what is left.

    Returns:
        How many are offered, and how many of the task's patterns fit.
    """
    first, room = columns.task_ptr[task], len(offered)
    number = columns.task_ptr[task + 1] - first
    net, fit = np.empty(number), np.zeros(number, np.bool_)
    fitting = 0
    for i in range(number):
        p = first + i
        net[i] = columns.value[p]
        for side in range(2):
            m = columns.setup[p, side]
            if m >= 0 and uses[m] == 0:
                net[i] -= columns.setup_cost[m]
        fit[i] = lacking(
            columns.ptr[p], columns.stop[p], columns.row, columns.share, columns.setup[p], columns.setup_row,
            columns.setup_share, left, uses,
        ) < 0  # fmt: skip
        fitting += fit[i]
    offered[:], worth[:], fits[:] = -1, 0.0, False
    others = max(0, room - fitting)
    shown = 0
    for i in np.argsort(-net, kind="mergesort"):
        if shown == room:
            break
        if not fit[i]:
            if others == 0:
                continue
            others -= 1
        offered[shown], worth[shown], fits[shown] = first + i, net[i], fit[i]
        shown += 1
    return shown, fitting


@njit
def describe(
    columns: Columns,
    left: NDArray[np.float64],
    uses: NDArray[np.int64],
    offered: NDArray[np.int64],
    worth: NDArray[np.float64],
    fits: NDArray[np.bool_],
    kind: NDArray[np.int64],
    numbers: NDArray[np.float64],
    tier: NDArray[np.int64],
    nearest: NDArray[np.int64],
    value: float,
    time_left_s: float,
    out: NDArray[np.float32],
) -> None:
    """Set ``out`` to the PATTERN_FEATURES of the patterns offered, zeros beyond them.

    Args:
        columns, left, uses, offered, worth, fits: as in `offer`.
        kind: index into POOL_KINDS of each row.
        numbers, tier, nearest: of each pattern, in the problem's indices (see Posed and Problem).
        value: what the task is worth when satisfied.
        time_left_s: how long it may still take.
        out: (offered, feature).
    """
    out[:] = 0.0
    for i in range(len(offered)):
        p = offered[i]
        if p < 0:
            break
        o = columns.origin[p]
        out[i, 0] = fits[i]
        out[i, 1] = min(max(worth[i] / max(value, 1e-12), -1.0), 1.0)
        everything = 0.0
        for k in range(columns.ptr[p], columns.stop[p]):
            row = columns.row[k]
            takes = columns.share[k] / max(left[row], SLACK)
            everything += takes
            out[i, TAKES + kind[row]] = max(out[i, TAKES + kind[row]], min(takes, MOST))
        for side in range(2):
            m = columns.setup[p, side]
            if m < 0 or uses[m] > 0:
                continue
            out[i, REST + 6] += 0.5
            if columns.setup_row[m] >= 0:
                takes = columns.setup_share[m] / max(left[columns.setup_row[m]], SLACK)
                everything += takes
                out[i, TAKES + MEMORY] = max(out[i, TAKES + MEMORY], min(takes, MOST))
        out[i, TAKES_ALL] = min(everything / 4.0, MOST)
        if tier[o] >= 0:
            out[i, TIER + tier[o]] = 1.0
        out[i, REST] = nearest[o]
        out[i, REST + 1] = min(max(numbers[o, QUALITY], 0.0), 1.0)
        out[i, REST + 2] = min(max(numbers[o, COMPLETION_S], 0.0) / time_left_s, MOST)
        out[i, REST + 3] = min(max(numbers[o, ASAP_S], 0.0) / time_left_s, MOST)
        out[i, REST + 4] = min(math.log10(1.0 + max(numbers[o, ENERGY_J], 0.0)) / 4.0, MOST)
        out[i, REST + 5] = min(max(numbers[o, COST], 0.0) / max(value, 1e-12), MOST)


@njit
def take(columns: Columns, p: int, left: NDArray[np.float64], uses: NDArray[np.int64]) -> float:
    """Place a pattern; returns what the plan gains."""
    return place(
        p, columns.value, columns.ptr, columns.stop, columns.row, columns.share, columns.setup, columns.setup_row,
        columns.setup_share, columns.setup_cost, left, uses,
    )  # fmt: skip


@njit
def remainder(
    row_id: NDArray[np.int64],
    left: NDArray[np.float64],
    slots: int,
    ends: int,
    links: int,
    memory: int,
    resource: NDArray[np.float32],
    machine: NDArray[np.float32],
) -> None:
    """Set the least share left, over its slots, of each shared resource, and that of each fixed machine's memory.

    Args:
        row_id: pool row of each row of the problem.
        left: share that is left of each.
        slots: slots of the horizon.
        ends: first resource that is an end's own time.
        links: first resource that is a link.
        memory: pool row of node 0's memory.
        resource: (shared,); 1 where no pattern draws on it.
        machine: (fixed,); likewise.
    """
    resource[:] = 1.0
    machine[:] = 1.0
    for row in range(len(row_id)):
        if row_id[row] >= memory:
            node = row_id[row] - memory
            if node < len(machine):
                machine[node] = min(max(left[row], 0.0), 1.0)
            continue
        place_of = row_id[row] // slots
        if place_of >= links:
            place_of -= links - ends
        elif place_of >= ends:
            continue
        resource[place_of] = min(resource[place_of], max(left[row], 0.0), 1.0)
