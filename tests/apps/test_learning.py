"""Runs that learn, from the command line: the folder, going on, arms side by side, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gainnet.apps import cli
from gainnet.knowledge import publish as publishing
from gainnet.knowledge.registry import Registry
from gainnet.scenario.load import dump
from learning import learning_scenario

pytestmark = pytest.mark.usefixtures("models")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.yaml").write_text(dump(learning_scenario()))
    return tmp_path


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as end:
        cli.main(arguments)
    assert isinstance(end.value.code, int)
    return end.value.code


@pytest.mark.slow
def test_a_run_that_learns_writes_what_it_learnt_and_goes_on(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("run", "tiny.yaml", "--set", "seed=1", "--out", "learnt") == 0
    assert "satisfaction" in capsys.readouterr().out
    page = (folder / "learnt" / "report.html").read_text()
    for part in ("What the models know", "Closed loop", "Contribution", "On 2 test notes"):
        assert part in page
    found = json.loads((folder / "learnt" / "report.json").read_text())["knowledge"]
    assert len(found["rounds"]) == 2
    versions = json.loads((folder / "learnt" / "registry" / "foundation" / "versions.json").read_text())
    assert len(versions["versions"]) >= 3
    assert run("run", "tiny", "--resume", "learnt") == 0
    assert json.loads((folder / "learnt" / "report.json").read_text())["knowledge"] == found
    again = json.loads((folder / "learnt" / "registry" / "foundation" / "versions.json").read_text())
    assert again == versions
    machine = json.loads((folder / "learnt" / "environment.json").read_text())
    assert machine["command"] == "gainnet run tiny.yaml --set seed=1 --out learnt", "what makes it again"
    capsys.readouterr()
    assert run("run", "tiny.yaml", "--out", "learnt") == 2
    assert "holds rounds of a run that learns: go on with --resume learnt" in capsys.readouterr().err
    assert json.loads((folder / "learnt" / "report.json").read_text())["knowledge"] == found


@pytest.mark.slow
def test_what_was_learnt_is_kept_where_publishing_fails_and_published_later(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("mlflow", reason="needs the extra learn")

    def fail(*_: object) -> None:
        raise OSError("went away")

    with monkeypatch.context() as patch:
        patch.setattr(publishing, "_publish", fail)
        assert run("run", "tiny.yaml", "--set", "knowledge.registry=first", "--out", "learnt", "--json") == 2
    out, err = capsys.readouterr()
    later = "gainnet run tiny --resume learnt --set knowledge.registry=first"
    assert err == f"gainnet: registry first: went away: all results are in learnt, publish later: {later}\n"
    found = json.loads(out)["knowledge"]
    assert json.loads((folder / "learnt" / "report.json").read_text())["knowledge"] == found
    versions = Registry(folder / "learnt" / "registry").versions("foundation")
    for registry in ("first", "second"):
        assert run("run", "tiny", "--resume", "learnt", "--set", f"knowledge.registry={registry}") == 0
        client = publishing._client(registry)
        there = client.search_model_versions("name='foundation'")
        assert {version.tags["digest"] for version in there} == {version.digest for version in versions}
    assert json.loads((folder / "learnt" / "report.json").read_text())["knowledge"] == found


@pytest.mark.parametrize("registry", ["http://127.0.0.1:9", "foo://bar"])
def test_a_registry_that_is_not_there_costs_no_run(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, registry: str
) -> None:
    pytest.importorskip("mlflow", reason="needs the extra learn")

    def learn(*_: object, **__: object) -> None:
        raise AssertionError("the address was not tried before")

    monkeypatch.setattr("gainnet.knowledge.loop.learn", learn)
    before = folder / "before"
    (before / "rounds").mkdir(parents=True)
    (before / "rounds" / "round-0000.json").write_text("{}")
    for out in ("before", "new"):
        assert run("run", "tiny.yaml", "--set", f"knowledge.registry={registry}", "--out", out) == 2
        err = capsys.readouterr().err
        assert err.startswith(f'gainnet: knowledge.registry = "{registry}": must be http(s)://HOST:PORT')
        assert err.count("\n") == 1
    assert (before / "rounds" / "round-0000.json").exists()
    assert not (folder / "new").exists()


@pytest.mark.slow
def test_arms_are_compared(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    chosen = ("compare", "tiny.yaml", "--arms", "local,flat", "--seeds", "1", "--workers", "1", "--out", "arms")
    assert run(*chosen) == 0
    out = capsys.readouterr().out
    assert "ROUGE-1" in out
    rows = json.loads((folder / "arms" / "compare.json").read_text())["rows"]
    assert [row["arm"] for row in rows] == ["local", "flat"]
    assert rows[0]["metrics"]["learning_uplink_bit"]["mean"]["mean"] == 0.0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("run", "tiny", "--resume", "nowhere"), "holds no run that learns"),
        (("run", "tiny", "--resume", "nowhere", "--seed", "3"), "goes on as it was begun"),
        (("run", "tiny", "--resume", "nowhere", "--overwrite"), "goes on as it was begun"),
        (("run", "tiny", "--resume", "nowhere", "--set", "seed=3"), "--set may give another knowledge.registry only"),
        (("run", "tiny", "--resume", "nowhere", "--set", "knowledge.registry=x"), "holds no run that learns"),
        (("compare", "campus", "--arms", "flat"), "campus has no knowledge loop"),
        (("compare", "campus"), "give at least one, like greedy,price, or --arms"),
        (
            ("compare", "tiny.yaml", "--arms", "flat,local", "--matchers", "price,greedy"),
            "give one at most beside --arms",
        ),
        (("compare", "tiny.yaml", "--arms", "none"), 'knowledge.arm = "none": must be one of gainnet'),
        (
            ("run", "tiny.yaml", "--set", "knowledge.foundation={kind: pretrained, name: .}"),
            "holds no safetensors file",
        ),
        (("run", "tiny.yaml", "--set", "knowledge.data={kind: recorded, path: no.csv}"), "no.csv does not exist"),
    ],
)
def test_what_cannot_be_is_one_line(
    folder: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], said: str
) -> None:
    assert run(*arguments) == 2
    err = capsys.readouterr().err
    assert said in err
    assert err.count("\n") == 1
    assert folder.exists()


def test_a_run_that_cannot_begin_leaves_an_earlier_one_as_it_was(folder: Path) -> None:
    earlier = folder / "learnt"
    (earlier / "rounds").mkdir(parents=True)
    (earlier / "rounds" / "round-0000.json").write_text("{}")
    (earlier / "scenario.yaml").write_text("kept")
    (earlier / "rounds" / "round-0001.json").write_text("{}")
    for change in (
        "knowledge.data={kind: recorded, path: no.csv}",
        "knowledge.device=cuda:77",
        "knowledge.foundation={kind: pretrained, name: .}",
    ):
        assert run("run", "tiny.yaml", "--out", "learnt", "--overwrite", "--set", change) == 2
        assert (earlier / "rounds" / "round-0000.json").read_text() == "{}"
        assert (earlier / "scenario.yaml").read_text() == "kept"
