from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from asked import CHAT, collect, constant, demand, image, joined, poisson, state, text, written

from gainnet.demand.task import Tasks
from gainnet.errors import InputError, TraceError

BURSTS = {"kind": "mmpp", "rate_per_end_per_s": 2.0}
LEARNING = {"kind": "learning", "models": ["small"], "deadline_s": 9.0, "period_s": 5.0, "participation": 0.2}
FED = {**LEARNING, "train_token": constant(5000), "update_bit": 8e6}
MIXED: dict[str, Any] = {"chat": text(BURSTS), "art": image(poisson(1.0), adapter_probability=0.5), "fed": FED}


def same(left: list[Tasks], right: list[Tasks]) -> bool:
    return all(np.array_equal(joined(left, field.name), joined(right, field.name)) for field in fields(Tasks))


@pytest.mark.untraced
def test_frames_hold_their_arrivals_in_order_with_serial_ids() -> None:
    frames = collect(demand(MIXED), 60.0)
    assert len(frames[0]) == 0
    for index, tasks in enumerate(frames):
        assert ((tasks.arrival_s >= (index - 1) * 0.1) & (tasks.arrival_s < index * 0.1)).all()
    assert (np.diff(joined(frames, "arrival_s")) >= 0.0).all()
    assert joined(frames, "task_id").tolist() == list(range(sum(map(len, frames))))
    for field in fields(Tasks):
        assert joined(frames, field.name).dtype == (np.int64 if field.type.startswith("Int") else np.float64)


@pytest.mark.untraced
def test_the_same_seed_gives_the_same_tasks_and_another_seed_others() -> None:
    assert same(collect(demand(MIXED), 20.0), collect(demand(MIXED), 20.0))
    assert not same(collect(demand(MIXED), 20.0), collect(demand(MIXED, seed=2), 20.0))


@pytest.mark.untraced
def test_tasks_do_not_depend_on_frames_or_on_other_services() -> None:
    frames = collect(demand(MIXED), 60.0)
    once = [demand(MIXED).arrive(state(time_s)) for time_s in (60.0,)]
    assert same(frames, once)
    services, arrival_s = joined(frames, "service"), joined(frames, "arrival_s")
    alone = collect(demand({"chat": MIXED["chat"], "art": MIXED["art"]}), 60.0)
    assert len(arrival_s[services < 2]) == pytest.approx(sum(map(len, alone)), rel=0.1)


def test_asking_again_gives_nothing_new() -> None:
    source = demand(MIXED)
    assert len(source.arrive(state(5.0))) > 0
    assert len(source.arrive(state(5.0))) == 0


@pytest.mark.untraced
def test_rates_add_up() -> None:
    frames = collect(
        demand({"a": text(poisson(1.0)), "b": text(poisson(3.0))}, ends=5, frame_s=2.0), 500.0, frame_s=2.0
    )
    assert np.bincount(joined(frames, "service")) == pytest.approx([2500, 7500], rel=0.08)


@pytest.mark.parametrize("factor", [0.0, 0.4, 1.7, 2.0, 3.25])
@pytest.mark.untraced
def test_the_demand_factor_multiplies_every_rate(factor: float) -> None:
    services = {"a": text(poisson(2.0)), "b": text({**BURSTS, "burst_mean_s": 0.5, "calm_mean_s": 2.0})}
    frames = collect(demand(services, frame_s=2.0), 400.0, lambda _: factor, 2.0)
    counted = np.bincount(joined(frames, "service"), minlength=2)
    assert counted == pytest.approx([8000 * factor, 8000 * factor], rel=0.1)


@pytest.mark.untraced
def test_a_surge_adds_tasks_and_leaves_the_others_as_they_were() -> None:
    base = collect(demand(MIXED), 40.0)
    surged = collect(demand(MIXED), 40.0, lambda time_s: 2.5 if 10.05 < time_s < 20.05 else 1.0)
    low, high = joined(base, "arrival_s"), joined(surged, "arrival_s")
    assert set(low) <= set(high)
    extra = np.setdiff1d(high, low)
    assert extra.min() >= 10.0
    assert extra.max() < 20.0
    art = [np.sum(joined(frames, "service") == 1) for frames in (base, surged)]
    assert art[1] - art[0] == pytest.approx(1.5 * 100, abs=4 * np.sqrt(150))
    learning = [np.sum(joined(frames, "service") == 2) for frames in (base, surged)]
    assert learning[0] == learning[1] == 16
    assert joined(surged, "task_id").tolist() == list(range(len(high)))


@pytest.mark.untraced
def test_past_factors_do_not_change_later_tasks() -> None:
    base = collect(demand(MIXED), 40.0)
    surged = collect(demand(MIXED), 40.0, lambda time_s: 3.0 if time_s < 5.0 else 1.0)
    late = [joined(frames, "arrival_s") for frames in (base, surged)]
    assert np.array_equal(late[0][late[0] >= 5.0], late[1][late[1] >= 5.0])


def test_many_short_blocks_lose_nothing() -> None:
    frames = collect(demand({"a": text(poisson(100.0))}, ends=100), 5.0)
    assert sum(map(len, frames)) == pytest.approx(50_000, rel=0.03)
    assert (np.diff(joined(frames, "arrival_s")) >= 0.0).all()


@pytest.mark.untraced
def test_a_trace_gives_times_and_sizes_and_a_surge_repeats_its_rows(tmp_path: Path) -> None:
    services = {"chat": text({"kind": "trace", "path": written(tmp_path, CHAT)})}
    frames = collect(demand(services, duration_s=20.0), 20.0)
    assert joined(frames, "arrival_s").tolist() == list(range(20))
    assert joined(frames, "prompt_token").tolist() == [100.0 + second for second in range(20)]
    assert joined(frames, "output_token").tolist() == [max(1.0, second) for second in range(20)]
    doubled = collect(demand(services, duration_s=20.0), 20.0, lambda _: 2.0)
    assert joined(doubled, "arrival_s").tolist() == np.repeat(np.arange(20.0), 2).tolist()
    assert joined(doubled, "prompt_token").tolist() == np.repeat(100.0 + np.arange(20.0), 2).tolist()


def test_a_trace_of_another_kind_is_refused(tmp_path: Path) -> None:
    services = {"art": image({"kind": "trace", "path": written(tmp_path, CHAT)})}
    with pytest.raises(TraceError, match="records text requests, service 'art' is image"):
        demand(services, duration_s=20.0)


def test_a_short_trace_is_refused(tmp_path: Path) -> None:
    services = {"chat": text({"kind": "trace", "path": written(tmp_path, CHAT)})}
    with pytest.raises(TraceError, match="is 40 s long"):
        demand(services, duration_s=60.0)


@pytest.mark.untraced
def test_the_real_traces_drive_a_run(data: Path) -> None:
    services = {
        "chat": text({"kind": "trace", "path": data / "azure_llm_2023" / "conv.csv", "speed": 10.0}),
        "art": image({"kind": "trace", "path": data / "gentd26" / "requests.csv", "start_s": 440_000, "speed": 500.0}),
    }
    frames = collect(demand(services), 60.0)
    service, adapter = joined(frames, "service"), joined(frames, "adapter")
    assert np.bincount(service) == pytest.approx([3318, 1000], rel=0.7)
    assert set(adapter[service == 0]) == {-1}
    assert set(adapter[service == 1]) == {-1, 3, 4}


def test_fitted_bursts_have_their_rate() -> None:
    arrivals = {"kind": "fitted", "name": "azure-2023", "rate_per_end_per_s": 2.0}
    assert len(demand({"chat": text(arrivals)}).arrive(state(10_000.0))) == pytest.approx(200_000, rel=0.04)


ASKED = {**FED, "participation": 0.0}
ROUNDS: dict[str, Any] = {"chat": text(BURSTS), "fed": ASKED}
WORK: dict[str, Any] = {"deadline_s": 9.0, "prompt_token": 100.0, "uplink_bit": 1e6}


def test_what_is_asked_for_arrives_with_the_next_frame_and_after_its_other_tasks() -> None:
    plain, source = demand(ROUNDS), demand(ROUNDS)
    frames, asked = [], {}
    for frame in range(30):
        if frame in (0, 7, 8):
            asked[frame] = source.ask(
                1, np.array([3, 1]), **WORK, downlink_bit=np.array([5.0, 6.0]), output_token=7.0, value=2.0
            )
        frames.append(source.arrive(state(frame * 0.1)))
    usual = [plain.arrive(state(frame * 0.1)) for frame in range(30)]
    assert asked == {0: 0.0, 7: 7 * 0.1, 8: 8 * 0.1}
    for frame, (one, other) in enumerate(zip(frames, usual, strict=True)):
        assert len(one) - len(other) == (2 if frame in asked else 0)
        assert one.arrival_s.tolist() == other.arrival_s.tolist() + [frame * 0.1] * (len(one) - len(other))
    assert joined(frames, "task_id").tolist() == list(range(sum(map(len, frames))))
    mine = joined(frames, "service") == 1
    key = list(zip(joined(frames, "user")[mine], joined(frames, "arrival_s")[mine], strict=True))
    assert key == [(user, at) for at in asked.values() for user in (3, 1)]
    expected = {"prompt_token": 100, "output_token": 7, "uplink_bit": 1e6, "value": 2, "deadline_s": 9, "adapter": -1}
    for name, value in expected.items():
        assert set(joined(frames, name)[mine]) == {value}
    assert joined(frames, "downlink_bit")[mine].tolist() == [5.0, 6.0] * 3
    for field in fields(Tasks):
        assert joined(frames, field.name).dtype == (np.int64 if field.type.startswith("Int") else np.float64)


def test_a_surge_leaves_alone_what_is_asked_for() -> None:
    source = demand(ROUNDS)
    source.ask(1, np.arange(10), **WORK)
    assert np.count_nonzero(source.arrive(state(0.1, 0.0)).service == 1) == 10
    assert source.ask(1, np.empty(0, np.int64), **WORK) == 0.2
    assert np.count_nonzero(source.arrive(state(0.2, 3.0)).service == 1) == 0


@pytest.mark.parametrize(
    ("service", "users", "changes", "said"),
    [
        (0, [1], {}, "chat.kind: rounds are asked of a learning service"),
        (1, [1, 1], {}, "an end is asked twice at 0 s"),
        (1, [4], {}, "an end is asked twice at 0 s"),
        (1, [-1], {}, "ends -1 to -1, there are 0 to 9"),
        (1, [10], {}, "ends 10 to 10"),
        (1, [1], {"deadline_s": 0.0}, "deadline_s = 0, must be finite and after the arrival"),
        (1, [1], {"deadline_s": float("nan")}, "deadline_s = nan"),
        (1, [1], {"deadline_s": float("inf")}, "deadline_s = inf"),
        (1, [1], {"uplink_bit": -1.0}, "uplink_bit must be finite and at least 0"),
        (1, [1], {"output_token": float("nan")}, "output_token must be finite"),
        (1, [1], {"prompt_token": 0.0, "uplink_bit": 0.0}, "neither tokens nor bits"),
    ],
)
def test_what_cannot_be_asked_is_refused_and_changes_nothing(
    service: int, users: list[int], changes: dict[str, Any], said: str
) -> None:
    source = demand(ROUNDS)
    source.ask(1, np.array([4]), **WORK)
    with pytest.raises(InputError, match=said):
        source.ask(service, np.array(users), **{**WORK, **changes})
    assert source.arrive(state(0.0)).user.tolist() == [4]


def test_a_service_that_draws_rounds_is_not_asked_for_more() -> None:
    with pytest.raises(InputError, match=r"fed\.participation: must be 0"):
        demand({"fed": FED}).ask(0, np.array([1]), **WORK)
