"""Notes chosen by drawn ones: agreement is ROUGE's, a consensus is one of them, an extract holds what was said only."""

from __future__ import annotations

import pytest

from gainnet.knowledge.score import rouge
from gainnet.knowledge.writing import BIGRAMS, SENTENCES_MAX, agreement, consensus, extract, grams

DIALOGUE = "\n".join(
    [
        "Doctor: Good morning. Do you smoke?",
        "Patient: No, never. I have had asthma since 1999.",
        "Doctor: How old are you?",
        "Guest family: She is thirty.",
    ]
)


@pytest.mark.parametrize(
    ("one", "other"),
    [("No asthma; a cough.", "asthma and a cough"), ("a a b", "a b a b"), ("x", "y"), ("", "y"), ("1-2 mg.", "2 mg")],
)
def test_agreement_is_rouge_of_words_and_of_pairs(one: str, other: str) -> None:
    found = rouge([one], [other])
    expected = (1.0 - BIGRAMS) * found.one[0] + BIGRAMS * found.two[0]
    assert agreement(grams(one), grams(other)) == pytest.approx(expected)
    assert agreement(grams(one), grams(other)) == agreement(grams(other), grams(one))


def test_recall_may_count_for_more() -> None:
    long, short = grams("a cough and a fever"), grams("cough")
    assert agreement(long, short, recall=2.0) > agreement(long, short)
    assert agreement(short, long, recall=2.0) < agreement(short, long)
    # one of five words, and the one word whole: (1 + 4) * 1 / (5 + 4 * 1)
    assert agreement(long, short, recall=2.0) == pytest.approx((1.0 - BIGRAMS) * 5.0 / 9.0)


def test_a_consensus_is_what_the_others_agree_with() -> None:
    assert consensus(["He has a cough.", "Nothing.", "She has a cough.", "A knee hurts."]) == "He has a cough."
    assert consensus(["one", "two"]) == "one"
    assert consensus(["only"]) == "only"
    with pytest.raises(ValueError, match="no note was drawn"):
        consensus([])


def test_an_extract_has_the_sentences_that_drawn_notes_agree_with_in_their_order() -> None:
    drawn = ["She is thirty. Asthma since 1999.", "Asthma since 1999, age thirty."]
    assert extract(DIALOGUE, drawn) == "I have had asthma since 1999. She is thirty."
    assert extract(DIALOGUE, ["Does not smoke."]) == "Do you smoke?"
    assert extract(DIALOGUE, ["Zebra."]) == extract("", drawn) == extract(DIALOGUE, []) == ""


def test_an_extract_says_nothing_twice_and_is_bounded() -> None:
    said = "\n".join(f"Patient: word{i} word{i + 1}." for i in range(40)) + "\nPatient: word1 word2."
    drawn = " ".join(f"word{i}" for i in range(42))
    found = extract(said, [drawn]).split(". ")
    assert len(found) == len(set(found)) == SENTENCES_MAX
