"""The table of running tasks: how a chosen pattern enters it, how artifacts are loaded for it, how it leaves."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from gainnet.compiled import inner, njit
from gainnet.execution.outcome import Result
from gainnet.network.compute_kernel import load_s
from gainnet.orchestrator.pattern_kernel import ACCURACY, BATCH, QUALITY, STEP, WAIT_S
from gainnet.orchestrator.stage_kernel import (
    ADAPTER,
    CELL,
    DENOISE,
    KIND,
    LEVEL,
    MODEL,
    NODE,
    PREFILL,
    SENSING,
    SPLIT,
    TRAIN,
    WAIT,
    View,
    expand,
)
from gainnet.orchestrator.tables import Tables
from gainnet.orchestrator.task_kernel import TaskColumns, holder_of, reserved_byte, reserver_of
from gainnet.orchestrator.worth_kernel import windows

R_TASK, R_USER, R_SERVICE, R_CELL, R_NODE, R_MODEL, R_ADAPTER, R_SENSING, R_LEVEL, R_STAGE, R_STAGES = range(11)
R_HANDOVER, R_LOOKS, R_STATUS, R_RESULT, R_HOLDER, R_RESERVER = range(11, 17)
RUNNING_INTS = 17
R_ARRIVAL, R_DEADLINE, R_QUALITY, R_QUALITY_MIN, R_VALUE, R_ACCURACY, R_READY, R_ENERGY, R_COST, R_START = range(10)
R_END, R_CACHE = range(10, 12)
RUNNING_FLOATS = 12
ACTIVE, DONE, LOST, MISSED = 0, 1, 2, 3
SERVED, LATE, FAILED = int(Result.SERVED), int(Result.LATE), int(Result.FAILED)


class Running(NamedTuple):
    """Running tasks, one row each; free rows are not in the active list.

    ``stage_floats[row, s, AMOUNT]`` is what is left of stage s; ``stage_end_s`` its planned end (absolute). ``accuracy``
    is the probability that a radar look finds its target.
    """

    ints: NDArray[np.int64]
    floats: NDArray[np.float64]
    stage_ints: NDArray[np.int64]
    stage_floats: NDArray[np.float64]
    stage_end_s: NDArray[np.float64]


class Residency(NamedTuple):
    """What each node holds: models and adapters, those on their way, and KV cache. Axes node, artifact."""

    resident: NDArray[np.bool_]
    ready_s: NDArray[np.float64]
    pinned: NDArray[np.int64]
    used_s: NDArray[np.float64]
    cache_byte: NDArray[np.float64]
    load_free_s: NDArray[np.float64]


@inner
def make_room(tables: Tables, residency: Residency, node: int, need_byte: float) -> bool:
    """Evict idle artifacts, least recently used first, until ``need_byte`` fit at a node; False where they never will."""
    artifacts = residency.resident.shape[1]
    free = tables.node[node].memory_byte - residency.cache_byte[node]
    for a in range(artifacts):
        if residency.ready_s[node, a] < math.inf:
            free -= tables.artifact[a].size_byte
    while free < need_byte:
        oldest = -1
        for a in range(artifacts):
            idle = residency.ready_s[node, a] < math.inf and residency.pinned[node, a] == 0
            if idle and (oldest < 0 or residency.used_s[node, a] < residency.used_s[node, oldest]):
                oldest = a
        if oldest < 0:
            return False
        residency.resident[node, oldest] = False
        residency.ready_s[node, oldest] = math.inf
        free += tables.artifact[oldest].size_byte
    return True


@inner
def hold(tables: Tables, residency: Residency, node: int, artifact: int, now_s: float) -> int:
    """Pin an artifact, loading it first where it is absent. Returns loads begun (0 or 1), or -1 where it cannot fit."""
    begun = 0
    if residency.ready_s[node, artifact] == math.inf:
        residency.pinned[node, artifact] += 1
        fits = make_room(tables, residency, node, tables.artifact[artifact].size_byte)
        residency.pinned[node, artifact] -= 1
        if not fits:
            return -1
        seconds = load_s(
            tables.artifact[artifact].size_byte,
            tables.artifact[artifact].load_s,
            tables.node[node].load_byte_per_s,
            tables.node[node].load_overhead_s,
        )
        residency.load_free_s[node] = max(now_s, residency.load_free_s[node]) + seconds
        residency.ready_s[node, artifact] = residency.load_free_s[node]
        begun = 1
    residency.pinned[node, artifact] += 1
    residency.used_s[node, artifact] = now_s
    return begun


@inner
def hold_all(
    tables: Tables,
    residency: Residency,
    node: int,
    model: int,
    adapter: int,
    reserver: int,
    reserve_byte: float,
    now_s: float,
) -> int:
    """Pin a task's model and adapter at a node and reserve memory (KV cache) at another or the same, all or nothing.

    Returns loads begun, or -1.
    """
    first = hold(tables, residency, node, model, now_s)
    if first < 0:
        return -1
    second = hold(tables, residency, node, adapter, now_s) if adapter >= 0 else 0
    if second >= 0 and make_room(tables, residency, reserver, reserve_byte):
        residency.cache_byte[reserver] += reserve_byte
        return first + second
    residency.pinned[node, model] -= 1
    if second >= 0 and adapter >= 0:
        residency.pinned[node, adapter] -= 1
    return -1


@inner
def release(running: Running, residency: Residency, row: int, now_s: float) -> None:
    """Unpin what a task held."""
    ints = running.ints[row]
    node, reserver = ints[R_HOLDER], ints[R_RESERVER]
    for artifact in (ints[R_MODEL], ints[R_ADAPTER]):
        if artifact >= 0 and residency.pinned[node, artifact] > 0:
            residency.pinned[node, artifact] -= 1
            residency.used_s[node, artifact] = now_s
    residency.cache_byte[reserver] = max(0.0, residency.cache_byte[reserver] - running.floats[row, R_CACHE])


@inner
def artifact_ready_s(residency: Residency, ints: NDArray[np.int64]) -> float:
    """When both a task's model and its adapter may be used."""
    holder = ints[R_HOLDER]
    ready = residency.ready_s[holder, ints[R_MODEL]]
    if ints[R_ADAPTER] >= 0:
        ready = max(ready, residency.ready_s[holder, ints[R_ADAPTER]])
    return ready


@inner
def enter_stage(tables: Tables, running: Running, residency: Residency, row: int, at_s: float) -> None:
    """Set when the current stage may begin: after its link's latency, and not before its model is there.

    A request is delayed by what its node's software takes with it. An end that trains a part of a model that another
    node holds reads that part from its own storage.
    """
    ints = running.ints[row]
    stage = ints[R_STAGE]
    kind = running.stage_ints[row, stage, KIND]
    if kind in (PREFILL, DENOISE):
        at_s += tables.node[ints[R_NODE]].request_overhead_s
    if kind in (PREFILL, DENOISE, SPLIT) or (kind == TRAIN and ints[R_HOLDER] != ints[R_NODE]):
        running.floats[row, R_READY] = max(at_s, artifact_ready_s(residency, ints))
    else:
        running.floats[row, R_READY] = at_s + running.stage_floats[row, stage, WAIT]


@njit
def admit(
    tables: Tables,
    tasks: TaskColumns,
    view: View,
    pace: float,
    pattern_ints: NDArray[np.int64],
    pattern_floats: NDArray[np.float64],
    choice: NDArray[np.int64],
    running: Running,
    residency: Residency,
    rows: NDArray[np.int64],
    entered: NDArray[np.int64],
) -> int:
    """Enter every chosen pattern into the table, in task order, into the free ``rows``.

    ``entered[i]`` becomes the row of task i, or -1 where it was refused or its memory was taken by an earlier one.
    Returns the number of loads begun.
    """
    loads, used = 0, 0
    for i in range(len(choice)):
        entered[i] = -1
        if choice[i] < 0:
            continue
        p = pattern_ints[choice[i]]
        number = pattern_floats[choice[i]]
        node, model, adapter = p[NODE], p[MODEL], p[ADAPTER]
        holder, reserver = holder_of(tables, tasks, i, node), reserver_of(tables, tasks, i, node)
        cache = reserved_byte(tables, tasks, i, model)
        begun = hold_all(tables, residency, holder, model, adapter, reserver, cache, view.now_s)
        if begun < 0:
            continue
        loads += begun
        row = rows[used]
        used += 1
        entered[i] = row
        stage_ints, stage_floats = running.stage_ints[row], running.stage_floats[row]
        n = expand(tables, tasks, view, p, number[STEP], number[BATCH], number[WAIT_S], stage_ints, stage_floats)
        planned = 0.0 if tables.service_nearest[tasks.service[i]] > 0 else pace
        windows(stage_floats, n, tasks.deadline_s[i] - view.now_s, planned, running.stage_end_s[row])
        running.stage_end_s[row, :n] += view.now_s
        ints, floats = running.ints[row], running.floats[row]
        ints[R_USER], ints[R_SERVICE], ints[R_CELL], ints[R_NODE] = tasks.user[i], tasks.service[i], p[CELL], node
        ints[R_HOLDER], ints[R_RESERVER] = holder, reserver
        ints[R_MODEL], ints[R_ADAPTER], ints[R_SENSING], ints[R_LEVEL] = model, adapter, p[SENSING], p[LEVEL]
        ints[R_STAGE], ints[R_STAGES], ints[R_HANDOVER], ints[R_LOOKS], ints[R_STATUS] = 0, n, 0, 0, ACTIVE
        ints[R_TASK], floats[R_ARRIVAL] = tasks.task_id[i], tasks.arrival_s[i]
        floats[R_QUALITY_MIN], floats[R_VALUE] = tasks.quality_min[i], tasks.value[i]
        floats[R_DEADLINE], floats[R_CACHE], floats[R_ACCURACY] = tasks.deadline_s[i], cache, number[ACCURACY]
        floats[R_QUALITY] = number[QUALITY] / number[ACCURACY]
        floats[R_ENERGY] = floats[R_COST] = 0.0
        floats[R_START], floats[R_END] = view.now_s, math.nan
        enter_stage(tables, running, residency, row, view.now_s)
    return loads


@inner
def collect(
    running: Running,
    residency: Residency,
    active: NDArray[np.int64],
    now_s: float,
    abandon_s: float,
    left: NDArray[np.int64],
) -> tuple[int, int]:
    """Part the active rows into those that stay (kept in front of ``active``) and those that leave (``left``).

    A row leaves when it is done, lost, missed its target, or is later than ``abandon_s``; its memory is released and its
    result (`Result`, or -1 for a lost task that may be tried again) is written. Returns how many stay and leave.
    """
    stay, leave = 0, 0
    for row in active:
        ints, floats = running.ints[row], running.floats[row]
        if ints[R_STATUS] == ACTIVE and now_s <= floats[R_DEADLINE] + abandon_s:
            active[stay] = row
            stay += 1
            continue
        release(running, residency, row, now_s)
        left[leave] = row
        leave += 1
        if ints[R_STATUS] == LOST and now_s < floats[R_DEADLINE]:
            ints[R_RESULT] = -1
        elif ints[R_STATUS] == DONE and floats[R_QUALITY] >= floats[R_QUALITY_MIN] - 1e-12:
            ints[R_RESULT] = SERVED if floats[R_END] <= floats[R_DEADLINE] else LATE
        else:
            ints[R_RESULT] = FAILED
        if math.isnan(floats[R_END]):
            floats[R_END] = now_s
    return stay, leave
