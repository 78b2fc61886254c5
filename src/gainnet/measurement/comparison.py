"""Runs of several arms (a matcher, or a matcher with something changed) on the same seeds, side by side."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gainnet.measurement.interval import Interval, interval, paired
from gainnet.measurement.metrics import Report

# name -> (title, unit, path in report.json); in the order of the tables
METRICS: Mapping[str, tuple[str, str, tuple[str, ...]]] = {
    "satisfaction": ("satisfaction", "%", ("qos", "satisfaction")),
    "return": ("return", "%", ("qos", "return")),
    "latency_p50_s": ("latency p50", "s", ("qos", "latency_s", "p50")),
    "latency_p95_s": ("latency p95", "s", ("qos", "latency_s", "p95")),
    "quality": ("quality", "", ("qos", "quality", "mean")),
    "energy_per_task_j": ("energy a task", "J", ("energy_j", "per_task")),
    "cost": ("cost", "", ("cost",)),
    "gap": ("gap", "%", ("orchestration", "gap", "mean")),
    "decision_p50_s": ("decision p50", "s", ("orchestration", "decision_s", "p50")),
    "rouge1": ("ROUGE-1", "%", ("knowledge", "final", "rouge1")),
    "rouge2": ("ROUGE-2", "%", ("knowledge", "final", "rouge2")),
    "rougeL": ("ROUGE-L", "%", ("knowledge", "final", "rougeL")),
    "perplexity": ("perplexity", "", ("knowledge", "final", "perplexity")),
    "services": ("services satisfied", "%", ("knowledge", "services_satisfaction")),
    "learning_uplink_bit": ("sent up to learn", "bit", ("knowledge", "uplink_bit")),
    "learning_time_s": ("time in rounds", "s", ("knowledge", "time_s")),
    "learning_energy_j": ("energy to learn", "J", ("knowledge", "energy_j")),
}
Figures = Mapping[str, float | None]


def figures(report: Report) -> dict[str, float | None]:
    """The METRICS of one run's report, None where it has no such figure."""
    found: dict[str, float | None] = {}
    for name, (_, _, path) in METRICS.items():
        value: Any = report
        for key in path:
            value = value.get(key) if value else None
        found[name] = value
    return found


@dataclass(frozen=True, slots=True)
class Comparison:
    """What `gainnet.compare` found.

    Attributes:
        scenario: its name.
        arms: names of the arms, in the order asked for; ``reference`` is one of them.
        reference: the arm that the others are compared to.
        seeds: the seeds, the same for every arm.
        path: the field that was swept, None without a sweep.
        values: what it was set to; one None without a sweep.
        runs: the figures of each run, by (index of value, arm, seed).
    """

    scenario: str
    arms: tuple[str, ...]
    reference: str
    seeds: tuple[int, ...]
    path: str | None
    values: tuple[Any, ...]
    runs: Mapping[tuple[int, str, int], Figures]

    @property
    def metrics(self) -> tuple[str, ...]:
        """The METRICS of these runs: those of a knowledge loop only where any run has a figure of it."""
        runs = self.runs.values()
        return tuple(
            n for n, (_, _, path) in METRICS.items() if path[0] != "knowledge" or any(f[n] is not None for f in runs)
        )

    def sample(self, value: int, arm: str, metric: str) -> list[float | None]:
        """A metric of an arm at the value of that index, over the seeds in their order."""
        return [self.runs[value, arm, seed][metric] for seed in self.seeds]

    def mean(self, value: int, arm: str, metric: str) -> Interval:
        """Its mean over the seeds."""
        return interval(self.sample(value, arm, metric))

    def difference(self, value: int, arm: str, metric: str) -> Interval:
        """How much more it is than the reference's, paired by seed."""
        return paired(self.sample(value, arm, metric), self.sample(value, self.reference, metric))

    def as_tree(self, machine: Report) -> Report:
        """Everything as plain data, for compare.json; ``machine`` is the environment."""
        rows = [
            {
                "value": self.values[value],
                "arm": arm,
                "metrics": {
                    metric: {
                        "mean": _tree(self.mean(value, arm, metric)),
                        "difference": _tree(self.difference(value, arm, metric)),
                        "by_seed": self.sample(value, arm, metric),
                    }
                    for metric in self.metrics
                },
            }
            for value in range(len(self.values))
            for arm in self.arms
        ]
        return {
            "scenario": self.scenario,
            "reference": self.reference,
            "seeds": list(self.seeds),
            "sweep": self.path,
            "rows": rows,
            "environment": machine,
        }

    def as_csv(self) -> str:
        """A line for each run, for compare.csv."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow([self.path or "value", "arm", "seed", *self.metrics])
        for (value, arm, seed), found in self.runs.items():
            given = "" if self.values[value] is None else self.values[value]
            writer.writerow([given, arm, seed, *("" if found[m] is None else repr(found[m]) for m in self.metrics)])
        return text.getvalue()


def _tree(found: Interval) -> dict[str, float | int | None]:
    return {"mean": found.mean, "low": found.low, "high": found.high, "n": found.number}
