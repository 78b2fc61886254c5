"""What a node says: chunks and answers of the OpenAI API, made from the pieces of an engine's answer."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

from pydantic import Field
from pydantic_core import to_json

from gainnet.inference.request import Piece
from gainnet.serving.wire import ChatRequest, CompletionRequest, Natural, Part

Tree = dict[str, Any]
Show = Callable[[int], str]


class _Own(Part):
    """Fields that engines have beside the API's.

    Attributes:
        top_k: so many likeliest tokens.
        ignore_eos: go on past the token that ends a text, as load generators want.
    """

    top_k: int | None = Field(default=None, ge=-1)
    ignore_eos: bool | None = None


class NodeChat(ChatRequest, _Own):
    """POST /v1/chat/completions."""


class NodeCompletion(CompletionRequest, _Own):
    """POST /v1/completions."""


class VerifyRequest(Part):
    """POST /verify: without a session one is opened; with one, its draft is judged, or it is closed.

    Attributes:
        model: id, to open.
        prompt: text or tokens, to open.
        max_tokens: of the whole answer; as many as there is room for where it is None.
        temperature: 0 without.
        top_p: as in the API.
        seed: of the draws.
        ignore_eos: go on past the token that ends a text.
        cache_salt: tenant; the same as when it was opened.
        session: its name.
        draft: tokens that may follow.
        close: whether it ends.
    """

    model: str | None = None
    prompt: str | list[int] | None = None
    max_tokens: Natural | None = None
    temperature: float | None = Field(default=None, ge=0.0, le=2.0)
    top_p: float | None = Field(default=None, ge=0.0, le=1.0)
    seed: int | None = Field(default=None, ge=0, le=2**63 - 1)
    ignore_eos: bool | None = None
    cache_salt: str | None = None
    session: str | None = None
    draft: list[int] = Field(default=[], max_length=256)
    close: bool = False


class AdapterRequest(Part):
    """POST /v1/load_lora_adapter, whose weights have this SHA-256 where it is given, and /v1/unload_lora_adapter."""

    lora_name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._@:/-]{0,127}$")
    lora_path: str | None = None
    digest: str | None = None


class Said:
    """What one of the n answers has said so far.

    Attributes:
        text: that was shown.
        tokens: how many it has.
        pieces: with log-probabilities, where they are asked for.
        finish: why it ended.
    """

    __slots__ = ("finish", "pieces", "text", "tokens")

    def __init__(self) -> None:
        self.text: list[str] = []
        self.tokens = 0
        self.pieces: list[Piece] = []
        self.finish: str | None = None


class Form(ABC):
    """How one kind of answer is written.

    Attributes:
        logprobs: whether they are written.
    """

    whole_name: str
    chunk_name: str

    def __init__(self, name: str, model: str, logprobs: bool, usage: bool, show: Show) -> None:
        self.logprobs = logprobs
        self._show = show
        self._fixed: Tree = {"id": name, "object": self.chunk_name, "created": int(time.time()), "model": model}
        self._usage = usage

    def chunk(self, *choices: Tree) -> bytes:
        """An event."""
        tree = self._fixed | {"choices": list(choices)}
        if self._usage:
            tree["usage"] = None
        return b"data: " + to_json(tree) + b"\n\n"

    def counted(self, usage: Tree) -> bytes:
        """The event with usage, which has no choices."""
        return b"data: " + to_json(self._fixed | {"choices": [], "usage": usage}) + b"\n\n"

    def whole(self, said: Sequence[Said], usage: Tree) -> bytes:
        """An answer that is not streamed."""
        choices = [self._choice(index, one) for index, one in enumerate(said)]
        return to_json(self._fixed | {"object": self.whole_name, "choices": choices, "usage": usage})

    @abstractmethod
    def first(self, index: int) -> bytes:
        """What begins an answer's stream; may be nothing."""

    @abstractmethod
    def delta(self, index: int, piece: Piece, before: int) -> bytes:
        """What a piece adds; ``before`` characters were shown."""

    @abstractmethod
    def last(self, index: int, finish: str) -> bytes:
        """What ends an answer's stream."""

    @abstractmethod
    def _choice(self, index: int, said: Said) -> Tree: ...


class Chat(Form):
    """Answers of a chat."""

    whole_name, chunk_name = "chat.completion", "chat.completion.chunk"

    def first(self, index: int) -> bytes:
        """See `Form`."""
        return self._event(index, {"role": "assistant", "content": ""}, None, None)

    def delta(self, index: int, piece: Piece, before: int) -> bytes:  # noqa: ARG002
        """See `Form`."""
        return self._event(index, {"content": piece.text}, self._probabilities([piece]), None)

    def last(self, index: int, finish: str) -> bytes:
        """See `Form`."""
        return self._event(index, {}, None, finish)

    def _event(self, index: int, delta: Tree, logprobs: Tree | None, finish: str | None) -> bytes:
        return self.chunk({"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish})

    def _choice(self, index: int, said: Said) -> Tree:
        return {
            "index": index, "message": {"role": "assistant", "content": "".join(said.text)},
            "logprobs": self._probabilities(said.pieces), "finish_reason": said.finish,
        }  # fmt: skip

    def _probabilities(self, pieces: Sequence[Piece]) -> Tree | None:
        if not self.logprobs:
            return None
        content = [
            self._of(piece.token, piece.logprob) | {"top_logprobs": [self._of(*top) for top in piece.top]}
            for piece in pieces
            if piece.token is not None
        ]
        return {"content": content, "refusal": None}

    def _of(self, token: int, logprob: float | None) -> Tree:
        shown = self._show(token)
        return {"token": shown, "logprob": logprob, "bytes": list(shown.encode())}


class Text(Form):
    """Continuations."""

    whole_name = chunk_name = "text_completion"

    def first(self, index: int) -> bytes:  # noqa: ARG002
        """See `Form`."""
        return b""

    def delta(self, index: int, piece: Piece, before: int) -> bytes:
        """See `Form`."""
        return self._event(index, piece.text, self._probabilities([piece], before), None)

    def last(self, index: int, finish: str) -> bytes:
        """See `Form`."""
        return self._event(index, "", None, finish)

    def _event(self, index: int, text: str, logprobs: Tree | None, finish: str | None) -> bytes:
        return self.chunk({"index": index, "text": text, "logprobs": logprobs, "finish_reason": finish})

    def _choice(self, index: int, said: Said) -> Tree:
        return {
            "index": index, "text": "".join(said.text), "logprobs": self._probabilities(said.pieces, 0),
            "finish_reason": said.finish,
        }  # fmt: skip

    def _probabilities(self, pieces: Sequence[Piece], before: int) -> Tree | None:
        if not self.logprobs:
            return None
        found: Tree = {"tokens": [], "token_logprobs": [], "top_logprobs": [], "text_offset": []}
        for piece in pieces:
            if piece.token is not None:
                found["tokens"].append(self._show(piece.token))
                found["token_logprobs"].append(piece.logprob)
                found["top_logprobs"].append({self._show(token): logprob for token, logprob in piece.top})
                found["text_offset"].append(before)
            before += len(piece.text)
        return found
