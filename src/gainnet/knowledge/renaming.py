"""Words that a dialogue and its note share, changed for others in both, so that notes are copied and not learnt by heart.

An end has few examples, and an adapter remembers which names, drugs and numbers stood in them. With such words drawn anew for
each round what is left to learn is where in a dialogue a note finds its words (as entities are swapped against memorising,
arXiv 2109.05052). Words that public text uses often are left: they carry the sentence.
"""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
from collections.abc import Sequence

from gainnet.knowledge.draw import Draw
from gainnet.knowledge.example import Example

OFTEN = 1500
"""So many of the most frequent words of public text are never changed."""
CHANGED = 0.5
"""Part of the shared words of an example that are changed."""
_WORD = re.compile(r"[A-Za-z]{4,}|\d+")


class Renaming:
    """Changes shared words of examples for rarer words of public text, and numbers for numbers of as many digits.

    Args:
        public: whose words are drawn; without any rare ones only numbers are changed.
    """

    def __init__(self, public: Sequence[str]) -> None:
        counts = Counter(word.lower() for text in public for word in _WORD.findall(text) if word.isalpha())
        ranked = sorted(counts, key=lambda word: (-counts[word], word))
        self._often, self._rare = frozenset(ranked[:OFTEN]), ranked[OFTEN:]

    def of(self, draw: Draw, example: Example) -> Example:
        """The example with some of its shared words changed, each the same way wherever it stands."""
        said, noted = ({word.lower() for word in _WORD.findall(text)} for text in (example.dialogue, example.note))
        others: dict[str, str] = {}
        for word in sorted((said & noted) - self._often):
            if (word.isdigit() or self._rare) and draw.chance(CHANGED):
                others[word] = _number(draw, len(word)) if word.isdigit() else draw.one(self._rare)

        def change(match: re.Match[str]) -> str:
            word = match.group()
            other = others.get(word.lower(), word)
            if word.isupper():
                return other.upper()
            return other.capitalize() if word[0].isupper() else other

        if not others:
            return example
        return dataclasses.replace(
            example, dialogue=_WORD.sub(change, example.dialogue), note=_WORD.sub(change, example.note)
        )


def _number(draw: Draw, digits: int) -> str:
    return "".join(str(draw.whole(0 if place else 1, 9)) for place in range(digits))
