"""A node: an OpenAI-compatible server around the embedded engine. `Node` is its parts; `listener.serve` runs it."""

from __future__ import annotations

import asyncio
import hmac
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from aiohttp import web
from pydantic_core import to_json

from gainnet import __version__
from gainnet.errors import InputError
from gainnet.inference.engine import Engine
from gainnet.inference.request import EngineStopped, QueueFull
from gainnet.inference.tempo import Machine
from gainnet.models.hub import Language
from gainnet.serving import call, node_answer, node_metrics, node_model
from gainnet.serving.answers import ModelCard, ModelList, error_body
from gainnet.serving.listener import JSON, Listener, body
from gainnet.serving.metrics import Metrics
from gainnet.serving.node_adapters import NodeAdapters
from gainnet.serving.node_draft import Drafts
from gainnet.serving.node_metrics import Rates
from gainnet.serving.node_settings import NodeSettings
from gainnet.serving.node_verify import Sessions
from gainnet.serving.node_wire import AdapterRequest
from gainnet.serving.router import Refused
from gainnet.serving.tracing import Span, Tracing
from gainnet.serving.wire import parse

if TYPE_CHECKING:
    from gainnet.serving.node_images import Images

logger = logging.getLogger(__name__)
SWEEP_S = 5.0
_OPEN = ("/health", "/ready")
Handler = Callable[["Asked"], Awaitable[web.StreamResponse]]


@dataclass(slots=True)
class Asked:
    """A request that was let in.

    Attributes:
        request: of aiohttp.
        raw: its body.
        name: of the request, for its answer's id.
        came_at: on the loop's clock.
        began_s: on the clock that latencies are measured by.
        deadline: on the loop's clock, None without.
        headers: of the answer.
        span: where it is traced, else None.
    """

    request: web.BaseRequest
    raw: bytes
    name: str
    came_at: float
    began_s: float
    deadline: float | None
    headers: dict[str, str] = field(default_factory=dict)
    span: Span | None = None


class Node:
    """Everything that one node consists of; `start` it inside a loop, `close` it there.

    Attributes:
        settings: of the node.
        engine: that answers.
        prompts: requests as tokens.
        drafts: answers of larger models elsewhere.
        in_flight: requests under way.
        images: what draws, None where nothing does.
    """

    def __init__(self, settings: NodeSettings, language: Language | None = None) -> None:
        """Make the model (or take the one given) and its engine.

        Errors: InputError where a model or an adapter cannot be loaded.
        """
        self.settings = settings
        found = language or node_model.made(settings.model, settings.seed)
        machine = None if settings.machine is None else Machine(**settings.machine.model_dump())
        self.engine = Engine(
            found, slots=settings.slots, queue=settings.queue, sessions=settings.sessions, prefill=settings.prefill,
            prefix_byte=settings.prefix_byte, threads=settings.threads, machine=machine,
        )  # fmt: skip
        self._adapters = NodeAdapters(settings, self.engine)
        self.prompts = node_model.Prompts(found)
        self.in_flight = 0
        self._metrics = Metrics()
        self._sessions = Sessions(self)
        self.drafts = Drafts(self.engine, settings.verifiers, settings.timeouts.first_byte_s)
        self._since = int(time.time())
        self._draining = False
        self._tracing = None if settings.tracing is None else Tracing(f"gainnet-node {settings.name}", settings.tracing)
        self._listener = Listener("listen", settings.listen, settings.limits, settings.timeouts, self._answer)
        self._rates: Rates | None = None
        self._sweeping: asyncio.Task[None] | None = None
        self.images = _images(self)
        self._posts: dict[str, Handler] = {
            "/v1/chat/completions": lambda asked: node_answer.chat(self, asked),
            "/v1/completions": lambda asked: node_answer.completion(self, asked),
            "/v1/embeddings": lambda asked: node_answer.embedding(self, asked),
            "/verify": self._verify,
            "/v1/load_lora_adapter": self._load,
            "/v1/unload_lora_adapter": self._unload,
        }
        if self.images is not None:
            self._posts |= {"/v1/images/generations": self.images.generate, "/denoise": self.images.denoise}
        self._gets: dict[str, Callable[[], web.Response]] = {
            "/health": self._health,
            "/ready": self._ready,
            "/v1/models": self._models,
            "/metrics": self._metrics_page,
            "/node/state": lambda: _json(self.state()),
            "/version": lambda: _json({"version": __version__}),
        }

    async def start(self) -> None:
        """Start the engine, rehearse, and open the listener. InputError where its address cannot be used."""
        self.engine.start()
        if self.images is not None:
            self.images.engine.start()
        try:
            self._rates = await asyncio.to_thread(Rates, self.engine)
            await self._listener.open()
        except BaseException:
            await self.close()
            raise
        self._sweeping = asyncio.create_task(self._sweep())
        logger.info("listening", extra={"node": self.settings.name, "address": self.url})

    @property
    def url(self) -> str:
        """Where requests come in, without `/v1`."""
        return self._listener.url

    async def drain(self) -> None:
        """Fail readiness, wait until balancers have seen it, close the door, and finish what is under way."""
        self._draining = True
        logger.info("draining", extra={"node": self.settings.name, "in_flight": self.in_flight})
        await self._listener.drain(lambda: self.in_flight)

    async def close(self) -> None:
        """Close the listener, its connections and the engine at once; `drain` first where requests are to be finished."""
        if self._sweeping is not None:
            self._sweeping.cancel()
            await asyncio.gather(self._sweeping, return_exceptions=True)
        await self._listener.close()
        await self.drafts.close()
        await asyncio.to_thread(self.engine.close)
        if self._tracing is not None:
            await asyncio.to_thread(self._tracing.close)
        if self.images is not None:
            await self.images.close()

    # What requests use.

    def adapter(self, model: str) -> str | None:
        """The adapter that a model id means, None for the model itself. Refused: 404 where it means nothing here."""
        if model in self.settings.ids:
            return None
        if model in self.engine.stats().resident:
            return model
        raise Refused(404, f"the model {model!r} does not exist", code="model_not_found", param="model")

    def counted(self, model: str, prompt: int, output: int) -> None:
        """Count tokens of a request."""
        labels = (("model_name", model),)
        self._metrics.add("vllm:prompt_tokens_total", labels, float(prompt))
        self._metrics.add("vllm:generation_tokens_total", labels, float(output))

    def observe(self, name: str, seconds: float) -> None:
        """Put a time into a histogram."""
        self._metrics.histogram(name).observe(seconds)

    def refusal(self, error: Exception) -> Refused:
        """What a client reads of an error."""
        retry_s = self.settings.timeouts.retry_s
        match error:
            case Refused():
                return error
            case QueueFull():
                return Refused(429, str(error), retry_s, code="overloaded")
            case EngineStopped():
                return Refused(503, str(error), code="stopped")
            case InputError():
                return Refused(400, str(error), code="invalid_value")
            case TimeoutError():
                return Refused(504, "the deadline passed", code="deadline_exceeded")
        logger.error("a request failed", exc_info=error)
        return Refused(500, "the node failed", code="internal_error")

    def state(self) -> dict[str, Any]:
        """What routers want to know: GET /node/state."""
        stats, rates = self.engine.stats(), self._rates
        if rates is not None:
            rates.update(stats)
        names = [*self.settings.ids, *stats.resident]
        drawn = None if self.images is None else self.images.engine.stats()
        if self.images is not None:
            names += self.images.setting.ids
        return {
            "tier": self.settings.tier,
            "models": names,
            "resident": names,
            "running": stats.running + (0 if drawn is None else drawn.drawings),
            "waiting": stats.waiting + (0 if drawn is None else drawn.drawings_waiting),
            "slots": stats.slots,
            "prompt_token_per_s": 0.0 if rates is None else rates.prompt_token_per_s,
            "decode_token_per_s": 0.0 if rates is None else rates.decode_token_per_s,
            "decode_batch": 0.0 if rates is None else rates.decode_batch,
            "kv_use": stats.kv_use,
            "digest": self.engine.language.digest,
            "verifiers": self.drafts.state(),
            "beginners": {} if self.images is None else self.images.beginners(),
        }

    # Requests.

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        began_s = time.perf_counter()
        name = call.request_id(request.headers)
        try:
            return await self._answered(request, name, began_s)
        except Exception as error:  # noqa: BLE001  every error is told in the API's form
            return _refused(self.refusal(error), name)

    async def _answered(self, request: web.BaseRequest, name: str, began_s: float) -> web.StreamResponse:
        path, method = request.path, request.method
        get, post = self._gets.get(path), self._posts.get(path)
        if get is None and post is None:
            raise Refused(404, "there is nothing at this path", code="not_found")
        if path not in _OPEN:
            self._may(request)
        if get is not None:
            if method not in ("GET", "HEAD"):
                raise Refused(405, f"{method} is not allowed here", code="method_not_allowed")
            return get()
        assert post is not None
        if method != "POST":
            raise Refused(405, f"{method} is not allowed here", code="method_not_allowed")
        if self._draining:
            raise Refused(503, "the node is leaving", code="draining")
        came_at = asyncio.get_running_loop().time()
        given = call.given(request.headers, name, came_at)
        until = came_at + self.settings.timeouts.body_s
        until = until if given.deadline is None else min(until, given.deadline)
        raw = await body(request, self.settings.limits, until)
        if given.deadline is not None and asyncio.get_running_loop().time() >= given.deadline:
            raise Refused(408, "the deadline passed while the request came", code="deadline_exceeded")
        headers = {"x-request-id": name}
        self.in_flight += 1
        span = None
        if self._tracing is not None:
            span = self._tracing.begin(f"POST {path}", given.trace, url__path=path, gainnet__request_id=name)
        trouble: str | None = "given up"
        try:
            answer = await post(Asked(request, raw, name, came_at, began_s, given.deadline, headers, span))
            trouble = None
            return answer
        except Exception as error:
            trouble = str(error)
            raise
        finally:
            if span is not None:
                span.end(trouble)
            self.in_flight -= 1
            self.observe("vllm:e2e_request_latency_seconds", time.perf_counter() - began_s)

    def _may(self, request: web.BaseRequest) -> None:
        token = self.settings.token
        if token is not None:
            shown = request.headers.get("authorization", "").encode("utf-8", "surrogateescape")
            if not hmac.compare_digest(shown, f"Bearer {token.get_secret_value()}".encode()):
                raise Refused(401, "the node's token is needed: Authorization: Bearer TOKEN", code="invalid_api_key")

    def _ready(self) -> web.Response:
        if self._draining:
            raise Refused(503, "draining", code="not_ready")
        return self._health()

    def _health(self) -> web.Response:
        if (failure := self.engine.failure) is not None:
            raise Refused(503, f"the engine failed: {failure}", code="not_ready")
        if self.images is not None and (failure := self.images.engine.failure) is not None:
            raise Refused(503, f"the image engine failed: {failure}", code="not_ready")
        return web.Response()

    def _models(self) -> web.Response:
        first, *others = self.settings.ids
        cards = [ModelCard(id=first, created=self._since, root=first)]
        cards += [ModelCard(id=name, created=self._since, root=first) for name in others]
        cards += [
            ModelCard(id=name, created=self._since, root=name, parent=first) for name in self.engine.stats().resident
        ]
        drawing = () if self.images is None else self.images.setting.ids
        cards += [ModelCard(id=name, created=self._since, root=drawing[0]) for name in drawing]
        return _json(ModelList(data=cards).model_dump())

    def _metrics_page(self) -> web.Response:
        images = None if self.images is None else self.images.metrics()
        text = node_metrics.text(self._metrics, self.engine.stats(), self.settings.ids[0], images)
        return web.Response(text=text, headers={"content-type": "text/plain; version=0.0.4; charset=utf-8"})

    async def _verify(self, asked: Asked) -> web.Response:
        return _json(await self._sessions.answer(asked), asked.headers)

    async def _load(self, asked: Asked) -> web.Response:
        request = parse(AdapterRequest, asked.raw)
        digest = await self._adapters.load(request)
        return _json({"loaded": request.lora_name, "digest": digest}, asked.headers)

    async def _unload(self, asked: Asked) -> web.Response:
        name = parse(AdapterRequest, asked.raw).lora_name
        await self._adapters.unload(name)
        return _json({"unloaded": name}, asked.headers)

    async def _sweep(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(min(SWEEP_S, self.settings.timeouts.session_s / 2.0))
            self._sessions.sweep(loop.time())


def _images(node: Node) -> Images | None:
    """What draws at a node; diffusers is imported only where something does."""
    setting = node.settings.images
    if setting is None:
        return None
    from gainnet.serving.node_images import Images

    return Images(node, setting)


def _json(tree: object, headers: dict[str, str] | None = None) -> web.Response:
    return web.Response(body=to_json(tree), content_type=JSON, headers=headers)


def _refused(refused: Refused, name: str) -> web.Response:
    headers = {"x-request-id": name}
    if refused.retry_after_s is not None:
        headers["retry-after"] = str(max(1, round(refused.retry_after_s + 0.499)))
        headers["retry-after-ms"] = str(max(1, round(refused.retry_after_s * 1_000.0)))
    if refused.status == 401:
        headers["www-authenticate"] = "Bearer"
    return web.Response(body=error_body(refused), status=refused.status, content_type=JSON, headers=headers)
