"""The results folder: what is in it, that it reads back, and that it is never half-written."""

from __future__ import annotations

import errno
import json
import re
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from matplotlib.axes import Axes

import fabricated
from gainnet.errors import OutputError
from gainnet.measurement import drawing, learning, learning_pictures, metrics, results
from gainnet.measurement.record import Record
from gainnet.measurement.report import page
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


KNOWLEDGE = {
    "arm": "gainnet", "ends": 4, "domains": ["A"], "uplink_bit": 0.0, "backhaul_bit": 0.0, "time_s": 0.0, "energy_j": 0.0,
    "start": {}, "rounds": [], "payments": {"A": 0.0}, "periods": [],
}  # fmt: skip


def knowledge_section(record: Record, more: dict[str, object]) -> str:
    """The section of a page whose knowledge has that too, empty where there is none."""
    report = {**metrics.report(record), "knowledge": KNOWLEDGE | more}
    text = page(record, report, results.environment("gainnet run"))
    reader = _Page()
    reader.feed(text)
    assert reader.open == []
    _, found, after = text.partition("<h2>Knowledge</h2>")
    return after.split("</section>")[0] if found else ""


def test_the_page_says_what_was_left_out_even_without_rounds(record: Record) -> None:
    assert knowledge_section(record, {}) == ""  # as of older reports
    assert knowledge_section(record, {"lines": [], "idle": [], "refused": []}) == ""
    found = knowledge_section(record, {"lines": ["ends 3, 7: hold <nothing>"]})
    assert "<li>ends 3, 7: hold &lt;nothing&gt;</li>" in found
    assert "<th>round</th>" not in found
    assert "paid" not in found
    idle = [{"number": 1, "start_s": 20.0, "lines": ["no end could make it"]}]
    found = knowledge_section(record, {"idle": idle})
    assert "Round 1 at 20 s: nobody could take part" in found
    assert "<li>no end could make it</li>" in found


def test_the_page_shows_the_first_refused_rows_and_counts_the_rest(record: Record) -> None:
    rows = [f"x.csv:{line}: <empty>" for line in range(2, 25)]
    found = knowledge_section(record, {"refused": rows})
    assert "Refused of the data: 23" in found
    assert "<li>x.csv:21: &lt;empty&gt;</li>" in found
    assert "x.csv:22" not in found
    assert "<li>and 3 more</li>" in found
    assert "more</li>" not in knowledge_section(record, {"refused": rows[:20]})


def test_the_page_shows_epsilon_where_it_is_a_number(record: Record) -> None:
    def notes(number: int, **figures: object) -> dict[str, object]:
        return {
            "number": number, "asks": [], "arrived": [], "late": [], "uplink_bit": 0.0, "start_s": 0.0, "close_s": 1.0,
            "figures": figures, "lines": [],
        }  # fmt: skip

    rounds = [notes(0, epsilon=3.25), notes(1, epsilon=None), notes(2), notes(3, epsilon="not known")]
    periods = [PERIOD] * 4
    found = knowledge_section(record, {"rounds": rounds, "periods": periods})
    assert re.findall(r"<td>([^<]*)</td></tr>", found)[:4] == ["3.25", "–", "–", "–"]


ROUND = {"asks": [], "arrived": [], "late": [], "uplink_bit": 0.0, "start_s": 0.0, "close_s": 1.0, "lines": []}
PERIOD = {"begin_s": 0.0, "satisfaction": 0.5, "share_on_ends": 0.5, "quality": 0.5}


def known(own: float, other: float, public: float) -> dict[str, dict[str, float]]:
    """What two domains' adapters know, apart by a factor of four, so that the mean is as given."""
    return {
        name: {"own": own * by, "other": other * by, "public": public * by} for name, by in (("A", 0.5), ("B", 2.0))
    }


TAUGHT = {
    "domains": ["A", "B"], "payments": {}, "periods": [PERIOD] * 2,
    "start": {"ends": known(80, 81, 82), "edges": known(40, 41, 42), "cloud": {"all": 30.0, "public": 31.0}},
    "rounds": [
        {**ROUND, "number": number, "figures": {
            "up": known(20 - number, 21, 22), "edges": known(16 - number, 17, 18), "ends": known(60 - number, 61, 62),
            "cloud": {"all": 12.0 - number, "public": 13.0, "domain": {"A": 11.0, "B": 13.0}},
        }} for number in (0, 1)
    ],
}  # fmt: skip


def test_the_page_shows_each_tier_before_and_after_each_direction(record: Record) -> None:
    found = knowledge_section(record, TAUGHT)
    rows = re.findall(r"<tr><td>(ends|edges|cloud)</td>(.*?)</tr>", found)
    assert [(tier, re.findall("<td>(.*?)</td>", row)) for tier, row in rows] == [
        ("ends", ["60 → 60 → 59", "61 → 61 → 61", "62 → 62 → 62"]),
        ("edges", ["16 → 19 → 15", "17 → 21 → 17", "18 → 22 → 18"]),
        ("cloud", ["12 → 11 → 11", "–", "13 → 13 → 13"]),
    ]


def test_what_tiers_know_begins_before_the_first_round() -> None:
    found = learning.course(KNOWLEDGE | TAUGHT)
    assert found["ends"]["own"] == pytest.approx([80, 80, 60, 60, 59])
    assert found["edges"]["own"] == pytest.approx([40, 20, 16, 19, 15])
    assert found["cloud"]["own"] == [30, 12, 12, 11, 11]
    assert found["cloud"]["other"] == [None] * 5


def test_what_tiers_know_may_be_unknown() -> None:
    assert learning.course({}) == learning.course(KNOWLEDGE) == {}
    bad = {name: {"own": float("inf"), "other": float("nan"), "public": 3.0} for name in "AB"}
    rounds = [{**ROUND, "number": 0, "figures": {"edges": bad, "cloud": {"all": float("inf"), "public": 2.0}}}]
    found = learning.course(KNOWLEDGE | {"rounds": rounds})
    assert set(found) == {"edges", "cloud"}
    assert found["edges"]["own"] == found["edges"]["other"] == found["cloud"]["own"] == [None] * 3
    assert found["edges"]["public"] == [None, None, pytest.approx(3.0)]


def test_the_picture_of_what_tiers_know_has_a_panel_each(record: Record) -> None:
    with drawing.style():
        drawn = {title: picture for title, picture, _ in learning_pictures.figures(KNOWLEDGE | TAUGHT)}
    picture = drawn["What the models know"]
    for text in ("ends", "edges", "cloud", "rounds closed", "perplexity (log scale)", *learning.TEXTS.values()):
        assert f">{text}</text>" in picture
    assert picture.count(">own domain</text>") == 1
    untold = KNOWLEDGE | {"rounds": [{**ROUND, "number": 0, "figures": {}}], "periods": [PERIOD]}
    report = {**metrics.report(record), "knowledge": untold}
    assert "What the models know" not in page(record, report, results.environment("gainnet run"))


@pytest.mark.parametrize("span", [1.02, 1.5, 8.0, 90.0, 2500.0, 1e6])
def test_a_logarithmic_axis_has_some_labels_and_none_overlap(span: float) -> None:
    known = {"ends": {"own": [2.0 * span, 2.0, None], "other": [None] * 3, "public": [2.0] * 3}}
    with drawing.style():
        picture = str(learning_pictures.perplexity(known))
    labels = {float(text) for text in re.findall(r">([\d.e+]+)</text>", picture)} - {0.0, 1.0}  # rounds are 0 and 1
    shown = {label for label in labels if 2.0 <= label <= 2.0 * span}
    assert 2 <= len(shown) <= 9  # of 12 that an axis has room for


def test_pictures_call_rounds_and_periods_what_tables_call_them(monkeypatch: pytest.MonkeyPatch) -> None:
    places: dict[str, list[float]] = {}
    monkeypatch.setattr(Axes, "plot", lambda _, at, values, label, **kw: places.__setitem__(label, list(at)))
    rounds = [{"number": n, "figures": {"contribution": {"A": 1.0} if n < 3 else {}}} for n in (0, 2, 3)]  # 1 was idle
    periods = [PERIOD | {"begin_s": 20.0 * n, "quality": 0.5 if n else None} for n in range(3)]
    with drawing.style():
        learning_pictures.contribution({"domains": ["A"], "rounds": rounds})
        learning_pictures.loop({"periods": periods})
    assert places == {"A": [0.0, 2.0], "satisfied": [0, 20, 40], "on ends": [0, 20, 40], "quality": [20, 40]}


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


@pytest.mark.parametrize(
    ("names", "what"),
    [
        (("rounds/round-0000.json", "rounds/round-0001.json"), "rounds of a run that learns"),
        (("state.safetensors",), "a training"),
        (("compared/1.json",), "runs of a comparison that was stopped"),
    ],
)
def test_what_took_long_to_make_is_not_written_over_unasked(tmp_path: Path, names: tuple[str, ...], what: str) -> None:
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("hours")
    again = f"go on with --resume {tmp_path}, give another --out, or --overwrite"
    with pytest.raises(OutputError) as error:
        results.prepare(tmp_path)
    assert str(error.value) == f"{tmp_path}: holds {what}: {again}"
    results.prepare(tmp_path, over=True)
    assert all((tmp_path / name).read_text() == "hours" for name in names)


@pytest.mark.parametrize("names", [("rounds/round-0000.json",), ("compared/1.json", "compare.json"), ("curve.csv",)])
def test_what_is_made_again_in_no_time_is_written_over(tmp_path: Path, names: tuple[str, ...]) -> None:
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    results.prepare(tmp_path)
    assert all((tmp_path / name).exists() for name in names), "not before its results are there"


def test_the_commit_tells_of_changes_since_and_is_none_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def git(*words: str) -> str:
        who = ("-c", "user.name=a", "-c", "user.email=a@localhost")
        command = ["git", *who, *words]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout.strip()

    package = tmp_path / "package" / "__init__.py"
    package.parent.mkdir()
    package.write_text("one = 1\n")
    monkeypatch.setattr(results, "_PACKAGE", package.parent)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert results._commit() is None, "no checkout"
    git("init", "-q")
    git("commit", "-q", "--allow-empty", "-m", "another's")
    assert results._commit() is None, "a checkout that it is no part of"
    git("add", ".")
    git("commit", "-q", "-m", "one")
    head = git("rev-parse", "HEAD")
    assert results._commit() == head
    (tmp_path / "README").write_text("not the package")
    git("add", ".")
    assert results._commit() == head
    found = {results._commit()}
    for text in ("two = 2\n", "three = 3\n"):
        package.write_text(text)
        found.add(results._commit())
    assert len(found) == 3
    assert all(made is not None and made.split("+")[0] == head for made in found)


@pytest.mark.parametrize("text", [None, "", "{}", "[]", '{"command": 3}'])
def test_a_folder_without_a_command_was_begun_by_none(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / results.ENVIRONMENT).write_text(text)
    assert results.begun_with(tmp_path) is None


@pytest.mark.untraced
def test_an_old_result_is_replaced_as_a_whole(folder: Path, record: Record, tmp_path: Path) -> None:
    (tmp_path / "compare.json").write_text("{}")
    (tmp_path / results.ADAPTERS).mkdir()
    results.prepare(tmp_path)
    results.begin(tmp_path, record.scenario, "gainnet run campus")
    assert results.begun_with(tmp_path) == "gainnet run campus"
    assert not (tmp_path / results.ADAPTERS).exists()
    (tmp_path / results.JOURNAL).rmdir()
    results.write(tmp_path, record, "again")
    assert {entry.name for entry in tmp_path.iterdir()} == set(results.RUN_FILES)
