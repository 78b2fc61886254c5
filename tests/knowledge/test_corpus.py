import csv
import gzip
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gainnet.errors import InputError
from gainnet.knowledge import public_text, rows
from gainnet.knowledge.corpus import read
from gainnet.knowledge.example import Corpus
from gainnet.knowledge.grouping import MTS_DIALOG, grouped
from gainnet.knowledge.rows import Refused
from gainnet.rng import stream
from gainnet.scenario.knowledge import Recorded, Synthetic

DATA = Path(__file__).parents[3] / "shared" / "data"
COLUMNS = ("ID", "section_header", "section_text", "dialogue")


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only few general texts stand in for public text, so that reading is fast."""
    monkeypatch.setattr("gainnet.knowledge.corpus.Synthetic", lambda: Synthetic(public=8, held=2))


def as_csv(body: Sequence[Sequence[str]], header: Sequence[str] = COLUMNS) -> str:
    text = io.StringIO()
    csv.writer(text).writerows([header, *body])
    return text.getvalue()


def body(number: int, sections: Sequence[str] = ("A", "B"), name: str = "x") -> list[tuple[str, str, str, str]]:
    return [
        (str(i), sections[i % len(sections)], f"Note {name}{i}.", f"Doctor: {name}{i}?\nPatient: yes")
        for i in range(number)
    ]


def folder(path: Path, **files: str) -> Path:
    for name, text in files.items():
        (path / f"{name}.csv").write_text(text, "utf-8")
    return path


def corpus(path: Path, *ends: int, seed: int = 1, domains: Mapping[str, tuple[str, ...]] | None = None) -> Corpus:
    return read(Recorded(path=path, domains=dict(domains or {})), ends_of_edge=ends, rng=stream(seed, "data"))


def keys(found: Corpus) -> list[str]:
    parts = [(*[e for shard in d.shards for e in shard], *d.validation, *d.test) for d in found.domains]
    return [example.key for part in parts for example in part]


@pytest.mark.untraced
def test_mts_dialog_as_published() -> None:
    if not DATA.is_dir():
        pytest.skip("../shared/data is missing")
    found = corpus(DATA / "mts_dialog", 5, 5, 5, 5)
    assert [d.name for d in found.domains] == list(MTS_DIALOG)
    assert [sum(map(len, d.shards)) for d in found.domains] == [359, 358, 306, 178]
    assert [len(d.validation) for d in found.domains] == [24, 24, 25, 27]
    assert [len(d.test) for d in found.domains] == [64, 49, 45, 42]
    assert found.refused == ()
    assert [
        sum(e.seen for d in found.domains for e in part(d)) for part in (lambda d: d.validation, lambda d: d.test)
    ] == [18, 29]
    assert {s for d in found.domains for s in d.sections} == {s for sections in MTS_DIALOG.values() for s in sections}


@pytest.mark.untraced
def test_medquad_is_public_text() -> None:
    if not DATA.is_dir():
        pytest.skip("../shared/data is missing")
    refused = Refused()
    public, held = public_text.read(DATA / "medquad" / "medquad.jsonl.gz", refused)
    assert (len(public), len(held)) == (15_847, 512)
    assert not set(public) & set(held)
    assert public[0].startswith("Question: What is (are) ")
    assert refused.lines() == ("medquad.jsonl.gz: 48 texts that are there twice",)


def test_a_folder(tmp_path: Path) -> None:
    files = {
        "TrainingSet": as_csv(body(20)),
        "ValidationSet": as_csv(body(4, name="v")),
        "TestSet-1": as_csv(body(6, name="t")),
    }
    found = corpus(folder(tmp_path, **files, **{"TestSet-2": as_csv(body(2)), "notes": "x"}), 2, 3)
    assert [(d.name, d.sections, len(d.shards)) for d in found.domains] == [("A", ("A",), 2), ("B", ("B",), 3)]
    assert len(keys(found)) == len(set(keys(found))) == 30
    assert found.refused == (
        "TestSet-2.csv: not read: TestSet-1.csv is the test file",
        "notes.csv: not read: is none of train, validation and test",
    )
    example = found.domains[0].test[0]
    assert (example.key, example.section, example.note) == ("TestSet-1/2", "A", "Note t0.")
    assert example.dialogue == "Doctor: t0?\nPatient: yes"
    assert (len(found.public), len(found.public_held)) == (8, 2)  # the general texts stand in


@pytest.mark.parametrize("name", ["x.csv", "x.csv.gz", "x.jsonl", "x.jsonl.gz"])
def test_one_file_is_split_by_domain(tmp_path: Path, name: str) -> None:
    text = as_csv(body(40, "AAAB"))
    if "jsonl" in name:
        text = "\n".join(json.dumps(row) for row in csv.DictReader(io.StringIO(text, newline="")))
    packed = gzip.compress(text.encode()) if name.endswith(".gz") else text.encode()
    (tmp_path / name).write_bytes(b"\xef\xbb\xbf" + packed if name == "x.csv" else packed)
    found = corpus(tmp_path / name, 2, 1)
    assert [(d.name, sum(map(len, d.shards)), len(d.validation), len(d.test)) for d in found.domains] == [
        ("A", 24, 3, 3),
        ("B", 8, 1, 1),
    ]
    assert len(set(keys(found))) == 40
    assert found == corpus(tmp_path / name, 2, 1)
    assert found != corpus(tmp_path / name, 2, 1, seed=2)


def test_columns_have_the_names_that_are_given(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text(as_csv([("A", f"n{i}", f"d{i}") for i in range(9)], ("kind", "summary", "talk")))
    data = Recorded(path=path, section="kind", note="summary", dialogue="talk")
    found = read(data, ends_of_edge=(1,), rng=stream(1, "x"))
    assert {e.note[1:] == e.dialogue[1:] for e in found.domains[0].shards[0]} == {True}
    with pytest.raises(
        InputError,
        match=r"x\.csv: has no column 'section_header', 'dialogue', 'section_text'; it must .*summ.*data.section",
    ):
        corpus(path, 1)


def test_broken_rows_of_csv_are_refused_one_by_one(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    broken = [
        b'1,A,"cut',  # takes the next line with it, whose quote then ends too early, and gives it back
        b'2,A,"a"b,c',
        b"3,A,too few",
        b"4,A,,no note",
        b"5,A,no dialogue,  ",
        b"6,A,\xff\xfe,d",
        b"7,A,nul \x00,d",
        b"8,A,long," + b"x" * 100_001,
        b"9,A,longer," + b"x" * 140_000,
        b"",
        b"10,,n,d",
    ]
    path.write_bytes(as_csv(body(9)).encode() + b"\r\n".join(broken) + b"\r\n" + as_csv(body(4, name="y"), []).encode())
    found = corpus(path, 1, 1)
    assert len(keys(found)) == 13
    assert [line.removeprefix("x.csv:") for line in found.refused] == [
        "20: malformed: ',' expected after '\"'; a quote may not be closed",
        "21: malformed: ',' expected after '\"'",
        "22: 3 fields where the header has 4",
        "23: 'section_text' is empty",
        "24: 'dialogue' is empty",
        "25: 'section_text' is not UTF-8 text",
        "26: 'section_text' is not text: it has a NUL",
        "27: 'dialogue' is of 100,001 characters, at most 100,000 are allowed",
        "28: malformed: field larger than field limit (131072)",
        "30: 'section_header' is empty",
    ]


@pytest.mark.parametrize("more", [0, 3000])  # the quote ends with the file, or at what a field may hold
def test_a_quote_that_is_not_closed_costs_its_own_row(tmp_path: Path, more: int) -> None:
    path = tmp_path / "x.csv"
    good = [f"{i},{'AB'[i % 2]},note {i},said {i}{'!' * 40}" for i in range(40 + more)]
    path.write_text("\n".join([",".join(COLUMNS), *good[:8], '99,A,"n,d', *good[8:]]) + "\n")
    found = corpus(path, 1, 1)
    assert len(keys(found)) == 40 + more
    (line,) = found.refused
    assert line.startswith("x.csv:10: malformed: ")
    assert "quote" in line


def test_a_quote_that_is_not_closed_in_several_lines(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text(
        as_csv(body(4)) + '5,A,n,"Doctor: and?\nPatient: no\n' + as_csv(body(3, name="y"), [])[2:] + '6,A,"n'
    )
    found = Refused()
    picked = list(rows.rows(path, (("section_text",),), found))
    assert [row.fields[0] for row in picked] == [
        "Note x0.",
        "Note x1.",
        "Note x2.",
        "Note x3.",
        "Note y0.",
        "Note y1.",
        "Note y2.",
    ]
    assert [line.split(":")[1] for line in found.lines()] == ["10", "11", "18"]


def test_a_malformed_header_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text('ID,section_header,"section_text,dialogue\n1,A,n,d\n')
    with pytest.raises(InputError, match=r"x\.csv:1: the header is malformed: a quote is not closed$"):
        corpus(path, 1)


def test_a_column_that_is_there_twice_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text(as_csv([(*row, "again", "", "") for row in body(9)], (*COLUMNS, "dialogue", "", "")))
    with pytest.raises(InputError, match=r"x\.csv: has the column 'dialogue' 2 times; it must be there once"):
        corpus(path, 1)
    path.write_text(as_csv([(*row, "", "") for row in body(9)], (*COLUMNS, "", "")))
    assert len(keys(corpus(path, 1))) == 9  # nobody asked for these


@pytest.mark.parametrize("name", ["x.csv", "x.jsonl"])
def test_all_columns_are_named_where_some_are_missing(tmp_path: Path, name: str) -> None:
    names = [f"a column of the file {i}" for i in range(20)]
    text = as_csv([["x"] * 20], names)
    if name == "x.jsonl":
        text = "\n".join(json.dumps(dict.fromkeys(part, "x")) for part in (names[:12], names[12:]))
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError) as caught:
        corpus(tmp_path / name, 1)
    assert "has no column 'section_header', 'dialogue', 'section_text'; it must" in str(caught.value)
    assert f"and has {', '.join(names)}; knowledge.data.section" in str(caught.value)
    (tmp_path / name).write_text(
        as_csv([], [f"c{i}" for i in range(200)])
        if name == "x.csv"
        else json.dumps(dict.fromkeys(map("c{}".format, range(200)), "x"))
    )
    with pytest.raises(InputError, match=r"c98, c99, \.\.\.; knowledge"):
        corpus(tmp_path / name, 1)


def test_rows_of_a_section_that_does_not_fit_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text(as_csv([*body(20), ("1", "C", "n", "d"), ("2", "S" * 101, "n", "d")]))
    why = {"C": "its section takes 40 tokens"}
    for domains in ({}, {"one": ("A", "C"), "two": ("B",)}):
        data = Recorded(path=path, domains=domains)
        found = read(data, ends_of_edge=(1, 1), rng=stream(1, "data"), unfit=why)
        assert [domain.sections for domain in found.domains] == [("A",), ("B",)]
        assert found.refused == (
            "x.csv:42: its section takes 40 tokens",
            "x.csv:43: its section has 101 characters, at most 100 are allowed",
        )
    every = dict.fromkeys("ABC", "its section takes 40 tokens")
    with pytest.raises(InputError, match=r"has no row that can be used; x\.csv:2: its section takes 40 tokens$"):
        read(Recorded(path=path), ends_of_edge=(1, 1), rng=stream(1, "data"), unfit=every)


def test_broken_rows_of_json_are_refused_one_by_one(tmp_path: Path) -> None:
    good = [json.dumps(dict(zip(COLUMNS, row, strict=True))) for row in body(6)]
    broken = [
        "{",
        "[1]",
        '{"section_header": "A", "section_text": "n"}',
        '{"section_header": "A", "section_text": 3, "dialogue": "d"}',
        '{"section_header": "A", "section_text": "\\ud800", "dialogue": "d"}',
        "[" * 100_000,
        '"' + "x" * 2_500_000,
        "",
    ]
    (tmp_path / "x.jsonl").write_text("\n".join([*broken, *good]))
    found = corpus(tmp_path / "x.jsonl", 1, 1)
    assert len(keys(found)) == 6
    assert [line.split(": ", 1)[1][:50] for line in found.refused] == [
        "no JSON: Expecting property name enclosed in doubl",
        "no JSON object",
        "lacks 'dialogue'",
        "'section_text' is not text",
        "'section_text' is not UTF-8 text",
        found.refused[5].split(": ", 1)[1][:50],  # too deep: in the words of this Python
        "the line has more than 1,000,000 characters",
    ]
    assert found.refused[5].startswith("x.jsonl:6: no JSON")
    assert found.refused[6].startswith("x.jsonl:7: ")
    assert min(int(key.split("/")[1]) for key in keys(found)) == 9


@pytest.mark.untraced
def test_a_cut_archive_gives_what_it_has(tmp_path: Path) -> None:
    path = tmp_path / "x.csv.gz"
    path.write_bytes(gzip.compress(as_csv(body(5000)).encode())[:-1000])
    found = corpus(path, 1, 1)
    assert 1000 < len(keys(found)) < 5000
    assert "x.csv.gz: it is cut or damaged" in found.refused[-1]
    path.write_bytes(b"no archive")
    with pytest.raises(InputError, match=r"cannot be read: Not a gzipped file"):
        corpus(path, 1, 1)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("x.csv", "", "has no row that can be used; it is empty"),
        ("x.csv", as_csv([]), "has no row that can be used; it is empty"),
        ("x.csv", as_csv([("1", "A", "", "d")]), "has no row that can be used; x.csv:2: 'section_text' is empty"),
        ("x.csv", "ID,dialogue\n1,2\n", "has no column 'section_header', 'section_text'; .* has ID, dialogue"),
        ("x.csv", "\x00\x01binary", "has no column"),
        ("x.jsonl", '{"dialogue": "d"}', "has no column 'section_header', 'section_text'; .* has dialogue"),
        ("x.jsonl", "hello", "has no row that can be used; x.jsonl:1: no JSON"),
        ("x.xlsx", "", "must end in .csv or .jsonl"),
        ("x.csv", as_csv(body(2)), "domain 'A' has no training example"),
    ],
)
def test_a_useless_file_is_an_error(tmp_path: Path, name: str, text: str, message: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=message) as caught:
        corpus(tmp_path / name, 1)
    assert "\n" not in str(caught.value)


def test_a_useless_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"knowledge\.data\.path: .*nowhere does not exist"):
        corpus(tmp_path / "nowhere", 1)
    with pytest.raises(InputError, match="has no train file"):
        corpus(tmp_path, 1)
    folder(tmp_path, train=as_csv(body(6)), validation=as_csv(body(4, "A", "v")))
    with pytest.raises(InputError, match="has no test file"):
        corpus(tmp_path, 1)
    folder(tmp_path, test=as_csv(body(4, name="t")))
    with pytest.raises(InputError, match="domain 'B' has no validation example"):
        corpus(tmp_path, 1, 1)
    (tmp_path / "x.csv").mkdir()
    with pytest.raises(InputError, match="knowledge: the network has no edge"):
        corpus(tmp_path)


def test_duplicates_of_training_data_are_seen(tmp_path: Path) -> None:
    rows_of = [("1", "A", "None.", "d"), ("2", "A", "n", "Same talk"), ("3", "A", "m", "e")]
    held = [("1", "A", "none. ", "x"), ("2", "A", "y", "same  talk"), ("3", "A", "z", "w")]
    found = corpus(folder(tmp_path, train=as_csv(rows_of), valid=as_csv(held), test=as_csv(held)), 2)
    assert (
        [e.seen for e in found.domains[0].validation] == [e.seen for e in found.domains[0].test] == [True, True, False]
    )
    assert not any(e.seen for shard in found.domains[0].shards for e in shard)


def test_sections_without_a_domain_are_named(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text(as_csv(body(30, "ABC")))
    found = corpus(tmp_path / "x.csv", 2, domains={"first": ("A", "C")})
    assert found.domains[0].sections == ("A", "C")
    assert len(keys(found)) == 20
    assert found.refused == ("section 'B': in no domain, 10 rows are left out",)


@pytest.mark.parametrize(
    ("domains", "message"),
    [
        ({"x": ("A",)}, "knowledge.data.domains: 1 domains for 2 edges"),
        ({"x": ("A",), "y": ()}, "domains.y: has no section"),
        ({"x": ("A",), "y": ("A",)}, "domains.y: section 'A' is in 'x' too"),
        ({"x": ("A",), "y": ("Z",)}, "domains.y: the data have no section 'Z'; they have A, B"),
    ],
)
def test_domains_must_fit(domains: dict[str, tuple[str, ...]], message: str) -> None:
    with pytest.raises(InputError, match=message):
        grouped({"A": 3, "B": 2}, 2, domains)


def test_sections_are_dealt_by_size() -> None:
    assert grouped({"A": 5, "B": 9, "C": 4, "D": 1}, 2, {}) == {"B": ("B", "D"), "A": ("A", "C")}
    some = {"GENHX": 9, "GYNHX": 2, "ALLERGY": 3, "ROS": 3}
    assert list(grouped(some, 4, {})) == list(MTS_DIALOG)
    assert list(grouped({**some, "NEW": 1}, 4, {})) == ["GENHX", "ALLERGY", "ROS", "GYNHX"]
    assert list(grouped({"GENHX": 9, "CC": 2, "ALLERGY": 3, "ROS": 3}, 4, {})) == ["GENHX", "ALLERGY", "ROS", "CC"]


def test_fewer_sections_than_edges_are_shared() -> None:
    assert grouped({"A": 50, "B": 9, "C": 20}, 6, {}) == {
        **{f"A ({part} of 3)": ("A",) for part in (1, 2, 3)},
        **{f"C ({part} of 2)": ("C",) for part in (1, 2)},
        "B": ("B",),
    }
    assert len(grouped({"A": 9, "A (1 of 2)": 1}, 3, {})) == 3
    assert list(grouped({"GENHX": 5}, 4, {})) == [f"GENHX ({part} of 4)" for part in (1, 2, 3, 4)]


def test_who_shares_a_section_has_a_part_of_its_examples(tmp_path: Path) -> None:
    parts = {name: as_csv(body(number, "A", name)) for name, number in (("train", 30), ("valid", 7), ("test", 8))}
    found = corpus(folder(tmp_path, **parts), 2, 2, 3)
    assert [d.name for d in found.domains] == ["A (1 of 3)", "A (2 of 3)", "A (3 of 3)"]
    assert [sum(map(len, d.shards)) for d in found.domains] == [10, 10, 10]
    assert [(len(d.validation), len(d.test)) for d in found.domains] == [(3, 3), (2, 3), (2, 2)]
    assert len(set(keys(found))) == 45
    with pytest.raises(InputError, match=r"domain 'A \(8 of 8\)' has no validation example"):
        corpus(tmp_path, *[1] * 8)


def test_data_without_sections(tmp_path: Path) -> None:
    file = tmp_path / "x.csv"
    file.write_text(as_csv([row[2:] for row in body(40)], ("summary", "talk")))
    data = Recorded(path=file, section=None, note="summary", dialogue="talk")
    found = read(data, ends_of_edge=(3, 3), rng=stream(1, "data"))
    assert [d.sections for d in found.domains] == [("note",), ("note",)]
    assert len(set(keys(found))) == 40
    with pytest.raises(InputError, match=r"no column 'section_header'; .*data\.section \(null for data without\)"):
        read(Recorded(path=file, note="summary", dialogue="talk"), ends_of_edge=(3, 3), rng=stream(1, "data"))


@given(st.dictionaries(st.text(min_size=1), st.integers(0, 99), min_size=1), st.data())
@pytest.mark.untraced
def test_every_section_is_dealt_once(counts: dict[str, int], data: st.DataObject) -> None:
    edges = data.draw(st.integers(1, 2 * len(counts)))
    groups = grouped(counts, edges, {})
    assert len(groups) == edges
    if edges > len(counts):  # each edge has one, and all are there
        assert {section for (section,) in groups.values()} == set(counts)
        return
    assert all(groups.values())
    assert sorted(s for group in groups.values() for s in group) == sorted(counts)
    totals = [sum(counts[s] for s in group) for group in groups.values()]
    assert max(totals) - min(totals) <= max(counts.values())


def test_public_formats(tmp_path: Path) -> None:
    def public(name: str, text: str) -> tuple[list[str], tuple[str, ...]]:
        (tmp_path / name).write_bytes(text.encode("utf-8", "surrogateescape"))
        refused = Refused()
        return sorted(sum(public_text.read(tmp_path / name, refused), ())), refused.lines()

    assert public("x.txt", "one\n two\n\n\nthree\nfour \n") == (["one\ntwo", "three\nfour"], ())
    assert public("y.txt", f"a\n\nb\udcff\n\n{'xy' * 60_000}\n\nb") == (
        ["a", "b"],
        ("y.txt:3: text is not UTF-8 text", "y.txt:5: text is of 120,000 characters, at most 100,000 are allowed"),
    )
    assert public("x.csv", "text\na\nb\na\n") == (["a", "b"], ("x.csv: 1 texts that are there twice",))
    both = '{"question": "q", "answer": "a", "text": "t"}\n{"text": "t"}\n{"answer": "a"}\n'
    assert public("x.jsonl", both) == (["Question: q\nAnswer: a", "t"], ("x.jsonl:3: lacks 'question'",))
    for name, text, message in (
        ("z.txt", "one", "has 1 texts; public text needs at least 2"),
        ("z.csv", "note\na\n", "has no column 'question', 'answer'; it must have the columns question, answer or text"),
        ("z.pdf", "", "must end in .txt, .csv or .jsonl"),
    ):
        with pytest.raises(InputError, match=message):
            public(name, text)
    with pytest.raises(InputError, match=r"none\.txt: cannot be read: No such file"):
        public_text.read(tmp_path / "none.txt", Refused())


def test_public_text_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(public_text, "CHARACTERS_MAX", 10)
    path = tmp_path / "x.txt"
    path.write_text("aaaa\n\nbbbb\n\ncccc")
    refused = Refused()
    public, held = public_text.read(path, refused)
    assert {*public, *held} == {"aaaa", "bbbb"}
    assert refused.lines() == ("x.txt: what is beyond 10 characters",)
    packed = tmp_path / "y.txt.gz"
    packed.write_bytes(gzip.compress("\n\n".join(f"text {i * 7919}" for i in range(9999)).encode())[:-20])
    monkeypatch.setattr(public_text, "CHARACTERS_MAX", 10**9)
    public_text.read(packed, refused)
    assert "y.txt.gz: it is cut or damaged" in refused.lines()[-1]


def test_public_text_of_the_config(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text(as_csv(body(9)))
    (tmp_path / "p.txt").write_text("\n\n".join(f"text {i}" for i in range(40)))
    data = Recorded(path=tmp_path / "x.csv", public=tmp_path / "p.txt")
    found = read(data, ends_of_edge=(1,), rng=stream(1, "x"))
    assert (len(found.public), len(found.public_held)) == (38, 2)


def test_many_refused_rows_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "REFUSED_MAX", 2)
    refused = Refused()
    for line in range(5):
        refused.row(Path("a/x.csv"), line, "no")
    refused.row(Path("y.csv"), 1, "no")
    assert refused.lines() == ("x.csv:0: no", "x.csv:1: no", "y.csv:1: no", "x.csv: 3 more rows")


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(["x.csv", "x.jsonl", "x.csv.gz", "x.jsonl.gz"]), st.binary(max_size=300), st.booleans())
def test_any_bytes_are_read_or_refused(tmp_path: Path, name: str, junk: bytes, zipped: bool) -> None:
    head = as_csv(body(3)) if "csv" in name else json.dumps(dict(zip(COLUMNS, body(1)[0], strict=True))) + "\n"
    content = head.encode() + junk
    (tmp_path / name).write_bytes(gzip.compress(content) if zipped else content)
    message = ""
    try:
        found = corpus(tmp_path / name, 1)
        assert all(e.note.strip() and e.dialogue.strip() and e.section.strip() for d in found.domains for e in d.test)
    except InputError as error:
        message = str(error)
    assert "\n" not in message


TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1).filter(str.strip)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(TEXT, TEXT), min_size=3, max_size=8), st.booleans())
@pytest.mark.untraced
def test_what_is_written_is_read(tmp_path: Path, pairs: list[tuple[str, str]], as_json: bool) -> None:
    table = [("0", "A", note, dialogue) for note, dialogue in pairs]
    path = tmp_path / ("x.jsonl" if as_json else "x.csv")
    text = "\n".join(json.dumps(dict(zip(COLUMNS, row, strict=True)), ensure_ascii=False) for row in table)
    path.write_bytes((text if as_json else as_csv(table)).encode())
    found = list(rows.rows(path, (("section_text", "dialogue"),), Refused()))
    assert [row.fields for row in found] == [(note.strip(), dialogue.strip()) for note, dialogue in pairs]


def test_a_folder_that_cannot_be_listed_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: Path) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "iterdir", refuse)
    with pytest.raises(InputError, match="cannot be read: Permission denied"):
        corpus(tmp_path, 1)
