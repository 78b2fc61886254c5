"""Enumerating patterns: every sensible way to lay each task's graph onto the resource graph, with its row demands."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from gainnet.compiled import njit
from gainnet.orchestrator.stage_kernel import (
    AMOUNT,
    BLOCK_W,
    CELL_SENSES,
    DECODE,
    DOWNLINK,
    END_SENSES,
    FLOAT_COLUMNS,
    IMAGE,
    INT_COLUMNS,
    KIND,
    LEARNING,
    NO_SENSING,
    PERCEPTION,
    RATE,
    RESOURCE,
    SENSE,
    STAGES_MAX,
    TRAIN,
    TRANSFER,
    UNIT,
    UPLINK,
    UPLOAD,
    WAIT,
    expand,
    model_wait_s,
)
from gainnet.orchestrator.tables import Tables

# Columns of a pattern's description.
TASK, CANDIDATE, CELL, NODE, MODEL, ADAPTER, SENSING, LEVEL = range(8)
PATTERN_INTS = 8
STEP, QUALITY, ENERGY_J, COST, COMPLETION_S, ASAP_S, BATCH, WAIT_S = range(8)
PATTERN_FLOATS = 8
PATTERN_COUNT, ENTRY_COUNT, ROW_COUNT, SETUP_COUNT, PATTERNS_MAX, ENTRIES_MAX, OVERFLOW = range(7)
STEP_FRACTIONS = (1.0, 0.7, 0.5)
SECOND_CELL_FLOOR = 0.5


class TaskColumns(NamedTuple):
    """The columns of Tasks that enumeration reads."""

    service: NDArray[np.int64]
    user: NDArray[np.int64]
    deadline_s: NDArray[np.float64]
    quality_min: NDArray[np.float64]
    value: NDArray[np.float64]
    prompt_token: NDArray[np.float64]
    output_token: NDArray[np.float64]
    step: NDArray[np.float64]
    image: NDArray[np.float64]
    uplink_bit: NDArray[np.float64]
    downlink_bit: NDArray[np.float64]
    adapter: NDArray[np.int64]
    target_range_m: NDArray[np.float64]


class View(NamedTuple):
    """The network in a frame as somebody sees it; ``spare_edge`` lists the edges with most time to spare first."""

    now_s: float
    candidate: NDArray[np.int64]
    uplink: NDArray[np.float64]
    downlink: NDArray[np.float64]
    uplink_power_w: NDArray[np.float64]
    cell_distance_m: NDArray[np.float64]
    sensing_up: bool
    node_up: NDArray[np.bool_]
    batch: NDArray[np.float64]
    resident: NDArray[np.bool_]
    ready_s: NDArray[np.float64]
    pinned: NDArray[np.int64]
    spare_edge: NDArray[np.int64]


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


@njit
def windows(
    floats: NDArray[np.float64], n: int, budget_s: float, pace: float, end_s: NDArray[np.float64]
) -> tuple[float, float]:
    """Planned end of each stage, from now, when ``pace`` of the budget is used.

    Each stage gets its least duration and a part of the slack in proportion to that duration's square root, the law
    that minimises the rates' cost over a chain with a latency budget. Returns the least latency and the planned one.
    """
    least, roots = 0.0, 0.0
    for s in range(n):
        duration = floats[s, AMOUNT] * floats[s, UNIT] / floats[s, RATE]
        least += duration + floats[s, WAIT]
        roots += math.sqrt(duration)
    slack = max(0.0, pace * budget_s - least)
    share = slack / roots if roots > 0.0 else 0.0
    end = 0.0
    for s in range(n):
        duration = floats[s, AMOUNT] * floats[s, UNIT] / floats[s, RATE]
        end += floats[s, WAIT] + duration + share * math.sqrt(duration)
        end_s[s] = end
    return least, end


@njit
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


@njit
def add_window(
    tables: Tables, scratch: Scratch, first: int, resource: int, work: float, begin: float, end: float
) -> None:
    """Spread a stage's work evenly over its window, slot by slot."""
    edges = tables.slot_edge_s
    slots = tables.slots
    base = resource * slots
    slot = 0
    while slot + 1 < slots and edges[slot + 1] <= begin:
        slot += 1
    if end - begin <= 1e-9 or end <= edges[slot + 1]:
        add_entry(scratch, first, base + slot, work)
        return
    rate = work / (end - begin)
    at = begin
    while slot < slots:
        until = end if slot + 1 == slots else min(end, edges[slot + 1])
        if until > at:
            add_entry(scratch, first, base + slot, rate * (until - at))
        if until >= end:
            return
        at = until
        slot += 1


@njit
def stage_cost(tables: Tables, user: int, kind: int, resource: int, node: int, work: float, block_w: float) -> tuple[float, float]:
    """Energy and machine-time price of a stage's work."""
    if kind == UPLINK or kind == UPLOAD:
        return work * block_w / tables.end_efficiency, 0.0
    if kind == DOWNLINK:
        return work * tables.cell_j_per_block_s, 0.0
    if kind == TRANSFER:
        return 0.0, 0.0
    if kind == SENSE:
        if block_w == tables.block_power_w:
            return work * tables.cell_j_per_block_s, 0.0
        return work * block_w / tables.end_efficiency, 0.0
    place = tables.fixed + user if kind == TRAIN else node
    return work * tables.busy_w[place], work * tables.price_per_s[place]


@njit
def needed_setup(tables: Tables, view: View, scratch: Scratch, node: int, artifact: int) -> int:
    """The set-up of an artifact at a node, -1 where running tasks hold it there already."""
    if artifact < 0 or view.pinned[node, artifact] > 0:
        return -1
    key = node * len(tables.size_byte) + artifact
    setup = scratch.setup_of[key]
    if setup < 0:
        setup = scratch.counter[SETUP_COUNT]
        scratch.counter[SETUP_COUNT] += 1
        scratch.setup_of[key] = setup
        scratch.setup_key[setup] = key
    return setup


@njit
def quality_of(tables: Tables, kind: int, model: int, adapter: int, step: float, accuracy: float) -> float:
    """Quality of an answer: the model's score, how far it was denoised, its adapter, and what sensing bought."""
    quality = tables.quality[model]
    if kind == IMAGE:
        quality *= 1.0 - math.exp(-step / tables.steps_scale[model])
    if adapter >= 0:
        quality += tables.quality_gain[adapter]
    return min(1.0, quality) * accuracy


@njit
def try_pattern(
    tables: Tables,
    tasks: TaskColumns,
    view: View,
    pace: float,
    scratch: Scratch,
    ints: NDArray[np.int64],
    floats: NDArray[np.float64],
    ends: NDArray[np.float64],
    i: int,
    k: int,
    node: int,
    model: int,
    adapter: int,
    step: float,
    sensing: int,
    level: int,
) -> bool:
    """Price one way to serve task i; append it unless it misses the deadline, the quality or a machine's memory."""
    user, kind = tasks.user[i], tables.service_kind[tasks.service[i]]
    home = tables.fixed + user
    holder = home if kind == LEARNING else node
    if tables.size_byte[model] + (tables.size_byte[adapter] if adapter >= 0 else 0.0) > tables.memory_byte[holder]:
        return False
    cell = view.candidate[user, k] if k >= 0 else -1
    wait = model_wait_s(tables, view.resident, view.ready_s, holder, model, view.now_s)
    if adapter >= 0:
        wait += model_wait_s(tables, view.resident, view.ready_s, holder, adapter, view.now_s)
    radio = max(k, 0)
    n, accuracy = expand(
        tables, kind, user, tasks.prompt_token[i], tasks.output_token[i], step, tasks.image[i], tasks.uplink_bit[i],
        tasks.downlink_bit[i], tasks.target_range_m[i], cell, view.uplink[user, radio], view.downlink[user, radio],
        view.uplink_power_w[user, radio], view.cell_distance_m[user, radio], node, model, view.batch[node, model], wait,
        sensing, level, ints, floats,
    )  # fmt: skip
    quality = quality_of(tables, kind, model, adapter, step, accuracy) if kind != LEARNING else 1.0
    budget = tasks.deadline_s[i] - view.now_s
    if quality < tasks.quality_min[i] or budget <= 0.0:
        return False
    least, planned = windows(floats, n, budget, pace, ends)
    if least > budget:
        return False
    energy, price = 0.0, 0.0
    for s in range(n):
        work = floats[s, AMOUNT] * floats[s, UNIT]
        joule, money = stage_cost(tables, user, ints[s, KIND], ints[s, RESOURCE], node, work, floats[s, BLOCK_W])
        energy += joule
        price += money
    cost = price + energy * tables.energy_price_per_j
    worth = tasks.value[i] * (1.0 + tables.latency_weight * (1.0 - least / budget)) - tables.cost_weight * cost
    if worth <= 0.0:
        return False
    p = scratch.counter[PATTERN_COUNT]
    description = scratch.ints[p]
    description[TASK], description[CANDIDATE], description[CELL], description[NODE] = i, k, cell, node
    description[MODEL], description[ADAPTER], description[SENSING], description[LEVEL] = model, adapter, sensing, level
    number = scratch.floats[p]
    number[STEP], number[QUALITY], number[ENERGY_J], number[COST] = step, quality, energy, cost
    number[COMPLETION_S], number[ASAP_S], number[BATCH], number[WAIT_S] = planned, least, view.batch[node, model], wait
    scratch.value[p] = worth
    scratch.tier[p] = tables.tier[node]
    scratch.nearest[p] = 1 if k == 0 and node == tables.cell_edge[cell] else 0
    scratch.setup[p, 0] = needed_setup(tables, view, scratch, holder, model)
    scratch.setup[p, 1] = needed_setup(tables, view, scratch, holder, adapter)
    add_demand(tables, tasks, scratch, ints, floats, ends, i, n, cell, node, model)
    scratch.counter[PATTERN_COUNT] = p + 1
    scratch.entry_ptr[p + 1] = scratch.counter[ENTRY_COUNT]
    return True


@njit
def add_demand(
    tables: Tables,
    tasks: TaskColumns,
    scratch: Scratch,
    ints: NDArray[np.int64],
    floats: NDArray[np.float64],
    ends: NDArray[np.float64],
    i: int,
    n: int,
    cell: int,
    node: int,
    model: int,
) -> None:
    """What a pattern draws on each pool row: its stages over their windows, transmit energy now, and its KV cache."""
    first = scratch.counter[ENTRY_COUNT]
    begin, transmit = 0.0, 0.0
    frame_s = tables.slot_edge_s[1]
    for s in range(n):
        begin += floats[s, WAIT]
        work = floats[s, AMOUNT] * floats[s, UNIT]
        if work > 0.0:
            add_window(tables, scratch, first, ints[s, RESOURCE], work, begin, ends[s])
            cell_sends = ints[s, KIND] == DOWNLINK or (ints[s, KIND] == SENSE and floats[s, BLOCK_W] == tables.block_power_w)
            if cell_sends and begin < frame_s:
                transmit += work * min(1.0, (frame_s - begin) / max(ends[s] - begin, 1e-9))
        begin = ends[s]
    if transmit > 0.0:
        add_entry(scratch, first, tables.power_start + cell, transmit)
    cache = (tasks.prompt_token[i] + tasks.output_token[i]) * tables.kv_byte_per_token[model]
    if cache > 0.0 and tables.service_kind[tasks.service[i]] != LEARNING:
        add_entry(scratch, first, tables.memory_start + node, cache)


@njit
def places(
    tables: Tables, view: View, user: int, k: int, cell: int, edges_considered: int, out: NDArray[np.int64]
) -> int:
    """Nodes to consider behind candidate cell k: its own edge, the edges with most to spare, and the cloud."""
    count = 0
    own = tables.cell_edge[cell]
    if view.node_up[own]:
        out[count] = own
        count += 1
    spare = 0
    for e in range(len(view.spare_edge)):
        if spare + 1 >= edges_considered:
            break
        edge = view.spare_edge[e]
        if edge != own and view.node_up[edge]:
            out[count] = edge
            count += 1
            spare += 1
    for node in range(tables.fixed):
        if tables.tier[node] == 2 and view.node_up[node]:
            out[count] = node
            count += 1
    return count


@njit
def try_sensing(
    tables: Tables, tasks: TaskColumns, view: View, pace: float, scratch: Scratch, ints: NDArray[np.int64],
    floats: NDArray[np.float64], ends: NDArray[np.float64], i: int, k: int, node: int, model: int,
) -> None:  # fmt: skip
    """Perception: for each side that may sense, the cheapest level that is good enough."""
    for sensing in (END_SENSES, CELL_SENSES):
        for level in range(len(tables.level_block)):
            if try_pattern(tables, tasks, view, pace, scratch, ints, floats, ends, i, k, node, model, -1, 0.0, sensing, level):
                break


@njit
def try_places(
    tables: Tables, tasks: TaskColumns, view: View, pace: float, scratch: Scratch, ints: NDArray[np.int64],
    floats: NDArray[np.float64], ends: NDArray[np.float64], i: int, k: int, node: int,
) -> None:  # fmt: skip
    """Every model variant and quality knob of task i at one node behind candidate k (-1: without radio)."""
    service = tasks.service[i]
    kind = tables.service_kind[service]
    for m in range(tables.model_ptr[service], tables.model_ptr[service + 1]):
        model = tables.model_index[m]
        if kind == PERCEPTION:
            if view.sensing_up and k >= 0:
                try_sensing(tables, tasks, view, pace, scratch, ints, floats, ends, i, k, node, model)
        elif kind == IMAGE:
            adapter = tasks.adapter[i]
            if adapter >= 0 and tables.base[adapter] != model:
                continue
            for fraction in STEP_FRACTIONS:
                step = math.ceil(fraction * tasks.step[i])
                try_pattern(
                    tables, tasks, view, pace, scratch, ints, floats, ends, i, k, node, model, adapter, step, NO_SENSING, 0
                )
        else:
            try_pattern(tables, tasks, view, pace, scratch, ints, floats, ends, i, k, node, model, -1, 0.0, NO_SENSING, 0)


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
    ints = np.empty((STAGES_MAX, INT_COLUMNS), np.int64)
    floats = np.empty((STAGES_MAX, FLOAT_COLUMNS))
    ends = np.empty(STAGES_MAX)
    nodes = np.empty(tables.fixed + 1, np.int64)
    scratch.entry_ptr[0] = scratch.task_ptr[0] = 0
    most = (cells_considered * (tables.fixed + 2) + 2) * len(tables.size_byte) * 3 * 2
    for i in range(len(tasks.user)):
        full = counter[PATTERN_COUNT] + most > counter[PATTERNS_MAX]
        if full or counter[ENTRY_COUNT] + most * (STAGES_MAX + tables.slots + 2) > counter[ENTRIES_MAX]:
            counter[OVERFLOW] = 1
            break
        user, kind = tasks.user[i], tables.service_kind[tasks.service[i]]
        home = tables.fixed + user
        if kind != LEARNING and kind != PERCEPTION:
            try_places(tables, tasks, view, pace, scratch, ints, floats, ends, i, -1, home)
        elif kind == PERCEPTION and view.candidate[user, 0] >= 0:
            try_places(tables, tasks, view, pace, scratch, ints, floats, ends, i, 0, home)
        best = min(view.uplink[user, 0], view.downlink[user, 0])
        for k in range(min(cells_considered, view.candidate.shape[1])):
            cell = view.candidate[user, k]
            weakest = min(view.uplink[user, k], view.downlink[user, k])
            if cell < 0 or weakest <= 0.0 or (k > 0 and weakest < SECOND_CELL_FLOOR * best):
                continue
            for j in range(places(tables, view, user, k, cell, edges_considered, nodes)):
                try_places(tables, tasks, view, pace, scratch, ints, floats, ends, i, k, nodes[j])
        scratch.task_ptr[i + 1] = counter[PATTERN_COUNT]


@njit
def forget(scratch: Scratch) -> None:
    """Set the maps of a call back to -1."""
    for row in range(scratch.counter[ROW_COUNT]):
        scratch.row_of[scratch.row_id[row]] = -1
    for setup in range(scratch.counter[SETUP_COUNT]):
        scratch.setup_of[scratch.setup_key[setup]] = -1
