"""Figures of a run: pure functions from recorded columns to the report. A figure without data is None."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from gainnet.execution.outcome import Result
from gainnet.measurement.record import STATUSES, Record
from gainnet.measurement.table import Columns
from gainnet.network.state import Tier
from gainnet.orchestrator.pool import POOL_KINDS

Report = dict[str, Any]
_SLACK_S = 1e-9


def report(record: Record) -> Report:
    """The figures of a run, with the keys of ``report.json`` (docs/design.md, command line).

    ``duration_s`` is the simulated time that was recorded. A task is answered when it was served or late; latency and
    quality are those of answered tasks. ``energy_j.per_task`` and the cost per task divide by the satisfied ones.
    """
    scenario, tasks, frames = record.scenario, record.tasks, record.frames
    radio_j, compute_j = float(frames["radio_energy_j"].sum()), float(frames["compute_energy_j"].sum())
    served = int(np.count_nonzero(tasks["result"] == Result.SERVED))
    cost = float(frames["cost"].sum())
    return {
        "scenario": scenario.name,
        "seed": scenario.seed,
        "matcher": scenario.orchestrator.matcher.kind,
        "duration_s": record.run_s,
        "complete": record.complete,
        "wall_s": record.wall_s,
        "tasks": counts(tasks["result"]),
        "qos": {
            "satisfaction": satisfaction(tasks, record.run_s),
            "return": value_return(tasks, scenario.orchestrator.objective.cost_weight * cost, record.run_s),
            "latency_s": latency(tasks),
            "quality": {"mean": quality(tasks)},
        },
        "sensing": sensing(tasks, frames),
        "energy_j": {
            "radio": radio_j,
            "compute": compute_j,
            "total": radio_j + compute_j,
            "per_task": (radio_j + compute_j) / served if served else None,
        },
        "cost": cost,
        "cost_per_task": cost / served if served else None,
        "orchestration": orchestration(frames),
        "services": services(record),
        "tiers": tiers(tasks),
        "network": network(frames),
        "prices": {kind: mean(frames["price"][:, k]) for k, kind in enumerate(POOL_KINDS)},
        "knowledge": knowledge(record),
    }


def mean(values: np.ndarray) -> float | None:
    """Mean of the finite values, None where there is none."""
    finite = values[np.isfinite(values)]
    return float(finite.mean()) if len(finite) else None


def percentiles(values: Float[np.ndarray, " value"], which: tuple[int, ...]) -> dict[str, float | None]:
    """Percentiles ``{"p50": ...}`` of the finite values, None where there is none."""
    finite = values[np.isfinite(values)]
    if not len(finite):
        return {f"p{p}": None for p in which}
    return {f"p{p}": float(v) for p, v in zip(which, np.percentile(finite, which), strict=True)}


def counts(result: Int[np.ndarray, " task"]) -> dict[str, int]:
    """How many tasks arrived, and how many are in each Result."""
    number = np.bincount(result, minlength=len(Result))
    return {"arrived": len(result), **{r.name.lower(): int(number[r]) for r in Result}}


def due(tasks: Columns, run_s: float) -> Bool[np.ndarray, " task"]:
    """Whether the deadline of each task falls inside the run."""
    return np.asarray(tasks["deadline_s"] <= run_s + _SLACK_S)


def satisfaction(tasks: Columns, run_s: float) -> float | None:
    """Satisfied tasks over all tasks, refused ones too, whose deadline falls inside the run."""
    counted = due(tasks, run_s)
    number = int(np.count_nonzero(counted))
    return int(np.count_nonzero(counted & (tasks["result"] == Result.SERVED))) / number if number else None


def value_return(tasks: Columns, charge: float, run_s: float) -> float | None:
    """Value of the satisfied tasks less ``charge``, over the value of all tasks, whose deadline falls inside the run.

    ``charge`` is what the whole run cost, weighed as the objective weighs cost. 1 would be everything satisfied for
    nothing; a run whose cost exceeds what it satisfied returns less than 0.
    """
    counted = due(tasks, run_s)
    asked = float(tasks["value"][counted].sum())
    satisfied = float(tasks["value"][counted & (tasks["result"] == Result.SERVED)].sum())
    return (satisfied - charge) / asked if asked > 0.0 else None


def answered(tasks: Columns) -> Bool[np.ndarray, " task"]:
    """Whether each task got an answer: served, or late."""
    return np.asarray((tasks["result"] == Result.SERVED) | (tasks["result"] == Result.LATE))


def latency(tasks: Columns) -> dict[str, float | None]:
    """Percentiles of the time from arrival to end, of answered tasks, in s."""
    done = answered(tasks)
    return percentiles(tasks["end_s"][done] - tasks["arrival_s"][done], (50, 95, 99))


def quality(tasks: Columns) -> float | None:
    """Mean quality of the answers."""
    return mean(tasks["quality"][answered(tasks)])


def tiers(tasks: Columns) -> dict[str, float | None]:
    """Share of the answered tasks that each tier computed."""
    tier = tasks["tier"][answered(tasks)]
    tier = tier[tier >= 0]
    return {t.name.lower(): float(np.mean(tier == t)) if len(tier) else None for t in Tier}


def sensing(tasks: Columns, frames: Columns) -> Report:
    """What sensing spent (shares of the band) and what it bought."""
    looks, found = int(frames["looks"].sum()), int(frames["detections"].sum())
    return {
        "looks": looks,
        "detections": found,
        "detection_probability": found / looks if looks else None,
        "by_end": int(np.count_nonzero(tasks["sensing"] > 0)),
        "by_cell": int(np.count_nonzero(tasks["sensing"] < 0)),
        "sounding_share": mean(frames["sounding_use"]),
        "radar_share": mean(frames["radar_use"]),
        "observed_error_db": mean(frames["observed_error_db"]),
    }


def orchestration(frames: Columns) -> Report:
    """Decisions: their time and certified gap over the frames that posed any task, and how they ended."""
    asked = frames["posed"] > 0
    gap = frames["plan_gap"][asked]
    status = np.bincount(frames["status"][asked], minlength=len(STATUSES))
    return {
        "decision_s": percentiles(frames["decision_s"][asked], (50, 99)),
        "gap": {"mean": mean(gap), "max": float(gap.max()) if len(gap) else None},
        "frames": int(np.count_nonzero(asked)),
        "tasks_per_frame": mean(frames["posed"][asked].astype(np.float64)),
        "patterns_per_frame": mean(frames["patterns"][asked].astype(np.float64)),
        "status": {name.value: int(n) for name, n in zip(STATUSES, status, strict=True) if n},
    }


def network(frames: Columns) -> Report:
    """What the network carried, and the mean share of each resource in use."""
    return {
        "uplink_bit": float(frames["uplink_bit"].sum()),
        "downlink_bit": float(frames["downlink_bit"].sum()),
        "flop": float(frames["flop"].sum()),
        "handovers": int(frames["handovers"].sum()),
        "loads": int(frames["loads"].sum()),
        "utilisation": {
            name: mean(frames[f"{name}_use"]) for name in ("cell", "node", "link", "memory") if f"{name}_use" in frames
        },
    }


def services(record: Record) -> dict[str, Report]:
    """The figures of each service, by name."""
    names = record.scenario.demand.services
    return {name: _service(record, index) for index, name in enumerate(names)}


def _service(record: Record, index: int) -> Report:
    mine = record.tasks["service"] == index
    tasks: Mapping[str, np.ndarray] = {name: column[mine] for name, column in record.tasks.items()}
    artifacts = record.scenario.artifacts
    used = np.bincount(tasks["model"][answered(tasks) & (tasks["model"] >= 0)], minlength=len(artifacts))
    served = int(np.count_nonzero(tasks["result"] == Result.SERVED))
    return {
        "tasks": counts(tasks["result"]),
        "satisfaction": satisfaction(tasks, record.run_s),
        "latency_s": latency(tasks),
        "quality": {"mean": quality(tasks)},
        "energy_j": {
            "work": float(tasks["energy_j"].sum()),
            "per_task": float(tasks["energy_j"].sum()) / served if served else None,
        },
        "cost": float(tasks["cost"].sum()),
        "tiers": tiers(tasks),
        "models": {artifacts[a]: int(n) for a, n in enumerate(used) if n},
        "handovers": int(tasks["handover"].sum()),
        "retries": int(tasks["retry"].sum()),
    }


def knowledge(record: Record) -> Report:
    """What the knowledge loop did, and in each of its periods: how requests were answered, and where; empty without one.

    A period is from one round's start to the next. ``share_on_ends`` is of the answered requests of the service that
    the models answer; ``services_satisfaction`` is of all services but the learning itself.
    """
    config = record.scenario.knowledge
    if config is None or not record.knowledge:
        return dict(record.knowledge)
    index = list(record.scenario.demand.services).index(config.requests)
    tasks = record.tasks
    mine = tasks["service"] == index
    periods = []
    for begin_s in np.arange(0.0, record.run_s - _SLACK_S, config.period_s):
        arrived = mine & (tasks["arrival_s"] >= begin_s) & (tasks["arrival_s"] < begin_s + config.period_s)
        columns = {name: column[arrived] for name, column in tasks.items()}
        periods.append(
            {
                "begin_s": float(begin_s),
                "requests": int(np.count_nonzero(arrived)),
                "satisfaction": satisfaction(columns, record.run_s),
                "share_on_ends": tiers(columns)["end"],
                "quality": quality(columns),
            }
        )
    served = tasks["service"] != list(record.scenario.demand.services).index(config.service)
    asked = {name: column[served] for name, column in tasks.items()}
    return dict(record.knowledge) | {"periods": periods, "services_satisfaction": satisfaction(asked, record.run_s)}
