"""Answers of the OpenAI API: what nodes say, what the page at /openapi.json promises; and the error object."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict
from pydantic_core import to_json

from gainnet.serving.router import Refused


class Answer(BaseModel):
    """A model of an answer; nodes may say more."""

    model_config = ConfigDict(extra="allow")


class Usage(Answer):
    """Tokens as the node counted them."""

    prompt_tokens: int
    total_tokens: int
    completion_tokens: int = 0


class AnswerMessage(Answer):
    """What the model says."""

    role: Literal["assistant"] = "assistant"
    content: str | None = None


class ChatChoice(Answer):
    """One of n answers."""

    index: int
    message: AnswerMessage
    finish_reason: str | None
    logprobs: Any = None


class ChatCompletion(Answer):
    """A whole answer of a chat."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[ChatChoice]
    usage: Usage | None = None


class Delta(Answer):
    """What a chunk adds to the message."""

    role: Literal["assistant"] | None = None
    content: str | None = None


class ChunkChoice(Answer):
    """What a chunk adds to one of n answers."""

    index: int
    delta: Delta
    finish_reason: str | None = None
    logprobs: Any = None


class ChatChunk(Answer):
    """One event of a chat's stream; the one with usage has no choices."""

    id: str
    object: Literal["chat.completion.chunk"] = "chat.completion.chunk"
    created: int
    model: str
    choices: list[ChunkChoice]
    usage: Usage | None = None


class TextChoice(Answer):
    """One of n continuations, or what a chunk adds to it."""

    index: int
    text: str
    finish_reason: str | None = None
    logprobs: Any = None


class TextCompletion(Answer):
    """A whole continuation, or one event of its stream."""

    id: str
    object: Literal["text_completion"] = "text_completion"
    created: int
    model: str
    choices: list[TextChoice]
    usage: Usage | None = None


class Embedding(Answer):
    """The vector of one text; base64 of little-endian float32 where it was asked for."""

    object: Literal["embedding"] = "embedding"
    index: int
    embedding: list[float] | str


class EmbeddingList(Answer):
    """Vectors, in the order of the texts."""

    object: Literal["list"] = "list"
    data: list[Embedding]
    model: str
    usage: Usage


class Image(Answer):
    """An image, PNG in base64."""

    b64_json: str | None = None
    url: str | None = None


class ImageList(Answer):
    """Images."""

    created: int
    data: list[Image]


class ModelCard(Answer):
    """A model; an adapter names its root and parent."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "gainnet"
    root: str | None = None
    parent: str | None = None


class ModelList(Answer):
    """All public models."""

    object: Literal["list"] = "list"
    data: list[ModelCard]


class Fault(BaseModel):
    """What went wrong."""

    message: str
    type: str
    param: str | None = None
    code: str | None = None


class ErrorAnswer(BaseModel):
    """The body of every answer that is no success."""

    error: Fault


_TYPES = {
    401: "authentication_error", 403: "permission_error", 408: "timeout_error", 422: "idempotency_error",
    429: "rate_limit_error", 500: "server_error", 502: "upstream_error", 503: "service_unavailable",
    504: "timeout_error",
}  # fmt: skip


def error_body(refused: Refused) -> bytes:
    """The error object as JSON."""
    fault = {
        "message": refused.message,
        "type": _TYPES.get(refused.status, "invalid_request_error"),
        "param": refused.param,
        "code": refused.code,
    }
    return to_json({"error": fault})


def error_event(refused: Refused) -> bytes:
    """The error object as an event of a stream."""
    return b"data: " + error_body(refused) + b"\n\n"


ANSWERS: dict[str, type[Answer]] = {
    "chat": ChatCompletion,
    "completion": TextCompletion,
    "embedding": EmbeddingList,
    "image": ImageList,
}
STREAMED: dict[str, type[Answer]] = {"chat": ChatChunk, "completion": TextCompletion}
DONE = b"data: [DONE]\n\n"
