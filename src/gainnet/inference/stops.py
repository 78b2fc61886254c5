"""Tokens as text that may be shown: whole characters only, and nothing that may yet become a stop text."""

from __future__ import annotations

import codecs
from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

from tokenizers import decoders

from gainnet.models import tokens
from gainnet.models.hub import Language

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


def ends(language: Language) -> frozenset[int]:
    """Tokens that end a text: the tokenizer's, and those that the model names."""
    config = language.model.generation_config
    named = getattr(config, "eos_token_id", None) or ()
    several = [named] if isinstance(named, int) else list(named)
    return frozenset([tokens.end(language.tokenizer), *map(int, several)])


class Decoder(ABC):
    """Makes text of tokens that come one by one; what it gave so far, with `rest`, is the text of all of them."""

    @abstractmethod
    def add(self, token: int) -> str:
        """The whole characters that this token completes."""

    @abstractmethod
    def rest(self) -> str:
        """What is left over at the end: broken characters as U+FFFD."""


class Texts:
    """Decoders for one tokenizer."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        self._tokenizer = tokenizer
        self._bytes: dict[int, bytes] = {}
        plain: Any = tokenizer.backend_tokenizer
        self._bytewise = isinstance(plain.decoder, decoders.ByteLevel)
        known = plain.get_added_tokens_decoder()
        self._special = frozenset(number for number, token in known.items() if token.special)
        self._added: dict[int, str] = {number: str(token.content) for number, token in known.items()}

    def decoder(self) -> Decoder:
        """A new one."""
        return _Bytes(self) if self._bytewise else _Window(self)

    def bytes_of(self, token: int) -> bytes:
        """What a token of a byte-level tokenizer stands for; nothing for special tokens and unknown numbers."""
        found = self._bytes.get(token)
        if found is None:
            found = self._bytes[token] = self._look_up(token)
        return found

    def _look_up(self, token: int) -> bytes:
        if token in self._special:
            return b""
        if token in self._added:
            return self._added[token].encode()
        name = self._tokenizer.convert_ids_to_tokens(token)
        table = _byte_of_character()
        return bytes(table[character] for character in str(name)) if name is not None else b""

    def text(self, token: Sequence[int]) -> str:
        """The text of tokens, without special ones."""
        plain: Any = self._tokenizer.backend_tokenizer
        return str(plain.decode(list(token), skip_special_tokens=True))


class _Bytes(Decoder):
    """Of a byte-level tokenizer: bytes go through a decoder of UTF-8 that waits for whole characters."""

    def __init__(self, texts: Texts) -> None:
        self._texts = texts
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def add(self, token: int) -> str:
        return self._decoder.decode(self._texts.bytes_of(token))

    def rest(self) -> str:
        return self._decoder.decode(b"", final=True)


class _Window(Decoder):
    """Of any other: what the last tokens read as with this one, less what they read as without it."""

    def __init__(self, texts: Texts) -> None:
        self._texts = texts
        self._token: list[int] = []
        self._shown = 0
        """Tokens whose text was given; those before the last few of them are forgotten."""

    def add(self, token: int) -> str:
        self._token.append(token)
        before = self._texts.text(self._token[: self._shown])
        now = self._texts.text(self._token)
        if len(now) <= len(before) or now.endswith("\N{REPLACEMENT CHARACTER}"):
            return ""
        self._token = self._token[self._shown :]
        self._shown = len(self._token)
        return now[len(before) :]

    def rest(self) -> str:
        return self._texts.text(self._token)[len(self._texts.text(self._token[: self._shown])) :]


@cache
def _byte_of_character() -> dict[str, int]:
    """The printable stand-ins of bytes in byte-level tokenizers (GPT-2's), each with its byte."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in set(printable)]
    return {chr(byte): byte for byte in printable} | {chr(256 + index): byte for index, byte in enumerate(others)}


class Stops:
    """Text that is held back while it may be the beginning of a stop text."""

    def __init__(self, stop: Sequence[str]) -> None:
        self._stop = tuple(stop)
        self._held = ""

    def add(self, text: str) -> tuple[str, bool]:
        """What may be shown now, and whether a stop text is complete; then nothing after it is shown."""
        if not self._stop:
            return text, False
        held = self._held + text
        found = [place for place in (held.find(stop) for stop in self._stop) if place >= 0]
        if found:
            self._held = ""
            return held[: min(found)], True
        kept = max(_overlap(held, stop) for stop in self._stop)
        self._held = held[len(held) - kept :]
        return held[: len(held) - kept], False

    def rest(self) -> str:
        """What was held back, at the end."""
        held, self._held = self._held, ""
        return held


def _overlap(text: str, stop: str) -> int:
    """Length of the longest beginning of ``stop`` (not the whole) with which the text ends."""
    for length in range(min(len(stop) - 1, len(text)), 0, -1):
        if text.endswith(stop[:length]):
            return length
    return 0
