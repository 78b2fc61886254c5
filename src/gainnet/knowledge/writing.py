"""Notes that are chosen by what a model would write: of several drawn ones, or of the sentences of the dialogue itself.

The likeliest continuation of a small model often goes in circles, and what it is sure of is not in any one text. So several
notes are drawn, and a text is worth the mean of its agreement with them: minimum Bayes risk (arXiv 2005.10283). Of the drawn
notes the best is taken, or sentences of the dialogue are put together as long as they agree better: nothing stands in such
an extract that was not said.
"""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from typing import TypeVar

import numpy as np

BIGRAMS = 0.3
"""What pairs of words count for in an agreement; the rest is single words."""
SENTENCES_MAX = 12
"""Of an extract."""
RECALL = 2.0
"""How much more recall counts than precision in an extract: what models draw is shorter than what people write."""
GAIN_MIN = 1e-4
"""What another sentence must add to the agreement."""

_WORD = re.compile(r"[a-z0-9]+")
_SPEAKER = re.compile(r"^\s*[A-Za-z][\w .-]{0,30}:\s*")
_SENTENCE_END = re.compile(r"(?<=[.?!])\s+")
Gram = TypeVar("Gram", bound=Hashable)
Grams = tuple[Counter[str], Counter[tuple[str, str]]]


def consensus(drawn: Sequence[str]) -> str:
    """The drawn note that agrees best with the others; the first of equals. ValueError without any."""
    if not drawn:
        raise ValueError("no note was drawn")
    known = [grams(note) for note in drawn]
    worth = [_worth(own, [*known[:place], *known[place + 1 :]]) for place, own in enumerate(known)]
    return drawn[int(np.argmax(worth))]


def extract(dialogue: str, drawn: Sequence[str]) -> str:
    """Sentences of a dialogue, in their order and without who said them, that together agree best with drawn notes.

    One after another is added that helps most. Empty where no sentence shares a word with them.
    """
    pool = list(dict.fromkeys(_sentences(dialogue)))
    known = [grams(note) for note in drawn]
    chosen, best = list[int](), 0.0
    while len(chosen) < SENTENCES_MAX:
        found = (best + GAIN_MIN, -1)
        for place in range(len(pool)):
            if place not in chosen:
                text = " ".join(pool[index] for index in sorted([*chosen, place]))
                found = max(found, (_worth(grams(text), known, RECALL), place), key=lambda pair: pair[0])
        best, place = found
        if place < 0:
            break
        chosen.append(place)
    return " ".join(pool[index] for index in sorted(chosen))


def grams(text: str) -> Grams:
    """How often words and pairs of words stand in a text, as ROUGE counts them."""
    words = _WORD.findall(text.lower())
    return Counter(words), Counter(itertools.pairwise(words))


def agreement(one: Grams, other: Grams, recall: float = 1.0) -> float:
    """F of words, and of pairs of words at their part, where recall of ``other`` counts so many times as precision."""
    return (1.0 - BIGRAMS) * _f(one[0], other[0], recall) + BIGRAMS * _f(one[1], other[1], recall)


def _worth(own: Grams, others: Sequence[Grams], recall: float = 1.0) -> float:
    return sum(agreement(own, other, recall) for other in others) / max(len(others), 1)


def _f(one: Counter[Gram], other: Counter[Gram], recall: float) -> float:
    shared = sum(min(count, other[gram]) for gram, count in one.items() if gram in other)
    weight = recall * recall
    return (1.0 + weight) * shared / (one.total() + weight * other.total()) if shared else 0.0


def _sentences(dialogue: str) -> list[str]:
    lines = (_SPEAKER.sub("", line) for line in dialogue.splitlines())
    return [found for line in lines for part in _SENTENCE_END.split(line) if (found := part.strip())]


WAYS: dict[str, Callable[[str, Sequence[str]], str]] = {
    "consensus": lambda _dialogue, drawn: consensus(drawn),
    "extract": extract,
}
"""How a note is made of a dialogue and of notes that were drawn for it."""
