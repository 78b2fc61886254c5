"""A request for text at a node: found in order, put to the engine, and answered, streamed or whole."""

from __future__ import annotations

import asyncio
import base64
import secrets
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from aiohttp import web
from pydantic_core import to_json

from gainnet.inference.request import Answer, Piece, Sampling
from gainnet.serving import wire
from gainnet.serving.answers import DONE, error_event
from gainnet.serving.node_draft import HEADER, Drafted
from gainnet.serving.node_wire import Chat, Form, NodeChat, NodeCompletion, Said, Text
from gainnet.serving.router import Refused
from gainnet.serving.wire import EmbeddingRequest

if TYPE_CHECKING:
    from gainnet.serving.node import Asked, Node

JSON = "application/json"
COMPLETION_TOKENS = 16
"""What /v1/completions answers where nothing is said, as the API has it."""
EMBEDDED_AT_ONCE = 16
TOP_P_LEAST = 1e-9


async def chat(node: Node, asked: Asked) -> web.StreamResponse:
    """POST /v1/chat/completions."""
    request = wire.parse(NodeChat, asked.raw)
    _check(node, request, "chat", asked.raw)
    adapter = node.adapter(request.model)
    prompt = await node.prompts.chat(request.messages)
    most = request.max_completion_tokens or request.max_tokens
    top = (request.top_logprobs or 0) if request.logprobs else None
    how = _sampling(request, _room(node, prompt, most, node.settings.limits.output_token_default), top)
    form = Chat(
        f"chatcmpl-{asked.name}", request.model, request.logprobs is True, _counted(request), node.prompts.shown
    )
    return await Generating(node, asked, form, request, adapter).answered([prompt], how)


async def completion(node: Node, asked: Asked) -> web.StreamResponse:
    """POST /v1/completions."""
    request = wire.parse(NodeCompletion, asked.raw)
    _check(node, request, "completion", asked.raw)
    for field, odd in (
        ("echo", bool(request.echo)), ("suffix", bool(request.suffix)),
        ("best_of", request.best_of not in (None, request.n or 1)),
    ):  # fmt: skip
        if odd:
            raise Refused(400, f"{field}: this node does not do that", code="unsupported", param=field)
    adapter = node.adapter(request.model)
    prompts = [await node.prompts.either(one) for one in _several(request.prompt)]
    most = min(_room(node, prompt, request.max_tokens, COMPLETION_TOKENS) for prompt in prompts)
    how = _sampling(request, most, request.logprobs)
    form = Text(f"cmpl-{asked.name}", request.model, how.logprobs is not None, _counted(request), node.prompts.shown)
    return await Generating(node, asked, form, request, adapter).answered(prompts, how)


async def embedding(node: Node, asked: Asked) -> web.StreamResponse:
    """POST /v1/embeddings."""
    request = wire.parse(EmbeddingRequest, asked.raw)
    wire.check(request, "embedding", wire.prompt_tokens(request, asked.raw), node.settings.limits, None)
    if request.dimensions is not None:
        raise Refused(400, "dimensions: this node gives vectors whole", code="unsupported", param="dimensions")
    adapter = node.adapter(request.model)
    texts = [await node.prompts.either(one, 0) for one in _several(request.input)]
    data: list[dict[str, Any]] = []
    for begin in range(0, len(texts), EMBEDDED_AT_ONCE):
        some = texts[begin : begin + EMBEDDED_AT_ONCE]
        embedded = node.engine.embed(some, adapter=adapter, tenant=request.cache_salt or "")
        async with asyncio.timeout_at(asked.deadline):
            vectors = await asyncio.wrap_future(embedded)
        data += [
            {"object": "embedding", "index": begin + number, "embedding": _vector(vector, request.encoding_format)}
            for number, vector in enumerate(vectors.astype("<f4"))
        ]
    count = sum(map(len, texts))
    node.counted(request.model, count, 0)
    usage = {"prompt_tokens": count, "total_tokens": count}
    body = to_json({"object": "list", "data": data, "model": request.model, "usage": usage})
    return web.Response(body=body, content_type=JSON, headers=asked.headers)


def _vector(vector: np.ndarray, form: str | None) -> str | list[float]:
    return base64.b64encode(vector.tobytes()).decode() if form == "base64" else vector.tolist()


def _several(given: Any) -> list[Any]:
    """What was given as one prompt or several, as several."""
    several = isinstance(given, list) and not isinstance(given[0], int)
    return given if several else [given]


def _check(node: Node, request: NodeChat | NodeCompletion, kind: str, raw: bytes) -> None:
    wire.check(request, kind, wire.prompt_tokens(request, raw), node.settings.limits, None)
    for name in ("frequency_penalty", "presence_penalty"):
        if getattr(request, name):
            raise Refused(400, f"{name}: this node has none", code="unsupported", param=name)


def _room(node: Node, prompt: Sequence[int], most: int | None, default: int) -> int:
    room = node.engine.language.context - len(prompt)
    if most is not None and most > room:
        raise Refused(
            400, f"{len(prompt)} tokens of prompt and {most} of answer; the model has room for "
            f"{node.engine.language.context}", code="context_length_exceeded", param="max_tokens",
        )  # fmt: skip
    return min(default, room) if most is None else most


def _sampling(request: NodeChat | NodeCompletion, most: int, logprobs: int | None) -> Sampling:
    stop = (request.stop,) if isinstance(request.stop, str) else tuple(request.stop or ())
    return Sampling(
        max_tokens=most,
        temperature=1.0 if request.temperature is None else request.temperature,
        top_p=1.0 if request.top_p is None else max(request.top_p, TOP_P_LEAST),
        top_k=max(request.top_k or 0, 0),
        seed=None if request.seed is None else request.seed % 2**64,
        stop=tuple(text for text in stop if text),
        logprobs=logprobs,
        ignore_eos=request.ignore_eos is True,
    )


def _counted(request: NodeChat | NodeCompletion) -> bool:
    return request.stream_options is not None and request.stream_options.include_usage is True


class Generating:
    """One request for text, and the engine's answers to it."""

    def __init__(
        self, node: Node, asked: Asked, form: Form, request: NodeChat | NodeCompletion, adapter: str | None
    ) -> None:
        self._node, self._asked, self._form, self._request, self._adapter = node, asked, form, request, adapter
        self._answers: list[Answer | Drafted] = []
        self._said: list[Said] = []
        self._prompt = 0
        self._last_s: float | None = None

    async def answered(self, prompts: Sequence[Sequence[int]], how: Sampling) -> web.StreamResponse:
        """The answer. Whatever happens, nothing of it is left in the engine."""
        try:
            self._submit(prompts, how)
            return await (self._streamed() if self._request.stream else self._whole())
        finally:
            for answer in self._answers:
                answer.cancel()
            if self._answers:
                output = sum(said.tokens for said in self._said)
                self._node.counted(self._request.model, self._prompt, output)
                if self._asked.span is not None:
                    used = {"gen_ai__usage__input_tokens": self._prompt, "gen_ai__usage__output_tokens": output}
                    self._asked.span.note(gen_ai__request__model=self._request.model, **used)

    def _submit(self, prompts: Sequence[Sequence[int]], how: Sampling) -> None:
        seed = secrets.randbits(63) if how.seed is None else how.seed
        number, most = len(prompts) * (self._request.n or 1), self._node.settings.queue
        if number > most:
            raise Refused(400, f"{number} answers in one request: at most {most}", code="limit_exceeded", param="n")
        for prompt in prompts:
            self._prompt += len(prompt)
            for _ in range(self._request.n or 1):
                mine = replace(how, seed=(seed + len(self._answers)) % 2**64)
                self._answers.append(self._answer(prompt, mine))
                self._said.append(Said())

    def _answer(self, prompt: Sequence[int], how: Sampling) -> Answer | Drafted:
        """This node's answer, or that of a larger model for which it drafts, where the request says so."""
        tenant, verifier = self._request.cache_salt or "", self._asked.request.headers.get(HEADER)
        if verifier is not None:
            return self._node.drafts.answer(verifier, prompt, how, self._adapter, tenant)
        return self._node.engine.submit(prompt, how, adapter=self._adapter, tenant=tenant)

    async def _whole(self) -> web.StreamResponse:
        async with asyncio.timeout_at(self._asked.deadline), aclosing(self._pieces()) as pieces:
            async for index, piece in pieces:
                self._take(index, piece)
        body = self._form.whole(self._said, self._usage())
        return web.Response(body=body, content_type=JSON, headers=self._asked.headers)

    async def _streamed(self) -> web.StreamResponse:
        """The stream begins with the first token, so that what fails before may be tried elsewhere."""
        async with aclosing(self._pieces()) as pieces:
            async with asyncio.timeout_at(self._asked.deadline):
                index, piece = await anext(pieces)
            response = web.StreamResponse(headers=self._asked.headers | {"cache-control": "no-cache"})
            response.content_type = "text/event-stream"
            try:
                await response.prepare(self._asked.request)
                async with asyncio.timeout_at(self._asked.deadline):
                    await self._write(response, self._begin() + self._event(index, piece))
                    async for index, piece in pieces:
                        if event := self._event(index, piece):
                            await self._write(response, event)
                end = self._form.counted(self._usage()) if _counted(self._request) else b""
                await self._write(response, end + DONE)
            except ConnectionError:
                return response
            except Exception as error:  # noqa: BLE001  what is known of it is said in the stream
                await self._write(response, error_event(self._node.refusal(error)))
            await response.write_eof()
            return response

    def _begin(self) -> bytes:
        return b"".join(self._form.first(number) for number in range(len(self._answers)))

    async def _write(self, response: web.StreamResponse, data: bytes) -> None:
        try:
            async with asyncio.timeout(self._node.settings.timeouts.client_s):
                await response.write(data)
        except TimeoutError:
            if self._asked.request.transport is not None:
                self._asked.request.transport.abort()
            raise ConnectionResetError("the client takes nothing") from None

    def _event(self, index: int, piece: Piece) -> bytes:
        before = sum(map(len, self._said[index].text)) if self._form.logprobs else 0
        self._take(index, piece)
        shown = piece.text or (self._form.logprobs and piece.token is not None)
        event = self._form.delta(index, piece, before) if shown else b""
        return event if piece.finish is None else event + self._form.last(index, piece.finish)

    def _take(self, index: int, piece: Piece) -> None:
        said = self._said[index]
        said.text.append(piece.text)
        said.finish = piece.finish
        said.tokens += piece.tokens
        if piece.tokens:
            self._time()
        if self._form.logprobs:
            said.pieces.append(piece)
        if piece.finish == "cancelled":
            raise Refused(503, "the answer was given up", code="cancelled")

    def _time(self) -> None:
        now_s = time.perf_counter()
        if self._last_s is None:
            self._node.observe("vllm:time_to_first_token_seconds", now_s - self._asked.began_s)
            if self._asked.span is not None:
                self._asked.span.event("gen_ai.first_token")
        else:
            self._node.observe("vllm:inter_token_latency_seconds", now_s - self._last_s)
        self._last_s = now_s

    def _usage(self) -> dict[str, Any]:
        output = sum(said.tokens for said in self._said)
        cached = sum(answer.cached_tokens for answer in self._answers)
        return {
            "prompt_tokens": self._prompt, "completion_tokens": output, "total_tokens": self._prompt + output,
            "prompt_tokens_details": {"cached_tokens": min(cached, self._prompt)},
        }  # fmt: skip

    async def _pieces(self) -> AsyncGenerator[tuple[int, Piece], None]:
        """Pieces of all answers as they come, with the answer's number."""
        if len(self._answers) == 1:
            async for piece in self._answers[0]:
                yield 0, piece
            return
        came: asyncio.Queue[tuple[int, Piece] | BaseException | None] = asyncio.Queue()

        async def pump(index: int, answer: Answer | Drafted) -> None:
            try:
                async for piece in answer:
                    came.put_nowait((index, piece))
                came.put_nowait(None)
            except Exception as error:  # noqa: BLE001  whoever takes the pieces gets it
                came.put_nowait(error)

        tasks = [asyncio.create_task(pump(index, answer)) for index, answer in enumerate(self._answers)]
        try:
            left = len(tasks)
            while left:
                item = await came.get()
                if item is None:
                    left -= 1
                elif isinstance(item, BaseException):
                    raise item
                else:
                    yield item
        finally:
            for task in tasks:
                task.cancel()
