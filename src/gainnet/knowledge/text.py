"""Examples and public text as tokens: ``<bos>{dialogue}\\n\\n## {section}\\n{note}<eos>``."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Int

from gainnet.errors import InputError
from gainnet.knowledge.example import Example
from gainnet.models import tokens

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

NOTE_SHARE = 4
"""A prompt leaves one position in so many for the note."""


@dataclass(frozen=True, slots=True)
class Encoded:
    """A text as tokens.

    Attributes:
        token: at most as many as the context.
        answer: first position of the note; the loss counts from there. At least 1: the first token follows nothing.
        dialogue_cut: whether the dialogue lost its middle.
        note_cut: whether the note lost its end.
    """

    token: Int[np.ndarray, " position"]
    answer: int
    dialogue_cut: bool = False
    note_cut: bool = False

    @property
    def counted(self) -> int:
        """How many tokens the loss counts."""
        return max(len(self.token) - self.answer, 0)


def encode(tokenizer: PreTrainedTokenizerFast, example: Example, context: int) -> Encoded:
    """An example as it is learnt from, at most ``context`` tokens.

    The middle of an over-long dialogue is cut. A note that is over-long by itself loses its end, and its <eos>.

    InputError where the section's name alone takes more than half of the context (see `unfit`).
    """
    ask, start = _ask(tokenizer, example, context), tokens.start(tokenizer)
    whole = [*tokens.ids(tokenizer, example.note), tokens.end(tokenizer)]
    note = whole[: context - len(start) - len(ask)]
    said = tokens.ids(tokenizer, example.dialogue)
    dialogue = _middle_cut(said, context - len(start) - len(ask) - len(note))
    before = [*start, *dialogue, *ask]
    return Encoded(np.array(before + note, np.int64), len(before), len(dialogue) < len(said), len(note) < len(whole))


def unfit(tokenizer: PreTrainedTokenizerFast, sections: Iterable[str], context: int) -> dict[str, str]:
    """The sections of which no example can be encoded, and why."""
    found = {section: len(_header(tokenizer, section)) for section in sections}
    return {section: _too_long(size, context) for section, size in found.items() if size > context // 2}


def prompt(
    tokenizer: PreTrainedTokenizerFast, example: Example, context: int, note_max: int | None = None
) -> Int[np.ndarray, " position"]:
    """An example up to its note, which leaves ``note_max`` positions of the context (by default a quarter) for it.

    InputError as of `encode`.
    """
    ask, start = _ask(tokenizer, example, context), tokens.start(tokenizer)
    room = context - (context // NOTE_SHARE if note_max is None else note_max)
    dialogue = _middle_cut(tokens.ids(tokenizer, example.dialogue), max(room - len(start) - len(ask), 0))
    return np.array([*start, *dialogue, *ask], np.int64)


def public(tokenizer: PreTrainedTokenizerFast, texts: Iterable[str], context: int) -> list[Encoded]:
    """Texts of which every token but the first counts, once.

    A text longer than the context becomes several, each beginning with the last token of the one before.
    """
    found = []
    for text in texts:
        token = np.array([*tokens.start(tokenizer), *tokens.ids(tokenizer, text), tokens.end(tokenizer)], np.int64)
        found += [Encoded(token[at : at + context], 1) for at in range(0, len(token) - 1, context - 1)]
    return found


def decode(tokenizer: PreTrainedTokenizerFast, token: Int[np.ndarray, " position"]) -> str:
    """Tokens as text, without those that begin, end or pad, nor white space around it."""
    return str(tokenizer.decode(token.tolist(), skip_special_tokens=True)).strip()


def _ask(tokenizer: PreTrainedTokenizerFast, example: Example, context: int) -> list[int]:
    found = _header(tokenizer, example.section)
    if len(found) > context // 2:
        raise InputError(f"example {example.key}: {_too_long(len(found), context)}")
    return found


def _header(tokenizer: PreTrainedTokenizerFast, section: str) -> list[int]:
    return tokens.ids(tokenizer, f"\n\n## {section}\n")


def _too_long(size: int, context: int) -> str:
    return f"its section takes {size} tokens, at most {context // 2} (half of the context) are allowed"


def _middle_cut(token: list[int], length_max: int) -> list[int]:
    """At most so many tokens: the first half of them from the start, the rest from the end."""
    if len(token) <= length_max:
        return token
    head = (length_max + 1) // 2
    return token[:head] + token[len(token) - (length_max - head) :]
