"""The journal of rounds: whole, in order, and the weights that were written."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from gainnet.errors import InputError
from gainnet.knowledge import journal
from gainnet.knowledge.journal import Journal
from gainnet.models.low_rank import Factors, LowRank


def test_rounds_come_back_as_they_were_written(tmp_path: Path) -> None:
    kept = Journal(tmp_path / "rounds")
    for number in range(4):
        kept.write(number, {"round": number}, {"w": np.full(3, number, np.float32)})
    again = Journal(tmp_path / "rounds")
    assert [notes["round"] for notes in again.rounds()] == [0, 1, 2, 3]
    np.testing.assert_array_equal(again.weights(3)["w"], np.full(3, 3, np.float32))
    assert len(list((tmp_path / "rounds").glob("*.safetensors"))) == 2


def test_a_round_whose_figures_were_not_written_did_not_happen(tmp_path: Path) -> None:
    kept = Journal(tmp_path / "rounds")
    kept.write(0, {}, {"w": np.zeros(1, np.float32)})
    kept.write(1, {}, {"w": np.ones(1, np.float32)})
    (tmp_path / "rounds" / "round-0001.json").unlink()
    assert len(Journal(tmp_path / "rounds").rounds()) == 1
    np.testing.assert_array_equal(kept.weights(0)["w"], [0.0])


def test_other_weights_than_were_written_are_refused(tmp_path: Path) -> None:
    kept = Journal(tmp_path / "rounds")
    kept.write(0, {}, {"w": np.zeros(1, np.float32)})
    path = tmp_path / "rounds" / "round-0000.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\x01")
    with pytest.raises(InputError, match="other weights than were written after round 0"):
        kept.weights(0)


@pytest.mark.parametrize(("break_it", "said"), [("missing", "round 0 is missing"), ("broken", "is broken")])
def test_a_journal_with_a_hole_is_refused(tmp_path: Path, break_it: str, said: str) -> None:
    kept = Journal(tmp_path / "rounds")
    kept.write(0, {}, {"w": np.zeros(1, np.float32)})
    kept.write(1, {}, {"w": np.zeros(1, np.float32)})
    first = tmp_path / "rounds" / "round-0000.json"
    first.unlink() if break_it == "missing" else first.write_text("{")
    with pytest.raises(InputError, match=said):
        kept.rounds()


def test_without_a_folder_nothing_is_kept() -> None:
    kept = Journal(None)
    kept.write(0, {}, {})
    kept.clear()
    assert kept.rounds() == []


def test_an_adapter_survives_packing_with_others_of_alike_names() -> None:
    rng = np.random.default_rng(0)

    def adapter() -> LowRank:
        return LowRank(
            {n: Factors(rng.random((2, 3), np.float32), rng.random((4, 2), np.float32)) for n in "xy"}, 2.0, "b"
        )

    first, second = adapter(), adapter()
    arrays = journal.packed("edge1", first) | journal.packed("edge1.start0", second)
    assert journal.unpacked("edge1", arrays, "b").digest() == first.digest()
    assert journal.unpacked("edge1.start0", arrays, "b").digest() == second.digest()
