"""The running tasks, what earlier attempts of retried tasks used, and the buffers of the step kernel."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray

from gainnet.demand.task import Tasks
from gainnet.execution import running_kernel as rk
from gainnet.execution.contention_kernel import Work
from gainnet.execution.meter_kernel import TOTALS, Meters
from gainnet.orchestrator.pool import Pool
from gainnet.orchestrator.stage_kernel import FLOAT_COLUMNS, INT_COLUMNS
from gainnet.orchestrator.tables import Tables

FIELDS = tuple(field.name for field in dataclasses.fields(Tasks))
INT_FIELDS = ("task_id", "service", "user", "adapter")
NO_TASKS = Tasks(*(np.empty(0, np.int64 if name in INT_FIELDS else np.float64) for name in FIELDS))


def take(tasks: Tasks, rows: NDArray[np.int64] | NDArray[np.bool_]) -> Tasks:
    """Some of the tasks."""
    return Tasks(*(getattr(tasks, name)[rows] for name in FIELDS))


def concatenate(first: Tasks, second: Tasks) -> Tasks:
    """The first tasks, then the second."""
    return Tasks(*(np.concatenate([getattr(first, name), getattr(second, name)]) for name in FIELDS))


class Table:
    """Rows for running tasks: compiled code fills and advances them, this class hands them out and takes them back.

    Attributes:
        running: the rows.
        active: rows in use.
        free: rows not in use.
    """

    def __init__(self, stages_max: int, rows: int = 64) -> None:
        self.rows = 0
        self._stages_max = stages_max
        self.running = _running(0, stages_max)
        self.active: Int[np.ndarray, " active"] = np.empty(0, np.int64)
        self.free: Int[np.ndarray, " free"] = np.empty(0, np.int64)
        self._origin: list[tuple[Tasks, int]] = []
        self._grow(rows)

    def make_room(self, count: int) -> bool:
        """See to it that ``count`` rows are free; True where the table had to grow."""
        if len(self.free) >= count:
            return False
        self._grow(max(2 * self.rows, self.rows + count))
        return True

    def enter(self, tasks: Tasks, entered: Int[np.ndarray, " task"]) -> None:
        """Take the rows that `running_kernel.admit` filled into use: task i is in row ``entered[i]`` where that is >= 0."""
        source = np.flatnonzero(entered >= 0)
        rows = entered[source]
        for row, i in zip(rows.tolist(), source.tolist(), strict=True):
            self._origin[row] = (tasks, i)
        self.free = self.free[len(rows) :]
        self.active = np.concatenate([self.active, rows])

    def leave(self, stay: int, left: Int[np.ndarray, " left"]) -> None:
        """Keep the first ``stay`` active rows and give the rows that left back."""
        self.free = np.concatenate([self.free, left])
        self.active = self.active[:stay]

    def task(self, row: int) -> Tasks:
        """The task of a row, as it was posed."""
        tasks, i = self._origin[row]
        return take(tasks, np.array([i]))

    def _grow(self, rows: int) -> None:
        more = rows - self.rows
        fresh = _running(more, self._stages_max)
        self.running = rk.Running(*(np.concatenate(pair) for pair in zip(self.running, fresh, strict=True)))
        self.free = np.concatenate([self.free, np.arange(self.rows, rows)])
        self._origin.extend([(NO_TASKS, 0)] * more)
        self.rows = rows


def _running(rows: int, stages_max: int) -> rk.Running:
    return rk.Running(
        ints=np.zeros((rows, rk.RUNNING_INTS), np.int64),
        floats=np.zeros((rows, rk.RUNNING_FLOATS)),
        stage_ints=np.zeros((rows, stages_max, INT_COLUMNS), np.int64),
        stage_floats=np.zeros((rows, stages_max, FLOAT_COLUMNS)),
        stage_end_s=np.zeros((rows, stages_max)),
    )


@dataclass(frozen=True, slots=True)
class Earlier:
    """What earlier attempts of tasks used, as a struct of arrays; zeros (start nan) where there were none."""

    retry: Int[np.ndarray, " task"]
    handover: Int[np.ndarray, " task"]
    energy_j: Float[np.ndarray, " task"]
    cost: Float[np.ndarray, " task"]
    start_s: Float[np.ndarray, " task"]


class Ledger:
    """Remembers what lost attempts used, so that a retried task is charged for all of them."""

    def __init__(self) -> None:
        self._entries: dict[int, tuple[int, int, float, float, float]] = {}
        blank, zero = np.zeros(1024, np.int64), np.zeros(1024)
        self._none = Earlier(blank, blank, zero, zero, np.full(1024, math.nan))

    def retries(self, task_id: int) -> int:
        """How often a task was tried again."""
        return self._entries[task_id][0] if task_id in self._entries else 0

    def add(self, table: Table, row: int, retry: int = 1) -> None:
        """Book an attempt that did not answer, which counts as so many retries."""
        task_id = int(table.running.ints[row, rk.R_TASK])
        ints, floats = table.running.ints[row], table.running.floats[row]
        before, handover, energy_j, cost, start_s = self._entries.get(task_id, (0, 0, 0.0, 0.0, math.inf))
        self._entries[task_id] = (
            before + retry,
            handover + int(ints[rk.R_HANDOVER]),
            energy_j + float(floats[rk.R_ENERGY]),
            cost + float(floats[rk.R_COST]),
            min(start_s, float(floats[rk.R_START])),
        )

    def of(self, task_id: Int[np.ndarray, " task"]) -> Earlier:
        """What earlier attempts of these tasks used."""
        n = len(task_id)
        if not self._entries and n <= len(self._none.retry):
            none = self._none
            return Earlier(none.retry[:n], none.handover[:n], none.energy_j[:n], none.cost[:n], none.start_s[:n])
        earlier = Earlier(np.zeros(n, np.int64), np.zeros(n, np.int64), np.zeros(n), np.zeros(n), np.full(n, math.nan))
        if self._entries:
            for i, key in enumerate(task_id.tolist()):
                if key in self._entries:
                    entry = self._entries[key]
                    earlier.retry[i], earlier.handover[i] = entry[0], entry[1]
                    earlier.energy_j[i], earlier.cost[i], earlier.start_s[i] = entry[2:]
        return earlier


def empty_residency(resident: Bool[np.ndarray, "node artifact"]) -> rk.Residency:
    """The memory of all nodes before the first frame, with the given artifacts resident."""
    nodes = len(resident)
    return rk.Residency(
        resident=resident.copy(),
        ready_s=np.where(resident, 0.0, math.inf),
        pinned=np.zeros(resident.shape, np.int64),
        used_s=np.zeros(resident.shape),
        cache_byte=np.zeros(nodes),
        load_free_s=np.zeros(nodes),
    )


def new_meters(pool: Pool, tables: Tables) -> Meters:
    """Meters at zero, for one frame."""
    nodes = pool.fixed + pool.users
    return Meters(
        used=np.zeros(pool.resources),
        radar_block_s=np.zeros(pool.cells),
        transmit_block_s=np.zeros(pool.cells),
        uplink_block_s=np.zeros(pool.users),
        uplink_cell=np.full(pool.users, -1),
        uplink_j=np.zeros(pool.users),
        busy_s=np.zeros(nodes),
        token=np.zeros(nodes * len(tables.artifact)),
        token_share=np.zeros(nodes * len(tables.artifact)),
        totals=np.zeros(TOTALS),
    )


def new_work(pool: Pool, tables: Tables, rows: int) -> Work:
    """Scratch of the step kernel for a table of so many rows."""
    return Work(
        left_s=np.zeros(rows),
        following=np.zeros(rows, np.int64),
        most=np.zeros(rows),
        grant=np.zeros(rows),
        first=np.full(pool.resources, -1),
        left=np.zeros(pool.resources),
        touched=np.zeros(pool.resources, np.int64),
        transmit_left=np.zeros(pool.cells),
        decoding=np.zeros((pool.fixed + pool.users) * len(tables.artifact), np.int64),
        list_row=np.zeros(rows, np.int64),
        list_end_s=np.zeros(rows),
    )
