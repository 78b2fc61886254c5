"""Networks of a cell or two in which a test says which tasks arrive, which pattern each takes, and where ends stand."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gainnet.demand.service import Services
from gainnet.demand.task import Tasks
from gainnet.execution.outcome import Outcomes, Result
from gainnet.network.state import NetworkState
from gainnet.orchestrator import stage_kernel as sk
from gainnet.orchestrator.plan import Plan, Status
from gainnet.orchestrator.posed import Posed
from gainnet.run import Frame, Run
from gainnet.scenario.scenario import Scenario

FRAME_S = 0.1
CLOUD, EDGE, OTHER_EDGE = 0, 1, 2
TEXT, IMAGE, PERCEPTION, LEARNING = range(4)
SMALL, LARGE, PAINTER = "llama-3.2-1b-int4", "llama-3.2-3b", "stable-diffusion-1.5"
NEVER = {"kind": "poisson", "rate_per_end_per_s": 0.0}
Pick = Callable[[Posed, int, np.ndarray], int | None]


def constant(value: float) -> dict[str, Any]:
    return {"kind": "constant", "value": value}


SERVICES: dict[str, Any] = {
    "text": {
        "kind": "text", "models": [SMALL, LARGE], "deadline_s": 5.0, "quality_min": constant(0.0), "arrivals": NEVER,
        "prompt_token": constant(100), "output_token": constant(10),
    },
    "image": {
        "kind": "image", "models": [PAINTER], "deadline_s": 10.0, "quality_min": constant(0.0), "arrivals": NEVER,
        "steps": constant(10), "adapters": ["ink", "comic", "photo"], "adapter_probability": 0.5,
    },
    "perception": {
        "kind": "perception", "models": [SMALL, LARGE], "deadline_s": 2.0, "quality_min": constant(0.0),
        "arrivals": NEVER, "target_range_m": constant(20), "feature_bit": constant(1e5), "scene_token": constant(50),
        "output_token": constant(5), "answer_bit": constant(1e4),
    },
    "learning": {
        "kind": "learning", "models": [SMALL], "deadline_s": 20.0, "period_s": 1000.0, "participation": 0.0,
        "train_token": constant(1000), "update_bit": 4e6,
    },
}  # fmt: skip


def scenario(
    *,
    cells: Sequence[tuple[float, float]] = ((0.0, 0.0),),
    ends: int = 4,
    network: dict[str, Any] | None = None,
    orchestrator: dict[str, Any] | None = None,
    execution: dict[str, Any] | None = None,
    **top: Any,
) -> Scenario:
    """Cells at the given places with an edge each, a cloud, and ends that hardly move; no task arrives by itself."""
    ink = {"kind": "adapter", "base": PAINTER, "size_byte": 150e6, "load_s": 0.1}
    return Scenario.model_validate(
        {
            "name": "tiny",
            "duration_s": 3.0,
            "network": {
                "topology": {"kind": "explicit", "cells": [{"x_m": x, "y_m": y} for x, y in cells], "margin_m": 30.0},
                "mobility": {"kind": "waypoint", "speed_min_m_per_s": 0.001, "speed_max_m_per_s": 0.001},
                "ends": ends,
                "end": {"hardware": "vehicle-computer", "resident": [SMALL]},
                "edge": {"hardware": "edge-accelerator", "resident": [SMALL, LARGE, PAINTER]},
                "cloud": {"hardware": "cloud-accelerator", "resident": [SMALL, LARGE, PAINTER]},
                "radio": {"bandwidth_hz": 20e6},
                **(network or {}),
            },
            "models": {"ink": ink, "comic": ink, "photo": ink},
            "demand": {"services": SERVICES},
            "orchestrator": orchestrator or {},
            "execution": execution or {},
            **top,
        }
    )


def tracks(folder: Path, waypoints: Sequence[Sequence[tuple[float, float, float]]]) -> dict[str, Any]:
    """A mobility that follows (time_s, x_m, y_m) of each end."""
    path = folder / "tracks.csv"
    rows = [f"{t},{end},{x},{y}" for end, track in enumerate(waypoints) for t, x, y in track]
    path.write_text("\n".join(["time_s,end,x_m,y_m", *rows, ""]))
    return {"kind": "trace", "path": path}


def tasks(number: int = 1, **columns: Any) -> Tasks:
    """That many text tasks of end 0 that arrived at time 0 and are due after 5 s, unless ``columns`` say otherwise."""
    whole = {"task_id": np.arange(number), "service": TEXT, "user": 0, "adapter": -1}
    real = {"arrival_s": 0.0, "deadline_s": 5.0, "quality_min": 0.0, "value": 1.0, "prompt_token": 100.0}
    real |= {"output_token": 10.0, "step": 0.0, "image": 0.0, "uplink_bit": 3200.0, "downlink_bit": 320.0}
    real |= {"target_range_m": 0.0}
    assert not set(columns) - set(whole) - set(real)
    given = {
        name: np.broadcast_to(np.asarray(columns.get(name, value), dtype), number).copy()
        for table, dtype in ((whole, np.int64), (real, np.float64))
        for name, value in table.items()
    }
    return Tasks(**given)


def image(number: int = 1, **columns: Any) -> Tasks:
    given = {"service": IMAGE, "deadline_s": 10.0, "prompt_token": 0.0, "output_token": 0.0, "step": 10.0, "image": 1.0}
    return tasks(number, **{**given, "uplink_bit": 4096.0, "downlink_bit": 0.0, **columns})


def perception(number: int = 1, **columns: Any) -> Tasks:
    given = {"service": PERCEPTION, "deadline_s": 2.0, "prompt_token": 50.0, "output_token": 5.0, "uplink_bit": 1e5}
    return tasks(number, **{**given, "downlink_bit": 1e4, "target_range_m": 20.0, **columns})


def learning(number: int = 1, **columns: Any) -> Tasks:
    given = {"service": LEARNING, "deadline_s": 20.0, "prompt_token": 1000.0, "output_token": 0.0, "uplink_bit": 4e6}
    return tasks(number, **{**given, "downlink_bit": 0.0, **columns})


class Script:
    """Demand that hands out given tasks, each in the first frame that begins at or after its arrival."""

    def __init__(self, services: Services, given: Sequence[Tasks]) -> None:
        self.services = services
        self._given = [(group, i) for group in given for i in range(len(group))]
        self._given.sort(key=lambda item: float(item[0].arrival_s[item[1]]))
        self._next = 0

    def arrive(self, state: NetworkState) -> Tasks:
        first = self._next
        while self._next < len(self._given):
            group, i = self._given[self._next]
            if group.arrival_s[i] > state.time_s + 1e-9:
                break
            self._next += 1
        chosen = self._given[first : self._next]
        names = Tasks.__dataclass_fields__
        columns = {name: np.array([getattr(group, name)[i] for group, i in chosen]) for name in names}
        if not chosen:
            columns = {name: getattr(tasks(0), name) for name in names}
        return Tasks(**(columns | {"task_id": np.arange(first, self._next)}))


class Driven:
    """A run whose tasks, and where wanted whose plans, a test makes.

    Attributes:
        run: the run.
        frames: what its frames did.
    """

    def __init__(self, given: Scenario, *arriving: Tasks) -> None:
        self.run = Run(given)
        self.run.demand = Script(self.run.demand.services, arriving)  # type: ignore[assignment]
        self.frames: list[Frame] = []

    @property
    def artifacts(self) -> tuple[str, ...]:
        return self.run.scenario.artifacts

    def frame(self, pick: Pick | None = None) -> Frame:
        """One frame, with the scenario's matcher or with the pattern that ``pick`` chooses for each task."""
        if pick is None:
            done = self.run.step()
        else:
            self.run.observe()
            posed = self.run._posed
            assert posed is not None
            done = self.run.commit(plan_of(posed, pick))
        self.frames.append(done)
        return done

    def until(self, time_s: float, pick: Pick | None = None) -> Outcomes:
        """Frames up to ``time_s``; the outcomes of all frames so far."""
        while len(self.frames) * self.run.scenario.frame_s < time_s - 1e-9:
            self.frame(pick)
        return self.outcomes

    @property
    def outcomes(self) -> Outcomes:
        names = Outcomes.__dataclass_fields__
        return Outcomes(*(np.concatenate([getattr(f.outcomes, n) for f in self.frames]) for n in names))

    def open(self) -> Outcomes:
        return self.run.execution.still_open(len(self.frames) * self.run.scenario.frame_s)

    def used(self, name: str) -> float:
        """A figure of usage, over all frames."""
        return float(sum(getattr(frame.usage, name) for frame in self.frames))

    def model(self, name: str) -> int:
        return self.artifacts.index(name)


def plan_of(posed: Posed, pick: Pick) -> Plan:
    """The plan of what ``pick`` chooses among each task's patterns (indices into the problem's); None refuses."""
    problem = posed.problem
    choice = np.full(problem.tasks, -1)
    for i in range(problem.tasks):
        chosen = pick(posed, i, np.arange(problem.task_ptr[i], problem.task_ptr[i + 1]))
        choice[i] = -1 if chosen is None else chosen
    return Plan(choice, np.zeros(problem.rows), 0.0, 0.0, Status.FEASIBLE, 0.0)


def first(**wanted: int) -> Pick:
    """The first pattern with that ``node``, ``model``, ``adapter``, ``cell``, ``sensing``, ``level``: those given."""
    columns = {"node": sk.NODE, "model": sk.MODEL, "adapter": sk.ADAPTER, "cell": sk.CELL}
    columns |= {"sensing": sk.SENSING, "level": sk.LEVEL}

    def pick(posed: Posed, _: int, patterns: np.ndarray) -> int | None:
        good = [p for p in patterns if all(posed.ints[p, columns[name]] == value for name, value in wanted.items())]
        return int(good[0]) if good else None

    return pick


def home(posed: Posed, i: int, patterns: np.ndarray) -> int | None:
    """The first pattern that computes at the end itself."""
    good = [p for p in patterns if posed.problem.tier[p] == 0]
    return int(good[0]) if good else None


def names_of(outcomes: Outcomes) -> list[str]:
    """How each task ended, in words, in the order of task_id."""
    return [Result(int(result)).name.lower() for result in outcomes.result[np.argsort(outcomes.task_id)]]
