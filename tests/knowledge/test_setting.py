"""What a loop stands on: rows that do not fit are refused, and what is lost is told."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

from gainnet.errors import InputError
from gainnet.knowledge import setting
from gainnet.knowledge.setting import Setting
from gainnet.scenario.knowledge import Recorded, Synthetic
from learning import learning_scenario

pytestmark = pytest.mark.usefixtures("models")
HEADER = ("section_header", "section_text", "dialogue")
LONG = "Doctor: does it hurt? Patient: it does, in the left knee and at night. " * 10
UNFIT = "WXYZ" * 20  # more tokens than half of 64


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only few general texts stand in for public text."""
    monkeypatch.setattr("gainnet.knowledge.corpus.Synthetic", lambda: Synthetic(public=8, held=2))


def built(
    path: Path, rows: list[tuple[str, str, str]], edge_of: tuple[int, ...] = (0, 0, 1, 1), **more: int
) -> Setting:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([HEADER, *rows])
    config = learning_scenario(**more).knowledge
    assert config is not None
    config = config.model_copy(update={"data": Recorded(path=path)})
    return setting.build(config, 1, np.array(edge_of), 2, lambda _what, _done, _total: None)


def body(number: int = 20) -> list[tuple[str, str, str]]:
    return [("AB"[i % 2], f"n{i}", f"d{i}") for i in range(number)]


def test_a_row_whose_section_does_not_fit_is_refused_and_the_rest_is_learnt(tmp_path: Path) -> None:
    found = built(tmp_path / "x.csv", [*body(), (UNFIT, "n", "d")])
    (line,) = found.corpus.refused
    assert line.startswith("x.csv:22: its section takes ")
    assert line.endswith(" tokens, at most 32 (half of the context) are allowed")
    assert [domain.sections for domain in found.corpus.domains] == [("A",), ("B",)]
    assert sum(map(len, found.shards)) == 16
    for encoded, examples, shard in zip(found.shards, found.examples, _shards(found), strict=True):
        assert len(encoded) == len(examples)
        assert examples == shard
    with pytest.raises(InputError, match=r"has no row that can be used; x\.csv:2: its section takes"):
        built(tmp_path / "x.csv", [(UNFIT + name, "n", "d") for _, _, name in body()])


def _shards(found: Setting) -> list[object]:
    return [shard for domain in found.corpus.domains for shard in domain.shards]


def test_what_is_shortened_is_told_once_a_domain(tmp_path: Path) -> None:
    rows = body(40)
    assert built(tmp_path / "x.csv", rows, (0, 1), test=0).lines == ()
    for index in (0, 2, 4):
        rows[index] = ("A", "n", LONG)
    rows[6] = ("A", LONG, "d")
    rows[7] = ("B", "n", LONG)
    assert built(tmp_path / "x.csv", rows, (0, 1), test=0).lines == (
        "domain 'A': 4 of 20 dialogues and 1 note were shortened to the context of 64 tokens",
        "domain 'B': 1 of 20 dialogues was shortened to the context of 64 tokens",
    )


def test_ends_without_data_are_told_in_one_line(tmp_path: Path) -> None:
    found = built(tmp_path / "x.csv", body(8), (0,) * 40 + (1,))
    empty = [end for end, shard in enumerate(found.shards) if not shard]
    assert len(empty) > 20
    names = ", ".join(map(str, empty[:20]))
    assert found.lines == (f"ends {names} and {len(empty) - 20} more: hold nothing to learn from",)
