"""The loop: observe, pose, match, execute, record.

``Run.observe`` and ``Run.commit`` are its two halves, so that anything that makes plans can drive a run: the
orchestrator's own matcher, an environment for learning, or a person at a prompt.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool

from gainnet.demand.demand import Demand
from gainnet.demand.task import Tasks
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
from gainnet.orchestrator.pattern import Posed
from gainnet.orchestrator.plan import Plan
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

    def __init__(self, scenario: Scenario) -> None:
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
            scenario.orchestrator, config.sensing, rows, flat, symbol_s=radar.symbol_s, rng=stream(seed, "matcher")
        )
        self.execution = Execution(
            scenario.execution,
            self.orchestrator,
            nodes,
            base_station(config.radio.base_station),
            Schedule(scenario.execution.faults, topology),
            resident=_resident(scenario, topology.clouds, topology.edges),
            frame_s=scenario.frame_s,
            pace=scenario.orchestrator.pace,
            patience_s=scenario.orchestrator.patience_s,
            rng=stream(seed, "execution"),
            load_initial=config.load_initial,
        )
        self._state: NetworkState | None = None
        self._posed: Posed | None = None
        self._arrived = 0

    def observe(self) -> Problem:
        """Begin a frame: move the network, take in what arrived, and pose the matching problem."""
        state = self.network.advance(self.execution.load)
        arrived: Tasks = self.demand.arrive(state)
        self._arrived = len(arrived)
        self._state = state
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
        self._state = self._posed = None
        return Frame(state, posed, plan, outcomes, usage)

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


def _resident(scenario: Scenario, clouds: int, edges: int) -> Bool[np.ndarray, "node artifact"]:
    """Which artifacts each node holds at the start."""
    config, artifacts = scenario.network, scenario.artifacts
    machines = [config.cloud] * clouds + [config.edge] * edges + [config.end]
    held = np.array([[name in machine.resident for name in artifacts] for machine in machines])
    return np.concatenate([held[:-1], np.repeat(held[-1:], config.ends, axis=0)])


def _longest_deadline_s(service: Service) -> float:
    """How long after its arrival a task of this service may be due, for the length of the horizon."""
    if isinstance(service, Text):
        return service.deadline_s + service.deadline_per_token_s * LONGEST_QUANTITY / 4.0
    if isinstance(service, Image):
        return service.deadline_s + service.deadline_per_step_s * LONGEST_QUANTITY / 16.0
    return service.deadline_s
