"""The results folder: what is in it, that it reads back, and that it is never half-written."""

from __future__ import annotations

import errno
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

import fabricated
from gainnet.errors import OutputError
from gainnet.measurement import results
from gainnet.measurement.record import Record
from gainnet.scenario.load import load

FAULT = "execution.faults=[{kind: edge_down, edge: 1, begin_s: 2, end_s: 4}]"


@pytest.fixture(scope="module")
def record() -> Record:
    found = fabricated.run(load("campus", [FAULT])).record
    assert found is not None
    return found


@pytest.fixture(scope="module")
def folder(record: Record, tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("results")
    results.prepare(made)
    results.write(made, record, "gainnet run campus --set 'a<b'")
    return made


@pytest.mark.untraced
def test_the_folder_holds_exactly_the_results(folder: Path, record: Record) -> None:
    assert {entry.name for entry in folder.iterdir()} == set(results.RUN_FILES)
    assert load(str(folder / "scenario.yaml")) == record.scenario
    assert json.loads((folder / "report.json").read_text())["tasks"]["arrived"] == len(record.tasks["task_id"])
    machine = json.loads((folder / "environment.json").read_text())
    assert machine["command"] == "gainnet run campus --set 'a<b'"
    assert {"gainnet", "python", "cpus", "packages", "commit"} <= set(machine)


def test_parquet_round_trip(folder: Path, record: Record) -> None:
    tasks = pq.read_table(folder / "records.parquet")
    assert np.array_equal(tasks["task_id"], record.tasks["task_id"])
    assert np.array_equal(tasks["end_s"], record.tasks["end_s"], equal_nan=True)
    assert set(tasks["service"].to_pylist()) <= set(record.scenario.demand.services)
    refused = record.tasks["tier"] < 0
    assert tasks["tier"].is_null().to_numpy().tolist() == refused.tolist()
    frames = pq.read_table(folder / "frames.parquet")
    assert np.array_equal(np.stack(frames["cell_use"].to_numpy()), record.frames["cell_use"])
    assert np.array_equal(frames["price_memory"], record.frames["price"][:, -1])
    assert frames["status"].to_pylist()[0] == "feasible"


class _Page(HTMLParser):
    """Which elements stand open, and every attribute that fetches something."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.fetched: list[str] = []
        self.ids: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in ("meta", "input", "link", "img"):
            self.open.append(tag)
        self.fetched += [value or "" for name, value in attrs if name in ("src", "href", "xlink:href", "data")]
        self.ids += [value or "" for name, value in attrs if name == "id"]

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if self.open and self.open[-1] == tag:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_report_is_one_whole_page_without_outside_assets(folder: Path) -> None:
    text = (folder / "report.html").read_text()
    page = _Page()
    page.feed(text)
    assert page.open == []
    assert all(address.startswith("#") for address in page.fetched)
    assert len(page.ids) == len(set(page.ids))
    assert not re.search(r"https?://|@import|url\((?!#)", text)
    assert text.count("<svg") == 9
    assert "a&lt;b" in text
    assert "edge down 1" in text
    assert "#0101" not in text
    assert "#0102" not in text
    assert len(text) < 300_000


@pytest.mark.untraced
def test_an_interrupted_run_before_its_first_sample_has_a_report(tmp_path: Path) -> None:
    for frames in (0, 1, 3):
        short = fabricated.run(load("campus"), frames=frames).record
        assert short is not None
        report = results.write(tmp_path, short, "gainnet run campus")
        assert report["complete"] is False


@pytest.mark.untraced
def test_names_from_a_scenario_cannot_break_the_page(tmp_path: Path) -> None:
    nasty = "x</script><script>alert(1)</script>$\\frac{1$"
    scenario = load("campus", [f"description={json.dumps(nasty)}"])
    tree = scenario.model_dump(mode="json")
    tree["demand"]["services"] = {nasty: tree["demand"]["services"]["assistant"]}
    renamed = type(scenario).model_validate_json(json.dumps(tree))
    found = fabricated.run(renamed).record
    assert found is not None
    results.write(tmp_path, found, nasty)
    assert "<script>alert" not in (tmp_path / "report.html").read_text()


def test_a_full_disk_leaves_the_folder_as_it_was(folder: Path, record: Record, monkeypatch: pytest.MonkeyPatch) -> None:
    before = {entry.name: entry.read_bytes() for entry in folder.iterdir()}

    def full(path: Path, table: object) -> None:
        path.write_bytes(b"PAR1")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(results, "_write_parquet", full)
    with pytest.raises(OutputError, match="No space left on device"):
        results.write(folder, record, "again")
    assert {entry.name: entry.read_bytes() for entry in folder.iterdir()} == before


def test_prepare_refuses_what_it_cannot_use(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(OutputError, match=r"thesis\.tex"):
        results.prepare(tmp_path)
    with pytest.raises(OutputError, match="not a folder"):
        results.prepare(tmp_path / "thesis.tex")
    with pytest.raises(OutputError, match="cannot be written"):
        results.prepare(Path("/proc/gainnet"))
    results.prepare(tmp_path / "new" / "deep")
    assert list((tmp_path / "new" / "deep").iterdir()) == []


@pytest.mark.untraced
def test_an_old_result_is_replaced_as_a_whole(folder: Path, record: Record, tmp_path: Path) -> None:
    (tmp_path / "compare.json").write_text("{}")
    results.prepare(tmp_path)
    results.write(tmp_path, record, "again")
    assert {entry.name for entry in tmp_path.iterdir()} == set(results.RUN_FILES)
