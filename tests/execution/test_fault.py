"""When faults begin and end, and what each does while it holds."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import tiny
from gainnet.execution.fault import Schedule
from gainnet.network import topology
from gainnet.orchestrator.matcher import Matcher
from gainnet.orchestrator.plan import Plan
from gainnet.orchestrator.problem import Problem
from gainnet.run import Run
from gainnet.scenario.execution import (
    CellOutage,
    ControllerOutage,
    DemandSurge,
    EdgeDown,
    EndDown,
    LinkDegradation,
    SensingOutage,
)
from gainnet.scenario.load import load
from tiny import CLOUD, EDGE, Driven

TWO_CELLS = ((0.0, 0.0), (200.0, 0.0))
FRAMES = topology.build(tiny.scenario(cells=TWO_CELLS).network)


def _during(kind: str, begin_s: float, end_s: float, **fields: Any) -> dict[str, Any]:
    return {"faults": [{"kind": kind, "begin_s": begin_s, "end_s": end_s, **fields}]}


def test_a_fault_holds_from_its_begin_up_to_its_end() -> None:
    schedule = Schedule([CellOutage(begin_s=0.3, end_s=0.6, cell=1)], FRAMES, ends=4, seed=1)
    up = [bool(schedule.health(frame * 0.1).cell_up[1]) for frame in range(9)]
    assert up == [True] * 3 + [False] * 3 + [True] * 3
    assert schedule.health(0.5).cell_up[0]


def test_a_schedule_may_be_asked_backwards() -> None:
    schedule = Schedule([SensingOutage(begin_s=1.0, end_s=2.0)], FRAMES, ends=4, seed=1)
    assert [schedule.health(t).sensing_up for t in (2.0, 1.5, 0.0, 1.0)] == [True, False, True, False]


def test_health_is_the_same_object_while_nothing_changes() -> None:
    schedule = Schedule([EdgeDown(begin_s=1.0, end_s=2.0, edge=0)], FRAMES, ends=4, seed=1)
    assert schedule.health(1.1) is schedule.health(1.9)
    assert schedule.health(0.9) is not schedule.health(1.0)


def test_overlapping_faults_add_up() -> None:
    faults = [
        DemandSurge(begin_s=0.0, end_s=2.0, factor=3.0),
        DemandSurge(begin_s=1.0, end_s=3.0, factor=2.0),
        LinkDegradation(begin_s=0.0, end_s=2.0, factor=0.5),
        LinkDegradation(begin_s=1.0, end_s=3.0, factor=0.2, edge=0),
        EdgeDown(begin_s=1.0, end_s=2.0, edge=1),
    ]
    schedule = Schedule(faults, FRAMES, ends=4, seed=1)
    assert [schedule.health(t).demand_factor for t in (0.0, 1.0, 2.0, 3.0)] == [3.0, 6.0, 2.0, 1.0]
    at_edge_0 = (FRAMES.link_a == 1) | (FRAMES.link_b == 1)
    np.testing.assert_allclose(schedule.health(0.0).link_factor, 0.5)
    np.testing.assert_allclose(schedule.health(1.0).link_factor, np.where(at_edge_0, 0.1, 0.5))
    np.testing.assert_allclose(schedule.health(2.0).link_factor, np.where(at_edge_0, 0.2, 1.0))
    assert schedule.health(1.0).node_up.tolist() == [True, True, False]


def test_ends_that_fail_are_those_named_or_a_part_drawn_by_the_seed() -> None:
    def down(seed: int, **who: Any) -> list[bool]:
        schedule = Schedule([EndDown(begin_s=1.0, end_s=2.0, **who)], FRAMES, ends=40, seed=seed)
        assert schedule.health(0.9).end_up.all()
        assert schedule.health(2.0).end_up.all()
        return [not up for up in schedule.health(1.0).end_up]

    assert np.flatnonzero(down(1, ends=(3, 0))).tolist() == [0, 3]
    assert down(1, fraction=0.3) == down(1, fraction=0.3)
    assert sum(down(1, fraction=0.3)) == 12
    assert down(1, fraction=0.3) != down(2, fraction=0.3)
    assert sum(down(1, fraction=1e-6)) == 1


@pytest.mark.untraced
def test_an_end_that_fails_loses_its_tasks_asks_in_vain_and_comes_back_empty() -> None:
    fault = _during("end_down", 0.5, 1.0, ends=[0]) | {"retries": 0}
    asked = [
        tiny.image(4, user=[0, 1, 0, 1], arrival_s=[0.0, 0.0, 0.7, 0.7], step=40.0, deadline_s=20.0),
        tiny.learning(2, user=[0, 1], prompt_token=20_000.0),
    ]
    driven = Driven(tiny.scenario(execution=fault, orchestrator={"patience_s": 0.1}), *asked)

    def pick(posed: Any, i: int, patterns: np.ndarray) -> int | None:
        return tiny.first(node=EDGE)(posed, i, patterns)

    driven.until(0.55, pick)
    lost = driven.outcomes
    assert tiny.names_of(lost) == ["failed", "failed"]
    assert lost.user.tolist() == [0, 0]
    assert driven.run.execution.load.ready_s[driven.run.orchestrator.pool.fixed].min() == np.inf
    assert (driven.run.execution.load.pinned[driven.run.orchestrator.pool.fixed] == 0).all()
    assert (driven.run.orchestrator.sounding > 0.0).tolist() == [False, True, True, True]
    outcomes = driven.until(12.0, pick)
    by_id = dict(zip(outcomes.task_id.tolist(), outcomes.result.tolist(), strict=True))
    refused = outcomes.task_id[(outcomes.user == 0) & (outcomes.arrival_s == 0.7)]
    assert by_id[int(refused[0])] == tiny.Result.REJECTED
    assert set(outcomes.result[outcomes.user == 1]) == {tiny.Result.SERVED}


@pytest.mark.untraced
def test_what_an_end_lost_is_tried_again_once_it_is_back() -> None:
    fault = _during("end_down", 0.5, 0.7, ends=[0])
    driven = Driven(tiny.scenario(execution=fault), tiny.learning(1, prompt_token=20_000.0))
    outcomes = driven.until(12.0, tiny.first(node=EDGE))
    assert tiny.names_of(outcomes) == ["served"]
    assert outcomes.retry[0] == 1
    assert outcomes.end_s[0] > 0.7


def test_a_cell_that_is_out_carries_nothing() -> None:
    execution = ["execution={faults: [{kind: cell_outage, cell: 0, begin_s: 0.5, end_s: 1.0}]}"]
    run = Run(load("campus", execution))
    frames = [run.step() for _ in range(15)]
    used = np.array([frame.usage.cell_use[0] for frame in frames])
    assert (used[5:10] == 0.0).all()
    assert used[:5].max() > 0.0
    assert used[10:].max() > 0.0
    chosen = [frame.state.candidate for frame in frames]
    assert [bool((candidate == 0).any()) for candidate in chosen] == [True] * 5 + [False] * 5 + [True] * 5


def test_an_edge_that_is_down_computes_nothing_and_gets_nothing_to_do() -> None:
    given = tiny.scenario(cells=TWO_CELLS, execution=_during("edge_down", 0.5, 1.0, edge=0))
    driven = Driven(given, tiny.tasks(200, arrival_s=np.arange(200) * 0.01, user=np.arange(200) % 4))
    driven.until(2.5, tiny.first(node=EDGE))
    used = np.array([frame.usage.node_use[EDGE] for frame in driven.frames])
    assert (used[5:10] == 0.0).all()
    assert (used[1:5] > 0.0).all()
    assert used[10:].max() > 0.0
    outcomes = driven.outcomes
    ran = outcomes.node == EDGE
    assert not (ran & (outcomes.start_s > 0.45) & (outcomes.start_s < 0.95)).any()


@pytest.mark.untraced
def test_nothing_crosses_a_link_without_rate() -> None:
    given = tiny.scenario(execution=_during("link_degradation", 1.0, 2.0, factor=0.0))
    arriving = tiny.tasks(25, arrival_s=np.arange(25) * 0.1, deadline_s=9.0, prompt_token=2000.0, uplink_bit=1e6)
    driven = Driven(given, arriving)
    driven.until(4.0, tiny.first(node=CLOUD, model=0))
    used = np.array([frame.usage.link_use[0] for frame in driven.frames])
    assert (used[10:20] == 0.0).all()
    assert (used[1:10] > 0.0).all()
    assert used[20] > used[1:10].mean()
    ended = driven.outcomes.end_s
    assert not ((ended > 1.2) & (ended < 2.0)).any()
    assert set(tiny.names_of(driven.outcomes)) == {"served"}
    assert len(ended) == 25


@pytest.mark.untraced
def test_half_a_link_takes_twice_as_long() -> None:
    def crossing_s(factor: float) -> float:
        network = {"backhaul": {"cloud_bit_per_s": 1e7, "cloud_latency_s": 0.0}}
        execution = _during("link_degradation", 0.0, 9.0, factor=factor) | {"steps": 64}
        driven = Driven(tiny.scenario(network=network, execution=execution), tiny.tasks(1, uplink_bit=4e6))
        return float(driven.until(3.0, tiny.first(node=CLOUD)).end_s[0])

    assert crossing_s(0.5) - crossing_s(1.0) == pytest.approx(0.4, rel=0.02)


@pytest.mark.untraced
def test_without_sensing_perception_is_refused_and_what_was_known_goes_stale() -> None:
    moving = {"mobility": {"kind": "waypoint", "speed_min_m_per_s": 5.0, "speed_max_m_per_s": 10.0, "pause_max_s": 0.0}}
    given = tiny.scenario(ends=8, network=moving, execution=_during("sensing_outage", 1.0, 2.0))
    driven = Driven(given, tiny.perception(30, arrival_s=np.arange(30) * 0.1, deadline_s=np.arange(30) * 0.1 + 2.0))
    driven.until(4.0)
    outcomes = driven.outcomes
    asked = outcomes.arrival_s
    assert (outcomes.result[(asked > 0.95) & (asked < 1.45)] == tiny.Result.REJECTED).all()
    assert (outcomes.result[(asked < 0.75) | (asked > 1.95)] == tiny.Result.SERVED).all()
    looks = np.array([frame.usage.looks for frame in driven.frames])
    assert (looks[10:20] == 0).all()
    assert looks[:10].sum() > 0
    assert all((frame.usage.sounding_use == 0.0).all() for frame in driven.frames[10:20])
    error_db = [float(frame.state.observed_error_db.mean()) for frame in driven.frames]
    assert error_db[20] > 2.0 * max(error_db[5:10])
    assert min(error_db[22:30]) < 0.6 * error_db[20]


@pytest.mark.untraced
def test_a_surge_multiplies_what_arrives_during_its_span() -> None:
    def arrived(faults: str) -> np.ndarray:
        run = Run(load("campus", ["network.ends=100", f"execution.faults={faults}"], duration_s=3.0))
        count = []
        for _ in range(31):
            run.observe()
            count.append(run._arrived)
            run.commit(tiny.plan_of(run._posed, lambda *_: None))  # type: ignore[arg-type]
        return np.array(count)

    usual = arrived("[]")
    surging = arrived("[{kind: demand_surge, factor: 6.0, begin_s: 1.0, end_s: 2.0}]")
    np.testing.assert_array_equal(surging[:10], usual[:10])
    np.testing.assert_array_equal(surging[20:], usual[20:])
    expected = 6.0 * usual[10:20].sum()
    assert abs(surging[10:20].sum() - expected) < 4.0 * np.sqrt(expected + 36.0 * usual[10:20].sum())
    assert surging[10:20].sum() > 3.0 * usual[10:20].sum()


def _without_controller(matcher: str, frames: int, fault: str = "begin_s: 0.5, end_s: 1.0") -> list[dict[str, Any]]:
    """Of each frame of a crowded campus: its plan, whether the matcher made it, and what the edges had been told."""
    overrides = ["network.ends=1500", "network.cloud.count=1", f"orchestrator.matcher={matcher}"]
    overrides += [f"execution.faults=[{{kind: controller_outage, {fault}}}]"]
    run = Run(load("campus", overrides, duration_s=3.0))
    found, asked = [], []
    mine = run.orchestrator
    mine.matcher = _Counted(mine.matcher, asked)
    for _ in range(frames):
        problem = run.observe()
        before = len(asked)
        told = mine._told
        known = told.price.copy(), told.bid.copy(), told.spare.copy()
        plan = run.match()
        alone = mine._local.answer(problem, told.price[problem.row_id], told.price[problem.row_id])
        run.commit(plan)
        found.append({"plan": plan, "asked": len(asked) > before, "known": known, "alone": alone})
    return found


class _Counted:
    """A matcher that notes each problem it is given."""

    def __init__(self, inner: Matcher, asked: list[Problem]) -> None:
        self._inner, self._asked = inner, asked

    def match(self, problem: Problem, warm: np.ndarray, rng: np.random.Generator) -> Plan:
        self._asked.append(problem)
        return self._inner.match(problem, warm, rng)


def test_a_schedule_says_when_the_controller_is_out() -> None:
    schedule = Schedule([ControllerOutage(begin_s=0.3, end_s=0.6)], FRAMES, ends=4, seed=1)
    assert [schedule.health(frame * 0.1).controller_up for frame in range(8)] == [True] * 3 + [False] * 3 + [True] * 2


@pytest.mark.parametrize("matcher", ["random", "greedy", "price"])
@pytest.mark.untraced
def test_without_a_controller_edges_answer_at_the_last_prices_and_then_the_matcher_goes_on(matcher: str) -> None:
    frames = _without_controller(matcher, 15)
    assert [frame["asked"] for frame in frames] == [True] * 5 + [False] * 5 + [True] * 5
    for frame in frames[5:10]:
        np.testing.assert_array_equal(frame["plan"].choice, frame["alone"].choice)
        for now, then in zip(frame["known"], frames[5]["known"], strict=True):
            np.testing.assert_array_equal(now, then)
    assert any((frame["plan"].choice >= 0).any() for frame in frames[5:10])
    last = frames[9]["known"]
    np.testing.assert_array_equal(frames[10]["known"][0], last[0])
    assert not np.array_equal(frames[14]["known"][0], last[0])
    assert not np.array_equal(frames[14]["known"][1], last[1])


def test_an_outage_changes_nothing_before_it_begins() -> None:
    out, usual = _without_controller("price", 8), _without_controller("price", 8, "begin_s: 90, end_s: 91")
    for one, other in zip(out[:5], usual[:5], strict=True):
        np.testing.assert_array_equal(one["plan"].choice, other["plan"].choice)
    assert any(not np.array_equal(a["plan"].choice, b["plan"].choice) for a, b in zip(out[5:], usual[5:], strict=True))


def test_a_controller_that_never_came_up_leaves_edges_without_prices() -> None:
    frames = _without_controller("price", 6, "begin_s: 0, end_s: 9")
    assert not any(frame["asked"] for frame in frames)
    assert all((frame["known"][0] == 0.0).all() and (frame["known"][1] == 0.0).all() for frame in frames)
    assert any((frame["plan"].choice >= 0).any() for frame in frames)


def test_what_is_under_way_when_the_controller_fails_still_arrives() -> None:
    frames = _without_controller("{kind: local, staleness_s: 0.3}", 12)
    bid = [frame["known"][1] for frame in frames]
    changed = [not np.array_equal(bid[i], bid[i - 1]) for i in range(1, 12)]
    # Sent at 0.4 s, the last before the outage, heard at 0.7 s; the next, sent at 1 s, would be heard at 1.3 s.
    assert changed[5:7] == [True, True]
    assert changed[7:] == [False] * 4
