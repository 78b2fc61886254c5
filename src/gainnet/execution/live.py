"""Live execution: the stage that carries plans out with real requests on real machines.

Requests don't wait for a frame: each is decided as it comes (`accept`), sent by whoever holds the connections (`sent`),
and ends when it ends (`ended`). Meanwhile the fluid model of `gainnet.execution.simulated` follows it, for what nobody
can measure from outside: what is still to come on links and machines, the batch, the energy. What is measured goes
before the model: a request leaves when it has ended, machines are as fast and as full as they proved (`Telemetry`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from operator import attrgetter
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from gainnet.demand.task import Tasks
from gainnet.execution import running_kernel as rk
from gainnet.execution.backlog import busy, composition, left_s, needed, release
from gainnet.execution.collaboration import candidate, draft
from gainnet.execution.meter_kernel import Meters
from gainnet.execution.outcome import Outcomes, Result, Usage
from gainnet.execution.request import Request, joined, outcomes, tasks_of
from gainnet.execution.simulated import BATCH_MEMORY, Execution
from gainnet.execution.table import new_work, take
from gainnet.execution.telemetry import NodeState, Telemetry
from gainnet.network.state import Load, NetworkState
from gainnet.orchestrator import stage_kernel as sk
from gainnet.orchestrator.orchestrator import Orchestrator
from gainnet.orchestrator.pattern import view_of
from gainnet.orchestrator.plan import Plan
from gainnet.orchestrator.posed import Posed
from gainnet.orchestrator.task_kernel import TaskColumns
from gainnet.scenario.execution import Execution as Config

NEVER_S = 1e300
"""When an artifact that a node does not serve will be there."""
RETRY_S = 1.0
UNSENT_S = 30.0
_columns = attrgetter(*TaskColumns._fields)


class Live(Execution):
    """The execution of a run whose requests are real; made by `gainnet.run.Run` like the simulated one.

    Attributes:
        telemetry: what is known of the machines.
        standing: the load as it is between frames, with what was accepted since the last one.
        load: the load at the last frame's end without what was accepted in it, which is posed once more at the next.
    """

    def __init__(self, config: Config, orchestrator: Orchestrator, *parts: Any, **options: Any) -> None:
        """See `Execution`; of what it takes ``resident`` is not read: machines say themselves what they hold."""
        tables = orchestrator.tables
        # The model of what is under way never lacks memory: whether a real machine has room is for it to say.
        nodes = tables.node.copy()
        nodes["memory_byte"] = math.inf
        self.telemetry = Telemetry(tables, nodes)
        self._open: dict[int, Request] = {}
        self._arrived: list[Tasks] = []
        self._refused: list[Tasks] = []
        self._entering: dict[int, Request] = {}
        self._entered: list[int] = []
        self._over: list[Request] = []
        self._moved: list[Request] = []
        self._failing: dict[int, Request] = {}
        self._unsent: dict[int, Request] = {}
        self._by_row: dict[int, Request] = {}
        self._sent_to = np.zeros(self.telemetry.served.shape, np.int64)
        self._time_s = 0.0
        super().__init__(config, orchestrator, *parts, **options)
        self._tables = tables._replace(node=nodes)
        self._residency.ready_s[:] = math.inf
        self._residency.resident[:] = False

    # What is told between frames.

    def serve(self, served: Bool[np.ndarray, "node artifact"]) -> None:
        """Say which artifacts each node can answer with."""
        self.telemetry.serve(served)
        self._hold()
        self._stand(self.standing)
        now = self.standing
        self.load = replace(self.load, resident=now.resident, ready_s=now.ready_s, health=now.health)

    def arrived(self) -> Tasks:
        """The requests that came since the last call, refused ones too, as `Run.observe` wants them."""
        tasks, self._arrived = joined(self._arrived), []
        return tasks

    def asked(self, tasks: Tasks, refused: Int[np.ndarray, " refused"]) -> None:
        """Requests came, and those at these places were refused; the others are accepted one by one."""
        self._arrived.append(tasks)
        if len(refused):
            self._refused.append(take(tasks, refused))

    def accept(self, posed: Posed, ranked: Mapping[int, Sequence[int]], now_s: float) -> dict[int, Request]:
        """Requests were decided: each (by its place in ``posed``) takes the first of its patterns, the next if that fails."""
        tasks = posed.tasks
        task, deadline_s = tasks.task_id.tolist(), tasks.deadline_s.tolist()
        requests = {i: Request(task[i], posed, i, tuple(p), now_s, deadline_s[i]) for i, p in ranked.items()}
        for request in requests.values():
            self._open[request.task] = self._unsent[request.task] = request
        if requests:
            self._begin(list(requests.values()))
        return requests

    def sent(self, request: Request, rank: int, now_s: float) -> None:
        """A request goes to the machine of one of its patterns now, not for the first time if the one before failed."""
        self._unsent.pop(request.task, None)
        self._failing.pop(request.task, None)
        request.failed_s = math.nan
        again = not math.isnan(request.start_s)
        if not again:
            request.start_s = now_s
        if request.result is not None:
            return
        request.retry += again
        if rank != request.rank:
            self._count(request, -1)
            if request.task not in self._entering:
                self._moved.append(request)
            request.rank = rank
            self._begin([request])

    def ended(
        self,
        request: Request,
        rank: int,
        *,
        ok: bool,
        at_fault: bool,
        began: bool,
        end_s: float,
        output_token: float,
        now_s: float,
    ) -> None:
        """A try of a request, by the pattern of this rank, is over since ``end_s``.

        It is ``ok`` if a whole answer came, of so many tokens; where none came the machine may be ``at_fault``, or who
        asked. One that ``began`` but isn't whole can't be tried again.
        """
        node = request.posed.asked(request.patterns[rank])
        if ok:
            self.telemetry.answered(node)
        elif at_fault:
            self.telemetry.failed(node, now_s)
            self._stand(self.standing)
        if request.result is not None:
            return
        if ok:
            if rank != request.rank:
                self._count(request, -1)
                request.rank = rank
                self._count(request, 1)
            request.output_token = output_token
            self._finish(request, Result.SERVED if end_s <= request.deadline_s else Result.LATE, end_s)
        elif began:
            self._finish(request, Result.FAILED, end_s)
        elif rank == request.rank:
            request.failed_s = end_s
            self._failing[request.task] = request

    def heard(
        self, node: int, state: NodeState | None, resident: Bool[np.ndarray, " artifact"], rtt_s: float | None
    ) -> None:
        """A node said how it is, with these artifacts in memory; None: it didn't answer. See `Telemetry.heard`."""
        self.telemetry.heard(node, state, resident, self._sent_to[node], rtt_s)
        self._hold()
        self._stand(self.standing)

    def answerable(self, nodes: int | None = None) -> Bool[np.ndarray, " artifact"]:
        """Which artifacts some node that is up answers with; of the first so many nodes only where that is given."""
        return np.asarray((self.standing.ready_s[:nodes] < NEVER_S).any(axis=0))

    def idle(self, node: int) -> bool:
        """Whether nothing is at a node, as far as is known."""
        said = self.telemetry
        return not (self._sent_to[node].any() or said.running[node] > 0.0 or said.waiting[node] > 0.0)

    @property
    def under_way(self) -> int:
        """Requests under way."""
        return len(self._open)

    # The interface of an execution.

    def pending(self, arrived: Tasks) -> Tasks:
        """What the frame's problem is about: what came in the last one, each with all the time it had when it came."""
        waited_s = np.maximum(self._time_s - arrived.arrival_s, 0.0)
        return replace(arrived, deadline_s=arrived.deadline_s + waited_s)

    def still_open(self, time_s: float) -> Outcomes:
        """The requests that have not ended, when the run ends."""
        for request in self._open.values():
            if request.row >= 0:
                self._let_go(request.row)
        return outcomes(list(self._open.values()), self._tables.node["tier"], time_s)

    def _enter(self, posed: Posed, plan: Plan, state: NetworkState) -> tuple[int, Outcomes | None]:  # noqa: ARG002
        """What was accepted in the frame enters the model; the plan only made prices."""
        refused = joined(self._refused)
        self._refused = []
        rejected = None
        if len(refused):
            never = self._never_ran(refused, Result.REJECTED, state.time_s)
            rejected = replace(never, end_s=np.maximum(refused.arrival_s, state.time_s))
        moved, self._moved = [request.row for request in self._moved if request.row >= 0], []
        if moved:
            self._take_out(np.array(moved), state.time_s)
        entering = [request for request in self._entering.values() if self._reaches(request, state)]
        self._entering, self._entered = {}, []
        if not entering:
            return 0, rejected
        if self._table.make_room(len(entering)):
            self._work = new_work(self._pool, self._tables, self._table.rows)
        return self._admit_all(entering, state), rejected

    def _admit_all(self, entering: list[Request], state: NetworkState) -> int:
        """Give requests rows of the table; returns loads begun."""
        count = len(entering)
        tasks = tasks_of(entering)
        ints = np.array([request.posed.ints[request.patterns[request.rank]] for request in entering])
        ints[:, sk.TASK] = np.arange(count)
        ints[:, sk.CANDIDATE] = [
            candidate(row, user, state) for row, user in zip(ints, tasks.user.tolist(), strict=True)
        ]
        floats = np.array([request.posed.floats[request.patterns[request.rank]] for request in entering])
        rows = np.empty(count, np.int64)
        loads = rk.admit(
            self._tables, TaskColumns(*_columns(tasks)), view_of(state, state.observed), self._pace, ints, floats,
            np.arange(count), self._table.running, self._residency, self._table.free[:count], rows,
        )  # fmt: skip
        self._table.enter(tasks, rows)
        running = self._table.running
        for request, row in zip(entering, rows.tolist(), strict=True):
            draft(self._tables, self._pool, running, row, request.posed, request.patterns[request.rank])
        part, work_s = composition(running, rows)
        for i, (request, row) in enumerate(zip(entering, rows.tolist(), strict=True)):
            request.row, request.model_s, request.decode_part = row, math.nan, float(part[i])
            self._by_row[row] = request
            running.floats[row, rk.R_READY] = max(running.floats[row, rk.R_READY], request.asked_s)
            self.telemetry.worked(request.at(sk.NODE), float(work_s[i]))
        self._entered = rows.tolist()
        return loads

    def _advance(
        self, state: NetworkState, capacity: Float[np.ndarray, " resource"], meters: Meters
    ) -> Outcomes | None:
        """Follow what is under way for a frame, and take out what has really ended."""
        now_s = state.time_s + self._frame_s
        for row in self._run(state, capacity, meters).tolist():
            done = self._table.running.ints[row, rk.R_STATUS] == rk.DONE
            self._by_row[row].model_s = float(self._table.running.floats[row, rk.R_END]) if done else math.nan
            self._let_go(row)
        self._give_up(now_s)
        over, self._over = self._over, []
        for request in over:
            if request.result in (Result.SERVED, Result.LATE):
                self._learn(request, now_s)
        rows = [request.row for request in over if request.row >= 0]
        if rows:
            self._take_out(np.array(rows), now_s)
        for request in over:
            del self._open[request.task]
        self._time_s = now_s
        return outcomes(over, self._tables.node["tier"], now_s) if over else None

    def _usage(self, meters: Meters, state: NetworkState, sounding: Float[np.ndarray, " cell"], loads: int) -> Usage:
        usage = super()._usage(meters, state, sounding, loads)
        return replace(
            usage,
            running=len(self._open),
            waiting=int(self.telemetry.waiting.sum()),
            memory_use=np.minimum(usage.memory_use, 1.0),  # what a node serves counts until it says what it holds
        )

    def _remember_batch(self, meters: Meters) -> None:
        """Batches follow what machines say of themselves, and the model where they say nothing."""
        before = self._batch.copy()
        super()._remember_batch(meters)
        told = np.flatnonzero(self.telemetry.spoke)
        if not len(told):
            return
        sent = self._sent_to[told]
        part = sent / np.maximum(sent.sum(axis=1, keepdims=True), 1)
        running = self.telemetry.running[told] / self._tables.node["count"][told]
        seen = np.maximum(1.0, running[:, None] * part)
        self._batch[told] = before[told] + BATCH_MEMORY * (seen - before[told])

    def _new_load(
        self,
        downlink_use: Float[np.ndarray, " cell"],
        uplink_use: Float[np.ndarray, " user"],
        uplink_cell: Int[np.ndarray, " user"],
        sounding_block: Float[np.ndarray, " user"],
        time_s: float,
    ) -> Load:
        """The load for the frame's problem; ``standing`` also has what was accepted in the last frame."""
        self._hold()
        load = super()._new_load(downlink_use, uplink_use, uplink_cell, sounding_block, time_s)
        new = np.array([row for row in self._entered if row in self._by_row], np.int64)
        old = np.setdiff1d(self._table.active, new)
        pool, running = self._pool, self._table.running
        before = needed(pool, running, old, time_s) + busy(pool, self._unmodelled_s())
        spare_byte = np.maximum(pool.memory_byte - self.telemetry.resident @ self._size_byte, 0.0)
        cache = np.maximum(load.memory_used_byte, self.telemetry.kv_use * spare_byte)
        self._needs = before + needed(pool, running, new, time_s)
        memory = self._needs[pool.memory_start : pool.power_start]
        memory[:] = cache
        self._stand(replace(load, committed=self._needs, memory_used_byte=memory))
        standing = self.standing
        held = np.zeros_like(cache)
        if len(new):
            np.add.at(held, running.ints[new, rk.R_RESERVER], running.floats[new, rk.R_CACHE])
        return replace(standing, committed=before, memory_used_byte=np.maximum(cache - held, 0.0))

    # What follows from it.

    def _begin(self, requests: list[Request]) -> None:
        """Requests of one problem take the patterns of their ranks: what those need is committed from now on."""
        problem = requests[0].posed.problem
        for request in requests:
            p = request.patterns[request.rank]
            entries = slice(problem.demand_ptr[p], problem.demand_ptr[p + 1])
            # Memory rows are the memory in use, power rows nobody reads.
            self._needs[problem.row_id[problem.demand_row[entries]]] += problem.demand_amount[entries]
        for request in requests:
            self._entering[request.task] = request
            self._count(request, 1)

    def _count(self, request: Request, change: int) -> None:
        self._sent_to[request.at(sk.NODE), request.at(sk.MODEL)] += change

    def _finish(self, request: Request, result: Result, end_s: float) -> None:
        request.result, request.end_s = result, end_s
        self._count(request, -1)
        self._failing.pop(request.task, None)
        self._unsent.pop(request.task, None)
        self._over.append(request)

    def _give_up(self, now_s: float) -> None:
        """Fail requests whose last try failed a while ago, and those that nobody sent."""
        for request in [r for r in self._failing.values() if now_s - r.failed_s >= RETRY_S]:
            self._finish(request, Result.FAILED, request.failed_s)
        for request in [r for r in self._unsent.values() if now_s - r.asked_s >= UNSENT_S]:
            self._finish(request, Result.FAILED, now_s)

    def _reaches(self, request: Request, state: NetworkState) -> bool:
        """Whether a request's end has links for the model to follow."""
        if request.at(sk.CELL) < 0:
            return True
        links, user = state.observed, int(request.of("user"))
        k = candidate(request.posed.ints[request.patterns[request.rank]], user, state)
        return bool(links.uplink_bit_per_s_hz[user, k] > 0.0 and links.downlink_bit_per_s_hz[user, k] > 0.0)

    def _let_go(self, row: int) -> None:
        """A row leaves the table: keep what it used."""
        request, running = self._by_row.pop(row), self._table.running
        request.energy_j += float(running.floats[row, rk.R_ENERGY])
        request.cost += float(running.floats[row, rk.R_COST])
        request.handover += int(running.ints[row, rk.R_HANDOVER])
        request.cell = int(running.ints[row, rk.R_CELL])
        request.row = -1

    def _take_out(self, rows: Int[np.ndarray, " row"], now_s: float) -> None:
        """Rows of requests that have ended, or went elsewhere, leave the table before the model is through with them."""
        table = self._table
        release(table.running, self._residency, rows, now_s)
        for row in rows.tolist():
            self._let_go(row)
        table.active = table.active[~np.isin(table.active, rows)]
        table.leave(len(table.active), rows)

    def _learn(self, request: Request, now_s: float) -> None:
        """Tell telemetry how long a request took over what the model says of as many tokens."""
        start_s, asked = request.start_s, max(float(request.of("output_token")), 1.0)
        if math.isnan(start_s) or request.retry or (request.row < 0 and math.isnan(request.model_s)):
            return
        model_s = request.model_s - start_s
        if request.row >= 0:
            model_s = now_s - start_s + left_s(self._table.running, request.row)
        part = request.decode_part
        model_s *= 1.0 - part + part * request.output_token / asked
        took_s = request.end_s - start_s
        if 0.0 < model_s < math.inf and took_s > 0.0:
            self.telemetry.learn(request.at(sk.NODE), math.log(took_s / model_s))

    def _hold(self) -> None:
        """What nodes hold in the model is what they said; what running requests use stays."""
        residency, telemetry = self._residency, self.telemetry
        kept = residency.pinned > 0
        residency.resident[:] = telemetry.resident | (kept & residency.resident)
        residency.ready_s[:] = np.where(telemetry.resident, 0.0, np.where(kept, residency.ready_s, math.inf))

    def _stand(self, load: Load) -> None:
        """Make ``load`` what decisions between frames see, with what is known of the machines now."""
        telemetry, residency = self.telemetry, self._residency
        up = telemetry.up(self._time_s)
        usable = telemetry.served & up[:, None]
        self.standing = replace(
            load,
            resident=residency.resident & usable,
            ready_s=np.where(usable, residency.ready_s, NEVER_S),
            health=telemetry.health(self._schedule.health(self._time_s), up),
        )

    def _unmodelled_s(self) -> Float[np.ndarray, " node"]:
        """Node-seconds of work that the model doesn't follow: requests of others, and ours that take longer.

        On the mean half of each is done.
        """
        followed = np.bincount(self._table.running.ints[self._table.active, rk.R_NODE], minlength=len(self._sent_to))
        for request in self._entering.values():
            followed[request.at(sk.NODE)] += 1
        late = np.maximum(self._sent_to.sum(axis=1) - followed, 0)
        return np.asarray(0.5 * (late + self.telemetry.foreign) * self.telemetry.work_s)
