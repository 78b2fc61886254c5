"""Patterns: for each task the ways to map its graph onto the resource graph, and the matching problem they pose.

A pattern fixes the cell, the node of every compute stage, the model variant and adapter, how many denoising steps, and
who senses with how much. Only patterns that can meet the deadline at the least latency, the required quality and the
memory of the machine are kept, and only those whose value exceeds their cost. A pattern's stages are planned over
windows that use ``pace`` of the time that is left, and each draws evenly on the slots its window covers.
"""

from __future__ import annotations

from operator import attrgetter

import numpy as np
from jaxtyping import Float, Int

from gainnet.demand.task import Tasks
from gainnet.network.state import LinkView, NetworkState
from gainnet.orchestrator import pattern_kernel as kernel
from gainnet.orchestrator import stage_kernel as stages
from gainnet.orchestrator.collaboration import Collaborator
from gainnet.orchestrator.pool import Pool
from gainnet.orchestrator.posed import Posed, set_apart
from gainnet.orchestrator.problem import Problem
from gainnet.orchestrator.tables import Tables
from gainnet.orchestrator.task_kernel import TaskColumns
from gainnet.scenario.orchestrator import Orchestrator

_columns = attrgetter(*TaskColumns._fields)


class Enumerator:
    """Enumerates patterns into buffers that it keeps and grows as needed."""

    def __init__(
        self, config: Orchestrator, pool: Pool, tables: Tables, collaborator: Collaborator | None = None
    ) -> None:
        self._config = config
        self._collaborator = collaborator
        self._pool = pool
        self._tables = tables
        self._artifacts = len(tables.artifact)
        self._all_matched = not tables.service_nearest.any()
        self._setup_cost = _setup_cost(tables)
        self._size_byte = tables.artifact["size_byte"].copy()
        self._patterns_max, self._entries_max, self._tasks_max = 4096, 65_536, 256
        self._grow()

    def _grow(self) -> None:
        patterns, entries, rows = self._patterns_max, self._entries_max, self._pool.rows
        setups = (self._pool.fixed + self._pool.users) * self._artifacts
        self._scratch = kernel.Scratch(
            counter=np.array([0, 0, 0, 0, patterns, entries, 0]),
            task_ptr=np.zeros(self._tasks_max + 1, np.int64),
            ints=np.empty((patterns, stages.PATTERN_INTS), np.int64),
            floats=np.empty((patterns, kernel.PATTERN_FLOATS)),
            value=np.empty(patterns),
            tier=np.empty(patterns, np.int64),
            nearest=np.empty(patterns, np.int64),
            setup=np.empty((patterns, 2), np.int64),
            entry_ptr=np.zeros(patterns + 1, np.int64),
            entry_row=np.empty(entries, np.int64),
            entry_amount=np.empty(entries),
            row_of=np.full(rows, -1),
            row_id=np.empty(rows, np.int64),
            entry_of=np.empty(rows, np.int64),
            setup_of=np.full(setups, -1),
            setup_key=np.empty(setups, np.int64),
            pick=np.zeros(stages.PATTERN_INTS, np.int64),
            stage_ints=np.empty((self._pool.stages_max, stages.INT_COLUMNS), np.int64),
            stage_floats=np.empty((self._pool.stages_max, stages.FLOAT_COLUMNS)),
            stage_end_s=np.empty(self._pool.stages_max),
            places=np.empty(self._pool.fixed + 1, np.int64),
        )

    def pose(
        self,
        state: NetworkState,
        tasks: Tasks,
        free: Float[np.ndarray, " pool_row"],
        spare_edge: Int[np.ndarray, " edge"],
        bid: Float[np.ndarray, " resource"],
    ) -> Posed:
        """Enumerate the patterns of the tasks on the observed state.

        Args:
            state: the network; only what was observed is read.
            tasks: the tasks to decide.
            free: what is left of every pool row.
            spare_edge: edge nodes, those with most time to spare first.
            bid: what a unit of each resource's time to come is worth to tasks that have not arrived.
        """
        view = view_of(state, state.observed, spare_edge, bid)
        columns = TaskColumns(*_columns(tasks))
        together = self._collaborator
        wanted = columns if together is None else together.relaxed(columns)
        if len(tasks) > self._tasks_max:
            self._tasks_max = 2 * len(tasks)
            self._grow()
        while True:
            config, scratch = self._config, self._scratch
            kernel.enumerate_patterns(
                self._tables, wanted, view, config.pace, config.cells_considered, config.edges_considered, scratch
            )
            overflow = scratch.counter[kernel.OVERFLOW]
            if not overflow:
                break
            self._patterns_max *= 2
            self._entries_max *= 2
            self._grow()
        posed = self._collect(state, tasks, columns, free)
        kernel.forget(scratch)
        if together is not None:
            posed = together.extended(posed, state, free, bid)
        return posed if self._all_matched else set_apart(posed, self._tables.service_nearest[tasks.service] > 0)

    def _collect(
        self, state: NetworkState, tasks: Tasks, columns: TaskColumns, free: Float[np.ndarray, " pool_row"]
    ) -> Posed:
        scratch = self._scratch
        patterns, entries, rows, setups = (int(n) for n in scratch.counter[:4])
        row_id = scratch.row_id[:rows].copy()
        node, artifact = np.divmod(scratch.setup_key[:setups], self._artifacts)
        memory_id = self._pool.memory_start + node
        absent = memory_id[scratch.row_of[memory_id] < 0]
        new = np.unique(absent) if len(absent) else absent
        row_of = scratch.row_of
        if len(new):
            row_of = scratch.row_of.copy()
            row_of[new] = rows + np.arange(len(new))
            row_id = np.concatenate([row_id, new])
        problem = Problem(
            task_ptr=scratch.task_ptr[: len(tasks) + 1].copy(),
            value=scratch.value[:patterns].copy(),
            demand_ptr=scratch.entry_ptr[: patterns + 1].copy(),
            demand_row=scratch.entry_row[:entries].copy(),
            demand_amount=scratch.entry_amount[:entries].copy(),
            capacity=np.maximum(free[row_id], 0.0),
            row_id=row_id,
            setup=scratch.setup[:patterns].copy(),
            setup_row=row_of[memory_id],
            setup_size=self._size_byte[artifact],
            setup_cost=np.where(np.isfinite(state.load.ready_s[node, artifact]), 0.0, self._setup_cost[node, artifact]),
            tier=scratch.tier[:patterns].copy(),
            nearest=scratch.nearest[:patterns].copy(),
        )
        return Posed(problem, tasks, columns, scratch.ints[:patterns].copy(), scratch.floats[:patterns].copy())


def _setup_cost(tables: Tables) -> Float[np.ndarray, "node artifact"]:
    """What loading an artifact at a node costs: its time and energy meanwhile, weighed as the objective weighs cost."""
    node, artifact, run = tables.node[:, None], tables.artifact[None, :], tables.run[0]
    seconds = node["load_overhead_s"] + artifact["load_s"] + artifact["size_byte"] / node["load_byte_per_s"]
    per_s = node["price_per_s"] + node["busy_w"] * run["energy_price_per_j"]
    return np.asarray(run["cost_weight"] * seconds * per_s)


def view_of(
    state: NetworkState,
    links: LinkView,
    spare_edge: Int[np.ndarray, " edge"] | None = None,
    bid: Float[np.ndarray, " resource"] | None = None,
) -> stages.View:
    """The network as seen through ``links`` (observed or true), flat, for the kernels.

    ``spare_edge`` and ``bid`` are only read where patterns are enumerated.
    """
    load = state.load
    return stages.View(
        now_s=state.time_s,
        candidate=state.candidate,
        uplink=links.uplink_bit_per_s_hz,
        downlink=links.downlink_bit_per_s_hz,
        uplink_power_w=state.uplink_power_w,
        cell_distance_m=state.cell_distance_m,
        sensing_up=load.health.sensing_up,
        node_up=load.health.node_up,
        end_up=load.health.end_up,
        batch=load.batch,
        resident=load.resident,
        ready_s=load.ready_s,
        pinned=load.pinned,
        spare_edge=NO_EDGES if spare_edge is None else spare_edge,
        bid=NO_BIDS if bid is None else bid,
    )


NO_EDGES = np.empty(0, np.int64)
NO_BIDS = np.empty(0)
