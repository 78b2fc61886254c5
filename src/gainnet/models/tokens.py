"""Text as tokens of a model, without torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


def ids(tokenizer: PreTrainedTokenizerFast, text: str) -> list[int]:
    """The tokens of a text; what looks like a special token in it is text as any other."""
    return several(tokenizer, [text])[0]


def several(tokenizer: PreTrainedTokenizerFast, texts: Sequence[str]) -> list[list[int]]:
    """The tokens of each of several texts, as `ids`."""
    found: list[list[int]] = tokenizer(
        list(texts), add_special_tokens=False, split_special_tokens=True, verbose=False, return_attention_mask=False
    )["input_ids"]
    return found


def start(tokenizer: PreTrainedTokenizerFast) -> list[int]:
    """What begins a text: one token, or none where the model knows none."""
    return [] if tokenizer.bos_token_id is None else [int(tokenizer.bos_token_id)]


def end(tokenizer: PreTrainedTokenizerFast) -> int:
    """The token that ends a text."""
    return int(tokenizer.eos_token_id)
