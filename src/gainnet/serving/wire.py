"""Requests of the OpenAI API, held to types and limits before any work; unknown fields are ignored, and passed on.

Models are strict: JSON's types hold, no text for a number. What they cannot say by a type alone is checked by `check`.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainValidator,
    StringConstraints,
    ValidationError,
    WithJsonSchema,
)
from pydantic_core import PydanticCustomError

from gainnet.serving.router import Kind, Refused
from gainnet.serving.settings import Limits, ModelSetting

DataUrl = Annotated[str, StringConstraints(pattern=r"^data:")]
ModelId = Annotated[str, Field(min_length=1, max_length=256)]
Stop = str | Annotated[list[str], Field(max_length=16)] | None
Unit = Annotated[float, Field(ge=0.0, le=1.0)]
Penalty = Annotated[float, Field(ge=-2.0, le=2.0)]


def _whole(value: object) -> object:
    """JSON has one kind of number: 4.0 is a whole one."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


Whole = BeforeValidator(_whole)
_NOT_INPUTS = PydanticCustomError(
    "inputs", "should be a text, texts, token numbers from 0, or lists of them, none empty and all of one kind"
)


def _as_inputs(value: object) -> str | list[Any]:
    """What was given as one input or several, checked at the speed of C: it may be a hundred thousand numbers long."""
    if isinstance(value, str):
        return value
    if not isinstance(value, list) or not value:
        raise _NOT_INPUTS
    kinds = set(map(type, value))
    if kinds == {str}:
        return value
    return [_tokens(one) for one in value] if kinds == {list} else _tokens(value)


def _tokens(values: list[Any]) -> list[int]:
    kinds = set(map(type, values))
    if float in kinds:
        values = [_whole(value) for value in values]
        kinds = set(map(type, values))
    if kinds != {int} or min(values) < 0:
        raise _NOT_INPUTS
    return values


_TOKENS_SCHEMA: dict[str, Any] = {"type": "array", "minItems": 1, "items": {"type": "integer", "minimum": 0}}
Inputs = Annotated[
    Any,
    PlainValidator(_as_inputs),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "string"},
                _TOKENS_SCHEMA,
                {"type": "array", "minItems": 1, "items": {"type": "string"}},
                {"type": "array", "minItems": 1, "items": _TOKENS_SCHEMA},
            ]
        }
    ),
]
Natural = Annotated[int, Field(ge=1), Whole]
Seed = Annotated[int, Field(ge=-(2**63), le=2**63 - 1), Whole]
Logprobs = Annotated[int, Field(ge=0, le=20), Whole]
BYTE_PER_TOKEN = 4
MESSAGES, PARTS = 2_048, 256
_SMALL_BYTE = 262_144
"""Bodies up to here are parsed, whatever they hold."""
_COMMAS = 1_000
"""That a body may have beside those between token numbers."""
_SIZE = r"^([1-9][0-9]{0,4}x[1-9][0-9]{0,4}|auto)$"
TOKENS_OF_IMAGE = 256
HERE = "-"
"""In the place of a node's name: the node that is asked."""


class Part(BaseModel):
    """A model of the API: strict types, unknown fields ignored."""

    model_config = ConfigDict(strict=True, extra="ignore", frozen=True, allow_inf_nan=False)


class Media(Part):
    """Media inside a message; remote addresses are refused, so nobody makes a node fetch something."""

    url: DataUrl


class ContentPart(Part):
    """A part of a message's content."""

    type: Literal["text", "refusal", "image_url", "input_audio", "audio_url", "video_url", "file"]
    text: str | None = None
    image_url: Media | DataUrl | None = None
    audio_url: Media | DataUrl | None = None
    video_url: Media | DataUrl | None = None


class Message(Part):
    """A message of a conversation."""

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: str | Annotated[list[ContentPart], Field(max_length=PARTS, fail_fast=True)] | None = None


class StreamOptions(Part):
    """What a stream says beside its text."""

    include_usage: bool | None = None


class Request(Part):
    """What requests have in common.

    Attributes:
        model: public id.
        user: opaque, ignored.
        cache_salt: overwritten where tenants are told apart.
        kv_transfer_params: never passed on: it names memory of nodes.
        chat_template: never passed on: it is a program.
    """

    model: ModelId
    user: str | None = None
    cache_salt: str | None = None
    kv_transfer_params: Any = None
    chat_template: Any = None


class Generation(Request):
    """What requests for text have in common."""

    max_tokens: Natural | None = None
    n: Natural | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    temperature: Annotated[float, Field(ge=0.0, le=2.0)] | None = None
    top_p: Unit | None = None
    frequency_penalty: Penalty | None = None
    presence_penalty: Penalty | None = None
    stop: Stop = None
    seed: Seed | None = None


class ChatRequest(Generation):
    """POST /v1/chat/completions."""

    messages: Annotated[list[Message], Field(min_length=1, max_length=MESSAGES, fail_fast=True)]
    max_completion_tokens: Natural | None = None
    logprobs: bool | None = None
    top_logprobs: Logprobs | None = None


class CompletionRequest(Generation):
    """POST /v1/completions."""

    prompt: Inputs
    best_of: Natural | None = None
    echo: bool | None = None
    logprobs: Logprobs | None = None
    suffix: str | None = None


class EmbeddingRequest(Request):
    """POST /v1/embeddings."""

    input: Inputs
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: Natural | None = None


class ImageRequest(Request):
    """POST /v1/images/generations. `steps` and `num_inference_steps` are the same, for engines that know either.

    Images come as PNG in the answer itself: nothing is kept to which an address could lead, and nothing is streamed.
    """

    prompt: str
    n: Natural | None = None
    size: Annotated[str, StringConstraints(pattern=_SIZE)] | None = None
    steps: Natural | None = None
    num_inference_steps: Natural | None = None
    response_format: Literal["b64_json"] | None = None
    output_format: Literal["png"] | None = None
    stream: Literal[False] | None = None
    seed: Seed | None = None


Parsed = TypeVar("Parsed", bound=Part)
_ALTERNATIVES = re.compile(r"^(str|list\[.*|.*-.*\[.*\]|constrained-.*|Media|ContentPart)$")


def parse(model: type[Parsed], body: bytes) -> Parsed:
    """The request in a body.

    Raises:
        Refused: 400; the message names the field.
    """
    try:
        return model.model_validate_json(body)
    except ValidationError as error:
        raise _refusal(error) from None


def _refusal(error: ValidationError) -> Refused:
    details = error.errors(include_url=False, include_input=False, include_context=False)
    if details[0]["type"] == "json_invalid":
        return Refused(400, f"the body is not JSON: {details[0]['msg'].partition(': ')[2]}", code="invalid_json")
    named = [(_name(detail["loc"]), detail) for detail in details]
    for name, detail in named:
        if detail["type"] == "string_pattern_mismatch" and name.endswith("url"):
            return Refused(400, f"{name}: only data: URLs, nothing remote is fetched", code="remote_media", param=name)
    name, detail = named[0]
    messages = dict.fromkeys(other["msg"].replace("Input should", "should") for at, other in named if at == name)
    said = " or ".join(messages)
    code = "missing_field" if detail["type"] == "missing" else "invalid_value"
    return Refused(400, f"{name}: {said}" if name else f"the body {said}", code=code, param=name or None)


def _name(location: tuple[int | str, ...]) -> str:
    """The path of a field as clients write it, without the alternatives that pydantic tried."""
    name = ""
    for part in location:
        if isinstance(part, int):
            name += f"[{part}]"
        elif not _ALTERNATIVES.match(part):
            name += f".{part}" if name else part
    return name


def weigh(kind: Kind, body: bytes, limits: Limits) -> None:
    """Refuse a large body that is too long before it is parsed, which holds up all other requests. Refused: 400."""
    if len(body) <= _SMALL_BYTE:
        return
    token = len(body) // BYTE_PER_TOKEN + 1
    if kind in ("completion", "embedding") and token > limits.prompt_token:
        token = body.count(b",")  # token numbers take more bytes than a quarter of them
    if token > limits.prompt_token + _COMMAS:
        raise _too_long(token, limits)


def _too_long(token: int, limits: Limits) -> Refused:
    return Refused(
        400, f"the prompt has about {token} tokens; at most {limits.prompt_token} are allowed",
        code="context_length_exceeded",
    )  # fmt: skip


def prompt_tokens(request: Request, body: bytes) -> int:
    """The tokens of a prompt, estimated before it is tokenised: given as numbers, or a quarter of the bytes."""
    match request:
        case ChatRequest():  # most are: that a model of pydantic is none of a class takes a microsecond to find out
            pass
        case CompletionRequest(prompt=given) | EmbeddingRequest(input=given) if isinstance(given, list):
            if isinstance(given[0], int):
                return len(given)
            if isinstance(given[0], list):
                return sum(map(len, given))
    return len(body) // BYTE_PER_TOKEN + 1


def output_tokens(request: Request, limits: Limits) -> int:
    """The most tokens that a request may be answered with."""
    match request:
        case ChatRequest():
            most = request.max_completion_tokens or request.max_tokens or limits.output_token_default
            return most * (request.n or 1)
        case CompletionRequest():
            prompts = len(request.prompt) if isinstance(request.prompt, list) and _several(request.prompt) else 1
            return (request.max_tokens or limits.output_token_default) * (request.n or 1) * prompts
        case ImageRequest():
            return TOKENS_OF_IMAGE * (request.n or 1)
    return 0


def drawn(request: Request) -> tuple[int, int]:
    """Steps and images that a request asks for; 0 steps where it doesn't say, 0 images where it asks for none."""
    if type(request) is not ImageRequest:
        return 0, 0
    return request.steps or request.num_inference_steps or 0, request.n or 1


def _several(given: list[Any]) -> bool:
    return not isinstance(given[0], int)


def check(request: Request, kind: str, prompt_token: int, limits: Limits, known: ModelSetting | None) -> None:
    """Hold a request to the limits.

    Raises:
        Refused: 400, or 404 where the model does not answer such requests.
    """
    if known is not None and kind not in known.kinds:
        raise Refused(
            404, f"the model {request.model!r} answers no {kind} requests", code="model_not_found", param="model"
        )
    if prompt_token > limits.prompt_token:
        raise _too_long(prompt_token, limits)
    match request:
        case ChatRequest():
            _most("max_completion_tokens", request.max_completion_tokens, limits.output_token)
            _generation(request, prompt_token, limits, known)
        case CompletionRequest():
            _most("best_of", request.best_of, limits.choices)
            _inputs("prompt", request.prompt, limits)
            _generation(request, prompt_token, limits, known)
        case EmbeddingRequest():
            _inputs("input", request.input, limits)
        case ImageRequest():
            _most("n", request.n, limits.choices)
            _most("steps", request.steps, limits.steps)
            _most("num_inference_steps", request.num_inference_steps, limits.steps)
            if request.size is not None and request.size != "auto":
                for side in request.size.split("x"):
                    _most("size", int(side), limits.side_pixel)


def together(request: Request) -> bool:
    """Whether two models may answer a request: for one text, and without log-probabilities, which are of one model."""
    match request:
        case ChatRequest():
            return request.n in (None, 1) and not request.logprobs
        case CompletionRequest():
            several = isinstance(request.prompt, list) and _several(request.prompt)
            plain = (
                request.logprobs is None and not request.echo and not request.suffix and request.best_of in (None, 1)
            )
            return plain and request.n in (None, 1) and not several
    return False


def _generation(request: Generation, prompt_token: int, limits: Limits, known: ModelSetting | None) -> None:
    _most("max_tokens", request.max_tokens, limits.output_token)
    _most("n", request.n, limits.choices)
    if known is not None and known.context_token is not None:
        asked = getattr(request, "max_completion_tokens", None) or request.max_tokens or 0
        if prompt_token + asked > known.context_token:
            raise Refused(
                400, f"about {prompt_token} tokens of prompt and {asked} of answer; the model has room for "
                f"{known.context_token}", code="context_length_exceeded",
            )  # fmt: skip


def _inputs(name: str, given: Any, limits: Limits) -> None:
    if isinstance(given, list) and _several(given):
        _most(name, len(given), limits.inputs, "entries")


def _most(name: str, value: int | None, most: int, what: str = "") -> None:
    if value is not None and value > most:
        amount = f"{value} {what}".strip()
        raise Refused(400, f"{name}: {amount} is above the limit of {most}", code="limit_exceeded", param=name)


REQUESTS: dict[Kind, type[Request]] = {
    "chat": ChatRequest,
    "completion": CompletionRequest,
    "embedding": EmbeddingRequest,
    "image": ImageRequest,
}
PATHS: dict[str, Kind] = {
    "/v1/chat/completions": "chat",
    "/v1/completions": "completion",
    "/v1/embeddings": "embedding",
    "/v1/images/generations": "image",
}
