"""Scenario files, built-ins and overrides: what is accepted, and one line for what is not."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from gainnet.errors import ScenarioError
from gainnet.scenario import document
from gainnet.scenario.demand import TraceArrivals
from gainnet.scenario.hardware import BASE_STATIONS, HARDWARE
from gainnet.scenario.home import expanded
from gainnet.scenario.knowledge import Pretrained, Recorded
from gainnet.scenario.load import builtin, change, dump, load, names, presets, schema
from gainnet.scenario.models import MODELS
from gainnet.scenario.scenario import Scenario

MINIMAL = """
name: tiny
network:
  topology: {kind: hexagonal, sites: 1}
  mobility: waypoint
  ends: 2
  end: {hardware: phone-soc}
  edge: {hardware: edge-accelerator}
  cloud: {hardware: cloud-accelerator}
demand:
  services:
    chat:
      kind: text
      arrivals: {kind: poisson, rate_per_end_per_s: 0.1}
      models: [llama-3.2-3b]
      deadline_s: 3
      quality_min: {kind: constant, value: 0.5}
      prompt_token: {kind: constant, value: 100}
      output_token: {kind: constant, value: 20}
"""


def _file(folder: Path, text: str) -> str:
    path = folder / "scenario.yaml"
    path.write_text(text, "utf-8")
    return str(path)


def _refused(name: str, *overrides: str, **top: Any) -> str:
    with pytest.raises(ScenarioError) as caught:
        load(name, overrides, **top)
    message = str(caught.value)
    assert "\n" not in message
    assert message
    return message


def test_builtins_are_there() -> None:
    assert names() == ("campus", "lab", "medical", "vehicular", "vehicular-dense")
    assert load("vehicular").network.ends == 200
    assert load("vehicular-dense").network.ends == 1000
    assert load("vehicular-dense").network.cells == load("vehicular").network.cells == 13


@pytest.mark.parametrize("name", names())
@pytest.mark.untraced
def test_dump_loads_to_an_equal_scenario(name: str, tmp_path: Path) -> None:
    scenario = load(name, ["execution.faults.0={kind: edge_down, edge: 1, begin_s: 1, end_s: 2}"], seed=7)
    assert load(_file(tmp_path, dump(scenario))) == scenario


@settings(max_examples=50, deadline=None)
@given(st.text(max_size=40))
@pytest.mark.untraced
def test_any_name_survives_the_round_trip(name: str) -> None:
    scenario = load("campus")
    try:
        scenario = change(scenario, name=name)
    except ScenarioError:
        return
    tree = dump(scenario)
    with tempfile.TemporaryDirectory() as folder:
        assert load(_file(Path(folder), tree)).name == name


@pytest.mark.parametrize("name", ["1e9", "1_000e3", "yes", "null", "0x1f", ".inf", "2024-01-01", "12:30:00", "~", ""])
@pytest.mark.untraced
def test_text_that_looks_like_a_value_stays_text(name: str, tmp_path: Path) -> None:
    scenario = change(load("campus"), name=name)
    assert load(_file(tmp_path, dump(scenario))).name == name


@given(st.floats(allow_nan=False))
@settings(max_examples=200, deadline=None)
def test_numbers_survive_the_round_trip_here_and_in_yaml_1_1(value: float) -> None:
    text = document.write({"value": value})
    assert document.read(text, "here") == yaml.safe_load(text) == {"value": value}


def test_large_numbers_are_written_as_people_do() -> None:
    assert (
        document.write([17e12, -3e9, 99_999.5, 0.25, 1_000_000])
        == "- 1.7e+13\n- -3.0e+9\n- 99999.5\n- 0.25\n- 1000000\n"
    )


@pytest.mark.parametrize("name", names())
def test_a_built_in_file_is_one_to_begin_with(name: str, tmp_path: Path) -> None:
    assert load(_file(tmp_path, builtin(name))) == load(name)


def test_an_unknown_built_in_name_is_refused() -> None:
    with pytest.raises(
        ScenarioError, match=r"unknown scenario 'campsu': one of campus, .* \(did you mean 'campus'\?\)"
    ):
        builtin("campsu")


def test_presets_can_be_copied_into_a_scenario(tmp_path: Path) -> None:
    known = document.read(presets(), "presets")
    assert list(known) == ["hardware", "base_station", "models"]
    copied = load("campus").model_dump(mode="json")
    copied["network"]["end"]["hardware"] = known["hardware"]["phone-soc"]
    copied["network"]["radio"]["base_station"] = known["base_station"]["micro"]
    copied["models"] = known["models"]
    mine = load(_file(tmp_path, document.write(copied)))
    assert mine.network.end.hardware == HARDWARE["phone-soc"]
    assert mine.network.radio.base_station == BASE_STATIONS["micro"]
    assert mine.models == MODELS


def test_minimal_file_and_yaml_numbers(tmp_path: Path) -> None:
    path = _file(tmp_path, MINIMAL.replace("deadline_s: 3", "deadline_s: 3e0"))
    scenario = load(path)
    assert scenario.demand.services["chat"].deadline_s == 3.0
    assert scenario.network.mobility.kind == "waypoint"


def test_the_schema_says_what_the_fields_of_the_knowledge_loop_are() -> None:
    section = schema()["$defs"]["Knowledge"]
    assert section["description"] == "The knowledge loop."
    assert {name for name, field in section["properties"].items() if not field.get("description")} == set()
    assert section["properties"]["local_epochs"]["description"] == "how often an end goes over its data in a round."
    assert section["properties"]["aggregation"]["description"].endswith("or ``fedit`` (factors apart, the baseline).")


def test_schema_is_a_json_schema() -> None:
    tree = schema()
    assert json.loads(json.dumps(tree)) == tree
    assert set(tree["required"]) == {"name", "network", "demand"}
    assert tree["additionalProperties"] is False


@pytest.mark.parametrize(
    ("override", "parts"),
    [
        ("network.ends=-5", ["network.ends = -5", "at least 1"]),
        ("network.ends=true", ["network.ends = true", "whole number"]),
        ("network.ends='20'", ["network.ends", "whole number"]),
        ("network.ends=.nan", ["network.ends = nan"]),
        ("network.radio.carier_hz=3e9", ["network.radio.carier_hz is not a field", "did you mean 'carrier_hz'?"]),
        ("orchestrator.objective.cost_weight=.nan", ["cost_weight = nan", "finite number at least 0"]),
        ("orchestrator.objective.cost_weight=-1", ["cost_weight = -1", "at least 0"]),
        ("demand.services.perception.deadline_s=0", ["perception.deadline_s = 0", "above 0"]),
        ("demand.services.perception.deadline_s=.inf", ["perception.deadline_s = inf", "finite"]),
        ("network.topology.cells=40", ["network.topology", "cells = 40", "25 corners (sites)"]),
        ("network.topology.kind=hexgonal", ["unknown topology 'hexgonal'", "did you mean 'hexagonal'?"]),
        ("orchestrator.matcher=pirce", ["orchestrator.matcher", "unknown matcher 'pirce'", "did you mean 'price'?"]),
        ("orchestrator.matcher.kind=pirce", ["unknown matcher 'pirce'", "did you mean 'price'?"]),
        ("orchestrator.matcher={kind: local, staleness_s: -0.1}", ["matcher.staleness_s = -0.1", "at least 0"]),
        ("orchestrator.matcher={kind: price, staleness_s: 1}", ["matcher.staleness_s is not a field"]),
        ("orchestrator.matcher=5", ["orchestrator.matcher = 5", "kind = one of"]),
        ("network.edge.hardware=edge-acc", ["network.edge", "hardware 'edge-acc'", "did you mean 'edge-accelerator'?"]),
        ("demand.services.assistant.models=[lama]", ["demand.services.assistant.models", "'lama'", "did you mean"]),
        ("demand.services.assistant.models=[]", ["demand.services.assistant.models", "a list of at least 1"]),
        ("demand.services.assistant.arrivals.kind=trace", ["arrivals.path is missing", "a path"]),
        (
            "execution.faults=[edge_dwn]",
            ["execution.faults.0", "unknown fault 'edge_dwn'", "did you mean 'edge_down'?"],
        ),
        ("execution.faults.0.begin_s=1", ["execution.faults.0.kind is missing", "edge_down"]),
        (
            "execution.faults=[{kind: controller_outage, begin_s: 2, end_s: 1}]",
            ["execution.faults.0", "end_s must be after begin_s"],
        ),
        ("execution.faults.3={}", ["execution.faults.3", "no entries"]),
        (
            "execution.faults.0={kind: edge_down, edge: 99, begin_s: 1, end_s: 2}",
            ["faults.0.edge = 99", "edges 0 to 12"],
        ),
        (
            "execution.faults.0={kind: end_down, ends: [3, 200], begin_s: 1, end_s: 2}",
            ["faults.0.ends: 200", "ends 0 to 199"],
        ),
        (
            "execution.faults.0={kind: end_down, ends: [3], fraction: 0.1, begin_s: 1, end_s: 2}",
            ["execution.faults.0", "either ends (a list) or fraction"],
        ),
        ("execution.faults.0={kind: end_down, begin_s: 1, end_s: 2}", ["either ends (a list) or fraction"]),
        ("execution.faults.0={kind: end_down, ends: [], begin_s: 1, end_s: 2}", ["faults.0.ends", "at least 1"]),
        ("execution.faults.0={kind: end_down, ends: [-1], begin_s: 1, end_s: 2}", ["faults.0.ends.0 = -1"]),
        ("execution.faults.0={kind: end_down, fraction: 0, begin_s: 1, end_s: 2}", ["fraction = 0", "above 0"]),
        ("network.end_scale=[]", ["network.end_scale", "at least 1"]),
        ("network.end_scale=[1, 0]", ["network.end_scale.1 = 0", "above 0"]),
        ("demand.services.learning.placement=home", ["learning.placement", "one of matched, nearest"]),
        ("network.radio.path_loss=umx", ["network.radio.path_loss", "one of umi, uma, rma"]),
        ("network.ends.x=3", ["network.ends is 200"]),
        ("network.ends={", ["--set network.ends", "line 1"]),
        ("network.ends", ["must read path.to.value=x"]),
        ("=3", ["must read path.to.value=x"]),
        ("network=null", ["network = null", "a section with the fields topology"]),
        ("name=0x" + "f" * 5000, ["too large"]),
        ("description=[" * 3000, ["description"]),
    ],
)
def test_bad_overrides_name_the_field_and_what_is_allowed(override: str, parts: list[str]) -> None:
    message = _refused("vehicular", override)
    for part in parts:
        assert part in message


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("", ["is empty"]),
        ("- 1", ["a list of 1"]),
        ("name: [1, 2", ["line 1"]),
        ("name: a\nname: b", ["line 2", "duplicate key 'name'"]),
        ("name: !!python/object/apply:os.system ['touch /tmp/owned']", ["line 1", "could not determine a constructor"]),
        ("name: &a [*a]", ["more than"]),
        ("a: &a [1,1,1,1,1,1,1,1,1]\n" + "".join(
            f"b{i}: &b{i} [{','.join(['*a' if i == 0 else f'*b{i - 1}'] * 9)}]\n" for i in range(9)), ["more than"]),
        ("? [1, 2]\n: 3", ["key must be text"]),
        ("name: x", ["network is missing"]),
        ("name: \x00", ["scenario"]),
        (MINIMAL + "extra: 1\n", ["extra is not a field", "one of name"]),
        (MINIMAL.replace("deadline_s", "deadlines_s"), ["services.chat.deadlines_s", "did you mean 'deadline_s'?"]),
        (MINIMAL.replace("kind: text", "kind: txt"), ["demand.services.chat", "unknown service 'txt'", "'text'"]),
        (MINIMAL.replace("sites: 1", "sites: 1.5"), ["network.topology.sites = 1.5"]),
    ],
)  # fmt: skip
def test_bad_files_say_where(text: str, parts: list[str], tmp_path: Path) -> None:
    message = _refused(_file(tmp_path, text))
    for part in parts:
        assert part in message


def test_bad_names_and_paths(tmp_path: Path) -> None:
    assert "did you mean 'vehicular'?" in _refused("vehiclar")
    assert "no such file" in _refused(str(tmp_path / "none.yaml"))
    assert "is not a file" in _refused(str(tmp_path))
    binary = tmp_path / "binary.yaml"
    binary.write_bytes(b"\xff\xfe\x00name")
    assert "UTF-8" in _refused(str(binary))
    assert "cannot be read" in _refused("x" * 5000) or "unknown scenario" in _refused("x" * 5000)


def test_top_level_values() -> None:
    scenario = load("campus", seed=3, duration_s=2.5)
    assert (scenario.seed, scenario.duration_s) == (3, 2.5)
    assert load("campus", seed=None) == load("campus")
    assert "seed = -1" in _refused("campus", seed=-1)
    assert "duration_s = nan" in _refused("campus", duration_s=float("nan"))


def test_another_kind_keeps_what_means_the_same() -> None:
    where = "demand.services.pictures.arrivals"
    scenario = load("campus", [f"{where}={{kind: mmpp, rate_per_end_per_s: 0.2, burst_factor: 3}}"])
    poisson = change(scenario, [f"{where}.kind=poisson"]).demand.services["pictures"]
    assert poisson.kind == "image"
    assert poisson.arrivals.model_dump() == {"kind": "poisson", "rate_per_end_per_s": 0.2}
    bare = load("campus", ["orchestrator.matcher.iterations=7", "orchestrator.matcher=greedy"]).orchestrator.matcher
    assert bare.kind == "greedy"
    assert bare == load("campus", ["orchestrator.matcher={kind: greedy}"]).orchestrator.matcher


def test_a_bare_path_means_the_kind_that_is_read_from_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "notes").mkdir()
    monkeypatch.chdir(tmp_path)
    for path in ("notes", "./notes", str(tmp_path / "notes")):
        loop = load("medical", [f"knowledge.data={path}", "knowledge.data.note=summary"]).knowledge
        assert loop is not None
        assert isinstance(loop.data, Recorded)
        assert (loop.data.path, loop.data.note) == (tmp_path / "notes", "summary")
    trace = load("medical", ["demand.services.notes.arrivals=trace.csv"]).demand.services["notes"].arrivals
    assert isinstance(trace, TraceArrivals)
    assert trace.path == tmp_path / "trace.csv"
    with pytest.raises(ScenarioError, match=r"knowledge\.data: unknown data 'ntes': one of recorded, synthetic"):
        load("medical", ["knowledge.data=ntes"])
    for name in ('""', "x" * 5000, '"a\\0b"'):
        with pytest.raises(ScenarioError, match=r"knowledge\.data: unknown data"):
            load("medical", [f"knowledge.data={name}"])
    nowhere = load("medical", ["knowledge.data=~nobody-of-that-name/notes"]).knowledge
    assert nowhere is not None
    assert isinstance(nowhere.data, Recorded)
    assert nowhere.data.path == tmp_path / "~nobody-of-that-name" / "notes"
    with pytest.raises(ScenarioError, match=r"unknown mobility 'a/b\.csv': one of"):  # two kinds are read from a path
        load("medical", ["network.mobility=a/b.csv"])


def test_a_models_folder_is_written_out_in_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a run goes on from wherever it is resumed; what is no folder is a name on a hub, and stays."""
    (tmp_path / "models" / "mine").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "models")
    monkeypatch.setenv("HOME", str(tmp_path))
    for said in (
        "mine",
        "./mine",
        "~/models/mine",
        "{kind: pretrained, name: mine}",
        str(tmp_path / "models" / "mine"),
    ):
        loop = load("medical", [f"knowledge.foundation={said}"]).knowledge
        assert loop is not None
        assert loop.foundation == Pretrained(name=str(tmp_path / "models" / "mine"))
    (tmp_path / "models" / "gpt2").touch()  # a file is no model
    for said in ("org/model", "{kind: pretrained, name: org/model}", "{kind: pretrained, name: gpt2}"):
        loop = load("medical", [f"knowledge.foundation={said}", "knowledge.foundation.context=64"]).knowledge
        assert loop is not None
        assert isinstance(loop.foundation, Pretrained)
        assert loop.foundation.name in ("org/model", "gpt2")
    file = _file(
        tmp_path, dump(load("medical", ["knowledge.foundation=org/model"])).replace("org/model", "models/mine")
    )
    beside = load(file).knowledge
    assert beside is not None
    assert beside.foundation == Pretrained(name=str(tmp_path / "models" / "mine"))
    with pytest.raises(
        ScenarioError, match=r"knowledge\.foundation: unknown foundation 'smal': one of pretrained, small"
    ):
        load("medical", ["knowledge.foundation=smal"])
    with pytest.raises(ScenarioError, match=r"foundation\.name is missing.*a model's folder, or its name on a hub"):
        load("medical", ["knowledge.foundation.kind=pretrained"])


def test_a_home_that_is_nobodys_is_no_crash() -> None:
    with pytest.raises(ScenarioError, match=r"~nobody-of-that-name/x\.yaml: there is no such file"):
        load("~nobody-of-that-name/x.yaml")
    assert expanded("~/x") == Path.home() / "x"


def test_presets_open_up() -> None:
    slower = load("campus", ["network.edge.hardware.flop_per_s=1e12", "models.llama-3.2-3b.quality=0.7"])
    assert slower.network.edge.hardware.flop_per_s == 1e12
    assert slower.models["llama-3.2-3b"].quality == 0.7
    assert load("campus", ["network.sensing.blocks.0=8"]).network.sensing.blocks[0] == 8


def test_relative_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = tmp_path / "here"
    here.mkdir()
    text = MINIMAL.replace("mobility: waypoint", "mobility: {kind: trace, path: data/walk.csv}")
    scenario = load(_file(tmp_path, text))
    assert scenario.network.mobility.path == tmp_path / "data" / "walk.csv"
    monkeypatch.chdir(here)
    there = load(_file(tmp_path, text), ["demand.services.chat.arrivals={kind: trace, path: ../t.csv}"])
    assert there.demand.services["chat"].arrivals.path == tmp_path / "t.csv"
    assert there.network.mobility.path == tmp_path / "data" / "walk.csv"


PATHS = st.one_of(
    st.text(max_size=20),
    st.sampled_from(
        ["network.ends", "network", "execution.faults.0", "execution.faults", "orchestrator.matcher", "demand.services",
         "orchestrator.matcher.kind", "demand.services.pictures.kind", "models.a.b.c", "network.sensing.blocks.1",
         "network.edge.hardware", "demand.services.pictures.arrivals.kind", "name", "network.topology.kind", "kind"]
    ),
)  # fmt: skip
VALUES = st.one_of(
    st.text(max_size=20), st.sampled_from(["{}", "[]", "[[", "{a: b}", "&a [*a]", "1e999", "null", "-0"])
)


@settings(max_examples=120, deadline=None)
@given(PATHS, VALUES)
@pytest.mark.untraced
def test_an_override_gives_a_scenario_or_a_scenario_error(path: str, value: str) -> None:
    try:
        assert isinstance(load("campus", [f"{path}={value}"]), Scenario)
    except ScenarioError as error:
        assert "\n" not in str(error)  # noqa: PT017
