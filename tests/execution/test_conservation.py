"""Nothing is lost and nothing is made: tasks, bits, operations, joules, and the capacity of every resource."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
import pytest

import tiny
from gainnet.execution import simulated
from gainnet.execution.meter_kernel import Meters
from gainnet.measurement.metrics import report
from gainnet.models import card
from gainnet.models.card import Cards
from gainnet.network import compute
from gainnet.network.compute_kernel import decode_step_flop, denoise_flop, prefill_flop, train_flop
from gainnet.network.energy import END_CIRCUIT_W
from gainnet.run import Run, simulate
from gainnet.scenario.hardware import base_station
from gainnet.scenario.load import load
from tiny import CLOUD, EDGE, FRAME_S, Driven

SPAN = "begin_s: 0.4, end_s: 1.0"
FAULTS = (
    "{kind: edge_down, edge: 0, %s}",
    "{kind: end_down, fraction: 0.4, %s}",
    "{kind: cell_outage, cell: 0, %s}",
    "{kind: sensing_outage, %s}",
    "{kind: demand_surge, factor: 8.0, %s}",
    "{kind: link_degradation, factor: 0.0, %s}",
    "{kind: controller_outage, %s}",
)
CROWD = ["network.ends=60", "execution.faults=[{kind: demand_surge, factor: 20.0, begin_s: 0.0, end_s: 9.0}]"]


def _count(name: str, overrides: Sequence[str], duration_s: float) -> dict[str, int]:
    found: dict[str, int] = report(simulate(load(name, overrides, duration_s=duration_s)).record)["tasks"]  # type: ignore[arg-type]
    return found


@pytest.mark.parametrize(("name", "duration_s"), [("campus", 3.0), ("vehicular", 1.0), ("vehicular-dense", 0.3)])
@pytest.mark.untraced
def test_every_task_of_a_builtin_is_counted_once(name: str, duration_s: float) -> None:
    found = _count(name, [], duration_s)
    arrived = found.pop("arrived")
    assert arrived > 0
    assert sum(found.values()) == arrived


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.untraced
def test_every_task_is_counted_once_under_each_fault(fault: str) -> None:
    found = _count("campus", [f"execution.faults=[{fault % SPAN}]"], 2.0)
    arrived = found.pop("arrived")
    assert arrived > 0
    assert sum(found.values()) == arrived


@cache
def mixed() -> Driven:
    """Tasks of every service, at home, at the edge and in the cloud, all of which end."""
    given = [
        tiny.tasks(3, user=[0, 1, 2], prompt_token=[50, 700, 90], uplink_bit=[1600, 22400, 2880]),
        tiny.image(2, user=[3, 0], step=[8.0, 13.0], image=[1.0, 2.0], arrival_s=0.2),
        tiny.perception(3, user=[0, 1, 2], arrival_s=0.3),
        tiny.learning(1, user=2, arrival_s=0.4),
        tiny.learning(2, user=[0, 1], arrival_s=0.5, downlink_bit=[2e6, 0.0], output_token=[0.0, 700.0]),
        tiny.learning(2, user=[3, 2], arrival_s=0.6, downlink_bit=1e6, output_token=300.0, uplink_bit=[3e6, 0.0]),
        tiny.learning(1, user=3, arrival_s=0.7, downlink_bit=2e6, prompt_token=0.0, uplink_bit=0.0),
    ]
    driven = Driven(tiny.scenario(), *given)
    places = [tiny.home, tiny.first(node=EDGE), tiny.first(node=CLOUD)]

    def pick(posed: Any, i: int, patterns: np.ndarray) -> int | None:
        chosen = places[int(posed.tasks.task_id[i]) % 3](posed, i, patterns)
        return tiny.first(node=EDGE)(posed, i, patterns) if chosen is None else chosen

    driven.until(8.0, pick)
    assert set(tiny.names_of(driven.outcomes)) == {"served"}
    assert len(driven.outcomes) == 14
    return driven


def _column(name: str) -> np.ndarray:
    return np.concatenate([getattr(frame.posed.tasks, name) for frame in mixed().frames])


def _ended(name: str) -> np.ndarray:
    """A column of the outcomes, in the order of the tasks."""
    return np.asarray(getattr(mixed().outcomes, name)[np.argsort(mixed().outcomes.task_id)])


@pytest.mark.untraced
def test_all_bits_of_the_tasks_cross_the_air_and_no_others() -> None:
    at_home, cell_senses = _ended("tier") == 0, _ended("sensing") < 0
    feature = _column("uplink_bit")
    answer = _column("downlink_bit") + _column("image") * _cards().image_bit[_ended("model")]
    up = feature[~at_home & ~cell_senses].sum()
    down = answer[~at_home].sum() + feature[at_home & cell_senses].sum()
    assert mixed().used("uplink_bit") == pytest.approx(up, rel=1e-9)
    assert mixed().used("downlink_bit") == pytest.approx(down, rel=1e-9)


def _cards() -> Cards:
    return card.build(mixed().artifacts, mixed().run.scenario.models)


def test_all_operations_of_the_tasks_are_done_and_no_others() -> None:
    cards, model = _cards(), _ended("model")
    flop, attention = cards.flop_per_token[model], cards.attention_flop_per_token2[model]
    expected = 0.0
    for i, service in enumerate(_column("service")):
        prompt, output = _column("prompt_token")[i], _column("output_token")[i]
        if service == tiny.IMAGE:
            steps, images = _column("step")[i], _column("image")[i]
            expected += denoise_flop(steps, images, cards.step_flop[model[i]], cards.fixed_flop[model[i]])
        elif service == tiny.LEARNING:
            expected += train_flop(prompt + output, 2.0 * flop[i])
        else:
            expected += prefill_flop(prompt, flop[i], attention[i])
            expected += output * decode_step_flop(1.0, prompt + output / 2.0, flop[i], attention[i])
    assert mixed().used("flop") == pytest.approx(expected, rel=1e-9)


def test_the_energy_of_the_tasks_is_what_the_network_draws_above_idling() -> None:
    config = mixed().run.scenario.network
    station, nodes = base_station(config.radio.base_station), compute.build(config, clouds=1, edges=1)
    idle_j = float(nodes.count[:2] @ nodes.idle_w[:2]) * FRAME_S * len(mixed().frames)
    radio_j = mixed().used("radio_energy_j")
    for frame in mixed().frames:
        power_w = station.p0_w if frame.usage.cell_use[0] > 0.0 else station.sleep_w
        radio_j -= station.transceivers * power_w * FRAME_S
    uplink_s = sum(float(f.state.load.uplink_use.sum()) for f in mixed().frames[1:]) * FRAME_S
    drawn_j = radio_j - END_CIRCUIT_W * uplink_s + mixed().used("compute_energy_j") - idle_j
    assert mixed().outcomes.energy_j.sum() == pytest.approx(drawn_j, rel=1e-9)


def _metered(monkeypatch: pytest.MonkeyPatch, overrides: Sequence[str]) -> tuple[Run, list[Meters]]:
    """A crowded campus, and what was used of each resource in each frame."""
    run, meters = Run(load("campus", [*CROWD, *overrides], duration_s=2.0)), []
    original = simulated.new_meters

    def kept(*given: Any) -> Meters:
        meters.append(original(*given))
        return meters[-1]

    monkeypatch.setattr(simulated, "new_meters", kept)
    for _ in range(20):
        frame = run.step()
        for name in ("cell_use", "node_use", "link_use", "memory_use"):
            assert (getattr(frame.usage, name) <= 1.0 + 1e-9).all(), name
    return run, meters


@pytest.mark.parametrize(
    "overrides",
    [[], ["orchestrator.pools=siloed"], ["orchestrator.frame=serial"], ["orchestrator.matcher=cloud"]],
    ids=["universal", "siloed", "serial", "all to the cloud"],
)
@pytest.mark.untraced
def test_no_resource_and_no_part_of_one_gives_more_than_it_has(
    monkeypatch: pytest.MonkeyPatch, overrides: Sequence[str]
) -> None:
    run, meters = _metered(monkeypatch, overrides)
    whole = run.orchestrator.pool.capacity_per_s * FRAME_S
    used = np.array([frame.used for frame in meters])
    assert (used <= whole * (1.0 + 1e-9)).all()
    assert (used.max(axis=0) > 0.99 * whole).any()
    sent = np.array([frame.transmit_block_s for frame in meters])
    assert (sent <= run.orchestrator.pool.power_block_s * (1.0 + 1e-9)).all()


@pytest.mark.untraced
def test_no_memory_holds_more_than_it_has(monkeypatch: pytest.MonkeyPatch) -> None:
    run, _ = _metered(monkeypatch, ["network.edge.resident=[llama-3.2-3b]", "network.end.resident=[]"])
    load_, tables = run.execution.load, run.orchestrator.tables
    weights = np.isfinite(load_.ready_s) @ tables.artifact["size_byte"]
    assert (weights + load_.memory_used_byte <= tables.node["memory_byte"]).all()
    assert load_.memory_used_byte.max() > 0.0
