"""How a contended resource is given out within a step: what each stage could use, and who goes first."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from gainnet.compiled import inner
from gainnet.execution.running_kernel import ACTIVE, R_MODEL, R_NODE, R_READY, R_STAGE, R_STATUS, Running
from gainnet.orchestrator.stage_kernel import AMOUNT, DECODE, FLOP, KIND, PREFILL, RATE, TOKEN_CACHE, TOKEN_WEIGHT, UNIT
from gainnet.orchestrator.tables import Tables

PREFILL_LEAD_S = 0.2


class Work(NamedTuple):
    """Scratch of a step: per running row, per resource, and per (node, artifact)."""

    left_s: NDArray[np.float64]
    following: NDArray[np.int64]
    most: NDArray[np.float64]
    grant: NDArray[np.float64]
    first: NDArray[np.int64]
    left: NDArray[np.float64]
    touched: NDArray[np.int64]
    transmit_left: NDArray[np.float64]
    decoding: NDArray[np.int64]
    list_row: NDArray[np.int64]
    list_end_s: NDArray[np.float64]


@inner
def count_decoding(running: Running, active: NDArray[np.int64], artifacts: int, work: Work, until_s: float) -> None:
    """Requests that decode together, for each node and model."""
    for row in active:
        ints = running.ints[row]
        if ints[R_STATUS] == ACTIVE:
            work.decoding[ints[R_NODE] * artifacts + ints[R_MODEL]] = 0
    for row in active:
        ints = running.ints[row]
        decodes = running.stage_ints[row, ints[R_STAGE], KIND] == DECODE
        if ints[R_STATUS] == ACTIVE and decodes and running.floats[row, R_READY] < until_s:
            work.decoding[ints[R_NODE] * artifacts + ints[R_MODEL]] += 1


@inner
def batch_of(tables: Tables, requests: float, node: int) -> float:
    """Requests in the batch of one accelerator."""
    return min(tables.node[node].batch_max, max(1.0, requests / tables.node[node].count))


@inner
def want(tables: Tables, running: Running, work: Work, row: int, at_s: float, step_s: float) -> bool:
    """How much of its resource a task's stage could use in its left-over time; whether it may begin in this step."""
    ints, floats = running.ints[row], running.floats[row]
    s = ints[R_STAGE]
    numbers = running.stage_floats[row, s]
    if running.stage_ints[row, s, KIND] == DECODE:
        node = ints[R_NODE]
        key = node * len(tables.artifact) + ints[R_MODEL]
        batch = batch_of(tables, float(work.decoding[key]), node)
        numbers[UNIT] = max(
            numbers[FLOP] / tables.node[node].flop_per_s, numbers[TOKEN_WEIGHT] / batch + numbers[TOKEN_CACHE]
        )
        numbers[RATE] = 1.0 / batch
    if not numbers[UNIT] < math.inf:
        return False
    amount = numbers[AMOUNT] * numbers[UNIT]
    work.most[row] = min(amount, numbers[RATE] * work.left_s[row])
    return floats[R_READY] < at_s + step_s


@inner
def urgency(running: Running, row: int) -> float:
    """What a contended resource is given out by: the planned end, for a prefill a little before (it joins a batch)."""
    stage = running.ints[row, R_STAGE]
    end = running.stage_end_s[row, stage]
    return end - PREFILL_LEAD_S if running.stage_ints[row, stage, KIND] == PREFILL else end


@inner
def share(running: Running, work: Work, resource: int) -> float:
    """Give what is left of a resource to the rows in its list; sets their grants and returns their sum.

    Where all fit, each gets all it can use; else the most urgent first, which meets every planned end that can be met.
    """
    n, wanted = 0, 0.0
    row = work.first[resource]
    while row >= 0:
        work.list_row[n] = row
        work.grant[row] = work.most[row]
        wanted += work.most[row]
        n += 1
        row = work.following[row]
    left = work.left[resource]
    if wanted <= left:
        return wanted
    for i in range(n):
        row = work.list_row[i]
        end = urgency(running, row)
        j = i - 1
        while j >= 0 and work.list_end_s[j] > end:
            work.list_row[j + 1], work.list_end_s[j + 1] = work.list_row[j], work.list_end_s[j]
            j -= 1
        work.list_row[j + 1], work.list_end_s[j + 1] = row, end
    given = 0.0
    for i in range(n):
        row = work.list_row[i]
        work.grant[row] = min(work.most[row], left - given)
        given += work.grant[row]
    return given
