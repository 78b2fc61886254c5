"""One frame of fluid execution: every resource gives its time to the stages that want it, step by step.

Within a step a resource that has enough gives each stage all it can use; a contended one serves the earliest planned end
first, the rule under which whatever fits the cumulative pool rows is done in time. A stage that ends inside a step hands
its left-over time to the next one.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from gainnet.compiled import inner, njit
from gainnet.execution.contention_kernel import Work, count_decoding, share, want
from gainnet.execution.meter_kernel import DETECTIONS, LOOKS, Meters, charge
from gainnet.execution.running_kernel import (
    ACTIVE,
    DONE,
    LOST,
    MISSED,
    R_ACCURACY,
    R_CELL,
    R_END,
    R_HANDOVER,
    R_LEVEL,
    R_LOOKS,
    R_NODE,
    R_READY,
    R_STAGE,
    R_STAGES,
    R_STATUS,
    R_USER,
    Residency,
    Running,
    collect,
    enter_stage,
)
from gainnet.orchestrator.stage_kernel import (
    AMOUNT,
    BLOCK_W,
    DOWNLINK,
    KIND,
    RADIO_DOWN,
    RADIO_UP,
    RATE,
    RESOURCE,
    SENSE,
    TRAIN,
    TRANSFER,
    UNIT,
    UPLINK,
    UPLOAD,
    View,
    radio_resource,
)
from gainnet.orchestrator.tables import Tables

PASSES = 4
REHOME_BELOW = 0.5
TIME_EPSILON_S = 1e-9


@inner
def is_radio(kind: int) -> bool:
    """Whether a stage sends data over the air."""
    return kind in (UPLINK, DOWNLINK, UPLOAD)


@inner
def follow_radio(
    tables: Tables, view: View, running: Running, row: int, now_s: float, pending: NDArray[np.bool_]
) -> None:
    """Give a task's remaining radio stages the rates of its cell as they truly are; hand it over where the cell is lost."""
    ints, stages, amounts = running.ints[row], running.stage_ints[row], running.stage_floats[row]
    pending[row] = False
    for s in range(ints[R_STAGE], ints[R_STAGES]):
        if is_radio(stages[s, KIND]) or stages[s, KIND] == SENSE:
            pending[row] = True
    if not pending[row]:
        return
    user, k = ints[R_USER], -1
    for j in range(view.candidate.shape[1]):
        if view.candidate[user, j] == ints[R_CELL]:
            k = j
    best = view.candidate[user, 0]
    if best >= 0 and k != 0:
        weak = k < 0 or view.downlink[user, k] < REHOME_BELOW * view.downlink[user, 0]
        if weak or view.uplink[user, k] < REHOME_BELOW * view.uplink[user, 0]:
            forward_s = tables.path_latency_s[tables.cell_edge[ints[R_CELL]], tables.cell_edge[best]]
            ints[R_CELL], k = best, 0
            ints[R_HANDOVER] += 1
            running.floats[row, R_READY] = max(
                running.floats[row, R_READY], now_s + tables.run[0].interruption_s + forward_s
            )
    up, down = (view.uplink[user, k], view.downlink[user, k]) if k >= 0 else (0.0, 0.0)
    for s in range(ints[R_STAGE], ints[R_STAGES]):
        kind = stages[s, KIND]
        if kind == SENSE:
            stages[s, RESOURCE] = radio_resource(tables, ints[R_CELL], 0)
        elif is_radio(kind):
            rate = down if kind == DOWNLINK else up
            amounts[s, UNIT] = 1.0 / (rate * tables.run[0].block_hz) if rate > 0.0 else math.inf
            part = RADIO_DOWN if kind == DOWNLINK else RADIO_UP
            stages[s, RESOURCE] = radio_resource(tables, ints[R_CELL], part)
            if kind != DOWNLINK and k >= 0:
                amounts[s, BLOCK_W] = view.uplink_power_w[user, k]


@inner
def finish_stage(
    tables: Tables,
    running: Running,
    residency: Residency,
    meters: Meters,
    row: int,
    at_s: float,
    retries: int,
    rng: np.random.Generator,
) -> None:
    """Go on to the next stage, look again where the radar missed, or end the task."""
    ints, floats = running.ints[row], running.floats[row]
    s = ints[R_STAGE]
    running.stage_floats[row, s, AMOUNT] = 0.0
    if running.stage_ints[row, s, KIND] == SENSE:
        meters.totals[LOOKS] += 1.0
        ints[R_LOOKS] += 1
        if rng.random() >= floats[R_ACCURACY]:
            if ints[R_LOOKS] > retries:
                ints[R_STATUS] = MISSED
                floats[R_END] = at_s
            else:
                running.stage_floats[row, s, AMOUNT] = tables.level[ints[R_LEVEL]].cost_block_s
            return
        meters.totals[DETECTIONS] += 1.0
    ints[R_STAGE] += 1
    if ints[R_STAGE] == ints[R_STAGES]:
        ints[R_STAGE] = s
        ints[R_STATUS] = DONE
        floats[R_END] = at_s
    else:
        enter_stage(tables, running, residency, row, at_s)


@inner
def step(
    tables: Tables,
    running: Running,
    residency: Residency,
    active: NDArray[np.int64],
    capacity: NDArray[np.float64],
    power_block_s: float,
    begin_s: float,
    step_s: float,
    retries: int,
    sensing_up: bool,
    work: Work,
    meters: Meters,
    rng: np.random.Generator,
) -> None:
    """Advance all active tasks by one step."""
    end_s = begin_s + step_s
    artifacts = len(tables.artifact)
    count_decoding(running, active, artifacts, work, end_s)
    for r in range(len(capacity)):
        work.left[r] = capacity[r] * step_s
    for cell in range(len(work.transmit_left)):
        work.transmit_left[cell] = power_block_s
    for row in active:
        begin = max(begin_s, running.floats[row, R_READY])
        work.left_s[row] = end_s - begin if running.ints[row, R_STATUS] == ACTIVE else 0.0
    for _ in range(PASSES):
        touched = 0
        for row in active:
            if running.ints[row, R_STATUS] != ACTIVE or work.left_s[row] <= TIME_EPSILON_S:
                continue
            at = end_s - work.left_s[row]
            sense = running.stage_ints[row, running.ints[row, R_STAGE], KIND] == SENSE
            if (sense and not sensing_up) or not want(tables, running, work, row, at, step_s):
                work.left_s[row] = 0.0
                continue
            resource = running.stage_ints[row, running.ints[row, R_STAGE], RESOURCE]
            if work.first[resource] < 0:
                work.touched[touched] = resource
                touched += 1
            work.following[row] = work.first[resource]
            work.first[resource] = row
        if touched == 0:
            break
        for t in range(touched):
            resource = work.touched[t]
            before = work.left[resource]
            given = share(running, work, resource)
            fullness = given / before if before > 0.0 else 1.0
            row = work.first[resource]
            work.first[resource] = -1
            while row >= 0:
                progress(tables, running, residency, work, meters, row, resource, fullness, end_s, retries, rng)
                row = work.following[row]


@inner
def progress(
    tables: Tables,
    running: Running,
    residency: Residency,
    work: Work,
    meters: Meters,
    row: int,
    resource: int,
    fullness: float,
    end_s: float,
    retries: int,
    rng: np.random.Generator,
) -> None:
    """Use a task's grant: charge it, shorten its stage, and if that ends, keep the time it did not need.

    A stage that ends takes the time its greatest rate needs, or the fraction of the step for which its resource was
    busy (``fullness``), whichever is longer.
    """
    ints = running.ints[row]
    s = ints[R_STAGE]
    numbers = running.stage_floats[row, s]
    kind = running.stage_ints[row, s, KIND]
    grant = min(work.grant[row], work.left[resource])
    if kind == DOWNLINK or (kind == SENSE and numbers[BLOCK_W] == tables.run[0].block_power_w):
        grant = min(grant, work.transmit_left[ints[R_CELL]])
        work.transmit_left[ints[R_CELL]] -= grant
    amount = numbers[AMOUNT] * numbers[UNIT]
    work.left[resource] -= grant
    charge(tables, running, meters, row, grant)
    if grant < amount * (1.0 - 1e-12):
        numbers[AMOUNT] -= grant / numbers[UNIT]
        work.left_s[row] = 0.0
        return
    taken = max(fullness, amount / (numbers[RATE] * work.left_s[row]))
    work.left_s[row] *= max(0.0, 1.0 - taken)
    at = end_s - work.left_s[row]
    finish_stage(tables, running, residency, meters, row, at, retries, rng)
    if ints[R_STATUS] == ACTIVE:
        work.left_s[row] = max(0.0, min(work.left_s[row], end_s - running.floats[row, R_READY]))


@inner
def lose_failed(
    tables: Tables,
    running: Running,
    node_up: NDArray[np.bool_],
    end_up: NDArray[np.bool_],
    active: NDArray[np.int64],
    now_s: float,
) -> None:
    """Mark as lost the tasks whose machine is down and that still need it, and those of ends that are down."""
    for row in active:
        ints = running.ints[row]
        node = ints[R_NODE]
        if not end_up[ints[R_USER]]:
            ints[R_STATUS] = LOST
            running.floats[row, R_END] = now_s
            continue
        if node >= tables.run[0].fixed or node_up[node]:
            continue
        for s in range(ints[R_STAGE], ints[R_STAGES]):
            kind = running.stage_ints[row, s, KIND]
            if kind != TRANSFER and kind != SENSE and kind != TRAIN and not is_radio(kind):
                ints[R_STATUS] = LOST
                running.floats[row, R_END] = now_s
                break


@inner
def commit_rows(
    tables: Tables, running: Running, active: NDArray[np.int64], now_s: float, committed: NDArray[np.float64]
) -> None:
    """What every active task still needs of each resource by the end of each slot, as it is planned from now on."""
    slots, edges = tables.run[0].slots, tables.slot_edge_s
    for r in range(len(committed)):
        committed[r] = 0.0
    for row in active:
        ints = running.ints[row]
        if ints[R_STATUS] != ACTIVE:
            continue
        begin = max(0.0, running.floats[row, R_READY] - now_s)
        for s in range(ints[R_STAGE], ints[R_STAGES]):
            numbers = running.stage_floats[row, s]
            end = max(begin, running.stage_end_s[row, s] - now_s)
            amount = numbers[AMOUNT] * numbers[UNIT]
            if amount < math.inf and amount > 0.0:
                end = max(end, begin + amount / numbers[RATE])
                base = running.stage_ints[row, s, RESOURCE] * slots
                slot = 0
                while slot + 1 < slots and edges[slot + 1] < end:
                    slot += 1
                for later in range(slot, slots):
                    committed[base + later] += amount
            begin = end


@njit
def run_frame(
    tables: Tables,
    view: View,
    running: Running,
    residency: Residency,
    active: NDArray[np.int64],
    capacity: NDArray[np.float64],
    power_block_s: float,
    frame_s: float,
    steps: int,
    retries: int,
    abandon_s: float,
    work: Work,
    meters: Meters,
    committed: NDArray[np.float64],
    left: NDArray[np.int64],
    rng: np.random.Generator,
) -> tuple[int, int]:
    """Advance all active tasks by one frame on the links of ``view`` (the true ones), and part those that ended.

    Afterwards ``active`` holds the rows that stay in front and ``left`` those that left, as `collect` says, which also
    gives the numbers returned; ``committed`` is what those that stay still need of every pool row.
    """
    pending = np.zeros(running.ints.shape[0], np.bool_)
    lose_failed(tables, running, view.node_up, view.end_up, active, view.now_s)
    for row in active:
        follow_radio(tables, view, running, row, view.now_s, pending)
    step_s = frame_s / steps
    for k in range(steps):
        step(
            tables, running, residency, active, capacity, power_block_s / steps, view.now_s + k * step_s, step_s, retries,
            view.sensing_up, work, meters, rng,
        )  # fmt: skip
    end_s = view.now_s + frame_s
    stay, leave = collect(running, residency, active, end_s, abandon_s, left)
    commit_rows(tables, running, active[:stay], end_s, committed)
    return stay, leave
