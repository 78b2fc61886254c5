"""Patterns of two models: costs by hand, nothing where there is no pair, and execution that takes what was planned."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import tiny
from gainnet.demand.task import Tasks
from gainnet.execution.outcome import Result
from gainnet.models.collaboration import best_draft, cascaded, expected_tokens, verify_s
from gainnet.orchestrator import pattern_kernel as pk
from gainnet.orchestrator import stage_kernel as sk
from gainnet.orchestrator.posed import Posed
from gainnet.orchestrator.ways import Way
from tiny import CLOUD, LARGE, SMALL, Driven

ON = {"cascade": True, "speculation": True, "deferred": 0.25, "good": 0.9, "acceptance": 0.8, "draft_longest": 6}
END = 2


def driven(*given: Tasks, latency_s: float = 0.001, **collaboration: Any) -> Driven:
    network = {
        "end": {"hardware": "vehicle-computer", "resident": [SMALL]},
        "edge": {"hardware": "edge-accelerator", "resident": [SMALL]},
        "cloud": {"hardware": "cloud-accelerator", "resident": [LARGE]},
        "backhaul": {"cloud_latency_s": latency_s},
    }
    orchestrator = {"foresight": 0.0, "reserve": 0.0}
    return Driven(tiny.scenario(network=network, orchestrator=orchestrator, collaboration=collaboration), *given)


def posed_of(run: Driven) -> Posed:
    run.run.observe()
    return run.run.posed


def at(posed: Posed, way: Way, small: int, large: int) -> int:
    """The pattern of that way between two machines, the larger model's in the cloud."""
    assert posed.ways is not None
    for p in np.flatnonzero(posed.ways.way == way):
        upper = posed.ways.upper[p]
        if posed.ways.node[p] == small and posed.ints[upper, sk.NODE] == large:
            return int(p)
    raise AssertionError


def dense(posed: Posed, p: int) -> np.ndarray:
    problem, out = posed.problem, np.zeros(posed.problem.rows)
    entries = slice(problem.demand_ptr[p], problem.demand_ptr[p + 1])
    out[problem.demand_row[entries]] = problem.demand_amount[entries]
    return out


def test_drafts_cost_what_rounds_take() -> None:
    steps = verify_s(np.arange(5), np.ones(2), np.array([1e-4, 4e-3]), np.array([8e-3, 8e-3]), np.array([1e-3, 1e-3]))
    np.testing.assert_allclose(steps, [[9e-3] * 5, [9e-3, 9e-3, 12e-3, 16e-3, 20e-3]])
    length, tokens, token_s = best_draft(np.array([0.8, 0.8]), np.array([1e-3, 1e-3]), steps, np.array([5e-3, 5e-3]))
    for pair in range(2):
        by_hand = [(g * 1e-3 + 5e-3 + steps[pair, g]) / expected_tokens(0.8, g) for g in range(1, 5)]
        assert token_s[pair] == pytest.approx(min(by_hand))
        assert length[pair] == 1 + int(np.argmin(by_hand))
        assert tokens[pair] == pytest.approx(expected_tokens(0.8, int(length[pair])))
    assert cascaded(np.array([1.0]), np.array([4.0]), np.array([0.25])) == pytest.approx(2.0)


def test_without_collaboration_there_are_whole_requests_only() -> None:
    assert posed_of(driven(tiny.tasks(2))).ways is None
    alone = posed_of(driven(tiny.tasks(2)))
    both = posed_of(driven(tiny.tasks(2), **ON))
    assert both.ways is not None
    whole = both.ways.way == Way.WHOLE
    np.testing.assert_array_equal(both.ints[whole], alone.ints)
    np.testing.assert_array_equal(both.problem.value[whole], alone.problem.value)
    assert set(both.problem.tier[~whole]) == {3}
    assert np.all(np.diff(both.problem.task_ptr) > 0)


def test_a_cascade_takes_the_one_and_a_part_of_the_other() -> None:
    posed = posed_of(driven(tiny.tasks(output_token=40.0), **ON))
    p = at(posed, Way.CASCADE, END, CLOUD)
    assert posed.ways is not None
    upper = int(posed.ways.upper[p])
    first = int(np.flatnonzero((posed.ints[:, sk.NODE] == END) & (posed.ways.way == Way.WHOLE))[0])
    for column in (pk.COST, pk.ENERGY_J, pk.ASAP_S):
        assert posed.floats[p, column] == pytest.approx(
            posed.floats[first, column] + 0.25 * posed.floats[upper, column]
        )
    assert posed.floats[p, pk.QUALITY] == pytest.approx(0.9 * posed.floats[upper, pk.QUALITY])
    np.testing.assert_allclose(dense(posed, p), dense(posed, first) + 0.25 * dense(posed, upper))
    assert posed.asked(p) == END
    assert posed.problem.value[p] < max(posed.problem.value[[first, upper]])


def test_a_smaller_model_that_is_not_good_enough_alone_may_be_a_part() -> None:
    posed = posed_of(driven(tiny.tasks(quality_min=0.55, output_token=40.0), **ON))
    assert posed.ways is not None
    whole = posed.ways.way == Way.WHOLE
    assert END not in posed.ints[whole, sk.NODE]
    assert at(posed, Way.CASCADE, END, CLOUD) >= 0
    none = posed_of(driven(tiny.tasks(quality_min=0.6), **ON)).ways  # 0.9 of the larger model's is less
    assert none is not None
    assert Way.CASCADE not in none.way
    assert Way.SPECULATION in none.way


def test_a_cascade_must_be_in_time_even_where_it_defers() -> None:
    tight = posed_of(driven(tiny.tasks(deadline_s=0.3, output_token=40.0), **ON)).ways
    assert tight is None or Way.CASCADE not in tight.way


def test_speculation_pays_by_the_round_trip_and_draws_on_both_machines() -> None:
    output = 40.0
    posed = posed_of(driven(tiny.tasks(output_token=output), **ON))
    p = at(posed, Way.SPECULATION, END, CLOUD)
    ways = posed.ways
    assert ways is not None
    upper = int(ways.upper[p])
    run = driven(tiny.tasks()).run
    tables = run.orchestrator.tables
    node, large = tables.node[CLOUD], tables.artifact[run.scenario.artifacts.index(LARGE)]
    context = 100.0 + output / 2.0
    step_s = (large["size_byte"] + context * large["kv_byte_per_token"]) / node["byte_per_s"]
    home, small = tables.node[END], tables.artifact[run.scenario.artifacts.index(SMALL)]
    draft_s = (small["size_byte"] + context * small["kv_byte_per_token"]) / home["byte_per_s"]
    times = [(g * draft_s + 0.002 + step_s) / expected_tokens(0.8, g) for g in range(1, 7)]
    assert ways.length[p] == 1 + int(np.argmin(times))
    gain_s = posed.floats[upper, pk.ASAP_S] - posed.floats[p, pk.ASAP_S]
    assert gain_s == pytest.approx(output * (step_s - min(times)), rel=1e-6)
    draws, alone = dense(posed, p), dense(posed, upper)
    pool = run.orchestrator.pool
    slots = pool.slots
    at_end = np.isin(posed.problem.row_id // slots, [pool.end_start + END - pool.fixed])
    at_end &= posed.problem.row_id < pool.memory_start
    assert draws[at_end].max() == pytest.approx(ways.draft_s[p])
    assert alone[at_end].max() == 0.0
    at_cloud = posed.problem.row_id // slots == pool.compute_start + CLOUD
    judged = output * (step_s / ways.tokens[p] - step_s)
    assert draws[at_cloud].max() == pytest.approx(alone[at_cloud].max() + judged)
    far = posed_of(driven(tiny.tasks(output_token=output), latency_s=0.05, **ON))
    q = at(far, Way.SPECULATION, END, CLOUD)
    assert far.ways is not None
    assert far.floats[q, pk.ASAP_S] > far.floats[far.ways.upper[q], pk.ASAP_S]


def test_what_is_measured_goes_before_what_is_expected() -> None:
    run = driven(tiny.tasks(output_token=40.0), **ON)
    together = run.run.orchestrator.collaborator
    assert together is not None
    known = together.agreement
    ratio, usable = known.ratio.copy(), known.usable.copy()
    ratio[END, CLOUD] = 0.5
    together.agreement = replace(known, ratio=ratio)
    posed = posed_of(run)
    p = at(posed, Way.SPECULATION, END, CLOUD)
    assert posed.ways is not None
    upper = int(posed.ways.upper[p])
    assert posed.floats[p, pk.ASAP_S] < posed.floats[upper, pk.ASAP_S]
    usable[:] = False
    other = driven(tiny.tasks(), **ON)
    assert other.run.orchestrator.collaborator is not None
    other.run.orchestrator.collaborator.agreement = replace(known, usable=usable)
    assert posed_of(other).ways is None


@pytest.mark.parametrize("deferred", [0.0, 1.0])
def test_cascades_run_and_those_deferred_are_answered_above(deferred: float) -> None:
    run = driven(tiny.tasks(3, user=[0, 1, 2], output_token=20.0), **(ON | {"deferred": deferred}))

    def pick(posed: Posed, i: int, _: np.ndarray) -> int | None:
        return at(posed, Way.CASCADE, END + i, CLOUD)

    outcomes = run.until(5.0, pick)
    assert list(outcomes.result) == [Result.SERVED] * 3
    assert set(outcomes.tier) == {2 if deferred else 0}
    assert not outcomes.retry.any()
    quality = run.run.orchestrator.tables.artifact["quality"][run.model(LARGE)]
    np.testing.assert_allclose(outcomes.quality, quality if deferred else 0.9 * quality)


def test_what_waits_between_the_models_at_the_end_is_open() -> None:
    run = driven(tiny.tasks(output_token=20.0), **(ON | {"deferred": 1.0}))

    def pick(posed: Posed, _: int, patterns: np.ndarray) -> int | None:
        assert posed.ways is not None
        return int(next(p for p in patterns if posed.ways.way[p] == Way.CASCADE))

    while run.run.execution._cascades.waiting is None:
        run.frame(pick)
    assert list(run.open().result) == [Result.OPEN]


@pytest.mark.parametrize("place", ["end", "edge"])
def test_speculation_runs_as_long_as_planned(place: str) -> None:
    alone, drafted = (driven(tiny.tasks(output_token=60.0), **ON) for _ in range(2))

    def pick(way: Way) -> tiny.Pick:
        def picked(posed: Posed, _: int, __: np.ndarray) -> int | None:
            assert posed.ways is not None
            p = at(posed, Way.SPECULATION, END if place == "end" else tiny.EDGE, CLOUD)
            planned[way] = float(posed.floats[p if way else posed.ways.upper[p], pk.ASAP_S])
            return p if way else int(posed.ways.upper[p])

        return picked

    planned: dict[Way, float] = {}
    whole, both = alone.until(3.0, pick(Way.WHOLE)), drafted.until(3.0, pick(Way.SPECULATION))
    assert list(whole.result) == list(both.result) == [Result.SERVED]
    assert both.quality == pytest.approx(whole.quality)
    took = {Way.WHOLE: whole.end_s[0], Way.SPECULATION: both.end_s[0]}
    gain_s = planned[Way.WHOLE] - planned[Way.SPECULATION]
    assert took[Way.WHOLE] - took[Way.SPECULATION] == pytest.approx(gain_s, abs=0.06)
    assert both.energy_j[0] != whole.energy_j[0]
