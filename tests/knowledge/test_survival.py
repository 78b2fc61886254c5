"""What goes wrong in a loop is survived, said, and costs no more privacy than was promised."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gainnet.knowledge import aggregate, masked
from gainnet.knowledge import setting as settings
from gainnet.knowledge.algebra import Algebra
from gainnet.knowledge.arms.tiers import Tiers
from gainnet.knowledge.cloud import Learnt
from gainnet.knowledge.edge import Edge, Gathering
from gainnet.knowledge.loop import Loop, learn
from gainnet.knowledge.protection import Protection
from gainnet.knowledge.text import Encoded
from gainnet.measurement import metrics
from gainnet.measurement.record import Recorder
from gainnet.models.low_rank import LowRank
from learning import TINY, learning_scenario

pytestmark = [pytest.mark.usefixtures("models"), pytest.mark.untraced]
LINEAR: dict[str, Any] = {"aggregation": "ffa", "ranks": [4], "edge_rank": 4}
WIDE: dict[str, Any] = {"foundation": {"kind": "small", **TINY, "width": 128}, "ranks": [8], "edge_rank": 16}


def run(folder: Path | None = None, *, duration_s: float = 4.0, **changed: Any) -> dict[str, Any]:
    record = learn(learning_scenario(duration_s=duration_s, **changed), folder=folder).record
    assert record is not None
    found: dict[str, Any] = metrics.report(record)["knowledge"]
    return found


def lines(found: dict[str, Any]) -> str:
    return "\n".join([*found["lines"], *(line for notes in found["rounds"] for line in notes["lines"])])


@pytest.mark.parametrize(
    "changed", [WIDE, LINEAR, {"compression": {"update_bits": 32}}], ids=["whole", "change", "exact"]
)
def test_what_an_edge_learnt_reaches_the_cloud(monkeypatch: pytest.MonkeyPatch, changed: dict[str, Any]) -> None:
    sent: list[tuple[LowRank, LowRank, LowRank]] = []
    send = Tiers._sent

    def watched(self: Tiers, number: int, index: int, *rest: Any) -> Learnt:
        found = send(self, number, index, *rest)
        sent.append((self._cloud.base, self._edges[index].learnt, found.teacher))
        change = 2 * 4 * found.teacher.numbers  # of twice the rank, at 4 bits
        assert "compression" in changed or found.bit <= 1.05 * change + 20_000.0  # scales of blocks, texts
        return found

    monkeypatch.setattr(Tiers, "_sent", watched)
    run(**changed)
    assert len(sent) == 4
    for base, learnt, teacher in sent:
        off = aggregate.distance(teacher, learnt)
        if "compression" in changed:
            assert off <= 1e-12
        elif changed is LINEAR:
            assert 0.0 < off <= 0.3 * aggregate.distance(learnt, base)
        else:
            assert 0.0 < off <= 0.03 * aggregate.norm(learnt)


def test_an_update_that_is_late_never_counts_where_updates_are_private(monkeypatch: pytest.MonkeyPatch) -> None:
    counted: list[list[int]] = []
    gather = Protection.gather

    def watched(self: Protection, edge: int, start: Any, updates: Any, *rest: Any) -> Any:
        counted.append([update.number for update in updates])
        return gather(self, edge, start, updates, *rest)

    monkeypatch.setattr(Protection, "gather", watched)
    found = run(**LINEAR, deadline_s=0.1, privacy={"kind": "update"}, rounds=3, duration_s=8.0)
    assert len(counted) == 6  # two edges, three rounds, with noise alone where nothing counts
    assert all(numbers == [at // 2] * len(numbers) for at, numbers in enumerate(counted))
    assert "what it may cost was accounted for round 1, so it can't count now" in lines(found)
    assert [notes["figures"]["epsilon"] for notes in found["rounds"]][-1] == pytest.approx(8.0, rel=1e-3)


def test_private_updates_are_masked_too_where_that_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    sums: list[int] = []
    total = masked.total

    def watched(vectors: Any, masks: masked.Masks, size: int) -> masked.Total:
        sums.append(len(vectors))
        return total(vectors, masks, size)

    monkeypatch.setattr(masked, "total", watched)
    both = run(**LINEAR, secure=True, privacy={"kind": "update"})
    assert sums == [2, 2, 2, 2]
    for notes in both["rounds"]:
        assert sum(ask["uplink_bit"] for ask in notes["asks"]) == notes["uplink_bit"]
    assert both["rounds"][-1]["figures"]["epsilon"] > 0.0


def test_masked_updates_are_sent_as_the_network_was_told_and_nothing_is_split() -> None:
    (notes,) = run(**LINEAR, secure=True, rounds=1)["rounds"]
    assert notes["asks"]
    assert {ask["place"] for ask in notes["asks"]} == {"local"}
    assert sum(ask["uplink_bit"] for ask in notes["asks"]) == notes["uplink_bit"]


def test_who_splits_fetches_and_sends_the_adapter_of_its_own_layers() -> None:
    adapter_bit = []
    for way in ("always", "never"):
        (notes,) = run(split=way, rounds=1)["rounds"]
        header_bit = notes["uplink_bit"] - sum(ask["uplink_bit"] for ask in notes["asks"])
        assert header_bit == 200 * len(notes["arrived"]) > 0
        adapter_bit.append(
            {ask["downlink_bit"] - ask["uplink_bit"] for ask in notes["asks"]}
        )  # activations are as many
    ((split,), (local,)) = adapter_bit
    assert split == local / 2  # of two layers the edge has one


def test_factors_that_hardly_moved_are_not_sent_where_that_is_asked() -> None:
    every, moved = (run(compression={"update_change": least}, begins="shared") for least in (0.0, 0.5))
    assert [len(notes["arrived"]) for notes in moved["rounds"]] == [4, 4]
    assert moved["uplink_bit"] < 0.6 * every["uplink_bit"], "a, which was drawn at random, moves little"
    assert moved["rounds"][-1]["figures"]["cloud"]["all"] < moved["start"]["cloud"]["all"]


@pytest.mark.parametrize("arm", ["gainnet", "flat", "local"])
def test_what_private_examples_spend_is_reported_and_no_more_than_promised(arm: str, tmp_path: Path) -> None:
    found = run(tmp_path, arm=arm, privacy={"kind": "example"}, arriving=0.5, batch=2, rounds=2)
    first, last = (notes["figures"]["epsilon"] for notes in found["rounds"])
    assert 0.0 < first < last <= 8.0
    assert last > 7.5
    assert found["final"] != run(arm=arm, arriving=0.5, batch=2, rounds=2)["final"]


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"poison": {"edge": 1, "scale": 1e20}}, "treatment: what it sent was refused"),
        ({"poison": {"edge": 1, "scale": 1e20}, "robust": {"kind": "mean"}}, "treatment: what it sent was refused"),
        (
            {"poison": {"edge": 1, "scale": 1e8}, "compression": {"update_bits": 16}},
            "treatment: what it sent was refused",
        ),
        ({"poison": {"edge": 1, "scale": 1e6}, "robust": {"kind": "mean"}}, "cloud: what it rehearsed was left out"),
        ({"poison": {"edge": 1, "scale": 1e3}}, "treatment: suspected of poison"),
        ({"poison": {"edge": 1, "scale": 1e12}}, "treatment: what it sent was refused: its numbers are too large"),
        ({"robust": {"kind": "fltrust"}, "learning_rate": 1e4}, "end 3: update refused: training diverged"),
        ({"rehearsal": {"texts": 4, "learning_rate": 1e4}}, "cloud: what it rehearsed was left out"),
        ({"arm": "flat", "learning_rate": 1e4}, "end 3: update refused: training diverged"),
        ({"arm": "local", "learning_rate": 1e4}, "end 3: what it learnt was left out: training diverged"),
        ({"arm": "central", "learning_rate": 1e4}, "cloud: what it learnt was left out: training diverged"),
    ],
    ids=[
        "judged", "mean", "16 bits", "rehearsed", "suspected", "overflow", "trusted", "rehearsal", "flat", "local", "central",
    ],
)  # fmt: skip
def test_what_explodes_is_left_out_and_the_run_goes_on(changed: dict[str, Any], said: str) -> None:
    found = run(**changed)
    assert len(found["rounds"]) == 2
    assert np.isfinite(found["final"]["perplexity"])
    told = [any(line.startswith(said) for line in notes["lines"]) for notes in found["rounds"]]
    # Whether a rehearsal after so large a mean explodes in the first round too is a matter of last bits.
    assert all(told) or (told[-1] and "poison" in changed and said.startswith("cloud: what it rehearsed"))


def test_nobody_is_suspected_where_nobody_is_hostile() -> None:
    for begins in ("own", "shared"):
        found = run(begins=begins, rounds=3, duration_s=6.0)
        assert [notes["figures"]["suspected"] for notes in found["rounds"]] == [[], [], []]


def test_an_end_that_holds_nothing_yet_waits() -> None:
    found = run(arm="local", arriving=1.0, rounds=3, duration_s=6.0)
    assert len(found["rounds"]) == 2  # in round 0 nobody holds anything


def test_a_late_update_is_learnt_from_a_round_later_or_said_to_be_of_no_use() -> None:
    found = run(**LINEAR, deadline_s=0.1, rounds=3, duration_s=8.0)
    assert any(notes["late"] for notes in found["rounds"])
    assert "came 1 late and counts half" in lines(found)
    everybody = [(notes["number"], ask["end"]) for notes in found["rounds"] for ask in notes["asks"]]
    told = [
        (notes["number"], ask["end"])
        for notes in found["rounds"]
        for ask in notes["asks"]
        if any(line.startswith(f"end {ask['end']}: ") for line in notes["lines"])
    ]
    arrived = [(notes["number"], end) for notes in found["rounds"] for end in notes["arrived"]]
    assert sorted({*told, *arrived}) == sorted(everybody)
    shorter = run(**LINEAR, deadline_s=0.1, rounds=2, duration_s=8.0)
    assert "its update for round 1 came after the last round" in "\n".join(shorter["lines"])


def test_a_round_in_which_nobody_can_take_part_says_why() -> None:
    found = run(memory_byte=[1.0], split="never")
    assert found["rounds"] == []
    assert [notes["number"] for notes in found["idle"]] == [0, 1]
    for notes in found["idle"]:
        assert len(notes["lines"]) == 4
        assert all("does not take part" in line for line in notes["lines"])


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"arm": "flat", "privacy": {"kind": "update"}, **LINEAR}, "privacy.kind: update is for arm gainnet, not flat"),
        ({"arm": "local", "secure": True, **LINEAR}, "secure is for arm gainnet"),
        ({"arm": "flat", "starts": "drift"}, "starts: drift is for arm gainnet"),
        ({"split": "always", "secure": True, **LINEAR}, "split: always shows edges"),
        ({"split": "always", "privacy": {"kind": "example"}}, "split: always shows edges"),
        ({"arm": "central", "privacy": {"kind": "example"}}, "of arm central none does"),
    ],
)
def test_what_an_arm_would_not_do_is_refused(changed: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        learning_scenario(**changed)


def test_a_rise_of_loss_on_what_was_learnt_starts_a_round() -> None:
    config = learning_scenario(
        starts="drift", arriving=0.0, data={"kind": "synthetic", "train": 60, "held": 24, "public": 60}
    )
    assert config.knowledge is not None
    found = settings.build(config.knowledge, 0, np.array([0, 0, 1, 1]), 2, lambda *_: None)
    tuned = found.tuner.tune(
        found.tuner.adapters.fresh(4, np.random.default_rng(0)), [text for shard in found.shards for text in shard],
        epochs=6, batch=4, learning_rate=1e-2, rng=np.random.default_rng(0),
    )  # fmt: skip
    edge = Edge(found, Algebra("flexlora", 4), 0, tuned.adapter)
    assert edge.due(0)
    edge.restore(edge.weights() | {"known0": np.array([len(shard) for shard in found.shards])})
    assert not edge.due(1)
    drawn = np.random.default_rng(1).integers(3, 300, (20, 30))
    strange = tuple(Encoded(token, 10) for token in drawn)
    shards = tuple(strange[: len(shard)] for shard in found.shards)
    other = Edge(replace(found, shards=shards), Algebra("flexlora", 4), 0, tuned.adapter)
    other.restore(other.weights() | {"known0": np.array([len(shard) for shard in shards])})
    assert other.due(1)


def test_a_private_clip_that_rounding_would_drown_is_said() -> None:
    found = run(**LINEAR, secure=True, privacy={"kind": "update", "clip": 1e-9}, rounds=1)
    assert "rounding may move" in lines(found)


def test_an_end_that_changes_cell_in_mid_round_counts_once_at_its_own_edge(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = learning_scenario(rounds=3, duration_s=6.0)
    moving = {"kind": "waypoint", "speed_min_m_per_s": 150.0, "speed_max_m_per_s": 200.0, "pause_max_s": 0.0}
    network = plain.network.model_copy(update={"mobility": type(plain.network.mobility).model_validate(moving)})
    scenario = plain.model_copy(update={"network": network})
    joined: list[tuple[int, int]] = []
    gather = Edge.gather

    def watched(self: Edge, number: int, *rest: Any) -> Gathering:
        found = gather(self, number, *rest)
        joined.extend((number, update.end) for update in found.updates)
        return found

    monkeypatch.setattr(Edge, "gather", watched)
    loop, recorder = Loop(scenario, None, lambda *_: None, resume=False), Recorder(scenario)
    changed: set[tuple[int, int]] = set()
    for frame in range(scenario.frames):
        begun = loop._open
        loop.step(frame, recorder)
        if begun is not None:
            assert loop.run._seen is not None
            changed |= {(begun.number, int(end)) for end in np.flatnonzero(loop.run._seen.handover)}
    found = loop.report(final=False)
    arrived = [(notes["number"], end) for notes in found["rounds"] for end in notes["arrived"]]
    late = [tuple(pair) for notes in found["rounds"] for pair in notes["late"]]
    assert changed & {*arrived, *late}
    assert len(joined) == len(arrived) + len(late)
    assert len(set(arrived)) == len(arrived)
