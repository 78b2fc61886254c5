"""The loop: built-in scenarios run and repeat, its two halves are the whole, it decides on what was observed."""

from __future__ import annotations

import dataclasses
import importlib
import json
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

import gainnet
from gainnet.execution.outcome import Outcomes
from gainnet.measurement.metrics import Report, report
from gainnet.measurement.record import Recorder
from gainnet.network.state import LinkView
from gainnet.orchestrator.checker import violations
from gainnet.orchestrator.problem import Problem
from gainnet.run import Run, simulate
from gainnet.scenario.load import load, names
from gainnet.scenario.matcher import MATCHER_KINDS

PUBLIC = ["Run", "Scenario", "__version__", "load", "report", "simulate"]
SHORT_S = {"campus": 2.0, "vehicular": 1.0, "vehicular-dense": 0.4}


def _report(recorder: Recorder) -> Report:
    assert recorder.record is not None
    return report(recorder.record)


def _without_times(found: Report) -> str:
    """The text of a report without what the clock on the wall decides."""
    timeless = {key: value for key, value in found.items() if key != "wall_s"}
    timeless["orchestration"] = {k: v for k, v in found["orchestration"].items() if k != "decision_s"}
    return json.dumps(timeless)


def _run(name: str, seed: int) -> str:
    return _without_times(_report(simulate(load(name, duration_s=SHORT_S[name], seed=seed))))


@pytest.mark.parametrize("name", names())
def test_a_builtin_repeats_under_the_same_seed_and_differs_under_another(name: str) -> None:
    first = _run(name, 1)
    assert json.loads(first)["tasks"]["arrived"] > 0
    assert _run(name, 1) == first
    assert _run(name, 2).replace('"seed": 2', '"seed": 1') != first


def _equal(one: Any, other: Any) -> bool:
    """Whether two problems or outcomes hold the same arrays."""
    return all(
        np.array_equal(getattr(one, f.name), getattr(other, f.name), equal_nan=getattr(one, f.name).dtype.kind == "f")
        for f in dataclasses.fields(one)
    )


def test_observe_and_commit_are_a_step() -> None:
    scenario = load("campus")
    whole, halves = Run(scenario), Run(scenario)
    ended = 0
    for _ in range(15):
        stepped = whole.step()
        problem = halves.observe()
        assert isinstance(problem, Problem)
        assert halves._posed is not None
        committed = halves.commit(halves.orchestrator.match(halves._posed))
        assert _equal(stepped.posed.problem, problem)
        assert isinstance(committed.outcomes, Outcomes)
        assert _equal(stepped.outcomes, committed.outcomes)
        ended += len(committed.outcomes)
    assert ended > 0


def test_commit_needs_observe() -> None:
    run = Run(load("campus"))
    plan = run.step().plan
    with pytest.raises(AssertionError, match="observe begins a frame"):
        run.commit(plan)
    with pytest.raises(AssertionError, match="observe begins a frame"):
        _ = run.posed


def test_the_orchestrator_never_sees_the_truth() -> None:
    scenario = load("campus", duration_s=1.0)
    run, blind = Run(scenario), Run(scenario)
    posed = 0
    for _ in range(10):
        state = run.network.advance(run.execution.load)
        assert _equal(state.observed, blind.network.advance(blind.execution.load).observed)
        nonsense = LinkView(*(np.full_like(state.truth.gain, 1e3) for _ in range(3)))
        nowhere = np.full_like(state.position_m, 1e6)
        garbage = dataclasses.replace(state, truth=nonsense, position_m=nowhere, velocity_m_per_s=nowhere)
        tasks = run.execution.pending(run.demand.arrive(state))
        blind.execution.pending(blind.demand.arrive(state))
        true = run.orchestrator.pose(state, tasks)
        false = blind.orchestrator.pose(garbage, tasks)
        assert _equal(true.problem, false.problem)
        np.testing.assert_array_equal(true.floats, false.floats)
        plan = run.orchestrator.match(true)
        run.orchestrator.remember(true, plan, len(tasks))
        run.execution.execute(true, plan, state)
        blind.orchestrator.remember(false, plan, len(tasks))
        blind.execution.execute(false, plan, state)
        posed += true.problem.patterns
    assert posed > 0


def test_what_is_observed_is_not_what_is_true() -> None:
    run = Run(load("campus"))
    for _ in range(5):
        state = run.step().state
    assert not np.allclose(state.observed.gain, state.truth.gain, rtol=0.01)


@pytest.mark.parametrize("foresight", [0.0, 0.3])
def test_with_and_without_foresight(foresight: float) -> None:
    found = _report(simulate(load("campus", [f"orchestrator.foresight={foresight}"], duration_s=2.0)))
    assert found["tasks"]["served"] > 0


@pytest.mark.parametrize("kind", MATCHER_KINDS)
def test_every_matcher_makes_feasible_plans_of_posed_problems(kind: str) -> None:
    overrides = [f"orchestrator.matcher={kind}", "network.ends=80"]
    run = Run(load("campus", overrides, duration_s=1.0))
    frames = [run.step() for _ in range(10)]
    for frame in frames:
        assert violations(frame.posed.problem, frame.plan) == []
    assert sum(int(np.count_nonzero(frame.plan.choice >= 0)) for frame in frames) > 0


def test_an_interrupt_keeps_what_was_recorded() -> None:
    scenario = load("campus", duration_s=5.0)

    def impatient(done: int, _: int) -> None:
        if done == 12:
            raise KeyboardInterrupt

    recorder = Recorder(scenario)
    with pytest.raises(KeyboardInterrupt):
        simulate(scenario, progress=impatient, recorder=recorder)
    found = _report(recorder)
    assert recorder.record is not None
    assert len(recorder.record.frames["time_s"]) == 12
    assert found["complete"] is False
    assert sum(n for name, n in found["tasks"].items() if name != "arrived") == found["tasks"]["arrived"] > 0
    assert found["duration_s"] == pytest.approx(1.2)


def test_progress_counts_the_frames() -> None:
    seen: list[tuple[int, int]] = []
    simulate(load("campus", duration_s=0.5), progress=lambda *step: seen.append(step))
    assert seen == [(done, 5) for done in range(1, 6)]


def test_the_public_face_is_frozen() -> None:
    assert gainnet.__all__ == PUBLIC
    for name in PUBLIC:
        found = getattr(gainnet, name)
        home = gainnet._HOME.get(name)
        assert home is None or getattr(importlib.import_module(home), name) is found
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = gainnet.nothing


def test_a_simulation_needs_no_torch() -> None:
    """Nor does importing gainnet need NumPy: it stays cheap."""
    program = (
        "import sys, gainnet; assert 'numpy' not in sys.modules;"
        "gainnet.report(gainnet.simulate(gainnet.load('campus', duration_s=0.2)).record);"
        "print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
