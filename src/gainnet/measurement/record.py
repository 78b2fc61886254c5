"""What a run did: one row for each task that ended, one row for each frame, and a sample of where the ends were."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from gainnet.execution.outcome import Outcomes, Result, Usage
from gainnet.measurement.table import Columns, Table
from gainnet.network.state import NetworkState
from gainnet.orchestrator.plan import Plan, Status
from gainnet.orchestrator.pool import POOL_KINDS
from gainnet.scenario.scenario import Scenario

STATUSES = tuple(Status)
TRACKED_MAX = 2000
_TRACK_EVERY_S = 1.0

_REAL = ("arrival_s", "deadline_s", "end_s", "start_s", "quality", "quality_min", "value", "energy_j", "cost")
_TASK_FIELDS = tuple(field.name for field in fields(Outcomes))
_TASK_TYPES = {name: np.float64 if name in _REAL else np.int64 for name in _TASK_FIELDS}
_FRAME_TYPES = {
    "time_s": np.float64, "arrived": np.int64, "ended": np.int64, "posed": np.int64, "patterns": np.int64,
    "plan_value": np.float64, "plan_bound": np.float64, "plan_gap": np.float64, "decision_s": np.float64,
    "status": np.int64, "radio_energy_j": np.float64, "compute_energy_j": np.float64, "cost": np.float64,
    "running": np.int64, "waiting": np.int64, "uplink_bit": np.float64, "downlink_bit": np.float64,
    "flop": np.float64, "detections": np.int64, "looks": np.int64, "loads": np.int64, "handovers": np.int64,
    "observed_error_db": np.float64, "price": (np.float64, len(POOL_KINDS)),
}  # fmt: skip
_USE_FIELDS = ("cell_use", "sounding_use", "radar_use", "node_use", "link_use", "memory_use")


@dataclass(frozen=True, slots=True)
class Record:
    """Everything that was recorded of a run.

    Attributes:
        scenario: what was run.
        tasks: a column for each field of Outcomes, a row for each task, in the order in which they ended (open last).
        frames: columns over frames: time_s, arrived, ended, posed, patterns, plan_value, plan_bound, plan_gap,
            decision_s, status (index of STATUSES), the fields of Usage (matrices for those by cell, node and link),
            observed_error_db (mean over the ends), price (a matrix, mean price by kind of pool).
        track_time_s: when positions were sampled.
        track_user: the ends that were sampled (all, or evenly TRACKED_MAX of them).
        track_xy_m: where they were.
        track_cell: their serving cells, -1 for none.
        wall_s: wall-clock time from the making of the recorder to its closing.
        knowledge: what the knowledge loop did, as plain data; empty without one.
    """

    scenario: Scenario
    tasks: Columns
    frames: Columns
    track_time_s: Float[np.ndarray, " sample"]
    track_user: Int[np.ndarray, " tracked"]
    track_xy_m: Float[np.ndarray, "sample tracked 2"]
    track_cell: Int[np.ndarray, "sample tracked"]
    wall_s: float
    knowledge: Mapping[str, Any]

    @property
    def run_s(self) -> float:
        """Simulated time that was recorded; shorter than the scenario's where the run was interrupted."""
        return len(self.frames["time_s"]) * self.scenario.frame_s

    @property
    def complete(self) -> bool:
        """Whether every frame of the scenario was recorded."""
        return len(self.frames["time_s"]) >= self.scenario.frames


class Recorder:
    """Collects a run frame by frame. Memory is laid out at the start, and a frame costs some microseconds."""

    def __init__(self, scenario: Scenario) -> None:
        """A recorder for one run of ``scenario``; the clock of ``wall_s`` starts now."""
        self._scenario = scenario
        self._began_s = time.perf_counter()
        self._tasks = Table(_TASK_TYPES, 1024)
        self._frames: Table | None = None
        self._track_every = max(1, round(_TRACK_EVERY_S / scenario.frame_s))
        ends = scenario.network.ends
        self._track_user = np.unique(np.linspace(0, ends - 1, min(ends, TRACKED_MAX)).round().astype(np.int64))
        self._track: list[tuple[float, np.ndarray, np.ndarray]] = []
        self._record: Record | None = None

    @property
    def record(self) -> Record | None:
        """What was recorded, once closed."""
        return self._record

    def frame(
        self,
        state: NetworkState,
        arrived: int,
        posed: int,
        patterns: int,
        plan: Plan,
        pool_price: Float[np.ndarray, " pool_kind"],
        outcomes: Outcomes,
        usage: Usage,
    ) -> None:
        """Record one frame: what arrived and was posed in it, its plan, what ended and what it used.

        ``pool_price`` is the mean price of each of POOL_KINDS. Everything is copied.
        """
        if self._frames is None:
            widths = {name: (np.float32, len(getattr(usage, name))) for name in _USE_FIELDS}
            self._frames = Table(_FRAME_TYPES | widths, min(self._scenario.frames, 100_000))
        if len(outcomes):
            self._tasks.extend([getattr(outcomes, name) for name in _TASK_FIELDS])
        if len(self._frames) % self._track_every == 0:
            who = self._track_user
            self._track.append(
                (state.time_s, state.position_m[who].astype(np.float32), state.candidate[who, 0].astype(np.int32))
            )
        error_db = state.observed_error_db
        self._frames.append((
            state.time_s, arrived, len(outcomes), posed, patterns,
            plan.value, plan.bound, plan.gap, plan.decision_s,
            STATUSES.index(plan.status), usage.radio_energy_j, usage.compute_energy_j, usage.cost,
            usage.running, usage.waiting, usage.uplink_bit, usage.downlink_bit,
            usage.flop, usage.detections, usage.looks, usage.loads, usage.handovers,
            error_db.sum() / len(error_db), pool_price,
            usage.cell_use, usage.sounding_use, usage.radar_use, usage.node_use, usage.link_use, usage.memory_use,
        ))  # fmt: skip

    def close(self, open_tasks: Outcomes, knowledge: Mapping[str, Any] | None = None) -> Record:
        """End the recording with the tasks that have not ended, and with what a knowledge loop did.

        No task may be lost: asserted here.

        Works after any whole number of frames, none included, so an interrupted run keeps what it recorded.
        """
        assert self._record is None, "a recorder is closed once"
        assert bool(np.all(open_tasks.result == Result.OPEN)), "open tasks must be OPEN"
        self._tasks.extend([getattr(open_tasks, name) for name in _TASK_FIELDS])
        frames = (self._frames or Table(_FRAME_TYPES | dict.fromkeys(_USE_FIELDS, (np.float32, 0)), 1)).columns()
        tasks = self._tasks.columns()
        arrived = int(frames["arrived"].sum())
        assert arrived == len(self._tasks), f"{arrived} tasks arrived, but {len(self._tasks)} ended or are open"
        assert len(np.unique(tasks["task_id"])) == len(self._tasks), "a task ended twice"
        tracked = len(self._track_user)
        self._record = Record(
            scenario=self._scenario,
            tasks=tasks,
            frames=frames,
            track_time_s=np.array([time_s for time_s, _, _ in self._track], dtype=np.float64),
            track_user=self._track_user,
            track_xy_m=np.array([xy for _, xy, _ in self._track], dtype=np.float32).reshape(-1, tracked, 2),
            track_cell=np.array([cell for _, _, cell in self._track], dtype=np.int32).reshape(-1, tracked),
            wall_s=time.perf_counter() - self._began_s,
            knowledge=knowledge or {},
        )
        return self._record
