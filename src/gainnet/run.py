"""The loop: observe, pose, match, execute, record.

``Run.observe`` and ``Run.commit`` are its two halves, so that anything that makes plans can drive a run: the
orchestrator's own matcher, an environment for learning, or a person at a prompt.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.optimize import linear_sum_assignment

from gainnet.demand.demand import Demand
from gainnet.demand.task import Tasks
from gainnet.errors import InputError
from gainnet.execution.fault import Schedule
from gainnet.execution.outcome import Outcomes, Usage
from gainnet.execution.simulated import Execution
from gainnet.measurement.record import Recorder
from gainnet.models import card
from gainnet.network import compute, sensing
from gainnet.network.network import Network
from gainnet.network.state import NetworkState
from gainnet.orchestrator import pool, tables
from gainnet.orchestrator.orchestrator import Orchestrator
from gainnet.orchestrator.plan import Plan
from gainnet.orchestrator.posed import Posed
from gainnet.orchestrator.problem import Problem
from gainnet.rng import stream
from gainnet.scenario.demand import Image, Service, Text
from gainnet.scenario.hardware import base_station
from gainnet.scenario.scenario import Scenario

LONGEST_QUANTITY = 4096.0


@dataclass(frozen=True, slots=True)
class Frame:
    """What one frame did.

    Attributes:
        state: the network in it.
        posed: the problem and its tasks.
        plan: what was decided.
        outcomes: the tasks that ended.
        usage: what it used.
    """

    state: NetworkState
    posed: Posed
    plan: Plan
    outcomes: Outcomes
    usage: Usage


class Run:
    """One run of a scenario, frame by frame.

    Attributes:
        scenario: what is run.
        network, demand, orchestrator, execution: its stages.
    """

    def __init__(self, scenario: Scenario, *, execution: type[Execution] = Execution) -> None:
        """Build every stage. InputError where the scenario names a file that cannot be read."""
        seed, config = scenario.seed, scenario.network
        self.scenario = scenario
        self.network = Network(config, seed=seed, frame_s=scenario.frame_s, duration_s=scenario.duration_s)
        self.demand = Demand(
            scenario.demand,
            scenario.artifacts,
            ends=config.ends,
            seed=seed,
            frame_s=scenario.frame_s,
            duration_s=scenario.duration_s,
        )
        topology = self.network.topology
        cards = card.build(scenario.artifacts, scenario.models)
        nodes = compute.build(config, clouds=topology.clouds, edges=topology.edges)
        radar = sensing.build(config)
        rows = pool.build(
            scenario.orchestrator,
            topology,
            nodes,
            blocks=self.network.blocks,
            power_budget=config.radio.power_budget,
            frame_s=scenario.frame_s,
            horizon_s=max(_longest_deadline_s(service) for service in scenario.demand.services.values()),
        )
        flat = tables.build(
            rows,
            topology,
            nodes,
            cards,
            self.demand.services,
            radar,
            config.radio,
            scenario.orchestrator.objective,
            blocks=self.network.blocks,
            block_hz=self.network.block_hz,
            block_power_w=self.network.block_power_w,
        )
        self.orchestrator = Orchestrator(
            scenario.orchestrator, config.sensing, rows, flat, symbol_s=radar.symbol_s, rng=stream(seed, "matcher"),
            collaboration=scenario.collaboration,
        )  # fmt: skip
        self.execution = execution(
            scenario.execution,
            self.orchestrator,
            nodes,
            base_station(config.radio.base_station),
            Schedule(scenario.execution.faults, topology, ends=config.ends, seed=seed),
            resident=_resident(scenario, topology.clouds, topology.edges, nodes.memory_byte, cards.size_byte),
            frame_s=scenario.frame_s,
            pace=scenario.orchestrator.pace,
            patience_s=scenario.orchestrator.patience_s,
            rng=stream(seed, "execution"),
            load_initial=config.load_initial,
        )
        self._seen: NetworkState | None = None
        self._link_use = np.zeros(len(topology.link_a))
        self._state: NetworkState | None = None
        self._posed: Posed | None = None
        self._arrived = 0

    def observe(self, arrived: Tasks | None = None) -> Problem:
        """Begin a frame: move the network, take in what arrived, and pose the matching problem.

        ``arrived`` are real requests; by default the demand says what arrived.
        """
        state = self.network.advance(self.execution.load)
        if arrived is None:
            arrived = self.demand.arrive(state)
        self._arrived = len(arrived)
        self._state = self._seen = state
        self._posed = self.orchestrator.pose(state, self.execution.pending(arrived))
        return self._posed.problem

    def commit(self, plan: Plan, recorder: Recorder | None = None) -> Frame:
        """End the frame that `observe` began: carry the plan out and record it."""
        assert self._state is not None, "observe begins a frame, commit ends it"
        assert self._posed is not None
        state, posed = self._state, self._posed
        self.orchestrator.remember(posed, plan, self._arrived)
        outcomes, usage = self.execution.execute(posed, plan, state)
        if recorder is not None:
            recorder.frame(
                state,
                self._arrived,
                posed.problem.tasks,
                posed.problem.patterns,
                plan,
                self.orchestrator.pool_price(),
                outcomes,
                usage,
            )
        self._link_use = usage.link_use
        self._state = self._posed = None
        return Frame(state, posed, plan, outcomes, usage)

    @property
    def state(self) -> NetworkState:
        """The network in the frame that `observe` began."""
        assert self._state is not None, "observe begins a frame"
        return self._state

    @property
    def posed(self) -> Posed:
        """The problem of the frame that `observe` began, and what its tasks and patterns mean."""
        assert self._posed is not None, "observe begins a frame"
        return self._posed

    def match(self) -> Plan:
        """What the scenario's own matcher answers to the frame that `observe` began."""
        return self.orchestrator.match(self.posed)

    def step(self, recorder: Recorder | None = None) -> Frame:
        """One frame with the scenario's own matcher."""
        self.observe()
        return self.commit(self.match(), recorder)

    def set_quality(self, model: str, quality: float) -> None:
        """Change the quality of a model of this run: tasks posed from the next `observe` on are judged by it.

        Errors: InputError for a model that is not in use, an adapter, or a quality outside [0, 1].
        """
        artifacts = self.scenario.artifacts
        if model not in artifacts:
            raise InputError(f"models: {model!r} is not in use: {', '.join(artifacts)}")
        artifact = self.orchestrator.tables.artifact
        if artifact["kind"][artifacts.index(model)] == card.Kind.ADAPTER:
            raise InputError(f"models.{model}: is an adapter, it has no quality of its own")
        if not 0.0 <= quality <= 1.0:
            raise InputError(f"models.{model}.quality = {quality:g}, must be at least 0 and at most 1")
        artifact["quality"][artifacts.index(model)] = quality

    def link_rates(self) -> tuple[Float[np.ndarray, " end"], Float[np.ndarray, " end"]]:
        """Uplink and downlink of every end in bit/s, as last observed, were it alone on its serving cell's whole band.

        0 where it has no service; before the first frame, what will be observed in it.
        """
        links = (self._seen or _first_state(self.scenario)).observed
        band_hz = self.network.blocks * self.network.block_hz
        return links.uplink_bit_per_s_hz[:, 0] * band_hz, links.downlink_bit_per_s_hz[:, 0] * band_hz

    def transfer_s(self, source: int, sink: int, bit: float) -> float:
        """Time that ``bit`` takes from a fixed node to another over the backhaul, store and forward; inf over a dead link.

        Each link gives what running tasks did not use of it in the last frame. The transfer is weighed, not booked: what
        edges and the cloud send each other in a round is small against their links, and slows nobody else.
        """
        topology, pool, load = self.network.topology, self.orchestrator.pool, self.execution.load
        path = source * topology.fixed + sink
        links = topology.path_link[topology.path_ptr[path] : topology.path_ptr[path + 1]]
        given = self.orchestrator.capacity(load.health)[pool.link_start :][links]
        free = given * np.maximum(1.0 - self._link_use[links], 0.0)
        with np.errstate(divide="ignore"):
            seconds = topology.link_latency_s[links] + (bit / free if bit > 0.0 else 0.0)
        return float(seconds.sum())


def _first_state(scenario: Scenario) -> NetworkState:
    """The network at time 0, before anything was done."""
    run = Run(scenario)
    return run.network.advance(run.execution.load)


def home_edges(scenario: Scenario) -> Int[np.ndarray, " end"]:
    """The home of every end: the edge (0 is the first) that it is registered with, as near as can be at time 0.

    Every edge is home to as many ends as any other, or to one more: the assignment of least total distance.
    """
    run = Run(scenario)
    state, topology = run.network.advance(run.execution.load), run.network.topology
    apart_m = np.linalg.norm(state.position_m[:, None] - topology.cell_xy_m, axis=-1)
    edge = topology.cell_edge - topology.clouds
    near_m = np.stack([apart_m[:, edge == e].min(axis=1, initial=np.inf) for e in range(topology.edges)], axis=1)
    near_m = np.where(np.isfinite(near_m), near_m, 2.0 * apart_m.max())  # an edge without a cell is far from all
    whole, more = divmod(len(near_m), topology.edges)
    places = [near_m] * whole + ([near_m + apart_m.sum()] if more else [])  # a further place only where it must be
    _, place = linear_sum_assignment(np.concatenate(places, axis=1))
    return np.asarray(place % topology.edges)


def simulate(
    scenario: Scenario, *, progress: Callable[[int, int], None] | None = None, recorder: Recorder | None = None
) -> Recorder:
    """Run a scenario to its end; an interrupt (between frames) closes the record before it goes on.

    Args:
        scenario: what to run.
        progress: called with the frames done and the frames in all.
        recorder: where to record; a new one by default.
    """
    recorder = Recorder(scenario) if recorder is None else recorder
    run = Run(scenario)
    frames, done = scenario.frames, 0
    try:
        for done in range(1, frames + 1):
            run.step(recorder)
            if progress is not None:
                progress(done, frames)
    except KeyboardInterrupt:
        recorder.close(run.execution.still_open(done * scenario.frame_s))
        raise
    recorder.close(run.execution.still_open(done * scenario.frame_s))
    return recorder


def _resident(
    scenario: Scenario,
    clouds: int,
    edges: int,
    memory_byte: Float[np.ndarray, " node"],
    size_byte: Float[np.ndarray, " artifact"],
) -> Bool[np.ndarray, "node artifact"]:
    """Which artifacts each node holds at the start: those its tier names, in order, as far as they fit its memory."""
    config, artifacts = scenario.network, scenario.artifacts
    machines = [config.cloud] * clouds + [config.edge] * edges + [config.end]
    held = np.array([[name in machine.resident for name in artifacts] for machine in machines])
    named = np.concatenate([held[:-1], np.repeat(held[-1:], config.ends, axis=0)])
    return np.asarray(named & (np.cumsum(named * size_byte, axis=1) <= memory_byte[:, None]))


def _longest_deadline_s(service: Service) -> float:
    """How long after its arrival a task of this service may be due, for the length of the horizon."""
    if isinstance(service, Text):
        return service.deadline_s + service.deadline_per_token_s * LONGEST_QUANTITY / 4.0
    if isinstance(service, Image):
        return service.deadline_s + service.deadline_per_step_s * LONGEST_QUANTITY / 16.0
    return service.deadline_s
