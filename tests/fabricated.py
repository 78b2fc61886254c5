"""Invented runs for tests of measurement, comparison and the command line: plausible, seeded, made in milliseconds."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from gainnet import rng
from gainnet.execution.outcome import Outcomes, Result, Usage
from gainnet.measurement.record import Recorder
from gainnet.network.state import Health, LinkView, Load, NetworkState
from gainnet.orchestrator.plan import Plan, Status
from gainnet.orchestrator.pool import POOL_KINDS
from gainnet.scenario.scenario import Scenario

LINKS = 26


def outcomes(number: int, **columns: object) -> Outcomes:
    """That many tasks, served at time 1 s unless ``columns`` say otherwise (an array or one value for all)."""
    whole = {"task_id": np.arange(number), "service": 0, "user": 0, "result": int(Result.SERVED), "node": 1, "tier": 1}
    whole |= {"cell": 0, "model": 0, "sensing": 0, "handover": 0, "retry": 0}
    real = {"arrival_s": 0.0, "deadline_s": 2.0, "end_s": 1.0, "start_s": 0.0, "quality": 0.8, "quality_min": 0.5}
    real |= {"value": 1.0, "energy_j": 2.0, "cost": 0.1}
    unknown = set(columns) - set(whole) - set(real)
    assert not unknown, unknown
    filled = {
        name: np.broadcast_to(np.asarray(columns.get(name, value), dtype), number).copy()
        for table, dtype in ((whole, np.int64), (real, np.float64))
        for name, value in table.items()
    }
    return Outcomes(**filled)


def usage(cells: int = 3, fixed: int = 4, links: int = 3, **values: object) -> Usage:
    """What a quiet frame uses."""
    scalars = {"radio_energy_j": 10.0, "compute_energy_j": 20.0, "cost": 0.5, "running": 0, "waiting": 0}
    scalars |= {"uplink_bit": 1e6, "downlink_bit": 2e6, "flop": 1e12}
    scalars |= {"detections": 0, "looks": 0, "loads": 0, "handovers": 0}
    sizes = {"cell_use": cells, "sounding_use": cells, "radar_use": cells}
    sizes |= {"node_use": fixed, "link_use": links, "memory_use": fixed}
    arrays = {name: np.full(size, 0.25) for name, size in sizes.items()}
    return Usage(**(scalars | arrays | values))  # type: ignore[arg-type]


def state(frame: int, frame_s: float, position_m: np.ndarray, cell: np.ndarray) -> NetworkState:
    """A state in which only the positions and the serving cells mean anything."""
    users = len(position_m)
    zeros = np.zeros((users, 1))
    links = LinkView(zeros, zeros, zeros)
    health = Health(np.ones(1, bool), np.ones(1, bool), np.ones(1), np.ones(users, bool))
    none = np.zeros((1, 1))
    load = Load(
        np.zeros(1), np.zeros(users), np.zeros(users, np.int64), np.zeros(users), none, none > 0, none,
        none.astype(np.int64), none, np.zeros(1), np.zeros(1), health,
    )  # fmt: skip
    return NetworkState(
        frame, frame * frame_s, position_m, np.zeros((users, 2)), cell[:, None], np.zeros(users, bool),
        links, links, np.full(users, 2.0), zeros, zeros, load,
    )  # fmt: skip


def plan(value: float = 9.0, bound: float = 10.0, decision_s: float = 1e-3) -> Plan:
    """A plan of no task that is worth ``value``."""
    return Plan(np.zeros(0, np.int64), np.zeros(0), value, bound, Status.FEASIBLE, decision_s)


def run(
    scenario: Scenario,
    frames: int | None = None,
    recorder: Recorder | None = None,
    progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> Recorder:
    """An invented run of a scenario, ``frames`` long where given, recorded and closed, interrupted or not."""
    recorder = recorder or Recorder(scenario)
    random = rng.stream(scenario.seed, "fabricated")
    users, cells, edges = scenario.network.ends, scenario.network.cells, scenario.network.edges
    services = len(scenario.demand.services)
    skill = {"price": 0.0, "greedy": 0.05}.get(scenario.orchestrator.matcher.kind, 0.2)
    position = random.uniform(0.0, 600.0, (users, 2))
    velocity = np.where(random.random((users, 1)) < 0.5, [[11.0, 0.0]], [[0.0, 11.0]])
    serial, waiting = 0, []
    frames = scenario.frames if frames is None else frames
    try:
        for index in range(frames):
            time_s = index * scenario.frame_s
            position = np.remainder(position + velocity * scenario.frame_s, 600.0)
            cell = (position[:, 0] // 150).astype(np.int64) * 3 % cells
            arrived = int(random.poisson(0.1 * users * scenario.frame_s))
            waiting += [(time_s + random.gamma(2.0, 0.6), time_s, serial + k) for k in range(arrived)]
            serial += arrived
            done = [w for w in waiting if w[0] <= time_s]
            waiting = [w for w in waiting if w[0] > time_s]
            load = 0.5 + 0.3 * np.sin(time_s / 9.0)
            recorder.frame(
                state(index, scenario.frame_s, position, cell), arrived, arrived, 20 * arrived,
                plan(9.0 - load, 10.0, 1e-3 * random.uniform(1, 2)),
                np.maximum(0.0, load * np.linspace(0.1, 1.0, len(POOL_KINDS)) + random.normal(0, 0.05, 7)),
                _ended(done, random, users, cells, edges, services, skill),
                usage(cells, edges + 1, LINKS, radio_energy_j=20 + 10 * load, compute_energy_j=60 * load,
                      node_use=np.full(edges + 1, load), cell_use=np.clip(random.normal(load, 0.1, cells), 0, 1),
                      looks=5, detections=4),
            )  # fmt: skip
            progress(index + 1, frames)
    finally:
        still = sorted(serial for _, _, serial in waiting)
        recorder.close(outcomes(len(still), task_id=np.array(still, np.int64), result=int(Result.OPEN), deadline_s=1e9))
    return recorder


def _ended(
    done: list[tuple[float, float, int]],
    random: np.random.Generator,
    users: int,
    cells: int,
    edges: int,
    services: int,
    skill: float,
) -> Outcomes:
    number = len(done)
    end, arrival = (np.array([d[k] for d in done], dtype=np.float64) for k in (0, 1))
    tier = random.integers(0, 3, number)
    late = end - arrival > 2.5 - 3 * skill
    result = np.where(random.random(number) < 0.05 + skill, int(Result.REJECTED), np.where(late, int(Result.LATE), 0))
    return outcomes(
        number, task_id=np.array([d[2] for d in done], dtype=np.int64), service=random.integers(0, services, number),
        user=random.integers(0, users, number), result=result, arrival_s=arrival, deadline_s=arrival + 2.5, end_s=end,
        start_s=arrival + 0.1, quality=random.uniform(0.4, 0.9, number),
        tier=np.where(result == Result.REJECTED, -1, tier),
        node=np.where(tier == 2, 0, np.where(tier == 1, 1 + random.integers(0, edges, number), edges + 1)),
        cell=random.integers(0, cells, number), model=tier, sensing=random.integers(-1, 2, number),
    )  # fmt: skip
