"""Passages with notes made of public text: notes stand in their passages, and as much is made as was asked for."""

from __future__ import annotations

import re

import pytest

from gainnet.knowledge import extracts, interviews, spoken
from gainnet.knowledge.draw import Draw
from gainnet.rng import stream

PUBLIC = [
    "Asthma narrows the airways. It can be treated with an inhaler. Some people only wheeze after they exercise.",
    "Question: What is gout?\nAnswer: Gout is a kind of arthritis. Crystals form in a joint. The big toe swells most often.",
    "A fever is a temperature above 38 degrees. Rest and fluids help. Call a doctor if it lasts for three days.",
    "Too short",
]


def _made(share: float, seed: int = 0) -> list[str]:
    return extracts.texts(Draw(stream(seed, "test")), PUBLIC * 20, share)


@pytest.fixture(autouse=True)
def _no_interviews(monkeypatch: pytest.MonkeyPatch) -> None:
    """They have tests of their own."""
    monkeypatch.setattr(extracts, "INTERVIEWS", 0.0)


def test_interviews_are_the_part_of_what_is_made_that_they_should_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extracts, "INTERVIEWS", 0.5)
    headings = tuple(heading for several in interviews.HEADINGS.values() for heading in several)
    asked = [text.split("\n\n## ")[1].split("\n")[0] in headings for text in _made(0.9)]
    assert 0.4 < sum(asked) / len(asked) < 0.6


def _spoken(text: str) -> bool:
    return text.startswith(("Doctor: ", "Patient: "))


def test_every_note_stands_in_its_passage_under_a_heading_of_its_words() -> None:
    made = [text for text in _made(0.6) if not _spoken(text)]
    for text in made:
        passage, asked = text.split("\n\n## ")
        heading, note = asked.split("\n", 1)
        assert " ".join(note.split()) in " ".join(passage.split())
        assert set(heading.split()) <= {word.lower() for word in re.findall(r"[A-Za-z]{2,}", note)}
        assert len(passage) <= extracts.PASSAGE_MAX + extracts.SENTENCE[1]


@pytest.mark.parametrize("share", [0.2, 0.5, 0.8])
def test_as_much_is_made_as_was_asked_for(share: float) -> None:
    own, made = sum(map(len, PUBLIC)) * 20, sum(map(len, _made(share)))
    assert made / (own + made) == pytest.approx(share, abs=0.03)


def test_some_passages_are_nonsense_and_the_same_word_is_changed_for_the_same() -> None:
    known = {word.lower() for text in PUBLIC for word in re.findall(r"[A-Za-z]{2,}", text)}
    made = [text for text in _made(0.8) if not _spoken(text)]
    orders = [text for text in made if not any(found in text for source in PUBLIC for found in extracts.split(source))]
    assert 0.2 < len(orders) / len(made) < 0.4
    assert all({word.lower() for word in re.findall(r"[A-Za-z]{2,}", text)} <= known for text in orders)


def test_the_same_seed_makes_the_same_texts_and_nothing_is_made_of_nothing() -> None:
    assert _made(0.5) == _made(0.5) != _made(0.5, seed=1)
    assert _made(0.0) == []
    assert extracts.texts(Draw(stream(0, "test")), ["One sentence only."], 0.5) == []


@pytest.mark.parametrize("lossy", [0.0, 1.0])
@pytest.mark.untraced
def test_conversations_say_what_their_notes_have_and_more(lossy: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extracts, "NONSENSE", 0.0)
    monkeypatch.setattr(extracts, "LOSSY", lossy)
    made = [text for text in _made(0.8) if _spoken(text)]
    assert 0.45 < len(made) / len(_made(0.8)) < 0.75
    short = 0
    for text in made:
        talk, asked = text.split("\n\n## ")
        heading, note = asked.split("\n", 1)
        assert all(turn.startswith(("Doctor: ", "Patient: ")) for turn in talk.split("\n"))
        heard = set(re.findall(r"[a-z]{2,}", talk.lower()))
        assert set(re.findall(r"[a-z]{2,}", note.lower())) <= heard | set(spoken._PERSONS)
        assert set(heading.split()) <= {word.lower() for word in re.findall(r"[A-Za-z]{2,}", " ".join(PUBLIC))}
        short += not any(sentence in note for source in PUBLIC for sentence in extracts.split(source))
    assert (0.7 < short / len(made) < 1.0) if lossy else (0.2 < short / len(made) < 0.5)


def test_speakers_of_nonsense_are_called_what_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extracts, "NONSENSE", 1.0)
    made = [text for text in _made(0.8) if _spoken(text)]
    assert len(made) > 20
    assert not any(found in text for text in made for source in PUBLIC for found in extracts.split(source))
    turns = [turn for text in made for turn in text.split("\n\n## ")[0].split("\n")]
    assert all(turn.startswith(("Doctor: ", "Patient: ")) for turn in turns)


def test_what_is_said_differs_from_what_is_written_as_speech_does() -> None:
    draw = Draw(stream(0, "test"))
    found = {spoken.said(draw, "Patients of 44 lose their sight in 3 years or 2010.") for _ in range(50)}
    assert {text[-50:] for text in found} == {"I of forty four lose my sight in three years or 2010."[-50:]}
    assert len(found) > 3
    assert "4% of" in spoken.said(draw, "It is 4% of all.")
    assert spoken.terse("The pain is in the left knee.") == "Pain in left knee."
    assert [spoken.in_words(n) for n in (0, 13, 20, 99)] == ["zero", "thirteen", "twenty", "ninety nine"]
