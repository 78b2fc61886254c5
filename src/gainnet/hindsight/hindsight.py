"""What no matcher can beat on a scenario and seed, though it knew all that is to arrive.

The true optimum over a run is out of reach; this is an upper bound on it, the least that prices of a linear relaxation
give (see `gainnet.hindsight.dual`). Every relaxation lets more happen than execution would:

- fractions of tasks and of options; every task known from the beginning of the run;
- of a task's window, from the frame that first poses it to its deadline, only work *in* an interval counts against what
  the interval gives, so the order of stages and the rate of each are kept only by what the task would take alone;
- radio without interference and with fading at its kindest (`gainnet.hindsight.links`), at the best efficiency that any
  cell offers in the window; the bands of all cells are one pool, hand-overs free and instant; no sounding, power budget,
  backhaul link or its latency;
- every decoding in the fullest batch a node can have for what it costs, and alone for how long it takes;
- models resident everywhere they fit, from the time that a load begun for the first task that could wait for it would
  end; no eviction, loading cost or KV cache; edges behave as one pool, reached from any cell, and so do clouds;
- a radar look always finds its target, from the nearest place a cell could look from;
- of the cost: what machines and cells draw at rest, and the machine time and energy of the work; radio energy is free.

What faults take (machines, cells, sensing) is kept, and so is the demand that they bring.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace

import numpy as np
from jaxtyping import Bool, Float, Int

from gainnet.demand.task import Tasks
from gainnet.execution.fault import Schedule
from gainnet.hindsight import options_kernel as kernel
from gainnet.hindsight.dual import Dual, Relaxation, bound
from gainnet.hindsight.links import Fading, efficiency, most_over
from gainnet.measurement.metrics import due
from gainnet.network import compute, link
from gainnet.network.compute_kernel import load_s
from gainnet.network.energy import radio_energy_j
from gainnet.network.state import Health, Load, Tier
from gainnet.orchestrator import stage_kernel as stages
from gainnet.orchestrator.pattern import NO_BIDS, NO_EDGES
from gainnet.orchestrator.tables import Tables
from gainnet.orchestrator.task_kernel import PERCEPTION, TaskColumns
from gainnet.run import Run
from gainnet.scenario.hardware import base_station
from gainnet.scenario.load import change
from gainnet.scenario.scenario import Scenario

LENGTHS_S = (1.5, 4.0, 12.0, 24.0)
END_LENGTHS_S = (12.0,)
TURNS = 60
"""Most iterations at each smoothing; the bound is valid after any number."""


@dataclass(frozen=True, slots=True)
class Hindsight:
    """Upper bounds on what any matcher reaches on a scenario and seed.

    Attributes:
        satisfaction: on the share of satisfied tasks among those due in the run, None where none is due.
        value_return: on `gainnet.measurement.metrics.value_return`, None where none is due.
        tasks: tasks due in the run.
        possible: those that could be satisfied if each were alone.
    """

    satisfaction: float | None
    value_return: float | None
    tasks: int
    possible: int


@dataclass(frozen=True, slots=True)
class _Seen:
    """What arrives in a run, and what its network gives in each frame at best.

    Attributes:
        tasks: those due in the run.
        begun: the frame that first poses each.
        up, down: best efficiency of any cell (bit/s/Hz).
        nearest_m: distance to the nearest cell.
        sensing_up: whether sensing works.
        given: what each resource gives.
        ready_s: earliest use of each artifact at each node.
        rest_cost: what the run costs if nothing is done.
    """

    tasks: Tasks
    begun: Int[np.ndarray, " task"]
    up: Float[np.ndarray, "frame user"]
    down: Float[np.ndarray, "frame user"]
    nearest_m: Float[np.ndarray, "frame user"]
    sensing_up: Bool[np.ndarray, " frame"]
    given: Float[np.ndarray, "frame resource"]
    ready_s: Float[np.ndarray, "node artifact"]
    rest_cost: float


def hindsight(scenario: Scenario) -> Hindsight:
    """The bounds of a scenario at its seed; its matcher does not matter."""
    scenario = change(scenario, ["orchestrator.matcher=greedy"])
    run = Run(scenario)
    seen = _watch(run)
    relaxation = _relax(run, seen)
    tasks = len(seen.tasks)
    possible = int(np.count_nonzero(np.diff(relaxation.ptr)))
    if tasks == 0:
        return Hindsight(None, None, 0, 0)
    dual = Dual(relaxation, _frames(LENGTHS_S, scenario.frame_s), _frames(END_LENGTHS_S, scenario.frame_s))
    of, weight = np.repeat(np.arange(tasks), np.diff(relaxation.ptr)), scenario.orchestrator.objective.cost_weight
    options = len(relaxation.tier)
    satisfied = bound(dual, np.ones(options), np.ones(tasks), turns=TURNS)
    value = seen.tasks.value
    net = value[of] - weight * relaxation.options[:, kernel.COST]
    worth = bound(dual, net, value, turns=TURNS) - weight * seen.rest_cost
    return Hindsight(satisfied / tasks, worth / float(value.sum()), tasks, possible)


def _frames(lengths_s: tuple[float, ...], frame_s: float) -> list[int]:
    return [max(1, round(length / frame_s)) for length in lengths_s]


def _watch(run: Run) -> _Seen:
    """Let the run's network move and its tasks arrive, and do nothing."""
    scenario, network = run.scenario, run.network
    radio, frames, frame_s = scenario.network.radio, scenario.frames, scenario.frame_s
    fading = Fading(scenario.network, seed=scenario.seed, frame_s=frame_s)
    schedule = Schedule(scenario.execution.faults, network.topology, ends=scenario.network.ends, seed=scenario.seed)
    flat = link.ladder(radio)[:, 0]
    up, down, nearest_m = np.zeros((3, frames, scenario.network.ends))
    sensing_up = np.zeros(frames, np.bool_)
    given = np.zeros((frames, run.orchestrator.pool.resources))
    groups, begun, rest_cost = [], [], 0.0
    nodes = compute.build(scenario.network, clouds=network.topology.clouds, edges=network.topology.edges)
    idle_w = (nodes.count * nodes.idle_w)[: network.topology.fixed]
    drop_m = radio.cell_height_m - radio.end_height_m
    for frame in range(frames):
        state = network.advance(_silent(run, schedule, frame * frame_s))
        health = state.load.health
        power = fading.advance(state.velocity_m_per_s)
        down_level, up_level, clear = network.alone()
        for direction, level in ((down, down_level), (up, up_level)):
            direction[frame] = efficiency(level, clear, power, flat)
        apart_m = np.linalg.norm(state.position_m[:, None] - network.topology.cell_xy_m, axis=-1)
        nearest_m[frame] = np.hypot(apart_m.min(axis=1), drop_m)
        sensing_up[frame] = health.sensing_up
        given[frame] = run.orchestrator.pool.capacity_now(health) * frame_s
        rest_cost += _rest_cost(run, health, idle_w)
        arrived = run.demand.arrive(state)
        groups.append(arrived)
        begun.append(np.full(len(arrived), frame))
    tasks = Tasks(**{f.name: np.concatenate([getattr(group, f.name) for group in groups]) for f in fields(Tasks)})
    since = np.concatenate(begun)
    ready_s = _ready_s(run, tasks, since * frame_s)
    counted = due({"deadline_s": tasks.deadline_s}, frames * frame_s)
    kept = Tasks(**{f.name: getattr(tasks, f.name)[counted] for f in fields(Tasks)})
    return _Seen(kept, since[counted], up, down, nearest_m, sensing_up, given, ready_s, rest_cost)


def _silent(run: Run, schedule: Schedule, time_s: float) -> Load:
    """The load of a network in which nobody sends."""
    load = run.execution.load
    return replace(
        load,
        downlink_use=np.zeros_like(load.downlink_use),
        uplink_use=np.zeros_like(load.uplink_use),
        uplink_cell=np.full_like(load.uplink_cell, -1),
        sounding_block=np.zeros_like(load.sounding_block),
        health=schedule.health(time_s),
    )


def _rest_cost(run: Run, health: Health, idle_w: Float[np.ndarray, " fixed"]) -> float:
    """What a frame costs in which nothing is done: idle machines, sleeping cells."""
    frame_s, none = run.scenario.frame_s, np.zeros(len(health.cell_up))
    station = base_station(run.scenario.network.radio.base_station)
    radio_j = radio_energy_j(none, none > 0.0, health.cell_up, station, frame_s).sum()
    price = run.scenario.orchestrator.objective.energy_price_per_j
    return float((idle_w @ health.node_up * frame_s + radio_j) * price)


def _relax(run: Run, seen: _Seen) -> Relaxation:
    """The relaxation of what was seen."""
    tables, pool, frame_s = run.orchestrator.tables, run.orchestrator.pool, run.scenario.frame_s
    tasks, frames = seen.tasks, len(seen.given)
    last = np.minimum(np.floor(tasks.deadline_s / frame_s + 1e-9).astype(np.int64), frames - 1)
    first = np.where(
        tables.service_kind[tasks.service] == PERCEPTION, _sensing_from(seen.sensing_up)[seen.begun], seen.begun
    )
    block_hz = float(tables.run[0]["block_hz"])
    best = np.empty((len(tasks), kernel.TASK_FLOATS))
    best[:, kernel.BEGIN_S] = np.where(first <= last, first * frame_s, math.inf)
    best[:, kernel.NEAREST_M] = -most_over(-seen.nearest_m, tasks.user, first, last)
    with np.errstate(divide="ignore"):
        for column, efficiencies in ((kernel.UP_BLOCK_S, seen.up), (kernel.DOWN_BLOCK_S, seen.down)):
            best[:, column] = 1.0 / (most_over(efficiencies, tasks.user, first, last) * block_hz)
    ptr, tier, options = _options(run, seen, best)
    tiers = tables.node["tier"][: pool.fixed]
    fixed = seen.given[:, pool.compute_start : pool.end_start].reshape(frames, pool.fixed, -1).sum(axis=2)
    given = np.stack([fixed[:, tiers == tier].sum(axis=1) for tier in Tier], axis=1)
    given[:, 0] = seen.given[:, : pool.compute_start].sum(axis=1)
    ends = seen.given[:, pool.end_start : pool.link_start]
    return Relaxation(ptr, tier, options, tasks.user, first, last, given, end_given=float(ends.max()))


def _sensing_from(up: Bool[np.ndarray, " frame"]) -> Int[np.ndarray, " frame"]:
    """The first frame from each on in which sensing works; past the end where there is none."""
    frames = np.where(up, np.arange(len(up)), len(up))
    return np.minimum.accumulate(frames[::-1])[::-1]


def _options(
    run: Run, seen: _Seen, best: Float[np.ndarray, "task column"]
) -> tuple[Int[np.ndarray, " edge"], Int[np.ndarray, " option"], Float[np.ndarray, "option column"]]:
    """What each task could do: pointers, tiers and columns of its options."""
    tables, pool = run.orchestrator.tables, run.orchestrator.pool
    columns = TaskColumns(*(getattr(seen.tasks, name) for name in TaskColumns._fields))
    tier = tables.node["tier"][: pool.fixed]
    places = np.array([np.flatnonzero(tier == t)[0] for t in np.unique(tier)])
    most = len(columns.user) * (len(places) + 1) * 2 * max(1, int(np.diff(tables.model_ptr).max())) + 1
    ptr, tiers = np.zeros(len(columns.user) + 1, np.int64), np.zeros(most, np.int64)
    options = np.zeros((most, kernel.OPTION_FLOATS))
    count = kernel.options_of(
        tables, columns, _view(pool.users, tables), best, seen.ready_s, places, ptr, tiers, options,
        np.zeros(stages.PATTERN_INTS, np.int64),
        np.empty((pool.stages_max, stages.INT_COLUMNS), np.int64), np.empty((pool.stages_max, stages.FLOAT_COLUMNS)),
    )  # fmt: skip
    return ptr, tiers[:count].copy(), options[:count].copy()


def _view(users: int, tables: Tables) -> stages.View:
    """A view whose links carry 1 bit/s/Hz, so that `expand` leaves bits as they are; of the rest it reads nothing."""
    one, none = np.ones((users, 1)), np.ones((0, 0))
    return stages.View(
        now_s=0.0, candidate=np.zeros((users, 1), np.int64), uplink=one, downlink=one, uplink_power_w=one,
        cell_distance_m=one, sensing_up=True, node_up=np.ones(int(tables.run[0]["fixed"]), np.bool_),
        end_up=np.ones(users, np.bool_), batch=none,
        resident=np.ones((0, 0), np.bool_), ready_s=none, pinned=np.zeros((0, 0), np.int64), spare_edge=NO_EDGES,
        bid=NO_BIDS,
    )  # fmt: skip


def _ready_s(run: Run, tasks: Tasks, begun_s: Float[np.ndarray, " task"]) -> Float[np.ndarray, "node artifact"]:
    """Earliest use of each artifact at each node: 0 where it is resident at the start, else when its first load could end.

    A load begins with a task that may use the artifact there and whose deadline is not before the load would end.
    """
    tables, pool, resident = run.orchestrator.tables, run.orchestrator.pool, run.execution.load.resident
    ready = np.full(resident.shape, math.inf)
    tier = tables.node["tier"]
    for artifact, held in enumerate(tables.artifact):
        users = [s for s in range(len(tables.service_kind))
                 if artifact in tables.model_index[tables.model_ptr[s] : tables.model_ptr[s + 1]]]  # fmt: skip
        asks = np.isin(tasks.service, users) | (tasks.adapter == artifact)
        for kind in np.unique(tier):
            nodes = np.flatnonzero(tier == kind)
            node = tables.node[nodes[0]]
            seconds = load_s(held["size_byte"], held["load_s"], node["load_byte_per_s"], node["load_overhead_s"])
            waits = np.flatnonzero(asks & (begun_s + seconds <= tasks.deadline_s + 1e-9))
            if kind == Tier.END:
                np.minimum.at(ready[:, artifact], pool.fixed + tasks.user[waits], begun_s[waits] + seconds)
            elif len(waits):
                ready[nodes, artifact] = begun_s[waits].min() + seconds
    return np.where(resident, 0.0, ready)
