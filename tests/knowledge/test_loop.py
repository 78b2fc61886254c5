"""The loop in the network: rounds are tasks, what is learnt repeats, and a killed run goes on as if it had not been."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from gainnet.errors import InputError
from gainnet.knowledge import journal
from gainnet.knowledge.loop import learn
from gainnet.knowledge.registry import Registry
from gainnet.measurement import metrics, results
from gainnet.scenario.scenario import Scenario
from learning import learning_scenario, untaught

pytestmark = pytest.mark.usefixtures("models")
FORK = multiprocessing.get_context("fork")


def report(scenario: Scenario, **options: Any) -> dict[str, Any]:
    record = learn(scenario, **options).record
    assert record is not None
    found = metrics.report(record)
    return {key: value for key, value in found.items() if key not in ("wall_s", "orchestration")}


@pytest.fixture(scope="module")
def whole(models: None, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path]:
    """The report of a run that nobody killed, and its folder."""
    folder = tmp_path_factory.mktemp("whole")
    return report(learning_scenario(), folder=folder), folder


def weights(folder: Path) -> dict[str, np.ndarray]:
    last = sorted((folder / "rounds").glob("*.safetensors"))[-1]
    return load_file(last)


@pytest.mark.untraced
def test_rounds_are_tasks_and_what_arrives_is_learnt(whole: tuple[dict[str, Any], Path]) -> None:
    found = whole[0]
    knowledge = found["knowledge"]
    assert [notes["number"] for notes in knowledge["rounds"]] == [0, 1]
    for notes in knowledge["rounds"]:
        assert len(notes["arrived"]) == 4
        assert notes["close_s"] <= notes["start_s"] + 1.5 + 1e-9
        assert set(notes["quality"]) == {"end", "edge", "cloud"}
        assert notes["uplink_bit"] > 0.0
        assert len(notes["figures"]["gone"]) == 2
        assert all(reach in (0.0, 0.5, 1.0, 2.0) for reach in notes["figures"]["gone"].values())
    assert found["services"]["learning"]["tasks"]["served"] == 8
    assert knowledge["final"]["notes"] == 2
    edges = knowledge["rounds"][1]["figures"]["edges"]
    assert all(edges[name]["own"] < knowledge["start"]["cloud"]["all"] for name in edges)


@pytest.mark.untraced
def test_each_tier_is_measured_by_domain_from_before_the_first_round_on(whole: tuple[dict[str, Any], Path]) -> None:
    knowledge = whole[0]["knowledge"]
    names, start = set(knowledge["domains"]), knowledge["start"]
    for tier in ("ends", "edges"):
        assert start[tier].keys() == names
        assert all(scores.keys() == {"own", "other", "public"} for scores in start[tier].values())
    for name in names:  # an edge begins with an adapter that changes nothing
        assert start["edges"][name]["own"] == pytest.approx(start["cloud"]["domain"][name])
    for notes in knowledge["rounds"]:
        for step in ("before", "merged", "cloud"):
            found = notes["figures"][step]
            assert found["domain"].keys() == names
            assert np.exp(np.mean(np.log(list(found["domain"].values())))) == pytest.approx(found["all"])


@pytest.mark.parametrize("kind", ["gainnet", "flat", "local", "central"])
def test_what_was_measured_is_not_measured_again_to_begin(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    arm = untaught(kind)
    arm.scores(None)
    monkeypatch.setattr(arm, "quality", dict)
    monkeypatch.setattr(arm.setting.tuner, "losses", None)
    assert arm.start()["edges"].keys() == {domain.name for domain in arm.setting.corpus.domains}


@pytest.mark.slow
@pytest.mark.untraced
def test_another_seed_learns_something_else(whole: tuple[dict[str, Any], Path]) -> None:
    other = report(learning_scenario(seed=1))
    assert other["knowledge"]["final"] != whole[0]["knowledge"]["final"]


def test_the_ends_quality_is_what_their_card_says_from_the_next_frame_on(whole: tuple[dict[str, Any], Path]) -> None:
    knowledge = whole[0]["knowledge"]
    assert 0.0 <= knowledge["rounds"][0]["quality"]["end"] <= 1.0
    assert [period["requests"] > 0 for period in knowledge["periods"]] == [True, True]


def _run_until(folder: Path, marker: str, count: int, changed: dict[str, Any]) -> None:
    """In a process of its own: run, and be killed as soon as the progress says ``marker`` for the count-th time."""
    seen = 0

    def progress(what: str, _done: int, _total: int) -> None:
        nonlocal seen
        seen += marker in what
        if seen == count:
            os.kill(os.getpid(), signal.SIGKILL)

    learn(learning_scenario(**changed), folder=folder, progress=progress)


def _killed(folder: Path, marker: str, count: int, changed: dict[str, Any]) -> None:
    child = FORK.Process(target=_run_until, args=(folder, marker, count, changed))
    child.start()
    child.join(120)
    assert child.exitcode == -signal.SIGKILL


def _goes_on_as(whole: tuple[dict[str, Any], Path], folder: Path, changed: dict[str, Any]) -> None:
    """Resume what was killed: the report and the weights are, to the bit, those of a run that nobody killed."""
    resumed = report(learning_scenario(**changed), folder=folder, resume=True)
    assert json.dumps(resumed, sort_keys=True) == json.dumps(whole[0], sort_keys=True)
    first, second = weights(whole[1]), weights(folder)
    assert first.keys() == second.keys()
    assert all(np.array_equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize(
    ("marker", "count"),
    [("round 0: learning", 3), ("round 1: joining", 1), ("writing notes", 1)],
    ids=["in the first round", "while the second is joined", "while notes are scored"],
)
@pytest.mark.untraced
def test_a_killed_run_goes_on_to_the_same_weights_bit_for_bit(
    whole: tuple[dict[str, Any], Path], tmp_path: Path, marker: str, count: int
) -> None:
    _killed(tmp_path, marker, count, {})
    _goes_on_as(whole, tmp_path, {})
    first, second = (path / "registry" / "foundation" / "versions.json" for path in (whole[1], tmp_path))
    assert first.read_text() == second.read_text()


@pytest.mark.untraced
def test_what_the_first_round_begins_from_is_the_first_version(whole: tuple[dict[str, Any], Path]) -> None:
    registry = Registry(whole[1] / "registry")
    first, *learnt = registry.versions("foundation")
    assert (first.status, first.origin.round, first.origin.parents, first.origin.contributors) == (
        "promoted", -1, (), (),
    )  # fmt: skip
    assert registry.champion("foundation", before=0) == first
    assert (first.folder / "adapter_model.safetensors").exists()
    assert all(version.origin.round >= 0 and version.origin.contributors for version in learnt)
    for version in learnt:
        champion = registry.champion("foundation", before=version.origin.round)
        assert champion is not None
        assert version.origin.parents == (champion.digest,)


@pytest.mark.untraced
def test_a_killed_run_that_begins_from_what_is_shared_does_too(tmp_path: Path) -> None:
    changed = {
        "begins": "shared",
        "gate": {"memory_byte": 1.0},
    }  # nothing is promoted, and it is learnt from all the same
    whole = report(learning_scenario(**changed), folder=tmp_path / "whole")
    _killed(tmp_path / "killed", "round 1: joining", 1, changed)
    _goes_on_as((whole, tmp_path / "whole"), tmp_path / "killed", changed)
    first = weights(tmp_path / "whole")
    champion, base = (
        [value for name, value in first.items() if name.startswith(f"{kind}|")] for kind in ("cloud", "cloud.base")
    )
    assert len(champion) == len(base) > 0
    assert not all(np.array_equal(one, other) for one, other in zip(champion, base, strict=True))
    begun, *learnt = Registry(tmp_path / "whole" / "registry").versions("foundation")
    after_first = load_file(tmp_path / "whole" / "rounds" / "round-0001.safetensors")
    shared = journal.unpacked("cloud.base", after_first, begun.origin.base).digest()
    assert shared != begun.digest
    assert {version.origin.parents for version in learnt if version.origin.round == 0} == {(begun.digest,)}
    assert {version.origin.parents for version in learnt if version.origin.round == 1} == {(shared,)}


@pytest.mark.parametrize(("marker", "count"), [("simulating", 30), ("writing notes", 1)], ids=["at 3 s", "at the end"])
@pytest.mark.parametrize(
    "changed",
    [
        *({"arm": arm} for arm in ("flat", "local", "central")),
        {"arm": "flat", "loss": 0.5, "deadline_s": 0.3},
        {"aggregation": "ffa", "ranks": [4], "edge_rank": 4, "privacy": {"kind": "update", "epsilon": 8.0}},
    ],
    ids=["flat", "local", "central", "flat, losing some", "private"],
)
@pytest.mark.untraced
def test_any_other_killed_run_does_too(tmp_path: Path, changed: dict[str, Any], marker: str, count: int) -> None:
    whole = report(learning_scenario(**changed), folder=tmp_path / "whole")
    _killed(tmp_path / "killed", marker, count, changed)
    _goes_on_as((whole, tmp_path / "whole"), tmp_path / "killed", changed)


@pytest.mark.untraced
def test_a_round_begins_from_the_best_of_what_the_one_before_made() -> None:
    changed = {"begins": "shared", "rehearsal": {"texts": 8, "learning_rate": 0.01}}
    first, second = (n["figures"] for n in report(learning_scenario(**changed))["knowledge"]["rounds"])
    assert first["base"]["all"] < first["merged"]["all"]  # public text gone over made it better
    assert second["base"] == second["merged"]  # and then worse


def test_a_journal_of_another_run_is_refused(whole: tuple[dict[str, Any], Path]) -> None:
    with pytest.raises(InputError, match="of another scenario, model or data"):
        learn(learning_scenario(seed=5), folder=whole[1], resume=True)


@pytest.mark.parametrize(
    "arm", [*(pytest.param(arm, marks=pytest.mark.untraced) for arm in ("flat", "local")), "central"]
)
def test_the_other_arms_run_learn_and_are_reported(arm: str, tmp_path: Path) -> None:
    record = learn(learning_scenario(arm=arm)).record
    assert record is not None
    found = results.write(tmp_path, record, "gainnet run")["knowledge"]
    assert "Knowledge" in (tmp_path / "report.html").read_text("utf-8")
    assert len(found["rounds"]) == 2
    assert np.isfinite(found["final"]["perplexity"])
    assert (found["uplink_bit"] > 0.0) == (arm != "local")


@pytest.mark.untraced
def test_a_loop_that_is_open_learns_nothing(whole: tuple[dict[str, Any], Path]) -> None:
    found = report(learning_scenario(closed=False))
    assert found["knowledge"]["rounds"] == []
    assert found["services"]["learning"]["tasks"]["arrived"] == 0


@pytest.mark.parametrize(
    "changed",
    [
        {"aggregation": "ffa", "ranks": [4], "secure": True},
        {"aggregation": "ffa", "ranks": [4], "privacy": {"kind": "update", "epsilon": 8.0}},
        {"privacy": {"kind": "example", "epsilon": 8.0, "delta": 0.01}, "ranks": [4]},
        {"aggregation": "flora"},
        {"aggregation": "fedit", "ranks": [4]},
        {"split": "always"},
        {"begins": "shared", "robust": {"kind": "fltrust"}},
        {"ranks": [1, 2, 4], "loss": 0.3, "robust": {"kind": "krum"}, "poison": {"edge": 0}},
        {"starts": "drift", "arriving": 0.5, "participation": 0.5},
        {"renamed": 0.6, "prompt_weight": 0.3, "arriving": 0.5, "writing": {"way": "best", "samples": 2}},
    ],
    ids=[
        "secure",
        "private updates",
        "private examples",
        "flora",
        "fedit",
        "split",
        "shared",
        "trouble",
        "drift",
        "renamed",
    ],
)
def test_every_way_to_learn_runs_and_reports(changed: dict[str, Any]) -> None:
    found = report(learning_scenario(**changed))["knowledge"]
    assert found["rounds"]
    for notes in found["rounds"]:
        assert np.isfinite(notes["figures"]["cloud"]["all"])
    assert np.isfinite(found["final"]["perplexity"])
    ways = set(found["final"]["ways"].values())
    assert ways <= ({"consensus", "extract"} if "writing" in changed else {"greedy"})


def test_a_candidate_beyond_its_limits_is_kept_and_marked_and_the_champion_stays(tmp_path: Path) -> None:
    found = report(learning_scenario(gate={"memory_byte": 1.0, "latency_s": 60.0}), folder=tmp_path)["knowledge"]
    for notes in found["rounds"]:
        for key in ("all", "public", "domain"):
            assert notes["figures"]["cloud"][key] == pytest.approx(found["start"]["cloud"][key])
        assert any("candidate refused, the champion stays: memory" in line for line in notes["lines"])
    first, *refused = Registry(tmp_path / "registry").versions("foundation")
    assert first.status == "promoted"
    assert {version.status for version in refused} == {"rejected"}
    assert all(any("memory" in reason for reason in version.reasons) for version in refused)


@pytest.mark.untraced
def test_a_poisoned_edge_is_named_and_left_out() -> None:
    found = report(learning_scenario(poison={"edge": 1, "scale": 5.0}))["knowledge"]
    last = found["rounds"][-1]["figures"]
    assert last["suspected"] == [found["domains"][1]]
    assert last["weights"][found["domains"][1]] == 0.0
