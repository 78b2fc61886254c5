"""The command line: its face is frozen, every error is one line and exit code 2, an interrupt 130."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import typer

import fabricated
from gainnet.apps import bench, cli
from gainnet.measurement.record import Recorder
from gainnet.measurement.results import COMPARE_FILES, KEPT, RUN_FILES
from gainnet.scenario.scenario import Scenario

Call = Callable[..., tuple[int, str, str]]


def _simulate(
    scenario: Scenario,
    *,
    progress: Callable[[int, int], None] | None = None,
    recorder: Recorder | None = None,
) -> Recorder:
    return fabricated.run(scenario, recorder=recorder, progress=progress or (lambda _done, _total: None))


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Call:
    """Call the command line with an invented simulator: (exit code, stdout, stderr)."""
    monkeypatch.setattr("gainnet.run.simulate", _simulate)
    monkeypatch.setattr("gainnet.compare.simulate", _simulate)
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as caught:
            cli.main(arguments)
        out, err = capsys.readouterr()
        assert isinstance(caught.value.code, int)
        return caught.value.code, out, err

    return run


@pytest.mark.untraced
def test_the_command_line_is_frozen(call: Call) -> None:
    commands = typer.main.get_command(cli.app).commands  # type: ignore[attr-defined]
    face = {name: " ".join(max(p.opts, key=len) for p in command.params) for name, command in commands.items()}
    assert face == {
        "scenarios": "name",
        "presets": "",
        "run": "scenario --set --matcher --seed --duration-s --out --resume --overwrite --json",
        "compare": "scenario --matchers --arms --seeds --sweep --arm --workers --ray --set --seed --duration-s --out --resume"
        " --overwrite",
        "train": "kind scenario --set --seed --steps --workers --ray --out --resume --overwrite",
        "pretrain": "--text --set --seed --steps --threads --bf16 --device --compile --extracts --from --images --out --resume"
        " --overwrite",
        "bench": "name --json --data --reference --instance --model --resume --device --quick --duration-s --faults --seed"
        " --moves",
        "validate": "file --set",
        "schema": "",
        "node": "--tier --config",
        "gateway": "--config --scenario --set",
        "profile": "target --model --shape --tier --name --slots --context --repeats --adapter --out",
        "lab": "",
    }
    for command in ([], *([name] for name in face)):
        code, out, err = call(*command, "--help")
        assert (code, err) == (0, "")
        assert "Usage: gainnet" in out


def test_scenarios_lists_the_built_in_ones(call: Call) -> None:
    code, out, err = call("scenarios")
    assert (code, err) == (0, "")
    assert [line.split()[0] for line in out.splitlines()] == [
        "campus", "lab", "medical", "vehicular", "vehicular-dense",
    ]  # fmt: skip


def test_scenarios_prints_a_file_to_begin_with(call: Call) -> None:
    code, out, err = call("scenarios", "campus")
    assert (code, err) == (0, "")
    Path("mine.yaml").write_text(out, encoding="utf-8")
    assert call("validate", "mine.yaml")[0] == 0
    assert call("scenarios", "mine.yaml")[0] == 2


def test_presets_names_what_scenarios_may_name(call: Call) -> None:
    code, out, err = call("presets")
    assert (code, err) == (0, "")
    for name in ("edge-accelerator", "micro", "llama-3.2-3b"):
        assert f"\n  {name}:\n" in out


def test_run_writes_the_default_folder_and_a_summary(call: Call) -> None:
    code, out, err = call("run", "campus", "--seed", "3", "--duration-s", "2", "--matcher", "greedy")
    assert (code, err) == (0, "")
    folder = Path("runs/campus-greedy-seed3")
    assert {entry.name for entry in folder.iterdir()} == set(RUN_FILES)
    assert str(folder / "report.html") in out
    assert "satisfaction" in out


@pytest.mark.untraced
def test_json_prints_the_report_and_nothing_else(call: Call) -> None:
    code, out, err = call("run", "campus", "--json", "--out", "here")
    assert (code, err) == (0, "")
    assert out == Path("here/report.json").read_text()
    assert json.loads(out)["scenario"] == "campus"


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        ([], ["Missing command"]),
        (["rnu"], ["No such command 'rnu'"]),
        (["run"], ["Missing argument 'SCENARIO'"]),
        (["run", "campus", "--sed", "1"], ["No such option: --sed"]),
        (["run", "campus", "--seed", "one"], ["--seed"]),
        (["run", "vehiclar"], ["unknown scenario 'vehiclar'", "did you mean 'vehicular'?"]),
        (["run", "none.yaml"], ["none.yaml", "no such file"]),
        (["run", "campus", "--matcher", "pirce"], ["unknown matcher 'pirce'", "did you mean 'price'?"]),
        (["run", "campus", "--set", "network.ends=-1"], ["network.ends = -1", "at least 1"]),
        (["run", "campus", "--set", "networks.ends=1"], ["networks is not a field", "did you mean 'network'?"]),
        (["run", "campus", "--duration-s", "nan"], ["duration_s = nan"]),
        (["run", "campus", "--duration-s", "0"], ["duration_s = 0", "above 0"]),
        (["run", "campus", "--out", "/proc/gainnet"], ["/proc/gainnet", "cannot be written"]),
        (["run", "campus", "--out", "/dev/null"], ["/dev/null"]),
        (["validate", "none.yaml"], ["none.yaml"]),
        (["compare", "campus", "--matchers", "greedy,pirce"], ["unknown matcher 'pirce'"]),
        (["compare", "campus", "--matchers", ","], ["--matchers"]),
        (["compare", "campus", "--matchers", "price,price"], ["'price' is there twice"]),
        (["compare", "campus", "--matchers", "price", "--seeds", "0"], ["--seeds"]),
        (["compare", "campus", "--matchers", "price", "--sweep", "ends"], ["--sweep", "path.to.value=v1,v2"]),
        (["compare", "campus", "--matchers", "price", "--sweep", "network.ends=1,[2"], ["--sweep network.ends"]),
        (["compare", "campus", "--matchers", "price", "--sweep", "network.ends=5,-5"], ["network.ends = -5"]),
        (["compare", "campus", "--matchers", "price", "--arm", "x"], ["--arm 'x'", "NAME=path=value"]),
        (["compare", "campus", "--matchers", "price", "--ray", "head"], ["--ray head", "auto, HOST:PORT"]),
        (["bench", "matchin"], ["unknown benchmark 'matchin'"]),
        (["bench", "demand", "--data", "/none"], ["--data /none"]),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(call: Call, arguments: list[str], parts: list[str]) -> None:
    code, out, err = call(*arguments)
    assert (code, out) == (2, "")
    assert err.startswith("gainnet: ")
    assert err.endswith("\n")
    assert err.count("\n") == 1
    assert "Traceback" not in err
    for part in parts:
        assert part in err
    assert not Path("runs").exists() or not any(Path("runs").iterdir())


def test_a_foreign_folder_is_left_alone(call: Call) -> None:
    Path("mine").mkdir()
    Path("mine/notes.txt").write_text("keep")
    code, _, err = call("run", "campus", "--out", "mine")
    assert code == 2
    assert "notes.txt" in err
    assert [entry.name for entry in Path("mine").iterdir()] == ["notes.txt"]


@pytest.mark.untraced
def test_a_full_disk_is_one_line_and_leaves_nothing(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_path: Path, _table: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("gainnet.measurement.results._write_parquet", full)
    code, out, err = call("run", "campus", "--out", "full")
    assert (code, out) == (2, "")
    assert err == "gainnet: full: cannot be written: No space left on device\n"
    assert not Path("full").exists()


@pytest.mark.untraced
def test_compare_prints_a_table_and_writes_its_files(call: Call) -> None:
    code, out, err = call(
        "compare", "campus", "--matchers", "end,price", "--arm", "siloed=orchestrator.pools=siloed", "--seeds", "3",
        "--duration-s", "4", "--workers", "1",
    )  # fmt: skip
    assert (code, err) == (0, "")
    folder = Path("runs/compare-campus")
    assert {entry.name for entry in folder.iterdir()} == {*RUN_FILES, *COMPARE_FILES, KEPT}
    assert out.index("end") < out.index("siloed")
    assert "reference" in out
    tree = json.loads((folder / "compare.json").read_text())
    assert [row["arm"] for row in tree["rows"]] == ["end", "price", "siloed"]
    assert tree["seeds"] == [0, 1, 2]
    assert tree["rows"][1]["metrics"]["satisfaction"]["difference"]["mean"] == 0.0
    assert len((folder / "compare.csv").read_text().splitlines()) == 1 + 3 * 3
    assert json.loads((folder / "report.json").read_text())["matcher"] == "price"


ASKED = ("compare", "campus", "--matchers", "price,end", "--seeds", "3", "--duration-s", "4", "--workers", "1")


@pytest.fixture
def ran(call: Call, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """Arm and seed of each run that `compare` begins; the fifth is interrupted."""
    found: list[tuple[str, int]] = []

    def simulate(scenario: Scenario) -> Recorder:
        if scenario.duration_s > 2.0:  # else it warms up
            found.append((scenario.orchestrator.matcher.kind, scenario.seed))
            if len(found) == 5:
                raise KeyboardInterrupt
        return _simulate(scenario)

    monkeypatch.setattr("gainnet.compare.simulate", simulate)
    return found


def test_a_comparison_that_was_stopped_goes_on_with_what_is_missing(call: Call, ran: list[tuple[str, int]]) -> None:
    code, out, err = call(*ASKED, "--out", "half", "--overwrite")
    assert (code, out) == (130, "")
    assert ran == [("price", 0), ("price", 1), ("price", 2), ("end", 0), ("end", 1)]
    again = f"gainnet {' '.join(ASKED)} --resume half"
    assert err == f"gainnet: 4 of 6 runs are kept, go on: {again}\ngainnet: interrupted\n"
    assert {entry.name for entry in Path("half").iterdir()} == {KEPT}
    assert "half: holds runs of a comparison that was stopped" in call(*ASKED, "--out", "half")[2]
    assert call(*again.split()[1:])[0] == 0
    assert ran[5:] == [("end", 1), ("end", 2)]
    assert call(*ASKED, "--out", "whole")[0] == 0
    assert len(ran) == 13
    kept, made = (Path(folder, "compare.csv").read_text().splitlines() for folder in ("half", "whole"))
    timed = kept[0].split(",").index("decision_p50_s")
    assert [x for n, x in enumerate(zip(*(line.split(",") for line in kept), strict=True)) if n != timed] == [
        x for n, x in enumerate(zip(*(line.split(",") for line in made), strict=True)) if n != timed
    ]
    assert json.loads(Path("half/report.json").read_text())["matcher"] == "end"


def test_a_comparison_may_become_larger(call: Call, ran: list[tuple[str, int]]) -> None:
    small = [word if word != "3" else "2" for word in ASKED]
    assert call(*small, "--out", "grows")[0] == 0
    del ran[:]
    assert call(*ASKED, "--resume", "grows")[0] == 0
    assert ran == [("price", 2), ("end", 2)]
    assert len(Path("grows/compare.csv").read_text().splitlines()) == 7


def test_only_what_the_same_code_ran_is_kept(
    call: Call, ran: list[tuple[str, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    one = [word if word != "3" else "1" for word in ASKED]
    assert call(*one, "--out", "old")[0] == 0
    for file in Path("old", KEPT).glob("*.json"):
        file.write_text(file.read_text()[:20])  # cut short
        break
    assert call(*one, "--resume", "old")[0] == 0
    assert len(ran) == 3
    monkeypatch.setattr("gainnet.measurement.results._commit", lambda: "another")
    ran += [("", 0), ("", 0)]
    assert call(*one, "--resume", "old")[0] == 0
    assert len(ran) == 7
    assert call(*one, "--out", "old")[0] == 0  # anew
    assert len(ran) == 9


def test_there_must_be_something_to_go_on_with(call: Call) -> None:
    Path("empty").mkdir()
    assert call(*ASKED, "--resume", "empty")[2] == (
        "gainnet: --resume empty: holds no comparison, so there is nothing to go on with\n"
    )
    assert call(*ASKED, "--resume", "no")[0] == 2
    assert not Path("no").exists()
    for more in (("--out", "x"), ("--overwrite",)):
        said = "gainnet: --resume DIR: results go there, beside what ran: give no --out or --overwrite\n"
        assert call(*ASKED, "--resume", "empty", *more)[2] == said


def test_compare_sweeps(call: Call) -> None:
    code, out, _ = call(
        "compare", "campus", "--matchers", "greedy,price", "--seeds", "2", "--duration-s", "2", "--workers", "1",
        "--sweep", "network.ends=10,20,400", "--out", "swept",
    )  # fmt: skip
    assert code == 0
    assert "network.ends" in out
    page = Path("swept/compare.html").read_text()
    assert page.count("<svg") == 9
    assert "network.ends = 400" in page
    assert {row["value"] for row in json.loads(Path("swept/compare.json").read_text())["rows"]} == {10, 20, 400}


def test_bench_lists_what_there_is(call: Call) -> None:
    code, out, _ = call("bench")
    lines = dict(line.split(maxsplit=1) for line in out.splitlines())
    assert code == 0
    assert set(lines) == set(bench.names())
    assert lines["medical"] == "The medical case study measured"


def test_bench_prints_figures(call: Call, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "toy.py").write_text(
        "MEANING = {'ratio': 'how much faster', 'peer': 'the other'}\n"
        "def figures(data=None, quick=False):\n    return {'small.ratio': 2.0 + quick}\n"
    )
    (tmp_path / "needy.py").write_text("def figures(reference):\n    return {}\n")
    monkeypatch.setattr(bench, "run", partial(bench.run, folder=tmp_path))
    code, out, _ = call("bench", "toy", "--json", "--quick")
    tree = json.loads(out)
    assert (code, tree["bench"], tree["figures"]) == (0, "toy", {"small.ratio": 3.0})
    assert tree["environment"]["command"] == "gainnet bench toy --json --quick"
    table = call("bench", "toy")[1]
    assert "how much faster" in table
    assert "the other (not measured here)" in table
    assert "--reference is missing" in call("bench", "needy")[2]
    assert "does not take it; it takes --data, --quick" in call("bench", "toy", "--reference", str(tmp_path))[2]


def test_schema_is_json(call: Call) -> None:
    code, out, _ = call("schema")
    assert code == 0
    assert "Scenario" in json.loads(out)["title"]


SLOW = """
import sys, time
sys.path.insert(0, {tests!r})
import fabricated, gainnet.run
def simulate(scenario, *, progress=None, recorder=None):
    def slowly(done, total):
        progress(done, total)
        time.sleep(0.005)
        if done == 20:
            print("ready", file=sys.stderr, flush=True)
    {before}
    return fabricated.run(scenario, recorder=recorder, progress=slowly)
gainnet.run.simulate = simulate
from gainnet.apps.cli import main
main(["run", "campus", "--duration-s", "10000", "--out", {out!r}])
"""


def _interrupted(tmp_path: Path, number: signal.Signals, before: str = "pass") -> tuple[int, str]:
    script = SLOW.format(tests=str(Path(__file__).parents[1]), out=str(tmp_path / "out"), before=before)
    process = subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    assert process.stderr.readline() == "ready\n"
    process.send_signal(number)
    err = process.communicate(timeout=60)[1]
    return process.returncode, err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_leaves_what_it_had(number: signal.Signals, tmp_path: Path) -> None:
    code, err = _interrupted(tmp_path, number)
    assert (code, err) == (130, "gainnet: interrupted\n")
    assert {entry.name for entry in (tmp_path / "out").iterdir()} == set(RUN_FILES)
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert not report["complete"]
    assert report["tasks"]["arrived"] == sum(n for name, n in report["tasks"].items() if name != "arrived")


def test_an_interrupt_before_the_first_frame_leaves_nothing(tmp_path: Path) -> None:
    before = 'print("ready", file=sys.stderr, flush=True); time.sleep(60)'
    assert _interrupted(tmp_path, signal.SIGINT, before) == (130, "gainnet: interrupted\n")
    assert not (tmp_path / "out").exists()


def test_importing_the_command_line_is_light() -> None:
    heavy = "numpy scipy matplotlib pyarrow numba pydantic"
    script = f"import sys, gainnet.apps.cli; print([m for m in '{heavy}'.split() if m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
