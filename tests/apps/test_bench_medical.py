"""The arithmetic of `gainnet bench medical`: what it makes of its runs' reports, and which runs it makes anew."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from gainnet.apps import bench
from gainnet.errors import GainnetError, InputError

PERPLEXITY = {"local": 9.0, "flat": 6.0, "gainnet": 4.0, "central": 5.0}


@pytest.fixture
def medical() -> ModuleType:
    return bench._module(bench.FOLDER / "medical.py")


def round_(known: float, *, uplink: float, start: float, end: float = 0.0, **figures: Any) -> dict[str, Any]:
    return {
        "figures": {"cloud": {"all": known, "public": known}, **figures},
        "uplink_bit": uplink,
        "energy_j": 2.0 * uplink,
        "start_s": start,
        "close_s": start + 5.0,
        "quality": {"end": end},
    }


def report(rounds: Sequence[dict[str, Any]], perplexity: float, **more: Any) -> dict[str, Any]:
    scores: dict[str, float | None] = {"perplexity": perplexity}
    for name in ("rouge1", "rouge2", "rougeL"):
        scores |= {f"{name}{of}": 1.0 / perplexity for of in ("", "_greedy", "_copy")} | {f"{name}_distinct": None}
    periods = [{"satisfaction": 0.1, "share_on_ends": None}, {"satisfaction": 0.5, "share_on_ends": 0.25}]
    loop: dict[str, Any] = {
        "domains": ["a", "b", "c", "d"],
        "final": scores,
        "rounds": list(rounds),
        "start": {"cloud": {"public": 10.0}, "quality": {"end": 0.25}},
        "periods": periods,
        "services_satisfaction": 0.5,
        "complete": True,
    }
    loop |= {name: sum(r[name] for r in rounds) for name in ("uplink_bit", "energy_j")}
    return {"knowledge": loop | {"time_s": 5.0 * len(rounds)} | more}


def made_up(part: Any) -> dict[str, Any]:
    """The report of a run that was not made; a higher seed is worse."""
    if "knowledge.closed=false" in part.changes:
        still = report([round_(10.0, uplink=1.0, start=0.0, end=0.25)], 9.0)
        still["knowledge"]["periods"][1] = {"satisfaction": 0.2, "share_on_ends": None}
        return still
    if "demand.services.learning.placement=nearest" in part.changes:
        return report([round_(9.0, uplink=1.0, start=0.0)], 9.0, services_satisfaction=0.25)
    if "knowledge.poison={edge: 2, scale: 5.0}" in part.changes:
        named: list[list[str]] = [["c"], ["c", "a"], [], ["c"]]
        return report([round_(6.0, uplink=1.0, start=0.0, suspected=who) for who in named], 6.0 + part.seed)
    if "knowledge.privacy={kind: update, epsilon: 8.0}" in part.changes:
        return report([round_(6.0, uplink=1.0, start=0.0)], 12.0)
    arm = next((change.removeprefix("knowledge.arm=") for change in part.changes if "arm=" in change), None)
    if arm == "gainnet":
        edges = [{"x": {"own": 16.0}, "y": {"own": 4.0}}, {"x": {"own": 9.0}, "y": {"own": 4.0}}]  # 8, then 6
        rounds = [
            round_(99.0, uplink=3.0, start=0.0, edges=edges[0]),
            round_(99.0, uplink=2.0, start=10.0, edges=edges[1]),
        ]
        rounds.append(round_(11.0, uplink=95.0, start=20.0, end=0.5, edges=edges[0]))
        return report(rounds, PERPLEXITY[arm] + part.seed)
    rounds = [round_(8.0, uplink=30.0, start=0.0), round_(6.0, uplink=20.0, start=10.0)]
    return report(rounds, PERPLEXITY[arm or "flat"] + part.seed)


def test_figures(medical: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    monkeypatch.setattr(medical, "_run", lambda part, _folder: (seen.append(part), made_up(part))[1])
    found = medical.figures()
    assert len(seen) == len({part.name for part in seen}) == 33
    assert found["made.gainnet.perplexity"] == pytest.approx(5.0)
    # Ratios are of the same seed: 4/5, 5/6, 6/7.
    assert found["made.gainnet_to_central.perplexity"] == pytest.approx((4 / 5 + 5 / 6 + 6 / 7) / 3)
    assert found["made.gainnet_to_flat.rouge1"] == pytest.approx((6 / 4 + 7 / 5 + 8 / 6) / 3)
    assert "made.gainnet_to_flat.distinct.rouge1" not in found
    # As good as flat's last round (6) after its second, by the geometric mean of what each edge's domain has.
    assert found["made.uplink_to_reach_flat"] == pytest.approx(5.0 / 50.0)
    assert found["made.time_to_reach_flat"] == pytest.approx(10.0 / 10.0)
    assert found["made.energy_to_reach_flat"] == pytest.approx(10.0 / 100.0)
    assert found["made.uplink_gainnet_to_flat"] == pytest.approx(100.0 / 50.0)
    assert found["trouble.named"] == pytest.approx(0.5)
    assert found["trouble.perplexity_ratio"] == pytest.approx((6 / 6 + 7 / 7 + 8 / 8) / 3)
    assert found["private.perplexity_ratio"] == pytest.approx((12 / 6 + 12 / 7 + 12 / 8) / 3)
    assert found["loop.quality"] == pytest.approx(0.25)
    assert found["loop.satisfaction"] == pytest.approx(0.3)
    assert found["loop.share_on_ends"] == pytest.approx(0.25)
    assert found["loop.public_ratio"] == pytest.approx(1.1)
    assert found["placed.services"] == pytest.approx(0.25)
    assert found["made.gainnet.perplexity.ci95"] == pytest.approx(4.303 / 3**0.5, rel=1e-3)


def test_a_goal_that_is_never_reached_has_no_figure(medical: ModuleType) -> None:
    far = report([round_(9.0, uplink=1.0, start=0.0)], 9.0)
    near = report([round_(6.0, uplink=4.0, start=0.0)], 6.0)
    found: dict[str, float] = {}
    medical._reach(found, "", [near, far], [near, near])
    assert set(found) == {"uplink_gainnet_to_flat", "uplink_gainnet_to_flat.ci95"}


def test_what_is_kept_is_not_run_again(medical: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked: list[list[str]] = []

    def run(command: list[str], **_more: Any) -> subprocess.CompletedProcess[str]:
        asked.append(command[4:])
        if "--resume" in command:
            return subprocess.CompletedProcess(command, 1, "", "gainnet: no space left")
        return subprocess.CompletedProcess(command, 0, json.dumps({"new": True}), "")

    monkeypatch.setattr(medical.subprocess, "run", run)
    part = medical.Part(2, ("knowledge.rounds=3",))
    folder = tmp_path / part.name
    assert medical._run(part, tmp_path) == {"new": True}
    assert asked.pop() == ["medical", "--out", str(folder), "--seed", "2", "--set", "knowledge.rounds=3", "--json"]
    (folder / "rounds").mkdir(parents=True)
    (folder / "rounds" / "round-0000.json").write_text("{}")
    (folder / "report.json").write_text('{"knowledge": {"complete": false}}')
    with pytest.raises(GainnetError, match=f"{part.name} ended with 1: gainnet: no space left"):
        medical._run(part, tmp_path)
    assert asked.pop() == ["medical", "--resume", str(folder), "--json"]
    (folder / "report.json").write_text('{"knowledge": {"complete": true}}')
    assert medical._run(part, tmp_path) == {"knowledge": {"complete": True}}
    assert not asked
    assert part.name != medical.Part(2, ("knowledge.rounds=4",)).name


def test_a_model_needs_data(medical: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--model: is used on recorded dialogues: give --data too"):
        medical.figures(model=tmp_path)
    with pytest.raises(InputError, match="holds no folder mts_dialog"):
        medical.figures(data=tmp_path)
