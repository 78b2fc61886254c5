"""Figures of hand-made runs whose answers are known."""

from __future__ import annotations

import json

import numpy as np
import pytest

import fabricated
from gainnet.execution.outcome import Result
from gainnet.measurement import metrics
from gainnet.measurement.metrics import report
from gainnet.measurement.record import Record, Recorder
from gainnet.network.state import Tier
from gainnet.orchestrator.pool import POOL_KINDS
from gainnet.scenario.load import load

CAMPUS = load("campus")
KEYS = ["scenario", "seed", "matcher", "duration_s", "wall_s", "tasks", "qos", "sensing", "energy_j", "cost",
        "orchestration", "services", "knowledge"]  # fmt: skip


def _record(**columns: object) -> Record:
    """Ten frames; in the first, the tasks of these columns end."""
    recorder = Recorder(CAMPUS)
    number = max((np.size(column) for column in columns.values()), default=0)
    tasks = fabricated.outcomes(number, **columns)
    for index in range(10):
        state = fabricated.state(index, 0.1, np.zeros((24, 2)), np.zeros(24, np.int64))
        plan = fabricated.plan(value=9.0 - index, bound=10.0, decision_s=0.001 * (index + 1))
        ended = tasks if index == 0 else fabricated.outcomes(0)
        recorder.frame(
            state, len(ended), int(index < 2), 5, plan, np.full(len(POOL_KINDS), float(index)), ended,
            fabricated.usage(looks=4, detections=3),
        )  # fmt: skip
    return recorder.close(fabricated.outcomes(0))


def test_satisfaction_counts_every_task_that_was_due() -> None:
    result = [Result.SERVED, Result.LATE, Result.REJECTED, Result.FAILED, Result.SERVED, Result.REJECTED]
    found = report(_record(result=np.array(result), deadline_s=np.array([0.5, 0.6, 1.0, 0.2, 1.5, 9.0])))
    assert found["tasks"] == {"arrived": 6, "served": 2, "late": 1, "rejected": 2, "failed": 1, "open": 0}
    assert found["qos"]["satisfaction"] == pytest.approx(1 / 4)  # the deadlines at 1.5 and 9 are after the run


def test_the_return_weighs_tasks_by_value_and_charges_the_whole_cost() -> None:
    result = np.array([Result.SERVED, Result.LATE, Result.REJECTED, Result.SERVED])
    record = _record(result=result, deadline_s=np.array([0.5, 0.6, 1.0, 1.5]), value=np.array([4.0, 2.0, 2.0, 100.0]))
    assert report(record)["cost"] == 5.0
    assert report(record)["qos"]["return"] == pytest.approx((4.0 - 5.0) / 8.0)  # the deadline at 1.5 is after the run
    assert metrics.value_return(record.tasks, 2.0, 1.0) == pytest.approx(0.25)
    assert metrics.value_return(record.tasks, 2.0, 0.1) is None


@pytest.mark.untraced
def test_the_return_follows_the_weight_of_cost() -> None:
    found = [report(fabricated.run(load("campus", [f"orchestrator.objective.cost_weight={w}"])).record) for w in (0, 3)]  # type: ignore[arg-type]
    record = fabricated.run(CAMPUS).record
    assert record is not None
    value = float(record.tasks["value"][metrics.due(record.tasks, record.run_s)].sum())
    assert found[0]["qos"]["return"] - found[1]["qos"]["return"] == pytest.approx(3.0 * found[0]["cost"] / value)


def test_latency_and_quality_are_of_answers() -> None:
    result = np.array([Result.SERVED, Result.LATE, Result.REJECTED])
    found = report(_record(result=result, end_s=np.array([1.0, 3.0, 99.0]), quality=np.array([0.6, 0.8, 0.0])))
    assert found["qos"]["latency_s"] == pytest.approx({"p50": 2.0, "p95": 2.9, "p99": 2.98})
    assert found["qos"]["quality"]["mean"] == pytest.approx(0.7)


def test_sums_over_frames() -> None:
    found = report(_record(result=np.array([Result.SERVED, Result.SERVED])))
    assert found["energy_j"] == {"radio": 100.0, "compute": 200.0, "total": 300.0, "per_task": 150.0}
    assert found["cost"] == 5.0
    assert found["sensing"]["detection_probability"] == 0.75
    assert found["sensing"]["observed_error_db"] == 2.0
    assert found["network"]["utilisation"]["cell"] == pytest.approx(0.25)
    assert found["prices"]["radio"] == 4.5


def test_only_frames_that_posed_tasks_count_as_decisions() -> None:
    orchestration = report(_record())["orchestration"]
    assert orchestration["frames"] == 2
    assert orchestration["gap"] == {"mean": pytest.approx(0.15), "max": pytest.approx(0.2)}
    assert orchestration["decision_s"]["p50"] == pytest.approx(0.0015)
    assert orchestration["status"] == {"feasible": 2}


def test_by_service_and_tier() -> None:
    tier = np.array([Tier.END, Tier.EDGE, Tier.EDGE, Tier.CLOUD, -1])
    result = np.array([Result.SERVED] * 4 + [Result.REJECTED])
    model = np.array([0, 1, 1, 2, -1])
    found = report(_record(tier=tier, result=result, model=model, service=np.array([0, 0, 0, 1, 1])))
    assert found["tiers"] == {"end": 0.25, "edge": 0.5, "cloud": 0.25}
    assert found["services"]["assistant"]["tiers"] == pytest.approx({"end": 1 / 3, "edge": 2 / 3, "cloud": 0.0})
    assert found["services"]["assistant"]["models"] == {CAMPUS.artifacts[0]: 1, CAMPUS.artifacts[1]: 2}
    assert found["services"]["pictures"]["tasks"]["rejected"] == 1


def test_figures_without_data_are_null() -> None:
    found = report(Recorder(CAMPUS).close(fabricated.outcomes(0)))
    assert found["qos"] == {
        "satisfaction": None,
        "return": None,
        "latency_s": {"p50": None, "p95": None, "p99": None},
        "quality": {"mean": None},
    }
    assert found["energy_j"]["per_task"] is None
    assert found["orchestration"]["gap"] == {"mean": None, "max": None}
    assert found["services"]["pictures"]["tiers"]["edge"] is None
    json.dumps(found, allow_nan=False)


def test_the_keys_are_those_of_the_design() -> None:
    found = report(_record(result=0))
    assert [key for key in found if key in KEYS] == KEYS
    assert set(found["qos"]) == {"satisfaction", "return", "latency_s", "quality"}
    assert set(found["energy_j"]) == {"radio", "compute", "total", "per_task"}
    assert {"decision_s", "gap"} <= set(found["orchestration"])
    assert list(found["services"]) == list(CAMPUS.demand.services)


def test_nan_and_infinity_are_left_out() -> None:
    assert metrics.mean(np.array([np.nan, 1.0, np.inf, 3.0])) == 2.0
    assert metrics.percentiles(np.array([np.nan, 2.0]), (50,)) == {"p50": 2.0}


@pytest.mark.untraced
def test_the_same_run_gives_the_same_report() -> None:
    one, two = (report(fabricated.run(CAMPUS).record) for _ in range(2))  # type: ignore[arg-type]
    other = report(fabricated.run(load("campus", seed=1)).record)  # type: ignore[arg-type]
    for found in (one, two, other):
        del found["wall_s"], found["orchestration"]["decision_s"]
    assert json.dumps(one) == json.dumps(two)
    assert json.dumps(one) != json.dumps(other)
