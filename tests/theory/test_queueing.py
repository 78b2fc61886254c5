"""Execution against queueing theory: M/M/1 sojourn and age of information, FCFS by its own recursion, Little's law."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest

import tiny
from gainnet.execution import running_kernel as rk
from gainnet.execution.step_kernel import run_frame
from gainnet.execution.table import Table, new_meters, new_work
from gainnet.orchestrator import stage_kernel as sk
from gainnet.orchestrator.pattern import view_of
from gainnet.run import Run, simulate
from gainnet.scenario.load import load

MU_PER_S, TASKS = 1.0, 40_000
STEP_S, FRAME_S = 0.02, 10.0


@cache
def queued(rho: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Arrivals, work and ends of tasks that one end computes: Poisson arrivals, exponential work, one stage each.

    The step kernel advances a table made by hand, whose rows may begin when they arrive: there is no wait for a frame.
    """
    rng = np.random.default_rng(round(100 * rho))
    arrival_s = np.cumsum(rng.exponential(1.0 / (rho * MU_PER_S), TASKS))
    work_s = rng.exponential(1.0 / MU_PER_S, TASKS)
    run = Run(tiny.scenario(ends=1))
    run.observe()
    assert run._posed is not None
    assert run._state is not None
    pool, tables = run.orchestrator.pool, run.orchestrator.tables
    view = view_of(run._state, run._state.truth)
    table = Table(pool.stages_max, rows=TASKS)
    ints, floats, rows = table.running.ints, table.running.floats, np.arange(TASKS)
    ints[:, rk.R_TASK], ints[:, rk.R_NODE], ints[:, rk.R_STAGES] = rows, pool.fixed, 1
    floats[:, rk.R_READY] = floats[:, rk.R_ARRIVAL] = floats[:, rk.R_DEADLINE] = arrival_s
    table.running.stage_ints[:, 0, sk.KIND], table.running.stage_ints[:, 0, sk.RESOURCE] = sk.DENOISE, pool.end_start
    stage = table.running.stage_floats[:, 0]
    stage[:, sk.AMOUNT], stage[:, sk.UNIT], stage[:, sk.RATE] = work_s, 1.0, 1.0
    table.running.stage_end_s[:, 0] = arrival_s + 100.0
    capacity, work = pool.capacity_per_s.copy(), new_work(pool, tables, TASKS)
    committed, left, active, arrived, frame = np.zeros(pool.rows), np.empty(TASKS, np.int64), rows[:0], 0, 0
    while arrived < TASKS or len(active):
        first, arrived = arrived, int(np.searchsorted(arrival_s, (frame + 1) * FRAME_S))
        active = np.concatenate([active, rows[first:arrived]])
        stay, _ = run_frame(
            tables, view._replace(now_s=frame * FRAME_S), table.running, run.execution._residency, active, capacity,
            0.0, FRAME_S, round(FRAME_S / STEP_S), 0, np.inf, work, new_meters(pool, tables), committed, left, rng,
        )  # fmt: skip
        active, frame = active[:stay], frame + 1
    return arrival_s, work_s, floats[:, rk.R_END].copy()


@pytest.mark.parametrize("rho", [0.5, 0.7])
@pytest.mark.untraced
def test_one_machine_serves_first_come_first(rho: float) -> None:
    """Equal times to the planned end: the ends follow Lindley's recursion, task by task."""
    arrival_s, work_s, end_s = queued(rho)
    expected = np.empty(TASKS)
    free_s = 0.0
    for i in range(TASKS):
        free_s = expected[i] = max(free_s, arrival_s[i]) + work_s[i]
    assert (np.diff(end_s) >= -1e-9).all()
    assert np.abs(end_s - expected).max() < 5.0 * STEP_S
    assert (end_s - expected).mean() == pytest.approx(0.0, abs=STEP_S)


@pytest.mark.parametrize("rho", [0.5, 0.7])
def test_mean_sojourn_of_m_m_1(rho: float) -> None:
    arrival_s, _, end_s = queued(rho)
    assert (end_s - arrival_s).mean() == pytest.approx(1.0 / (MU_PER_S - rho * MU_PER_S), rel=0.05)


@pytest.mark.parametrize("rho", [0.5, 0.7])
def test_age_of_information_of_m_m_1(rho: float) -> None:
    """Mean time since the newest delivered update was made: ``(1 / mu) (1 + 1 / rho + rho^2 / (1 - rho))``."""
    arrival_s, _, end_s = queued(rho)
    begin_s = end_s[:-1] - arrival_s[:-1]
    before_s = end_s[1:] - arrival_s[:-1]
    area = 0.5 * (begin_s + before_s) * np.diff(end_s)
    age_s = area.sum() / (end_s[-1] - end_s[0])
    assert age_s == pytest.approx((1.0 + 1.0 / rho + rho**2 / (1.0 - rho)) / MU_PER_S, rel=0.05)


@pytest.mark.untraced
def test_littles_law_on_the_campus() -> None:
    """The mean number in the system, counted at the ends of frames, is arrival rate times mean sojourn."""
    frame_s = 0.02
    record = simulate(load("campus", [f"frame_s={frame_s}"], duration_s=8.0, seed=5)).record
    assert record is not None
    entry_s = np.ceil(record.tasks["arrival_s"] / frame_s - 1e-9) * frame_s
    end_s = record.tasks["end_s"]
    counted = record.frames["running"] + record.frames["waiting"]
    at_s = record.frames["time_s"] + frame_s
    there = (entry_s < at_s[:, None] - 1e-6) & (end_s > at_s[:, None] + 1e-6)
    still = record.tasks["result"] == tiny.Result.OPEN
    there[-1] |= still & (entry_s < at_s[-1] - 1e-6)
    assert np.abs(counted - there.sum(axis=1)).max() <= 1
    sojourn_s, rate_per_s = (end_s - entry_s).mean(), len(entry_s) / record.run_s
    assert counted.mean() == pytest.approx(rate_per_s * sojourn_s, rel=0.05)
