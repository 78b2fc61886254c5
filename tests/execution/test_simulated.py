"""What happens to a task on its way: order of service, hand-over, lost links and machines, missed looks, memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tiny
from gainnet.execution import running_kernel as rk
from gainnet.network.compute_kernel import load_s
from gainnet.orchestrator import pattern_kernel as pk
from gainnet.orchestrator import stage_kernel as sk
from tiny import CLOUD, EDGE, FRAME_S, LARGE, OTHER_EDGE, PAINTER, SMALL, Driven

FAST = {"pools": {"kind": "universal"}, "pace": 1.0, "reserve": 0.0, "foresight": 0.0, "horizon_s": 10.0}


@pytest.mark.untraced
def test_a_contended_machine_serves_the_earliest_planned_end_first() -> None:
    deadline_s = np.array([10.0, 6.0, 8.0])
    driven = Driven(tiny.scenario(), tiny.image(3, deadline_s=deadline_s, user=[0, 1, 2]))
    outcomes = driven.until(6.0, tiny.first(node=EDGE))
    assert outcomes.task_id.tolist() == [1, 2, 0]
    work_s = outcomes.end_s[0]
    np.testing.assert_allclose(outcomes.end_s, work_s * np.array([1, 2, 3]), rtol=0.1)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.untraced
def test_what_fits_the_cumulative_rows_is_done_in_time(seed: int) -> None:
    """Tasks due on the edges of the slots, more than fit: each that is admitted ends by its deadline."""
    rng = np.random.default_rng(seed)
    number = 40
    given = tiny.scenario(
        ends=1,
        network={"end": {"hardware": "vehicle-computer", "resident": [PAINTER]}},
        orchestrator={**FAST, "matcher": {"kind": "end"}, "patience_s": 0.0},
    )
    edges_s = Driven(given).run.orchestrator.pool.slot_edge_s
    due_s = rng.choice(edges_s[2:6], number)
    work = {"step": rng.integers(1, 8, number), "image": rng.integers(1, 4, number)}
    driven = Driven(given, tiny.image(number, deadline_s=due_s, **work))
    driven.until(float(edges_s[5]) + 0.5)
    outcomes = driven.outcomes
    admitted = outcomes.result != tiny.Result.REJECTED
    assert 3 < np.count_nonzero(admitted) < number
    assert (outcomes.result[admitted] == tiny.Result.SERVED).all()
    assert len(outcomes) == number


def _driving(folder: Path, way: list[tuple[float, float, float]]) -> dict[str, Any]:
    return {"mobility": tiny.tracks(folder, [way])}


@pytest.mark.untraced
def test_a_task_follows_its_end_to_the_next_cell(tmp_path: Path) -> None:
    network = _driving(tmp_path, [(0.0, 10.0, 5.0), (0.5, 10.0, 5.0), (2.5, 390.0, 5.0), (6.0, 390.0, 5.0)])
    given = tiny.scenario(cells=((0.0, 0.0), (400.0, 0.0)), ends=1, network=network, duration_s=6.0)
    driven = Driven(given, tiny.learning(1, uplink_bit=3e8))
    outcomes = driven.until(6.0, tiny.first(cell=0, node=EDGE))
    assert tiny.names_of(outcomes) == ["served"]
    assert outcomes.handover[0] >= 1
    assert (outcomes.cell[0], outcomes.node[0]) == (1, EDGE)
    assert driven.used("handovers") >= 1
    assert driven.used("uplink_bit") == pytest.approx(3e8)
    assert driven.frames[2].usage.cell_use[0] > 0.5
    assert driven.frames[int(outcomes.end_s[0] / FRAME_S) - 1].usage.cell_use[1] > 0.5


@pytest.mark.untraced
def test_a_hand_over_interrupts(tmp_path: Path) -> None:
    def end_s(interruption_s: float) -> float:
        network = _driving(tmp_path, [(0.0, 10.0, 5.0), (0.5, 10.0, 5.0), (1.5, 390.0, 5.0), (6.0, 390.0, 5.0)])
        network |= {"radio": {"bandwidth_hz": 20e6, "handover_interruption_s": interruption_s}}
        given = tiny.scenario(cells=((0.0, 0.0), (400.0, 0.0)), ends=1, network=network, duration_s=6.0)
        outcomes = Driven(given, tiny.learning(1, uplink_bit=2.5e8)).until(6.0, tiny.first(cell=0, node=EDGE))
        assert tiny.names_of(outcomes) == ["served"]
        return float(outcomes.end_s[0])

    assert end_s(1.0) - end_s(0.0) > 0.5


@pytest.mark.untraced
def test_a_task_whose_link_broke_is_given_up_abandon_s_after_its_deadline(tmp_path: Path) -> None:
    network = _driving(tmp_path, [(0.0, 10.0, 0.0), (0.5, 10.0, 0.0), (1.0, 20000.0, 0.0), (6.0, 20000.0, 0.0)])
    given = tiny.scenario(ends=1, network=network, execution={"abandon_s": 1.0}, duration_s=6.0)
    driven = Driven(given, tiny.learning(1, uplink_bit=1.5e8, deadline_s=2.05))
    driven.until(3.0, lambda posed, i, patterns: int(patterns[0]) if len(patterns) else None)
    assert len(driven.outcomes) == 0
    assert driven.frames[-1].usage.uplink_bit == 0.0
    assert driven.frames[-1].usage.running == 1
    outcomes = driven.until(3.2, tiny.first())
    assert tiny.names_of(outcomes) == ["failed"]
    assert outcomes.end_s[0] == pytest.approx(3.1)
    assert outcomes.quality[0] == 0.0


DOWN = {"kind": "edge_down", "edge": 0, "begin_s": 0.5, "end_s": 1.0}


def _at_edge_or_cloud(posed: Any, i: int, patterns: np.ndarray) -> int | None:
    at_edge = tiny.first(node=EDGE)(posed, i, patterns)
    return tiny.first(node=CLOUD)(posed, i, patterns) if at_edge is None else at_edge


@pytest.mark.untraced
def test_a_task_that_lost_its_machine_is_tried_elsewhere_and_charged_for_both() -> None:
    long = tiny.image(1, step=100.0, image=2.0, deadline_s=20.0)
    driven = Driven(tiny.scenario(execution={"faults": [DOWN]}), long)
    lost_j = driven.until(0.5, _at_edge_or_cloud)
    assert len(lost_j) == 0
    spent_j = float(driven.open().energy_j[0])
    assert spent_j > 0.0
    driven = Driven(tiny.scenario(execution={"faults": [DOWN]}), long)
    outcomes = driven.until(10.0, _at_edge_or_cloud)
    alone = Driven(tiny.scenario(), long).until(10.0, tiny.first(node=CLOUD))
    assert tiny.names_of(outcomes) == tiny.names_of(alone) == ["served"]
    assert (outcomes.node[0], outcomes.retry[0], alone.retry[0]) == (CLOUD, 1, 0)
    assert outcomes.energy_j[0] == pytest.approx(alone.energy_j[0] + spent_j, rel=0.02)
    assert outcomes.cost[0] > alone.cost[0]
    assert outcomes.start_s[0] == 0.0
    assert outcomes.end_s[0] > 0.5 + alone.end_s[0]


def test_without_retries_a_task_that_lost_its_machine_has_failed() -> None:
    long = tiny.image(1, step=100.0, deadline_s=20.0)
    driven = Driven(tiny.scenario(execution={"faults": [DOWN], "retries": 0}), long)
    outcomes = driven.until(1.0, _at_edge_or_cloud)
    assert tiny.names_of(outcomes) == ["failed"]
    assert outcomes.end_s[0] == pytest.approx(0.5)


@pytest.mark.untraced
def test_a_task_that_is_done_with_its_machine_outlives_it() -> None:
    """Only the transfer of the answer is left when the machine fails."""
    network = {"backhaul": {"cloud_latency_s": 0.0, "ring_bit_per_s": 1e6, "ring_latency_s": 0.0}}
    given = tiny.scenario(cells=((0.0, 0.0), (60.0, 0.0)), network=network, execution={"faults": [DOWN | {"edge": 1}]})
    # One edge is reached over the ring, where the answer takes its time.
    driven = Driven(given, tiny.tasks(1, uplink_bit=1e3, downlink_bit=1e6, deadline_s=9.0))
    outcomes = driven.until(3.0, tiny.first(cell=0, node=OTHER_EDGE))
    assert tiny.names_of(outcomes) == ["served"]
    assert outcomes.retry[0] == 0
    assert outcomes.end_s[0] > 0.9


@pytest.mark.untraced
def test_a_machine_comes_back_with_an_empty_memory() -> None:
    driven = Driven(tiny.scenario(execution={"faults": [DOWN]}), tiny.tasks(1, arrival_s=1.2, deadline_s=9.0))
    driven.until(0.5)
    held = driven.run.execution.load
    assert held.resident[EDGE, driven.model(SMALL)]
    driven.until(1.0)
    assert not driven.run.execution.load.resident[EDGE].any()
    outcomes = driven.until(3.0, tiny.first(node=EDGE, model=driven.model(SMALL)))
    assert driven.run.execution.load.resident[EDGE].tolist() == [name == SMALL for name in driven.artifacts]
    assert driven.used("loads") == 1
    assert outcomes.end_s[0] - outcomes.start_s[0] > _load_s(driven, EDGE, SMALL)


def _load_s(driven: Driven, node: int, name: str) -> float:
    tables = driven.run.orchestrator.tables
    artifact, machine = tables.artifact[driven.model(name)], tables.node[node]
    return float(
        load_s(artifact["size_byte"], artifact["load_s"], machine["load_byte_per_s"], machine["load_overhead_s"])
    )


@pytest.mark.untraced
def test_loading_a_model_delays_the_first_task_and_not_the_second() -> None:
    network = {"edge": {"hardware": "edge-accelerator", "resident": [SMALL]}}
    given = tiny.scenario(network=network)
    driven = Driven(given, tiny.tasks(2, arrival_s=[0.0, 4.0], deadline_s=9.0))
    outcomes = driven.until(6.0, tiny.first(node=EDGE, model=driven.model(LARGE)))
    seconds = _load_s(driven, EDGE, LARGE)
    taken = outcomes.end_s - outcomes.start_s
    assert seconds < taken[0] < seconds + 0.5
    assert taken[1] < 0.5
    assert [frame.usage.loads for frame in driven.frames if frame.usage.loads] == [1]


@pytest.mark.untraced
def test_tasks_that_come_while_a_model_loads_wait_for_the_same_load() -> None:
    network = {"edge": {"hardware": "edge-accelerator", "resident": []}}
    driven = Driven(tiny.scenario(network=network), tiny.tasks(3, arrival_s=[0.0, 0.1, 0.2], user=[0, 1, 2]))
    outcomes = driven.until(3.0, tiny.first(node=EDGE, model=driven.model(SMALL)))
    assert driven.used("loads") == 1
    assert (outcomes.end_s > _load_s(driven, EDGE, SMALL)).all()
    assert np.ptp(outcomes.end_s) < 0.1


SD_BYTE, ADAPTER_BYTE = 1.066e9 * 2.0, 150e6
CRAMPED = {
    "flop_per_s": 121e12, "memory_bandwidth_byte_per_s": 300e9, "memory_byte": SD_BYTE + 2.5 * ADAPTER_BYTE,
    "load_byte_per_s": 3e9, "idle_w": 16.0, "peak_w": 72.0,
}  # fmt: skip


def _painting(*arriving: tuple[float, str, float]) -> Driven:
    """Pictures at an edge that holds two adapters: (arrival, adapter, steps) each."""
    given = tiny.scenario(network={"edge": {"hardware": CRAMPED, "resident": [PAINTER]}})
    index = {name: i for i, name in enumerate(given.artifacts)}
    asked = tiny.image(
        len(arriving),
        arrival_s=[time_s for time_s, _, _ in arriving],
        adapter=[index[name] for _, name, _ in arriving],
        step=[steps for _, _, steps in arriving],
        user=np.arange(len(arriving)) % 4,
        deadline_s=20.0,
    )
    return Driven(given, asked)


def _held(driven: Driven) -> set[str]:
    ready_s = driven.run.execution.load.ready_s[EDGE]
    return {name for name, at in zip(driven.artifacts, ready_s, strict=True) if np.isfinite(at)}


@pytest.mark.untraced
def test_the_adapter_that_was_idle_longest_makes_room() -> None:
    driven = _painting((0.0, "ink", 5.0), (2.0, "comic", 5.0), (4.0, "ink", 5.0), (6.0, "photo", 5.0))
    driven.until(6.0, tiny.first(node=EDGE))
    assert _held(driven) == {PAINTER, "ink", "comic"}
    outcomes = driven.until(9.0, tiny.first(node=EDGE))
    assert _held(driven) == {PAINTER, "ink", "photo"}
    assert tiny.names_of(outcomes) == ["served"] * 4
    assert driven.used("loads") == 3


@pytest.mark.untraced
def test_what_running_tasks_hold_is_never_evicted() -> None:
    driven = _painting((0.0, "ink", 100.0), (0.0, "comic", 100.0), (0.5, "photo", 5.0))
    while len(driven.outcomes if driven.frames else ()) < 1:
        driven.frame(tiny.first(node=EDGE))
        assert _held(driven) >= {PAINTER, "ink", "comic"}
    assert driven.outcomes.task_id.tolist() == [2]
    assert tiny.names_of(driven.outcomes) == ["rejected"]
    driven.until(8.0, tiny.first(node=EDGE))
    assert sorted(tiny.names_of(driven.outcomes)) == ["rejected", "served", "served"]
    assert (driven.run.execution.load.pinned == 0).all()


@pytest.mark.untraced
def test_the_cache_of_a_task_is_held_while_it_runs() -> None:
    driven = Driven(
        tiny.scenario(), tiny.tasks(2, prompt_token=1000.0, output_token=200.0, deadline_s=30.0, user=[0, 1])
    )
    driven.frame(tiny.first(node=EDGE, model=driven.model(SMALL)))
    per_token = driven.run.orchestrator.tables.artifact["kv_byte_per_token"][driven.model(SMALL)]
    assert driven.run.execution.load.memory_used_byte[EDGE] == pytest.approx(2 * 1200 * per_token)
    outcomes = driven.until(20.0, tiny.first())
    assert len(outcomes) == 2
    assert (driven.run.execution.load.memory_used_byte == 0.0).all()


def test_a_radar_that_misses_looks_again_until_its_retries_are_used_up() -> None:
    driven = Driven(tiny.scenario(execution={"retries": 3}), tiny.perception(1, target_range_m=3000.0))
    outcomes = driven.until(1.0, tiny.first(sensing=sk.END_SENSES, level=0))
    assert tiny.names_of(outcomes) == ["failed"]
    assert (driven.used("looks"), driven.used("detections"), outcomes.retry[0]) == (4, 0, 3)


@pytest.mark.untraced
def test_looks_find_their_target_as_often_as_their_accuracy_says() -> None:
    number = 400
    given = tiny.scenario(execution={"retries": 0})
    driven = Driven(given, tiny.perception(number, target_range_m=400.0, user=np.arange(number) % 4, deadline_s=30.0))
    driven.frame(tiny.first(sensing=sk.END_SENSES, level=0))
    posed, plan = driven.frames[0].posed, driven.frames[0].plan
    accuracy = posed.floats[plan.choice[plan.choice >= 0], pk.ACCURACY]
    driven.until(3.0, tiny.first())
    found, looks = driven.used("detections"), driven.used("looks")
    assert looks == len(accuracy) == number
    assert 0.1 < accuracy[0] < 0.9
    assert abs(found - accuracy.sum()) < 4.0 * np.sqrt((accuracy * (1.0 - accuracy)).sum())
    result = driven.outcomes.result
    assert np.count_nonzero(result == tiny.Result.FAILED) == looks - found


@pytest.mark.untraced
def test_an_answer_that_is_not_good_enough_has_failed_nobody_is_told_it_was_served() -> None:
    driven = Driven(tiny.scenario(), tiny.tasks(2, quality_min=[0.6, 0.7]))
    outcomes = driven.until(2.0)
    assert tiny.names_of(outcomes) == ["served", "rejected"]
    assert outcomes.quality[outcomes.task_id == 0] >= 0.6


@pytest.mark.untraced
def test_a_late_answer_is_late() -> None:
    driven = Driven(tiny.scenario(), tiny.image(6, step=25.0, deadline_s=3.0, user=np.arange(6) % 4))
    driven.until(5.5, tiny.first(node=EDGE))
    outcomes = driven.outcomes
    late = outcomes.end_s > outcomes.deadline_s
    assert 0 < np.count_nonzero(late) < 6
    assert (outcomes.result[late] == tiny.Result.LATE).all()
    assert (outcomes.result[~late] == tiny.Result.SERVED).all()


def test_a_refused_task_waits_for_its_patience_and_no_longer() -> None:
    driven = Driven(tiny.scenario(orchestrator={"patience_s": 0.35}), tiny.tasks(1, arrival_s=0.1))
    driven.until(0.4, lambda *_: None)
    assert len(driven.outcomes) == 0
    assert [frame.usage.waiting for frame in driven.frames] == [0, 1, 1, 1]
    outcomes = driven.until(1.0, lambda *_: None)
    assert tiny.names_of(outcomes) == ["rejected"]
    assert outcomes.end_s[0] == pytest.approx(0.4)
    assert np.isnan(outcomes.start_s[0])


def _stages(driven: Driven) -> list[sk.Stage]:
    """The stages of the only running task."""
    running, row = driven.run.execution._table.running, driven.run.execution._table.active[0]
    return [sk.Stage(kind) for kind in running.stage_ints[row, : running.ints[row, rk.R_STAGES], sk.KIND]]


WHOLE = [sk.Stage.TRANSFER, sk.Stage.DOWNLINK, sk.Stage.TRAIN, sk.Stage.UPLOAD, sk.Stage.TRANSFER, sk.Stage.SPLIT]


@pytest.mark.parametrize(
    ("node", "amounts", "expected"),
    [
        (CLOUD, {"downlink_bit": 1e6, "output_token": 500.0}, [*WHOLE, sk.Stage.AGGREGATE]),
        (EDGE, {}, [sk.Stage.TRAIN, sk.Stage.UPLOAD, sk.Stage.AGGREGATE]),
        (EDGE, {"downlink_bit": 1e6, "uplink_bit": 0.0}, [sk.Stage.DOWNLINK, sk.Stage.TRAIN]),
        (CLOUD, {"downlink_bit": 1e6, "uplink_bit": 0.0, "prompt_token": 0.0}, WHOLE[:2]),
        (
            EDGE,
            {"prompt_token": 0.0, "output_token": 500.0, "uplink_bit": 4e7},
            [sk.Stage.UPLOAD, sk.Stage.SPLIT, sk.Stage.AGGREGATE],
        ),
    ],
)
@pytest.mark.untraced
def test_a_learning_task_has_the_stages_that_it_has_work_for(
    node: int, amounts: dict[str, float], expected: list[sk.Stage]
) -> None:
    scenario = tiny.scenario(network={"backhaul": {"cloud_latency_s": 0.5}})
    driven = Driven(scenario, tiny.learning(1, **amounts))
    driven.frame(tiny.first(node=node))
    assert _stages(driven) == expected
    assert tiny.names_of(driven.until(15.0, tiny.first(node=node))) == ["served"]


@pytest.mark.untraced
def test_a_model_trained_in_two_parts_takes_memory_for_each_where_it_is() -> None:
    """Three quarters of the tokens' work at the end: so much of the model lies there, and the whole at the edge."""
    given = tiny.scenario(network={"end": {"hardware": "vehicle-computer"}, "edge": {"hardware": "edge-accelerator"}})
    driven = Driven(given, tiny.learning(1, prompt_token=30_000.0, output_token=10_000.0))
    driven.frame(tiny.first(node=EDGE))
    load, pool, tables = driven.run.execution.load, driven.run.orchestrator.pool, driven.run.orchestrator.tables
    small = driven.model(SMALL)
    size_byte = tables.artifact["size_byte"][small]
    assert load.memory_used_byte[pool.fixed] == pytest.approx(0.75 * size_byte)
    assert load.pinned[EDGE, small] == 1
    assert load.pinned[pool.fixed, small] == 0
    assert (driven.used("loads"), np.isinf(load.ready_s[pool.fixed, small])) == (1, True)
    outcomes = driven.until(20.0, tiny.first(node=EDGE))
    assert tiny.names_of(outcomes) == ["served"]
    assert (driven.run.execution.load.memory_used_byte == 0.0).all()
    assert (driven.run.execution.load.pinned == 0).all()


@pytest.mark.untraced
def test_an_end_too_small_for_the_model_trains_a_part_of_it() -> None:
    small = {"hardware": "vehicle-computer"}
    given = tiny.scenario(network={"end": small, "end_scale": [0.1]})
    whole, half = tiny.learning(1, prompt_token=400.0), tiny.learning(1, prompt_token=200.0, output_token=200.0, user=1)
    outcomes = Driven(given, whole, half).until(15.0)
    assert tiny.names_of(outcomes) == ["rejected", "served"]


@pytest.mark.untraced
def test_an_end_of_half_the_speed_trains_twice_as_long() -> None:
    given = tiny.scenario(network={"end_scale": [1.0, 0.5]}, execution={"steps": 64})
    asked = tiny.learning(2, user=[0, 1], prompt_token=20_000.0, uplink_bit=1.0)
    outcomes = Driven(given, asked).until(18.0, tiny.first(node=EDGE))
    end_s = outcomes.end_s[np.argsort(outcomes.user)]
    assert end_s[1] / end_s[0] == pytest.approx(2.0, rel=0.02)


@pytest.mark.untraced
def test_an_end_that_changes_its_cell_before_it_fetched_all_goes_on_over_the_new_one(tmp_path: Path) -> None:
    network = _driving(tmp_path, [(0.0, 10.0, 5.0), (0.5, 10.0, 5.0), (2.5, 390.0, 5.0), (9.0, 390.0, 5.0)])
    given = tiny.scenario(cells=((0.0, 0.0), (400.0, 0.0)), ends=1, network=network, duration_s=9.0)
    driven = Driven(given, tiny.learning(1, downlink_bit=2e8, uplink_bit=5e7, output_token=100.0))
    outcomes = driven.until(9.0, tiny.first(cell=0, node=EDGE))
    assert tiny.names_of(outcomes) == ["served"]
    assert outcomes.handover[0] >= 1
    assert (outcomes.cell[0], outcomes.node[0]) == (1, EDGE)
    assert driven.used("downlink_bit") == pytest.approx(2e8)
    assert driven.used("uplink_bit") == pytest.approx(5e7)


@pytest.mark.untraced
def test_what_is_not_matched_goes_first_and_what_is_matched_when_there_is_room() -> None:
    def late(placement: str) -> float:
        services = {**tiny.SERVICES, "learning": {**tiny.SERVICES["learning"], "placement": placement}}
        given = tiny.scenario(network={"radio": {"bandwidth_hz": 1.4e6, "subcarrier_hz": 15e3}, **RADAR},
                              demand={"services": services})  # fmt: skip
        rounds = tiny.learning(4, user=np.arange(4), prompt_token=1.0, uplink_bit=4e6, value=1e-3)
        texts = tiny.tasks(8, user=np.arange(8) % 4, arrival_s=0.4, deadline_s=2.4, uplink_bit=2e5, quality_min=0.6)
        driven = Driven(given, rounds, texts)
        while sum(len(frame.outcomes) for frame in driven.frames) < 12 and len(driven.frames) < 200:
            driven.frame()
        outcomes = driven.outcomes
        assert len(outcomes) == 12
        learned = outcomes.service == tiny.LEARNING
        assert (outcomes.result[learned] == tiny.Result.SERVED).all()
        return float(np.mean(outcomes.result[~learned] != tiny.Result.SERVED))

    assert late("matched") < 0.2
    assert late("nearest") > 0.5


RADAR = {"sensing": {"blocks": [4], "symbols": [14]}}
