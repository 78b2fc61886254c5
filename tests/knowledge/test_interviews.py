"""Interviews: notes tell what was said, in the words of charts, and every form can be filled."""

from __future__ import annotations

import itertools
import re

import pytest

from gainnet.knowledge import interviews
from gainnet.knowledge.draw import Draw
from gainnet.knowledge.interviews import Filling, Form, forms, interview, terms
from gainnet.rng import stream

KNOWN = ("retinal dystrophy", "myelin", "PKU")


def _made(number: int = 400, seed: int = 0, known: tuple[str, ...] = KNOWN) -> list[str]:
    draw = Draw(stream(seed, "test"))
    return [interview(draw, known) for _ in range(number)]


def test_an_interview_is_turns_a_heading_and_a_note() -> None:
    headings = {heading for several in interviews.HEADINGS.values() for heading in several}
    met = set()
    for text in _made():
        said, asked = text.split("\n\n## ")
        heading, note = asked.split("\n", 1)
        assert heading in headings
        assert all(turn.startswith(("Doctor: ", "Patient: ")) for turn in said.split("\n"))
        assert note
        assert not re.search(r"[{}|]", text)
        met.add(heading)
    assert len(met) > 0.8 * len(headings)


def _places(way: str) -> set[str]:
    """What a way tells of: the names of its places, as they are drawn."""
    names = (name.lower().removesuffix(",") for name in re.findall(r"{([^}]*)}", way))
    return {name[0] if name in ("so", "co") else name for name in names}


def _combined(form: Form) -> list[tuple[str, str, str]]:
    """Question, answer and note as they may come together."""
    count = len(form.long)
    found = []
    for place in range(count):

        def ways(several: tuple[str, ...], place: int = place) -> tuple[str, ...]:
            return several[place : place + 1] if form.paired and len(several) == count else several

        notes = (*ways(form.long), *ways(form.short))
        found += list(itertools.product(ways(form.said), ways(form.answered), notes))
    return found


@pytest.mark.parametrize("section", sorted(interviews.HEADINGS))
def test_a_note_tells_only_what_was_said(section: str) -> None:
    for form in forms()[section]:
        for said, answered, note in _combined(form):
            assert _places(note) <= _places(said) | _places(answered) | {"who", "his"}, (said, answered, note)


def test_terms_of_the_text_that_a_note_has_were_said() -> None:
    found = 0
    for text in _made():
        said, note = text.split("\n\n## ")
        for term in KNOWN:
            if term.lower() in note.lower():
                found += 1
                assert term.lower() in said.lower()
    assert found > 100


def test_the_same_seed_makes_the_same_and_no_terms_are_needed() -> None:
    assert _made(20) == _made(20) != _made(20, seed=1)
    assert len(_made(50, known=())) == 50


@pytest.mark.parametrize("section", sorted(interviews.HEADINGS))
def test_every_form_is_well_formed_and_can_be_filled(section: str) -> None:
    assert forms()[section]
    for form in forms()[section]:
        for ways in (form.said, form.answered, form.long, form.short):
            for way in ways:
                assert way.format_map(Filling(Draw(stream(0, "test")), KNOWN, "male"))
        if form.paired:  # what tells which note is meant is in one place for each note
            assert len(form.long) in (len(form.answered), len(form.said))


def test_a_place_says_one_thing_and_writes_it_as_charts_do() -> None:
    for seed in range(30):
        filling = Filling(Draw(stream(seed, "test")), (), "female")
        years, count = filling["y"], filling["n"]
        assert filling["Y"].isdigit()
        assert not any(letter.isdigit() for letter in count)
        assert filling["n"] == count
        assert filling["y"] == years
        either, both = filling["so"], filling["s"]
        assert either.replace(" or ", ", ").split(", ") == both.replace(" and ", ", ").split(", ")
        assert filling["S,"].count(", ") == len(both.replace(" and ", ", ").split(", ")) - 1


def test_terms_are_short_runs_of_rarer_words() -> None:
    often = {f"word{chr(97 + i // 26)}{chr(97 + i % 26)}": 100 for i in range(interviews.COMMON)}
    texts = ["wordaa retinal dystrophy wordab myelin, PKU wordac one two three four wordad being wordae"]
    rare = dict.fromkeys(("retinal", "dystrophy", "myelin", "pku", "one", "two", "three", "four", "being"), 1)
    assert terms(texts, often | rare) == ["retinal dystrophy", "myelin", "PKU"]
