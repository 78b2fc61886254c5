"""Passages with notes made of public text: notes stand in their passages, and as much is made as was asked for."""

from __future__ import annotations

import re

import pytest

from gainnet.knowledge import extracts
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


def test_every_note_stands_in_its_passage_under_a_heading_of_its_words() -> None:
    made = _made(0.6)
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
    made = _made(0.8)
    orders = [text for text in made if not any(found in text for source in PUBLIC for found in extracts.split(source))]
    assert 0.2 < len(orders) / len(made) < 0.4
    assert all({word.lower() for word in re.findall(r"[A-Za-z]{2,}", text)} <= known for text in orders)


def test_the_same_seed_makes_the_same_texts_and_nothing_is_made_of_nothing() -> None:
    assert _made(0.5) == _made(0.5) != _made(0.5, seed=1)
    assert _made(0.0) == []
    assert extracts.texts(Draw(stream(0, "test")), ["One sentence only."], 0.5) == []
