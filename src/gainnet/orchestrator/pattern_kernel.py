"""Enumerating patterns: every sensible way to lay each task's graph onto the resource graph, with its row demands."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from gainnet.compiled import inner, njit
from gainnet.orchestrator.stage_kernel import (
    ADAPTER,
    AMOUNT,
    BLOCK_W,
    CANDIDATE,
    CELL,
    CELL_SENSES,
    DOWNLINK,
    END_SENSES,
    KIND,
    LEVEL,
    MODEL,
    NO_SENSING,
    NODE,
    RESOURCE,
    SENSE,
    SENSING,
    TASK,
    UNIT,
    WAIT,
    View,
    accuracy_of,
    expand,
    model_wait_s,
)
from gainnet.orchestrator.tables import Tables
from gainnet.orchestrator.task_kernel import (
    IMAGE,
    LEARNING,
    PERCEPTION,
    TaskColumns,
    holder_of,
    reserved_byte,
    reserver_of,
)
from gainnet.orchestrator.worth_kernel import later_part, on_time, prudent_batch, quality_of, stage_cost, windows

# Columns of a pattern's numbers.
STEP, QUALITY, ENERGY_J, COST, COMPLETION_S, ASAP_S, BATCH, WAIT_S, ACCURACY = range(9)
PATTERN_FLOATS = 9
PATTERN_COUNT, ENTRY_COUNT, ROW_COUNT, SETUP_COUNT, PATTERNS_MAX, ENTRIES_MAX, OVERFLOW = range(7)
STEP_FRACTIONS = (1.0, 0.7, 0.5)
SECOND_CELL_FLOOR = 0.5
HOPS_MAX = 3


class Scratch(NamedTuple):
    """Buffers kept from frame to frame. The maps from pool rows and (node, artifact) to the problem are -1 between calls."""

    counter: NDArray[np.int64]
    task_ptr: NDArray[np.int64]
    ints: NDArray[np.int64]
    floats: NDArray[np.float64]
    value: NDArray[np.float64]
    tier: NDArray[np.int64]
    nearest: NDArray[np.int64]
    setup: NDArray[np.int64]
    entry_ptr: NDArray[np.int64]
    entry_row: NDArray[np.int64]
    entry_amount: NDArray[np.float64]
    row_of: NDArray[np.int64]
    row_id: NDArray[np.int64]
    entry_of: NDArray[np.int64]
    setup_of: NDArray[np.int64]
    setup_key: NDArray[np.int64]
    pick: NDArray[np.int64]
    stage_ints: NDArray[np.int64]
    stage_floats: NDArray[np.float64]
    stage_end_s: NDArray[np.float64]
    places: NDArray[np.int64]


@inner
def add_entry(scratch: Scratch, first: int, row_id: int, amount: float) -> None:
    """Add an amount to a pool row in the pattern whose entries begin at ``first``, naming the row in the problem if new."""
    counter = scratch.counter
    row = scratch.row_of[row_id]
    if row < 0:
        row = counter[ROW_COUNT]
        counter[ROW_COUNT] += 1
        scratch.row_of[row_id] = row
        scratch.row_id[row] = row_id
        scratch.entry_of[row] = -1
    entry = scratch.entry_of[row]
    if entry >= first:
        scratch.entry_amount[entry] += amount
        return
    entry = counter[ENTRY_COUNT]
    counter[ENTRY_COUNT] += 1
    scratch.entry_of[row] = entry
    scratch.entry_row[entry] = row
    scratch.entry_amount[entry] = amount


@inner
def add_due(tables: Tables, scratch: Scratch, first: int, resource: int, work: float, end: float) -> None:
    """Draw a stage's work on the row of the slot in which it must be done, and on all later ones: rows are cumulative."""
    slots = tables.run[0].slots
    base = resource * slots
    slot = 0
    while slot + 1 < slots and tables.slot_edge_s[slot + 1] < end:
        slot += 1
    for later in range(slot, slots):
        add_entry(scratch, first, base + later, work)


@inner
def needed_setup(tables: Tables, view: View, scratch: Scratch, node: int, artifact: int) -> int:
    """The set-up of an artifact at a node, -1 where running tasks hold it there already."""
    if artifact < 0 or view.pinned[node, artifact] > 0:
        return -1
    key = node * len(tables.artifact) + artifact
    setup = scratch.setup_of[key]
    if setup < 0:
        setup = scratch.counter[SETUP_COUNT]
        scratch.counter[SETUP_COUNT] += 1
        scratch.setup_of[key] = setup
        scratch.setup_key[setup] = key
    return setup


@inner
def try_pattern(
    tables: Tables, tasks: TaskColumns, view: View, pace: float, scratch: Scratch, step: float, accuracy: float
) -> None:
    """Price the pattern ``scratch.pick``; append it unless it misses the deadline, the quality or a machine's memory."""
    pick, floats, ints = scratch.pick, scratch.stage_floats, scratch.stage_ints
    i, node, model, adapter = pick[TASK], pick[NODE], pick[MODEL], pick[ADAPTER]
    user, kind = tasks.user[i], tables.service_kind[tasks.service[i]]
    quality = quality_of(tables, kind, model, adapter, step, accuracy)
    if quality < tasks.quality_min[i]:
        return
    nearest = tables.service_nearest[tasks.service[i]] > 0
    holder = holder_of(tables, tasks, i, node)
    size = tables.artifact[model].size_byte
    wait = model_wait_s(tables, view.resident, view.ready_s, holder, model, view.now_s)
    if adapter >= 0:
        size += tables.artifact[adapter].size_byte
        wait += model_wait_s(tables, view.resident, view.ready_s, holder, adapter, view.now_s)
    budget = tasks.deadline_s[i] - view.now_s
    if size > tables.node[holder].memory_byte or wait > budget:
        return
    if (
        kind == LEARNING
        and reserved_byte(tables, tasks, i, model) > tables.node[tables.run[0].fixed + user].memory_byte
    ):
        return
    batch = prudent_batch(view.batch[node, model])
    n = expand(tables, tasks, view, pick, step, batch, wait, ints, floats)
    least, planned = windows(floats, n, budget, 0.0 if nearest else pace, scratch.stage_end_s)
    if least > budget:
        return
    energy, price, forgone, begin = 0.0, 0.0, 0.0, 0.0
    for s in range(n):
        work = floats[s, AMOUNT] * floats[s, UNIT]
        joule, money = stage_cost(tables, user, ints[s, KIND], node, work, floats[s, BLOCK_W])
        energy += joule
        price += money
        begin += floats[s, WAIT]
        forgone += view.bid[ints[s, RESOURCE]] * work * later_part(begin, scratch.stage_end_s[s], tables.slot_edge_s[1])
        begin = scratch.stage_end_s[s]
    cost = price + energy * tables.run[0].energy_price_per_j
    early = tables.run[0].latency_weight * (1.0 - least / budget)
    worth = tasks.value[i] * (1.0 + early) * on_time(least, budget, pace) - tables.run[0].cost_weight * cost - forgone
    if worth <= 0.0 and not nearest:
        return
    p = scratch.counter[PATTERN_COUNT]
    for column in range(len(pick)):
        scratch.ints[p, column] = pick[column]
    number = scratch.floats[p]
    number[STEP], number[QUALITY], number[ENERGY_J], number[COST] = step, quality, energy, cost
    number[COMPLETION_S], number[ASAP_S], number[BATCH], number[WAIT_S] = planned, least, batch, wait
    number[ACCURACY] = accuracy
    scratch.value[p] = worth
    scratch.tier[p] = -1 if kind == LEARNING else tables.node[node].tier
    scratch.nearest[p] = 1 if pick[CANDIDATE] == 0 and node == tables.cell_edge[pick[CELL]] else 0
    scratch.setup[p, 0] = needed_setup(tables, view, scratch, holder, model)
    scratch.setup[p, 1] = needed_setup(tables, view, scratch, holder, adapter)
    add_demand(tables, tasks, scratch, n)
    scratch.counter[PATTERN_COUNT] = p + 1
    scratch.entry_ptr[p + 1] = scratch.counter[ENTRY_COUNT]


@inner
def add_demand(tables: Tables, tasks: TaskColumns, scratch: Scratch, n: int) -> None:
    """What a pattern draws on each pool row: its stages by their planned ends, transmit energy now, reserved memory."""
    pick, ints, floats, ends = scratch.pick, scratch.stage_ints, scratch.stage_floats, scratch.stage_end_s
    i, cell, node, model = pick[TASK], pick[CELL], pick[NODE], pick[MODEL]
    first = scratch.counter[ENTRY_COUNT]
    begin, transmit = 0.0, 0.0
    frame_s = tables.slot_edge_s[1]
    for s in range(n):
        begin += floats[s, WAIT]
        work = floats[s, AMOUNT] * floats[s, UNIT]
        if work > 0.0:
            add_due(tables, scratch, first, ints[s, RESOURCE], work, ends[s])
            cell_sends = ints[s, KIND] == DOWNLINK or (
                ints[s, KIND] == SENSE and floats[s, BLOCK_W] == tables.run[0].block_power_w
            )
            if cell_sends and begin < frame_s:
                transmit += work * min(1.0, (frame_s - begin) / max(ends[s] - begin, 1e-9))
        begin = ends[s]
    if transmit > 0.0:
        add_entry(scratch, first, tables.run[0].power_start + cell, transmit)
    byte = reserved_byte(tables, tasks, i, model)
    if byte > 0.0:
        add_entry(scratch, first, tables.run[0].memory_start + reserver_of(tables, tasks, i, node), byte)


@inner
def places(tables: Tables, view: View, cell: int, edges_considered: int, out: NDArray[np.int64]) -> int:
    """Nodes to consider behind a cell: its own edge, the near edges with most to spare, and the cloud."""
    count = 0
    own = tables.cell_edge[cell]
    if view.node_up[own]:
        out[count] = own
        count += 1
    spare = 0
    for edge in view.spare_edge:
        if spare + 1 >= edges_considered:
            break
        path = own * tables.run[0].fixed + edge
        near = tables.path_ptr[path + 1] - tables.path_ptr[path] <= HOPS_MAX
        if edge != own and near and view.node_up[edge]:
            out[count] = edge
            count += 1
            spare += 1
    for node in range(tables.run[0].fixed):
        if tables.node[node].tier == 2 and view.node_up[node]:
            out[count] = node
            count += 1
    return count


@inner
def try_sensing(tables: Tables, tasks: TaskColumns, view: View, pace: float, scratch: Scratch) -> None:
    """Perception: for each side that may sense, the cheapest level that is good enough."""
    pick = scratch.pick
    i = pick[TASK]
    cell_m = view.cell_distance_m[tasks.user[i], pick[CANDIDATE]]
    for sensing in range(END_SENSES, CELL_SENSES + 1):
        for level in range(len(tables.level)):
            accuracy = accuracy_of(tables, sensing, level, tasks.target_range_m[i], cell_m)
            if tables.artifact[pick[MODEL]].quality * accuracy >= tasks.quality_min[i]:
                pick[SENSING], pick[LEVEL] = sensing, level
                try_pattern(tables, tasks, view, pace, scratch, 0.0, accuracy)
                break


@inner
def try_models(tables: Tables, tasks: TaskColumns, view: View, pace: float, scratch: Scratch) -> None:
    """Every model variant and quality knob of the picked task at the picked node and cell."""
    pick = scratch.pick
    i = pick[TASK]
    service = tasks.service[i]
    kind = tables.service_kind[service]
    for m in range(tables.model_ptr[service], tables.model_ptr[service + 1]):
        model = tables.model_index[m]
        pick[MODEL], pick[ADAPTER], pick[SENSING], pick[LEVEL] = model, -1, NO_SENSING, 0
        if kind == PERCEPTION:
            if view.sensing_up:
                try_sensing(tables, tasks, view, pace, scratch)
            continue
        fractions = len(STEP_FRACTIONS) if kind == IMAGE else 1
        if kind == IMAGE:
            pick[ADAPTER] = tasks.adapter[i]
            if pick[ADAPTER] >= 0 and tables.artifact[pick[ADAPTER]].base != model:
                continue
        for f in range(fractions):
            try_pattern(tables, tasks, view, pace, scratch, float(math.ceil(STEP_FRACTIONS[f] * tasks.step[i])), 1.0)


@inner
def try_task(
    tables: Tables, tasks: TaskColumns, view: View, pace: float, cells_considered: int, edges_considered: int,
    scratch: Scratch,
) -> None:  # fmt: skip
    """Every place for the picked task: at home, then behind each candidate cell that is not much worse than the best.

    A task of a service that is not matched has one: its strongest cell's own edge. One of an end that is down has none.
    """
    pick = scratch.pick
    i = pick[TASK]
    user, kind = tasks.user[i], tables.service_kind[tasks.service[i]]
    nearest = tables.service_nearest[tasks.service[i]] > 0
    if not view.end_up[user]:
        return
    best = min(view.uplink[user, 0], view.downlink[user, 0])
    if kind != LEARNING and (kind != PERCEPTION or view.candidate[user, 0] >= 0):
        pick[NODE] = tables.run[0].fixed + user
        pick[CANDIDATE] = 0 if kind == PERCEPTION else -1
        pick[CELL] = view.candidate[user, 0] if kind == PERCEPTION else -1
        if kind != PERCEPTION or view.downlink[user, 0] > 0.0:
            try_models(tables, tasks, view, pace, scratch)
    for k in range(1 if nearest else min(cells_considered, view.candidate.shape[1])):
        cell = view.candidate[user, k]
        weakest = min(view.uplink[user, k], view.downlink[user, k])
        usable = view.downlink[user, k] if kind == PERCEPTION else weakest
        if cell < 0 or usable <= 0.0 or (k > 0 and weakest < SECOND_CELL_FLOOR * best):
            continue
        pick[CANDIDATE], pick[CELL] = k, cell
        for j in range(places(tables, view, cell, edges_considered, scratch.places)):
            pick[NODE] = scratch.places[j]
            if nearest and pick[NODE] != tables.cell_edge[cell]:
                continue
            try_models(tables, tasks, view, pace, scratch)


@njit
def enumerate_patterns(
    tables: Tables,
    tasks: TaskColumns,
    view: View,
    pace: float,
    cells_considered: int,
    edges_considered: int,
    scratch: Scratch,
) -> None:
    """Fill ``scratch`` with the patterns of all tasks; sets OVERFLOW where a buffer was too small (nothing is valid then)."""
    counter = scratch.counter
    counter[PATTERN_COUNT] = counter[ENTRY_COUNT] = counter[ROW_COUNT] = counter[SETUP_COUNT] = counter[OVERFLOW] = 0
    scratch.entry_ptr[0] = scratch.task_ptr[0] = 0
    variants = len(tables.artifact) * max(len(STEP_FRACTIONS), 2)
    most = (cells_considered * (edges_considered + 1) + 1) * variants
    for i in range(len(tasks.user)):
        full = counter[PATTERN_COUNT] + most > counter[PATTERNS_MAX]
        if (
            full
            or counter[ENTRY_COUNT] + most * (len(scratch.stage_ints) + tables.run[0].slots + 2) > counter[ENTRIES_MAX]
        ):
            counter[OVERFLOW] = 1
            break
        scratch.pick[TASK] = i
        try_task(tables, tasks, view, pace, cells_considered, edges_considered, scratch)
        scratch.task_ptr[i + 1] = counter[PATTERN_COUNT]


@njit
def forget(scratch: Scratch) -> None:
    """Set the maps of a call back to -1."""
    for row in range(scratch.counter[ROW_COUNT]):
        scratch.row_of[scratch.row_id[row]] = -1
    for setup in range(scratch.counter[SETUP_COUNT]):
        scratch.setup_of[scratch.setup_key[setup]] = -1
