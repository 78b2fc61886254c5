"""Simulated execution: plans carried out on the true network.

Tasks wait here until the matcher admits them or their patience ends, run as fluid stages (`step_kernel`), and leave as
Outcomes. What they left of the network becomes the Load of the next frame. Nothing is lost on the way: a task is
waiting, running, or has exactly one outcome.
"""

from __future__ import annotations

import math
from operator import attrgetter

import numpy as np
from jaxtyping import Bool, Float, Int

from gainnet.demand.task import Tasks
from gainnet.execution import running_kernel as rk
from gainnet.execution.collaboration import Cascades, candidate, draft
from gainnet.execution.fault import Schedule
from gainnet.execution.lots import join, never_ran
from gainnet.execution.meter_kernel import DETECTIONS, DOWN_BIT, FLOPS, LOOKS, UP_BIT, Meters
from gainnet.execution.outcome import Outcomes, Result, Usage
from gainnet.execution.step_kernel import run_frame
from gainnet.execution.table import Ledger, Table, concatenate, empty_residency, new_meters, new_work, take
from gainnet.network.compute import Nodes
from gainnet.network.energy import END_CIRCUIT_W, radio_energy_j
from gainnet.network.state import Health, Load, NetworkState
from gainnet.orchestrator import stage_kernel as sk
from gainnet.orchestrator.orchestrator import Orchestrator
from gainnet.orchestrator.pattern import view_of
from gainnet.orchestrator.plan import Plan
from gainnet.orchestrator.posed import Posed
from gainnet.orchestrator.task_kernel import TaskColumns
from gainnet.scenario.execution import Execution as Config
from gainnet.scenario.hardware import BaseStation

BATCH_MEMORY = 0.05
_columns = attrgetter(*TaskColumns._fields)
SENSING_SIGN = np.array([0, 1, -1])  # of no sensing, an end's radar, a cell's


class Execution:
    """Carries out the plans of a run in simulation.

    Args:
        config: steps, retries, patience after a deadline.
        orchestrator: its pool, tables and sounding are shared.
        nodes: the machines.
        station: power model of a cell.
        schedule: the faults.
        resident: which artifacts each node holds at the start.
        frame_s: length of a frame, in s.
        pace: the orchestrator's pace; windows are planned again at admission with it.
        patience_s: how long a task may wait before it is refused.
        rng: decides radar looks.
        load_initial: fraction of every cell in use before the first frame.
    """

    def __init__(
        self,
        config: Config,
        orchestrator: Orchestrator,
        nodes: Nodes,
        station: BaseStation,
        schedule: Schedule,
        *,
        resident: Bool[np.ndarray, "node artifact"],
        frame_s: float,
        pace: float,
        patience_s: float,
        rng: np.random.Generator,
        load_initial: float,
    ) -> None:
        self._config, self._orchestrator, self._station = config, orchestrator, station
        self._schedule, self._frame_s, self._pace, self._patience_s, self._rng = (
            schedule,
            frame_s,
            pace,
            patience_s,
            rng,
        )
        pool, tables = orchestrator.pool, orchestrator.tables
        self._pool, self._tables = pool, tables
        fixed = slice(pool.fixed)
        self._idle_w, self._busy_w = (nodes.count * nodes.idle_w)[fixed], nodes.peak_w - nodes.idle_w
        self._node_given_s = nodes.count[fixed] * frame_s
        self._link_given_bit = tables.link["bit_per_s"] * frame_s
        self._size_byte = tables.artifact["size_byte"].copy()
        self._price_per_s, self._memory_byte = nodes.price_per_s, nodes.memory_byte[fixed]
        self._residency = empty_residency(resident)
        self._table = Table(pool.stages_max)
        self._ledger = Ledger()
        self._cascades = Cascades()
        self._work = new_work(pool, tables, self._table.rows)
        self._waiting: Tasks | None = None
        self._since_s = np.empty(0)
        self._posed_since_s = np.empty(0)
        self._committed = np.zeros(pool.rows)
        self._batch = np.ones(resident.shape)
        blank = np.zeros(pool.users)
        self.load = self._new_load(
            np.full(pool.cells, load_initial), blank, np.full(pool.users, -1), np.ones(pool.users), 0.0
        )

    def pending(self, arrived: Tasks) -> Tasks:
        """The tasks to decide in this frame: those still waiting, then the new ones."""
        if self._waiting is None:
            self._posed_since_s = arrived.arrival_s
            return arrived
        waiting, since = self._waiting, self._since_s
        self._waiting = None
        if len(arrived) == 0:
            self._posed_since_s = since
            return waiting
        self._posed_since_s = np.concatenate([since, arrived.arrival_s])
        return concatenate(waiting, arrived)

    def execute(self, posed: Posed, plan: Plan, state: NetworkState) -> tuple[Outcomes, Usage]:
        """Admit what the plan chose and run one frame on the true state."""
        tables, pool = self._tables, self._pool
        health = state.load.health
        end_s = state.time_s + self._frame_s
        self._forget_failed(health)
        loads, rejected = self._enter(posed, plan, state)
        meters = new_meters(pool, tables)
        capacity = self._orchestrator.capacity(health).copy()
        sounding = self._orchestrator.sounding_block_s
        capacity[: pool.compute_start : pool.radio_parts] -= sounding / self._frame_s
        np.maximum(capacity, 0.0, out=capacity)
        ended = self._advance(state, capacity, meters)
        outcomes = join(rejected, ended)
        usage = self._usage(meters, state, sounding, loads)
        self._remember_batch(meters)
        band = tables.run[0]["blocks"] * self._frame_s
        self._residency.resident[:] = self._residency.ready_s <= end_s
        self.load = self._new_load(
            meters.transmit_block_s / band,
            meters.uplink_block_s / band,
            meters.uplink_cell,
            self._orchestrator.sounding,
            end_s,
        )
        return outcomes, usage

    def _remember_batch(self, meters: Meters) -> None:
        """Let the batch of every node and model follow what the frame saw; where nothing was decoded it fades to 1."""
        if not meters.token.any():
            self._batch += BATCH_MEMORY * (1.0 - self._batch)
            return
        seen = np.divide(
            meters.token, meters.token_share, out=np.ones_like(meters.token), where=meters.token_share > 0.0
        )
        self._batch *= 1.0 - BATCH_MEMORY
        self._batch += BATCH_MEMORY * seen.reshape(self._batch.shape)

    def still_open(self, time_s: float) -> Outcomes:
        """The tasks that have not ended, when the run ends."""
        active = self._table.active
        self._table.running.ints[active, rk.R_RESULT] = int(Result.OPEN)
        self._table.running.floats[active, rk.R_END] = time_s
        running, deferred = self._outcomes(active), self._cascades.waiting
        if deferred is not None:
            running = join(self._never_ran(deferred.tasks, Result.OPEN, time_s), running)
        if self._waiting is None:
            return running
        return join(self._never_ran(self._waiting, Result.OPEN, time_s), running)

    def _enter(self, posed: Posed, plan: Plan, state: NetworkState) -> tuple[int, Outcomes | None]:
        """Begin the frame's tasks, those that were deferred first; returns loads begun and the tasks that were rejected."""
        before, failed = self._admit_deferred(state)
        loads, refused = self._admit(posed, plan, state)
        refusals = self._refuse(posed.tasks, refused, state.time_s)
        return before + loads, refusals if failed is None else join(failed, refusals)

    def _admit_deferred(self, state: NetworkState) -> tuple[int, Outcomes | None]:
        """Enter what cascades deferred; what finds no memory has failed."""
        deferred = self._cascades.take()
        if deferred is None:
            return 0, None
        tasks, ints = deferred.tasks, deferred.ints.copy()
        ints[:, sk.TASK] = np.arange(len(tasks))
        users = tasks.user.tolist()
        ints[:, sk.CANDIDATE] = [candidate(row, user, state) for row, user in zip(ints, users, strict=True)]
        if self._table.make_room(len(tasks)):
            self._work = new_work(self._pool, self._tables, self._table.rows)
        entered = np.empty(len(tasks), np.int64)
        loads = rk.admit(
            self._tables, TaskColumns(*_columns(tasks)), view_of(state, state.observed), self._pace, ints,
            deferred.floats, np.arange(len(tasks)), self._table.running, self._residency,
            self._table.free[: len(tasks)], entered,
        )  # fmt: skip
        self._table.enter(tasks, entered)
        lost = take(tasks, entered < 0)
        return loads, self._never_ran(lost, Result.FAILED, state.time_s) if len(lost) else None

    def _admit(self, posed: Posed, plan: Plan, state: NetworkState) -> tuple[int, Int[np.ndarray, " refused"]]:
        """Enter the chosen patterns; returns loads begun and the tasks that were not admitted."""
        choice = posed.choice(plan)
        chosen = int(np.count_nonzero(choice >= 0))
        everyone = np.arange(len(posed.tasks))
        if chosen == 0:
            return 0, everyone
        if self._table.make_room(chosen):
            self._work = new_work(self._pool, self._tables, self._table.rows)
        tasks = posed.tasks
        entered = np.empty(len(tasks), np.int64)
        loads = rk.admit(
            self._tables,
            posed.columns,
            view_of(state, state.observed),
            self._pace,
            posed.ints,
            posed.floats,
            choice,
            self._table.running,
            self._residency,
            self._table.free[:chosen],
            entered,
        )
        self._table.enter(tasks, entered)
        if posed.ways is not None:
            for i in np.flatnonzero(entered >= 0).tolist():
                draft(self._tables, self._pool, self._table.running, int(entered[i]), posed, int(choice[i]))
                self._cascades.begun(int(tasks.task_id[i]), posed, int(choice[i]))
        return loads, everyone[entered < 0]

    def _refuse(self, tasks: Tasks, refused: Int[np.ndarray, " refused"], now_s: float) -> Outcomes | None:
        """Keep the tasks that may still wait; the others are rejected."""
        if len(refused) == 0:
            return None
        since = self._posed_since_s[refused]
        wait = (now_s + self._frame_s - since <= self._patience_s) & (now_s + self._frame_s < tasks.deadline_s[refused])
        if wait.any():
            self._requeue(take(tasks, refused[wait]), since[wait])
        over = refused[~wait]
        return self._never_ran(take(tasks, over), Result.REJECTED, now_s) if len(over) else None

    def _requeue(self, tasks: Tasks, since_s: Float[np.ndarray, " task"]) -> None:
        if self._waiting is None:
            self._waiting, self._since_s = tasks, since_s
        else:
            self._waiting = concatenate(self._waiting, tasks)
            self._since_s = np.concatenate([self._since_s, since_s])

    def _advance(
        self, state: NetworkState, capacity: Float[np.ndarray, " resource"], meters: Meters
    ) -> Outcomes | None:
        """Run the active tasks for a frame; lost ones try again while they may."""
        left, table = self._run(state, capacity, meters), self._table
        if len(left) == 0:
            return None
        deferred = self._cascades.ended(table, self._ledger, left, self._rng)
        left = left[~np.isin(left, deferred)]
        results = table.running.ints[left, rk.R_RESULT]
        if (results < 0).any():
            again = self._retry(left[results < 0], state.time_s + self._frame_s)
            left = left[~np.isin(left, again)]
        return self._outcomes(left)

    def _run(
        self, state: NetworkState, capacity: Float[np.ndarray, " resource"], meters: Meters
    ) -> Int[np.ndarray, " left"]:
        """Run the active tasks for a frame and take those that ended out of the table; returns their rows."""
        table, active = self._table, self._table.active
        if len(active) == 0:
            self._committed[:] = 0.0
            return active
        left = np.empty(len(active), np.int64)
        stay, leave = run_frame(
            self._tables, view_of(state, state.truth), table.running, self._residency, active, capacity,
            self._pool.power_block_s, self._frame_s, self._config.steps, self._config.retries, self._config.abandon_s,
            self._work, meters, self._committed, left, self._rng,
        )  # fmt: skip
        if leave > 0:
            table.leave(stay, left[:leave])
        return left[:leave]

    def _retry(self, rows: Int[np.ndarray, " row"], now_s: float) -> Int[np.ndarray, " again"]:
        """Queue lost tasks again, those whose retries allow it; the others have failed. Returns the rows queued."""
        table, again = self._table, []
        for row in rows.tolist():
            if self._ledger.retries(int(table.running.ints[row, rk.R_TASK])) < self._config.retries:
                self._ledger.add(table, row)
                self._requeue(table.task(row), np.array([now_s]))
                again.append(row)
            else:
                table.running.ints[row, rk.R_RESULT] = int(Result.FAILED)
        return np.array(again, np.int64)

    def _outcomes(self, rows: Int[np.ndarray, " row"]) -> Outcomes:
        """Outcomes of rows of the table."""
        ints, floats = self._table.running.ints[rows].T, self._table.running.floats[rows].T
        earlier = self._ledger.of(ints[rk.R_TASK])
        result, sensing, node = ints[rk.R_RESULT], ints[rk.R_SENSING], ints[rk.R_NODE]
        answered = (result == Result.SERVED) | (result == Result.LATE)
        return Outcomes(
            task_id=ints[rk.R_TASK],
            service=ints[rk.R_SERVICE],
            user=ints[rk.R_USER],
            result=result,
            arrival_s=floats[rk.R_ARRIVAL],
            deadline_s=floats[rk.R_DEADLINE],
            end_s=floats[rk.R_END],
            start_s=np.fmin(floats[rk.R_START], earlier.start_s),
            quality=floats[rk.R_QUALITY] * answered,
            quality_min=floats[rk.R_QUALITY_MIN],
            value=floats[rk.R_VALUE],
            energy_j=floats[rk.R_ENERGY] + earlier.energy_j,
            cost=floats[rk.R_COST] + earlier.cost,
            node=node,
            tier=self._tables.node["tier"][node],
            cell=ints[rk.R_CELL],
            model=ints[rk.R_MODEL],
            sensing=SENSING_SIGN[sensing] * (ints[rk.R_LEVEL] + 1),
            handover=ints[rk.R_HANDOVER] + earlier.handover,
            retry=earlier.retry + np.maximum(ints[rk.R_LOOKS] - 1, 0),
        )

    def _never_ran(self, tasks: Tasks, result: Result, time_s: float) -> Outcomes:
        """Outcomes of tasks that are not in the table."""
        return never_ran(tasks, result, time_s, self._ledger)

    def _forget_failed(self, health: Health) -> None:
        """A machine that is down has nothing in memory."""
        down = np.flatnonzero(~np.concatenate([health.node_up, health.end_up]))
        if len(down):
            residency = self._residency
            residency.resident[down] = False
            residency.ready_s[down] = math.inf
            residency.load_free_s[down] = 0.0

    def _usage(self, meters: Meters, state: NetworkState, sounding: Float[np.ndarray, " cell"], loads: int) -> Usage:
        """What the frame used, from the meters of the step kernel."""
        tables, pool, frame_s = self._tables, self._pool, self._frame_s
        health, fixed = state.load.health, pool.fixed
        band = tables.run[0]["blocks"] * frame_s
        band_use = meters.used[: pool.compute_start] / band
        if pool.radio_parts > 1:
            band_use = band_use.reshape(pool.cells, -1).sum(axis=1)
        sounding_use = sounding / band
        transmit = meters.transmit_block_s / band
        radio_j = radio_energy_j(transmit, band_use + sounding_use > 0.0, health.cell_up, self._station, frame_s).sum()
        radio_j += meters.uplink_j.sum() + END_CIRCUIT_W * meters.uplink_block_s.sum() / tables.run[0]["blocks"]
        compute_j = self._idle_w @ health.node_up * frame_s + meters.busy_s @ self._busy_w
        link = pool.link_start
        residency = self._residency
        weights = np.isfinite(residency.ready_s[:fixed]) @ self._size_byte
        return Usage(
            radio_energy_j=float(radio_j),
            compute_energy_j=float(compute_j),
            cost=float(meters.busy_s @ self._price_per_s + (radio_j + compute_j) * tables.run[0]["energy_price_per_j"]),
            running=len(self._table.active),
            waiting=0 if self._waiting is None else len(self._waiting),
            cell_use=band_use + sounding_use,
            sounding_use=sounding_use,
            radar_use=meters.radar_block_s / band,
            node_use=meters.busy_s[:fixed] / self._node_given_s,
            link_use=meters.used[link:] / self._link_given_bit,
            memory_use=(weights + residency.cache_byte[:fixed]) / self._memory_byte,
            uplink_bit=float(meters.totals[UP_BIT]),
            downlink_bit=float(meters.totals[DOWN_BIT]),
            flop=float(meters.totals[FLOPS]),
            detections=int(meters.totals[DETECTIONS]),
            looks=int(meters.totals[LOOKS]),
            loads=loads,
            handovers=int(np.count_nonzero(state.handover)),
        )

    def _new_load(
        self,
        downlink_use: Float[np.ndarray, " cell"],
        uplink_use: Float[np.ndarray, " user"],
        uplink_cell: Int[np.ndarray, " user"],
        sounding_block: Float[np.ndarray, " user"],
        time_s: float,
    ) -> Load:
        residency = self._residency
        return Load(
            downlink_use=downlink_use,
            uplink_use=uplink_use,
            uplink_cell=uplink_cell,
            sounding_block=sounding_block,
            batch=self._batch,
            resident=residency.resident,
            ready_s=residency.ready_s,
            pinned=residency.pinned,
            used_s=residency.used_s,
            committed=self._committed,
            memory_used_byte=residency.cache_byte,
            health=self._schedule.health(time_s),
        )
