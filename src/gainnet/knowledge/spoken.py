"""A passage as a conversation: a doctor asks, a patient says its sentences, and much is said beside the point.

A model that has read only what was written for readers does not find what matters among turns. Conversations made from
documents teach it (dialog inpainting, arXiv 2205.09073); here questions are made of an answer's own rare words, and what is
said differs from what is noted as speech differs from charts: persons, numbers in words, words that fill.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from gainnet.knowledge.draw import Draw

SPEAKERS = ("Doctor", "Patient")
QUESTIONS = (
    "What about {}?",
    "And {}?",
    "Can you tell me about {}?",
    "How is it with {}?",
    "Is there anything about {}?",
    "Do you know of {}?",
    "Could you say more about {}?",
)
HEARD = (
    "Okay.",
    "I see.",
    "All right.",
    "Got it.",
    "Right.",
    "Mm hmm.",
    "Sure.",
    "Thank you.",
    "That is good to know.",
)
BEFORE = ("Well, ", "Um, ", "Yeah, ", "Actually, ", "I think ", "Oh, ", "Yes, ", "No, ", "To be honest, ", "So, ")
IDLE = (
    ("How are you doing today?", "I am good, thank you."),
    ("Good to see you again.", "You too."),
    ("Is there anything else?", "No, that is all."),
    ("Did you find us well?", "Yes, no problem."),
    ("Please have a seat.", "Thanks."),
    ("I have a few questions.", "Go ahead."),
)
ASKED, FILLED, IDLED, KEPT = 0.6, 0.4, 0.15, 0.7
"""How often a sentence is asked for; begins with a word that fills; is preceded by idle talk; is the patient's to say."""
TERSE = 0.4
"""How often a note is in the short form of charts."""

_PERSONS = {
    "patients": "I",
    "patient": "I",
    "people": "I",
    "individuals": "I",
    "they": "I",
    "he": "I",
    "she": "I",
    "them": "me",
    "him": "me",
    "their": "my",
    "his": "my",
    "her": "my",
}
_LEFT_OUT = frozenset(("the", "a", "an", "is", "are", "was", "were", "be", "been", "that", "this", "these", "there"))
_ONES = (
    *(
        "zero",
        "one",
        "two",
        "three",
        "four",
        "five",
        "six",
        "seven",
        "eight",
        "nine",
        "ten",
        "eleven",
        "twelve",
        "thirteen",
    ),
    *("fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen"),
)
_TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
_NUMBER = re.compile(r"\b\d{1,2}\b(?!%)")
_WORD = re.compile(r"[A-Za-z]{2,}")


def conversation(draw: Draw, sentences: Sequence[str], rarity: Mapping[str, int]) -> str:
    """Turns that say these sentences in order.

    Args:
        draw: of questions, speakers and what fills.
        sentences: as they were written.
        rarity: how often each word is used anywhere, by which questions are made.
    """
    turns: list[tuple[str, str]] = []
    for sentence in sentences:
        if draw.chance(IDLED):
            question, answer = draw.one(IDLE)
            turns += [("Doctor", question), ("Patient", answer)]
        who = "Patient" if draw.chance(KEPT) else "Doctor"
        if who == "Patient" and draw.chance(ASKED):
            turns.append(("Doctor", draw.one(QUESTIONS).format(_topic(draw, sentence, rarity))))
        elif turns and turns[-1][0] == who:
            turns.append(("Doctor" if who == "Patient" else "Patient", draw.one(HEARD)))
        turns.append((who, said(draw, sentence)))
    return "\n".join(f"{who}: {what}" for who, what in turns)


def said(draw: Draw, sentence: str) -> str:
    """A sentence as one says it of oneself."""
    found = _NUMBER.sub(lambda match: in_words(int(match.group())), sentence)
    found = _WORD.sub(lambda match: _PERSONS.get(match.group().lower(), match.group()), found)
    if not draw.chance(FILLED):
        return found
    own = found[:2] in ("I ", "I'") or found[1:2].isupper()
    return draw.one(BEFORE) + (found if own else found[0].lower() + found[1:])


def terse(sentence: str) -> str:
    """A sentence as charts have it: without the words that carry little."""
    words = [word for word in sentence.split() if word.lower() not in _LEFT_OUT] or sentence.split()
    return " ".join([words[0][0].upper() + words[0][1:], *words[1:]])


def in_words(number: int) -> str:
    """A number from 0 to 99 as it is said."""
    if number < len(_ONES):
        return _ONES[number]
    tens, ones = divmod(number, 10)
    return _TENS[tens - 2] + (f" {_ONES[ones]}" if ones else "")


def _topic(draw: Draw, sentence: str, rarity: Mapping[str, int]) -> str:
    """One or two of the rarest words of a sentence, in its order."""
    known = dict.fromkeys(word.lower() for word in _WORD.findall(sentence))
    rarest = set(sorted(known, key=lambda word: rarity.get(word, 0))[: draw.whole(1, 2)])
    return " ".join(word for word in known if word in rarest) or "it"
