"""Renaming: shared rare words change alike in dialogue and note, all else stays."""

from __future__ import annotations

from gainnet.knowledge.draw import Draw
from gainnet.knowledge.example import Example
from gainnet.knowledge.renaming import OFTEN, Renaming
from gainnet.rng import stream

COMMON = [f"{chr(97 + i // 676)}{chr(97 + i // 26 % 26)}{chr(97 + i % 26)}often" for i in range(OFTEN)]
RARE = ["zebra", "quokka", "narwhal"]
PUBLIC = [" ".join(COMMON * 2), " ".join(RARE)]
EXAMPLE = Example(
    "a/1",
    "HPI",
    f"Patient: I have asthma, ASTHMA is 120 {COMMON[0]}. My cough is new.",
    f"Asthma at 120, {COMMON[0]}. Dyspnea.",
)


def _changed(seed: int, public: list[str] = PUBLIC) -> Example:
    return Renaming(public).of(Draw(stream(seed, "test")), EXAMPLE)


def test_shared_rare_words_change_alike_in_their_case_and_nothing_else_does() -> None:
    seen = set()
    for seed in range(40):
        made = _changed(seed)
        new = made.note.split(" at ")[0]
        seen.add(new)
        assert new == "Asthma" or new.lower() in RARE
        assert f"I have {new.lower()}, {new.upper()} is" in made.dialogue
        number = made.note.split(" at ")[1].split(",")[0]
        assert len(number) == 3
        assert number[0] != "0"
        assert f" is {number} {COMMON[0]}. My cough is new." in made.dialogue
        assert made.note.endswith(f", {COMMON[0]}. Dyspnea.")
        assert (made.key, made.section) == (EXAMPLE.key, EXAMPLE.section)
    assert seen == {"Asthma", *(word.capitalize() for word in RARE)}


def test_the_same_draw_changes_the_same_and_without_public_text_only_numbers_change() -> None:
    assert _changed(3) == _changed(3)
    assert all(_changed(seed, []).note.startswith("Asthma at ") for seed in range(10))
    assert any(_changed(seed, []) != EXAMPLE for seed in range(10))
