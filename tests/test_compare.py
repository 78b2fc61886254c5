"""Comparison: paired on the same seeds, in the order asked for, whatever happens to a worker."""

from __future__ import annotations

from typing import Any

import pytest
from scipy import stats

import fabricated
import gainnet.compare as comparing
from gainnet.compare import Sweep, compare, parse_arms, parse_sweep
from gainnet.errors import ScenarioError
from gainnet.measurement.comparison import METRICS, Comparison
from gainnet.measurement.metrics import report
from gainnet.scenario.load import load

CAMPUS = load("campus", duration_s=4.0)


def _known(values: dict[str, list[float | None]], reference: str) -> Comparison:
    seeds = tuple(range(len(next(iter(values.values())))))
    runs = {(0, arm, seed): dict.fromkeys(METRICS, sample[seed]) for arm, sample in values.items() for seed in seeds}
    return Comparison("known", tuple(values), reference, seeds, None, (None,), runs)


def test_differences_are_paired_by_seed() -> None:
    one, two = [0.8, 0.7, 0.9, 0.75], [0.85, 0.78, 0.93, 0.81]
    found = _known({"greedy": one, "price": two}, "price").difference(0, "greedy", "satisfaction")  # type: ignore[dict-item]
    expected = stats.ttest_rel(one, two).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))


def test_runs_without_a_figure_are_left_out() -> None:
    found = _known({"a": [1.0, None, 3.0], "b": [None, 1.0, 1.0]}, "b")
    assert (found.mean(0, "a", "cost").mean, found.mean(0, "a", "cost").number) == (2.0, 2)
    assert (found.difference(0, "a", "cost").mean, found.difference(0, "a", "cost").number) == (2.0, 1)


@pytest.mark.untraced
def test_compare_runs_every_arm_on_the_same_seeds(monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[tuple[str, int, int]] = []

    def simulate(scenario: object) -> object:
        ran.append((scenario.orchestrator.matcher.kind, scenario.seed, scenario.network.ends))  # type: ignore[attr-defined]
        return fabricated.run(scenario)  # type: ignore[arg-type]

    monkeypatch.setattr(comparing, "simulate", simulate)
    steps: list[tuple[int, int]] = []
    found, record = compare(
        CAMPUS,
        parse_arms("end,price", []),
        "price",
        2,
        Sweep("network.ends", (10, 20)),
        progress=lambda *s: steps.append(s),
    )
    assert ran[2:] == [(arm, seed, ends) for ends in (10, 20) for arm in ("end", "price") for seed in (0, 1)]
    assert steps == [(done, 8) for done in range(1, 9)]
    assert list(found.runs) == [(value, arm, seed) for value in (0, 1) for arm in ("end", "price") for seed in (0, 1)]
    assert record.scenario.network.ends == 10
    assert found.runs[0, "price", 0]["satisfaction"] == report(record)["qos"]["satisfaction"]


@pytest.mark.slow
def test_results_do_not_depend_on_where_the_runs_are(cluster: str) -> None:
    def results(**where: Any) -> tuple[object, object]:
        found, record = compare(load("campus", duration_s=1.0), parse_arms("greedy,price", []), "price", 2, **where)
        runs = {
            key: {name: x for name, x in run.items() if name != "decision_p50_s"} for key, run in found.runs.items()
        }
        return runs, {name: column.tobytes() for name, column in record.tasks.items()}

    here = results(workers=1)
    assert results(workers=2) == here
    assert results(workers=None, ray="auto") == here


def test_arms_and_sweeps_are_parsed() -> None:
    arms = parse_arms(" greedy, price", ["siloed=orchestrator.pools=siloed"])
    assert arms == {
        "greedy": ("orchestrator.matcher=greedy",),
        "price": ("orchestrator.matcher=price",),
        "siloed": ("orchestrator.matcher=price", "orchestrator.pools=siloed"),
    }
    assert parse_sweep("network.radio.bandwidth_hz=10e6,2e7").values == (10e6, 2e7)
    assert parse_sweep("a.b=[1, 2],x").values == ([1, 2], "x")
    for bad in ("", "a", "a=", "=1", "a=[1"):
        with pytest.raises(ScenarioError):
            parse_sweep(bad)


def test_a_bad_arm_is_refused_before_anything_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comparing, "simulate", lambda _scenario: pytest.fail("ran"))
    with pytest.raises(ScenarioError, match="unknown pools 'silo'"):
        compare(CAMPUS, parse_arms("price", ["x=orchestrator.pools=silo"]), "price", 1)
