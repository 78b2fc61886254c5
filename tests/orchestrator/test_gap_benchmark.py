"""The generalised-assignment benchmark: its reader, its judge, and the real instances where they are at hand."""

from __future__ import annotations

import importlib
import json
import re
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from gainnet.apps import cli
from gainnet.errors import InputError
from gainnet.orchestrator.checker import violations
from gainnet.orchestrator.matcher import build

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT.parent / "shared" / "data" / "gap"
TINY = "2 3\n 1 5 9 \n 4 4 1\n\n2 2 2\n3 3 3\n4 3"
HEADER = "Path,Format,Best known solution value\n"


@pytest.fixture
def gap(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    return importlib.import_module("gap")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "tiny").write_text(TINY)
    (tmp_path / "best_known.csv").write_text(HEADER + "set/tiny,orlibrary,7\n")
    return tmp_path


def test_an_instance_is_read(gap: ModuleType, folder: Path) -> None:
    (folder / ".hidden").write_text("not an instance")
    (name, instance), *others = gap.instances(folder).items()
    assert (name, others, instance.best) == ("set/tiny", [], 7.0)
    np.testing.assert_array_equal(instance.cost, [[1, 5, 9], [4, 4, 1]])
    np.testing.assert_array_equal(instance.demand, [[2, 2, 2], [3, 3, 3]])
    np.testing.assert_array_equal(instance.capacity, [4, 3])


def test_plans_are_judged_on_the_instance(gap: ModuleType, folder: Path) -> None:
    instance = gap.instances(folder)["set/tiny"]
    assert instance.total(np.array([0, 2, 5])) == 7.0  # agents 0, 0, 1
    assert instance.total(np.array([0, 2, -1])) is None
    assert instance.total(np.array([0, 2, 4])) is None  # 6 of 4
    assert instance.total(np.array([2, 0, 5])) is None  # patterns of other tasks


def test_figures(gap: ModuleType, folder: Path) -> None:
    found = gap.figures(folder)
    assert (found["gap_mean"], found["gap_max"], found["infeasible"], found["instances"]) == (0.0, 0.0, 0.0, 1.0)
    assert found["decision_s_p50"] > 0.0
    assert found["settings.effort"] == gap.SETTINGS.effort


def test_an_instance_without_a_feasible_plan_counts(gap: ModuleType, folder: Path) -> None:
    (folder / "full").write_text("1 1\n5\n2\n1\n")
    (folder / "best_known.csv").write_text(HEADER + "set/tiny,orlibrary,7\nfull,orlibrary,5\n")
    found = gap.figures(folder)
    assert (found["infeasible"], found["gap_max"], found["gap_mean"]) == (1.0, 1.0, 0.5)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "must begin with the numbers"),
        ("2", "must begin with the numbers"),
        ("0 3", "must begin with the numbers"),
        ("2.5 3", "must begin with the numbers"),
        (TINY + " 1", "2 agents and 3 tasks make 16 numbers, not 17"),
        (TINY[:-1], "not 15"),
        (TINY.replace("9", "nine"), "'nine' is no finite number"),
        (TINY.replace("9", "nan"), "'nan' is no finite number"),
        (TINY.replace("2 2 2", "2 0 2"), "demands must be above 0"),
        (TINY.replace("4 3", "-4 3"), "capacities at least 0"),
        (b"\xff\xfe\x00", "not a text file"),
    ],
)
def test_malformed_instances_are_named(gap: ModuleType, folder: Path, text: str | bytes, message: str) -> None:
    path = folder / "set" / "tiny"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(InputError, match=f"^{re.escape(str(path))}: .*{message}") as error:
        gap.figures(folder)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (None, "best_known.csv: there is no such file"),
        ("", "line 1: there is no column 'Path'"),
        ("Path\nset/tiny\n", "line 1: there is no column 'Best known solution value'"),
        (HEADER, "tiny: .*has no row for set/tiny"),
        (HEADER + "set/tiny,orlibrary,\n", "line 2, Best known solution value: '' is no number above 0"),
        (HEADER + "set/tiny\n", "line 2, Best known solution value: None is no number above 0"),
        (HEADER + "set/tiny,orlibrary,0\n", "'0' is no number above 0"),
        (b"\xff", "not a text file"),
    ],
)
def test_malformed_tables_are_named(gap: ModuleType, folder: Path, table: str | bytes | None, message: str) -> None:
    path = folder / "best_known.csv"
    path.unlink()
    if table is not None:
        path.write_bytes(table if isinstance(table, bytes) else table.encode())
    with pytest.raises(InputError, match=message):
        gap.figures(folder)


def test_a_folder_needs_instances(gap: ModuleType, folder: Path) -> None:
    (folder / "set" / "tiny").unlink()
    with pytest.raises(InputError, match="there are no instances"):
        gap.figures(folder)
    with pytest.raises(InputError, match="not a folder"):
        gap.figures(folder / "best_known.csv")


def test_the_command_prints_its_figures(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        cli.main(["bench", "gap", "--data", str(folder), "--json"])
    tree = json.loads(capsys.readouterr().out)
    assert (tree["bench"], tree["figures"]["infeasible"]) == ("gap", 0.0)
    (folder / "set" / "tiny").write_text("2 3 x")
    with pytest.raises(SystemExit, match="2"):
        cli.main(["bench", "gap", "--data", str(folder)])
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize("name", ["cattrysse1994/gap1-1", "chu1997/c05100", "chu1997/d20100"])
@pytest.mark.untraced
def test_real_instances(gap: ModuleType, name: str) -> None:
    if not DATA.is_dir():
        pytest.skip("../shared/data/gap is missing")
    instance = gap.instances(DATA)[name]
    problem = instance.problem()
    plan = build(gap.SETTINGS).match(problem, np.zeros(problem.rows), np.random.default_rng(1))
    assert violations(problem, plan, tolerance=1e-8) == []
    cost, bound = instance.total(plan.choice), instance.prize().sum() - plan.bound
    assert cost is not None
    assert bound <= instance.best <= cost <= 1.02 * instance.best
