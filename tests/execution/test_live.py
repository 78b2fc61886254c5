"""Live execution: the model follows real requests, what is measured corrects it, nothing is lost or left behind."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import tiny
from gainnet.demand.task import Tasks
from gainnet.execution import running_kernel as rk
from gainnet.execution.backlog import busy, needed
from gainnet.execution.live import RETRY_S, UNSENT_S, Live
from gainnet.execution.outcome import Outcomes, Result
from gainnet.execution.request import Request
from gainnet.execution.telemetry import EVIDENCE_MAX, FAILURES, REST_S, SPEED_MAX, NodeState
from gainnet.orchestrator.matchers.local import at_once
from gainnet.orchestrator.plan import Plan
from gainnet.run import Run
from gainnet.scenario.scenario import Scenario
from tiny import CLOUD, EDGE, LARGE, SMALL

NODES = 1 + 2 + 4


class Bench:
    """A run of a cloud, two edges and four ends whose requests a test decides and ends."""

    def __init__(self, **more: Any) -> None:
        scenario: Scenario = tiny.scenario(cells=((0.0, 0.0), (100.0, 0.0)), **more)
        self.run = Run(scenario, execution=Live)
        assert isinstance(self.run.execution, Live)
        self.live = self.run.execution
        self.live.serve(np.ones((NODES, len(scenario.artifacts)), np.bool_))
        self.now_s, self._task = 0.0, 0
        self._plan = self._observe()

    def _observe(self) -> Plan:
        self.run.observe(self.live.arrived())
        self.state = self.run.state
        return self.run.match()

    def ask(self, number: int = 1, *, node: int | None = EDGE, **columns: Any) -> list[Request]:
        """Decide text tasks, at a node or wherever it is best."""
        columns = {"arrival_s": self.now_s, "deadline_s": self.now_s + 5.0} | columns
        tasks = replace(tiny.tasks(number, **columns), task_id=self._task + np.arange(number))
        self._task += number
        posed = self.run.orchestrator.pose_between(
            replace(self.state, time_s=self.now_s, load=self.live.standing), tasks
        )
        choice, worth = at_once(posed.problem, np.zeros(posed.problem.rows))
        at = posed.ints[:, 3]
        ranked = {}
        for i in range(number):
            mine = [p for p in range(*posed.problem.task_ptr[i : i + 2].tolist()) if worth[p] > -math.inf]
            mine.sort(key=lambda p: (p != choice[i], -worth[p]))
            if node is not None:
                mine.sort(key=lambda p: at[p] != node)
            best = {int(at[p]): p for p in reversed(mine)}
            ranked[i] = [p for p in mine if best[int(at[p])] == p]
        self.live.asked(tasks, np.empty(0, np.int64))
        requests = list(self.live.accept(posed, ranked, self.now_s).values())
        for request in requests:
            self.live.sent(request, 0, self.now_s)
        return requests

    def end(self, request: Request, rank: int | None = None, **how: Any) -> None:
        given = {"ok": True, "at_fault": False, "began": True, "end_s": self.now_s, "output_token": 10.0} | how
        self.live.ended(request, request.rank if rank is None else rank, now_s=self.now_s, **given)

    def frame(self) -> Outcomes:
        self.now_s += self.run.scenario.frame_s
        outcomes = self.run.commit(self._plan).outcomes
        self._plan = self._observe()
        return outcomes

    def frames(self, number: int) -> list[Outcomes]:
        return [self.frame() for _ in range(number)]

    def heard(self, node: int, rtt_s: float | None = None, **state: Any) -> None:
        resident = np.ones(len(self.run.scenario.artifacts), np.bool_)
        self.live.heard(node, NodeState("edge", **state), resident, rtt_s)

    def compute(self, node: int) -> np.ndarray:
        """What is committed of a fixed node's time, by slot, between frames."""
        pool = self.run.orchestrator.pool
        first = (pool.compute_start + node) * pool.slots
        return self.live.standing.committed[first : first + pool.slots]


def results(found: list[Outcomes]) -> list[int]:
    return [int(result) for outcomes in found for result in outcomes.result]


def test_what_is_accepted_is_committed_at_once_and_posed_a_frame_later_without_itself() -> None:
    bench = Bench()
    assert (bench.compute(EDGE) == 0.0).all()
    [request] = bench.ask(output_token=200.0)
    assert bench.compute(EDGE)[-1] > 0.0
    bench.frame()
    pool = bench.run.orchestrator.pool
    before = bench.live.load.committed[: pool.memory_start]
    assert (before == 0.0).all()
    assert bench.compute(EDGE)[-1] > 0.0
    assert bench.live.load.memory_used_byte[EDGE] == 0.0
    assert bench.live.standing.memory_used_byte[EDGE] > 0.0
    bench.frame()
    np.testing.assert_array_equal(
        bench.live.load.committed[: pool.memory_start], bench.live.standing.committed[: pool.memory_start]
    )
    assert request.row >= 0


def test_what_rows_need_is_what_the_kernel_says() -> None:
    bench = Bench()
    bench.ask(3, node=EDGE, output_token=200.0)
    bench.ask(2, node=CLOUD, output_token=150.0, user=np.array([1, 2]))
    bench.frame()
    live, pool = bench.live, bench.run.orchestrator.pool
    found = needed(pool, live._table.running, live._table.active, bench.now_s)
    assert len(live._table.active) == 5
    np.testing.assert_allclose(found[: pool.memory_start], live._committed[: pool.memory_start], rtol=1e-12)


def test_nothing_is_left_behind() -> None:
    bench = Bench()
    requests = bench.ask(6, output_token=300.0, user=np.arange(6) % 4) + bench.ask(2, node=CLOUD)
    ended = bench.frames(3)
    for request in requests:
        bench.end(request)
    ended += bench.frames(2)
    live = bench.live
    assert results(ended) == [Result.SERVED] * 8
    assert live.under_way == 0
    assert len(live._table.active) == 0
    assert len(live._table.free) == live._table.rows
    assert not live._residency.pinned.any()
    assert not live._residency.cache_byte.any()
    assert not live._sent_to.any()
    assert not live._by_row
    assert (live.standing.committed == 0.0).all()
    together = [outcomes for outcomes in ended if len(outcomes)]
    assert all((outcomes.energy_j > 0.0).all() and (outcomes.cost > 0.0).all() for outcomes in together)


def test_a_request_that_ends_in_its_own_frame_is_metered() -> None:
    bench = Bench()
    [request] = bench.ask(output_token=5.0)
    bench.end(request, end_s=bench.now_s + 0.05)
    outcomes = bench.frame()
    assert results([outcomes]) == [Result.SERVED]
    assert outcomes.energy_j[0] > 0.0
    assert outcomes.end_s[0] - outcomes.arrival_s[0] == pytest.approx(0.05)


def test_open_requests_are_open_at_the_end() -> None:
    bench = Bench()
    bench.ask(2)
    bench.frame()
    bench.ask(1)
    left = bench.live.still_open(0.2)
    assert results([left]) == [Result.OPEN] * 3
    assert (left.end_s == 0.2).all()
    assert left.energy_j[0] > 0.0


def test_late_and_cut_answers() -> None:
    bench = Bench()
    late, cut = bench.ask(2)
    bench.end(late, end_s=6.0)
    bench.end(cut, ok=False)
    bench.end(cut)  # nobody says so twice, and nothing comes of it
    assert results([bench.frame()]) == [Result.LATE, Result.FAILED]


def test_what_fails_goes_on_elsewhere_or_has_failed() -> None:
    bench = Bench()
    again, never = bench.ask(2)
    bench.frames(2)
    for request in (again, never):
        bench.end(request, ok=False, at_fault=True, began=False)
    bench.live.sent(again, 1, bench.now_s)
    second = int(again.posed.ints[again.patterns[1], 3])
    assert second != EDGE
    ended = bench.frames(round(RETRY_S / 0.1) + 1)
    assert results(ended) == [Result.FAILED]
    bench.end(again)
    outcomes = bench.frame()
    assert results([outcomes]) == [Result.SERVED]
    assert outcomes.node[0] == second
    assert outcomes.retry[0] == 1
    assert not bench.live._sent_to.any()


def test_only_who_is_at_fault_is_left_alone() -> None:
    bench = Bench()
    for request in bench.ask(2 * FAILURES):
        bench.end(request, ok=False)  # whoever asked left
    assert bench.live.telemetry.up(bench.now_s)[EDGE]
    for request in bench.ask(FAILURES):
        bench.end(request, ok=False, at_fault=True)
    assert not bench.live.telemetry.up(bench.now_s)[EDGE]


def test_of_two_tries_at_once_the_first_answer_counts() -> None:
    bench = Bench()
    [request] = bench.ask()
    bench.live.sent(request, 1, bench.now_s)
    bench.end(request, rank=0)
    bench.end(request, rank=1, ok=False)
    outcomes = bench.frame()
    assert outcomes.node.tolist() == [EDGE]
    bench.live.sent(request, 1, bench.now_s)
    assert results(bench.frames(2)) == []


def test_what_nobody_sends_has_failed() -> None:
    bench = Bench()
    [request] = bench.ask()
    bench.live._unsent[request.task] = request
    request.asked_s -= UNSENT_S
    assert results([bench.frame()]) == [Result.FAILED]


def test_refused_requests_are_rejected_and_posed() -> None:
    bench = Bench()
    tasks = tiny.tasks(2, arrival_s=0.05)
    bench.live.asked(tasks, np.array([1]))
    outcomes = bench.frame()
    assert results([outcomes]) == [Result.REJECTED]
    assert outcomes.end_s[0] == 0.05
    posed: Tasks = bench.run.posed.tasks
    assert len(posed) == 2
    np.testing.assert_allclose(posed.deadline_s - bench.state.time_s, tasks.deadline_s - tasks.arrival_s)


@pytest.mark.untraced
def test_a_slow_machine_is_found_slow() -> None:
    bench = Bench()
    for _ in range(30):
        [request] = bench.ask(output_token=20.0)
        for _ in range(20):
            bench.frame()
            if request.row < 0:
                break
        model_s = request.model_s - request.start_s
        assert model_s > 0.0
        bench.end(request, end_s=request.start_s + 2.0 * _card_s(bench, model_s), output_token=20.0)
        bench.frame()
    assert bench.live.telemetry.speed[EDGE] == pytest.approx(0.5, rel=0.15)
    nodes = bench.run.orchestrator.tables.node
    assert nodes["flop_per_s"][EDGE] < 0.6 * nodes["flop_per_s"][EDGE + 1]


def _card_s(bench: Bench, model_s: float) -> float:
    """About what a request takes on the machine of the card, from what it takes on the machine as it is believed to be."""
    return model_s * float(bench.live.telemetry.speed[EDGE])


def test_speeds_are_bounded_and_one_request_moves_them_little() -> None:
    telemetry = Bench().live.telemetry
    telemetry.learn(EDGE, 100.0)
    assert telemetry.speed[EDGE] == pytest.approx(math.exp(-0.1 * EVIDENCE_MAX))
    for _ in range(200):
        telemetry.learn(EDGE, -100.0)
    assert telemetry.speed[EDGE] == SPEED_MAX


def test_others_requests_take_their_time_of_a_node() -> None:
    bench = Bench()
    bench.ask()
    bench.frame()
    alone = bench.compute(EDGE).copy()
    bench.heard(EDGE, running=5, waiting=6)
    bench.frame()
    assert bench.live.telemetry.foreign[EDGE] == 10.0
    assert (bench.compute(EDGE) > alone).all()
    assert bench.live.telemetry.queue_s()[EDGE] > 0.0
    given = bench.run.orchestrator.pool.capacity_per_s[bench.run.orchestrator.pool.compute_start + EDGE]
    work = busy(bench.run.orchestrator.pool, np.eye(NODES)[EDGE] * 1e9)
    first = (bench.run.orchestrator.pool.compute_start + EDGE) * bench.run.orchestrator.pool.slots
    assert work[first] == pytest.approx(given * bench.run.scenario.frame_s)
    at_end = busy(bench.run.orchestrator.pool, np.eye(NODES)[NODES - 1])
    assert np.flatnonzero(at_end).min() >= bench.run.orchestrator.pool.end_start * bench.run.orchestrator.pool.slots


def test_requests_that_take_longer_than_the_model_still_count() -> None:
    bench = Bench()
    [request] = bench.ask(output_token=5.0)
    bench.frames(5)
    assert request.row < 0
    assert bench.compute(EDGE)[-1] > 0.0


def test_batch_memory_and_slots_follow_what_a_node_says() -> None:
    bench = Bench()
    model = bench.run.scenario.artifacts.index(SMALL)
    bench.heard(EDGE, running=16, slots=8, kv_use=0.5, decode_token_per_s=1e-3)
    assert bench.run.orchestrator.tables.node["batch_max"][EDGE] == 8.0
    assert bench.live.telemetry.speed[EDGE] == 1.0  # it runs nothing of ours to compare with
    requests = bench.ask(2, output_token=300.0)
    bench.heard(EDGE, running=16, slots=8, kv_use=0.5, decode_token_per_s=1e-3)
    assert bench.live.telemetry.speed[EDGE] < 1.0
    slow = bench.live.telemetry.speed[EDGE]
    table = bench.run.orchestrator.tables
    machine, card = table.node[EDGE], table.artifact[requests[0].at(4)]
    step_s = (card["size_byte"] + 2.0 * 256.0 * card["kv_byte_per_token"]) / machine["byte_per_s"]
    # As fast as it should be with the two that it decoded together, though more of them run by now.
    bench.heard(EDGE, running=16, slots=8, kv_use=0.5, decode_token_per_s=2.0 / float(step_s), decode_batch=2.0)
    assert bench.live.telemetry.speed[EDGE] == pytest.approx(slow, rel=0.02)
    bench.frames(3)
    used = requests[0].at(4)
    assert used in (model, bench.run.scenario.artifacts.index(LARGE))
    assert bench.live.load.batch[EDGE, used] == pytest.approx(1.0 + 15.0 * (1.0 - 0.95**3))
    spare = bench.live.standing.memory_used_byte[EDGE]
    assert 0.0 < spare < bench.run.orchestrator.pool.memory_byte[EDGE]


def test_what_a_node_lost_must_be_loaded_again() -> None:
    bench = Bench()
    nothing = np.zeros(len(bench.run.scenario.artifacts), np.bool_)
    bench.live.heard(EDGE, NodeState("edge"), nothing, None)
    assert np.isinf(bench.live.standing.ready_s[EDGE]).all()
    assert not bench.live.standing.resident[EDGE].any()
    [request] = bench.ask()
    bench.frame()
    assert bench.live._residency.pinned[EDGE].any()
    bench.live.heard(EDGE, NodeState("edge"), nothing, None)
    assert np.isfinite(bench.live._residency.ready_s[EDGE, request.at(4)])


def test_round_trips_place_the_links() -> None:
    bench = Bench()
    ring_s = bench.run.orchestrator.tables.path_latency_s[1, 2]
    for node, rtt_s in ((CLOUD, 0.104), (EDGE, 0.004), (2, 0.004)):
        bench.heard(node, rtt_s=rtt_s)
    tables = bench.run.orchestrator.tables
    assert tables.path_latency_s[EDGE, CLOUD] == pytest.approx(0.05)
    assert tables.path_latency_s[2, CLOUD] == pytest.approx(0.05)
    assert tables.path_latency_s[1, 2] == pytest.approx(0.1) or tables.path_latency_s[1, 2] == ring_s
    bench.heard(CLOUD, rtt_s=0.204)
    assert tables.path_latency_s[EDGE, CLOUD] == pytest.approx(0.06)


def test_failures_in_a_row_rest_a_node_longer_each_time() -> None:
    telemetry = Bench().live.telemetry
    for _ in range(FAILURES - 1):
        telemetry.failed(EDGE, 0.0)
    telemetry.answered(EDGE)
    for _ in range(FAILURES):
        assert telemetry.up(0.0)[EDGE]
        telemetry.failed(EDGE, 0.0)
    assert not telemetry.up(0.5 * REST_S)[EDGE]
    assert telemetry.up(REST_S)[EDGE]
    telemetry.failed(EDGE, REST_S)
    assert not telemetry.up(2.9 * REST_S)[EDGE]
    assert telemetry.up(3.0 * REST_S)[EDGE]


def test_health_is_made_anew_only_when_something_changed() -> None:
    bench = Bench()
    first = bench.live.standing.health
    bench.frame()
    assert bench.live.standing.health is first
    bench.live.heard(EDGE, None, np.zeros(len(bench.run.scenario.artifacts), np.bool_), None)
    assert bench.live.standing.health is not first
    assert not bench.live.standing.health.node_up[EDGE]
    [request] = bench.ask(node=None, user=0, quality_min=0.0)
    assert request.at(3) != EDGE
    bench.frame()
    assert bench.live.load.health.node_up.tolist() == [True, False, True]


def test_a_request_on_a_node_that_goes_down_is_only_over_when_it_is() -> None:
    bench = Bench()
    [request] = bench.ask(output_token=300.0)
    bench.frame()
    bench.live.heard(EDGE, None, np.zeros(len(bench.run.scenario.artifacts), np.bool_), None)
    bench.frames(2)
    assert request.row < 0
    assert bench.live.under_way == 1
    assert bench.live._table.running.ints[:, rk.R_STATUS].max() >= rk.LOST
    bench.end(request)
    assert results([bench.frame()]) == [Result.SERVED]
