"""The ways a task could be carried out at best: the work of each, with everything resident and batches full."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from gainnet.compiled import inner, njit
from gainnet.orchestrator.pattern_kernel import STEP_FRACTIONS
from gainnet.orchestrator.stage_kernel import (
    ADAPTER,
    AMOUNT,
    CELL_SENSES,
    DECODE,
    DENOISE,
    DOWNLINK,
    END_SENSES,
    FLOP,
    KIND,
    LEVEL,
    MODEL,
    NO_SENSING,
    NODE,
    PREFILL,
    RATE,
    SENSE,
    SENSING,
    SPLIT,
    TASK,
    TOKEN_CACHE,
    TOKEN_WEIGHT,
    TRAIN,
    TRANSFER,
    UNIT,
    UPLINK,
    UPLOAD,
    View,
    accuracy_of,
    expand,
)
from gainnet.orchestrator.tables import Tables
from gainnet.orchestrator.task_kernel import IMAGE, LEARNING, PERCEPTION, TaskColumns, holder_of, reserved_byte
from gainnet.orchestrator.worth_kernel import quality_of, stage_cost

# Columns of an option: node-seconds at a fixed machine and at the end, resource-block-seconds of radio, and what its
# machine time and the energy of that cost.
FIXED_S, END_S, BLOCK_S, COST = range(4)
OPTION_FLOATS = 4
# Columns of a task: when its work may begin (s), resource-block-seconds that a bit takes up and down at the best
# efficiency that its window sees (inf without service), least distance to a cell (m).
BEGIN_S, UP_BLOCK_S, DOWN_BLOCK_S, NEAREST_M = range(4)
TASK_FLOATS = 4


@inner
def weigh(
    tables: Tables, tasks: TaskColumns, view: View, pick: NDArray[np.int64], step: float, best: NDArray[np.float64],
    ready_s: float, ints: NDArray[np.int64], floats: NDArray[np.float64], option: NDArray[np.float64],
) -> float:  # fmt: skip
    """Write the option that ``pick`` names; returns when it could end at best (s), alone in the network.

    ``view`` has links of 1 bit/s/Hz, so the amounts of radio stages are bits. Decoding is charged at the fullest batch of
    the node, where a token takes least of it, and takes the time it has alone, where it takes least time.
    """
    i, node = pick[TASK], pick[NODE]
    user = tasks.user[i]
    n = expand(tables, tasks, view, pick, step, tables.node[node].batch_max, 0.0, ints, floats)
    option[:] = 0.0
    at = best[BEGIN_S]
    for s in range(n):
        kind, amount = ints[s, KIND], floats[s, AMOUNT]
        if kind == TRANSFER:
            continue
        work = amount * floats[s, UNIT]
        if kind in (UPLINK, UPLOAD):
            work = amount * best[UP_BLOCK_S]
        elif kind == DOWNLINK:
            work = amount * best[DOWN_BLOCK_S]
        if kind in (UPLINK, UPLOAD, DOWNLINK, SENSE):
            option[BLOCK_S] += work
            at += work / floats[s, RATE]
            continue
        if kind in (PREFILL, DENOISE, SPLIT) or (kind == TRAIN and holder_of(tables, tasks, i, node) != node):
            at = max(at, ready_s)
        if kind == DECODE:
            alone = floats[s, TOKEN_WEIGHT] + floats[s, TOKEN_CACHE]
            at += amount * max(floats[s, FLOP] / tables.node[node].flop_per_s, alone)
        else:
            at += work / floats[s, RATE]
        option[END_S if kind == TRAIN or node == tables.run[0].fixed + user else FIXED_S] += work
        joule, money = stage_cost(tables, user, kind, node, work, 0.0)
        option[COST] += money + joule * tables.run[0].energy_price_per_j
    return at


@inner
def keep(first: int, count: int, tier: int, tiers: NDArray[np.int64], options: NDArray[np.float64]) -> int:
    """Keep option ``count`` unless one of the task's at that tier takes no more of anything; returns the new count."""
    for other in range(first, count):
        better = tiers[other] == tier
        for column in range(OPTION_FLOATS):
            better = better and options[other, column] <= options[count, column]
        if better:
            return count
    tiers[count] = tier
    return count + 1


@inner
def sense(
    tables: Tables, tasks: TaskColumns, pick: NDArray[np.int64], sensing: int, nearest_m: float
) -> bool:  # fmt: skip
    """Pick the cheapest radar level that is good enough at the least distance; whether there is one."""
    i, cheapest = pick[TASK], math.inf
    for level in range(len(tables.level)):
        accuracy = accuracy_of(tables, sensing, level, tasks.target_range_m[i], nearest_m)
        good = tables.artifact[pick[MODEL]].quality * accuracy >= tasks.quality_min[i]
        if good and tables.level[level].cost_block_s < cheapest:
            cheapest = tables.level[level].cost_block_s
            pick[LEVEL] = level
    pick[SENSING] = sensing
    return cheapest < math.inf


@inner
def least_step(tables: Tables, tasks: TaskColumns, kind: int, pick: NDArray[np.int64]) -> float:
    """Fewest of the denoising steps allowed that are good enough; -1 where none is, 0 for what is not denoised."""
    i = pick[TASK]
    if kind != IMAGE:
        enough = kind == PERCEPTION or tables.artifact[pick[MODEL]].quality >= tasks.quality_min[i]
        return 0.0 if enough else -1.0
    found = -1.0
    for f in range(len(STEP_FRACTIONS)):
        step = float(math.ceil(STEP_FRACTIONS[f] * tasks.step[i]))
        quality = quality_of(tables, kind, pick[MODEL], pick[ADAPTER], step, 1.0)
        if quality >= tasks.quality_min[i] and (found < 0.0 or step < found):
            found = step
    return found


@njit
def options_of(
    tables: Tables,
    tasks: TaskColumns,
    view: View,
    best: NDArray[np.float64],
    ready_s: NDArray[np.float64],
    places: NDArray[np.int64],
    ptr: NDArray[np.int64],
    tiers: NDArray[np.int64],
    options: NDArray[np.float64],
    pick: NDArray[np.int64],
    ints: NDArray[np.int64],
    floats: NDArray[np.float64],
) -> int:
    """Every option of every task that could end by its deadline, alone in the network; returns how many.

    Args:
        tables, tasks, view: as `expand` reads them; of the view's links it reads 1 bit/s/Hz.
        best: the columns BEGIN_S ... of each task.
        ready_s: earliest use of each artifact at each node.
        places: a fixed node of each kind of machine that may compute.
        ptr, tiers, options: written: the options of task i are ``ptr[i]:ptr[i + 1]``; their tier, 0 for the end.
        pick, ints, floats: scratch of one pattern.
    """
    count, fixed = 0, tables.run[0].fixed
    for i in range(len(tasks.user)):
        ptr[i] = count
        service = tasks.service[i]
        kind = tables.service_kind[service]
        pick[:] = 0
        pick[TASK] = i
        for place in range(-1 if kind != LEARNING else 0, len(places)):
            home = fixed + tasks.user[i]
            node = home if place < 0 else places[place]
            holder = holder_of(tables, tasks, i, node)
            for m in range(tables.model_ptr[service], tables.model_ptr[service + 1]):
                model = tables.model_index[m]
                adapter = tasks.adapter[i] if kind == IMAGE else -1
                if adapter >= 0 and tables.artifact[adapter].base != model:
                    continue
                size, ready = tables.artifact[model].size_byte, ready_s[holder, model]
                if adapter >= 0:
                    size += tables.artifact[adapter].size_byte
                    ready = max(ready, ready_s[holder, adapter])
                pick[NODE], pick[MODEL], pick[ADAPTER], pick[SENSING], pick[LEVEL] = node, model, adapter, NO_SENSING, 0
                step = least_step(tables, tasks, kind, pick)
                if step < 0.0 or size > tables.node[holder].memory_byte:
                    continue
                if kind == LEARNING and reserved_byte(tables, tasks, i, model) > tables.node[home].memory_byte:
                    continue
                senses = kind == PERCEPTION
                for sensing in range(END_SENSES if senses else NO_SENSING, (CELL_SENSES if senses else NO_SENSING) + 1):
                    if senses and not sense(tables, tasks, pick, sensing, best[i, NEAREST_M]):
                        continue
                    end = weigh(tables, tasks, view, pick, step, best[i], ready, ints, floats, options[count])
                    if end <= tasks.deadline_s[i] + 1e-9:
                        tier = 0 if place < 0 else tables.node[node].tier
                        count = keep(ptr[i], count, tier, tiers, options)
    ptr[len(tasks.user)] = count
    return count
