"""The path of a request through the gateway: found in order, admitted, routed, tried, passed on, counted."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence

from aiohttp import web

from gainnet.serving import call as calls
from gainnet.serving.admission import Permit
from gainnet.serving.answers import error_body, error_event
from gainnet.serving.attempt import Attempt, Busy
from gainnet.serving.book import Done
from gainnet.serving.call import Call
from gainnet.serving.collaborate import Deferred, kept, shown
from gainnet.serving.idempotency import Keeping, Kept
from gainnet.serving.listener import JSON, body, go
from gainnet.serving.ready import Ready
from gainnet.serving.router import Kind, Refused, Target
from gainnet.serving.state import State
from gainnet.serving.tracing import Span, parent
from gainnet.serving.upstream import Expired, Failed

logger = logging.getLogger(__name__)
_NOT_KEPT = frozenset((401, 408, 409, 422, 429))
_SMALL_BYTE = 16_384
_GONE = 499  # what logs and metrics say of a client that left


class Exchange:
    """One request and its answer.

    Attributes:
        status: of the answer, for metrics.
    """

    def __init__(self, state: State, request: web.BaseRequest, kind: Kind, path: str) -> None:
        self._of, self._request, self._kind, self._path = state, request, kind, path
        self._loop = state.loop
        self._came_at = self._loop.time()
        self._began_s = time.perf_counter()
        self._id = calls.request_id(request.headers)
        self._call: Call | None = None
        self._headers: dict[str, str] = {"x-request-id": self._id}
        self._node = ""
        self._first_byte_s: float | None = None
        self._response: web.StreamResponse | Ready | None = None
        self._lost = False
        self._why = ""
        self._trouble: str | None = None
        self.status = 500
        self._span: Span | None = None
        if state.tracing is not None:
            begun = {"gen_ai__operation__name": kind, "url__path": path, "gainnet__request_id": self._id}
            self._span = state.tracing.begin(f"POST {path}", parent(request.headers), **begun)

    async def answer(self) -> web.StreamResponse | Ready:
        """The answer, errors included."""
        try:
            return await self._answered()
        except Refused as refused:
            return self._refused(refused)
        except asyncio.CancelledError:
            self._left()
            raise
        except Exception:
            logger.exception("a request failed", extra={"request_id": self._id, **self._trace()})
            self._trouble = "the gateway failed"
            if self._response is not None and self._response.prepared:
                raise
            return self._refused(Refused(500, "the gateway failed", code="internal_error"))
        finally:
            self._count()

    async def _answered(self) -> web.StreamResponse | Ready:
        call = self._call = await self._read()
        call.span = self._span
        key = call.given.idempotency_key
        if key is None:
            return await self._admitted(call, None)
        held = await self._of.idempotency.begin(call.tenant.name, key, call.digest())
        if isinstance(held, Kept):
            return self._replayed(held)
        keeping = Keeping(self._of.idempotency.byte_max)
        try:
            return await self._admitted(call, keeping)
        except Refused as refused:
            if refused.status < 500 and refused.status not in _NOT_KEPT:
                keeping.whole(refused.status, {}, error_body(refused))
            raise
        finally:
            self._of.idempotency.end(call.tenant.name, key, held, keeping.kept)

    async def _read(self) -> Call:
        """The request, found in order; nothing was done for it yet."""
        of, headers = self._of, self._request.headers
        tenant = of.tenants.who(headers.get("authorization"))
        given = calls.given(headers, self._id, self._came_at)
        until = self._came_at + of.settings.timeouts.body_s
        until = until if given.deadline is None else min(until, given.deadline)
        raw = await body(self._request, of.settings.limits, until)
        call = Call(self._kind, self._path, given, tenant, raw, of.settings.limits)
        if not of.serves(call.model) or (tenant.models is not None and call.model not in tenant.models):
            raise Refused(404, f"the model {call.model!r} does not exist", code="model_not_found", param="model")
        call.check(of.settings.limits, of.settings.models.get(call.model))
        if given.deadline is not None and self._loop.time() >= given.deadline:
            raise Refused(408, "the deadline passed while the request came", code="deadline_exceeded")
        return call

    async def _admitted(self, call: Call, keeping: Keeping | None) -> web.StreamResponse | Ready:
        of, tenant = self._of, call.tenant
        permit = of.admission.enter(call.ask.prompt_token)
        try:
            now = self._loop.time()
            charged = call.ask.prompt_token + call.ask.output_token
            try:
                tenant.charge(charged, now)
            finally:
                self._headers |= tenant.headers(now)
            version = of.versions.pin(call.model)
            used = 0
            try:
                call.pinned(version, now)
                route = await of.router.route(call.ask)
                used = await self._tried(call, route.targets, permit, keeping)
            finally:
                of.versions.release(version)
                tenant.settle(charged, used, self._loop.time())
        finally:
            permit.leave()
        assert self._response is not None
        return self._response

    async def _tried(self, call: Call, targets: Sequence[Target], permit: Permit, keeping: Keeping | None) -> int:
        """Try targets until one begins to answer, and pass its answer on; the tokens used."""
        last: Failed | None = None
        for target in targets:
            upstream = self._of.upstreams[target.node]
            if not upstream.allows(self._loop.time()):
                continue
            attempt = Attempt(call, target, upstream, self._of.router, self._of.settings.limits)
            ok = at_fault = False
            try:
                await (self._streamed if attempt.streams else self._passed)(attempt, permit, keeping)
                ok, at_fault = attempt.done or not attempt.streams, self._lost
                attempt.end(ok, at_fault=at_fault)
                self._learn(call, attempt, ok)
                return self._used(call, attempt)
            except Deferred as deferred:
                last = deferred
                self._of.metrics.add("gainnet:deferred_total", (("node", target.node),))
            except Failed as failed:
                last, at_fault = failed, not (failed.missing or isinstance(failed, Busy))
                if failed.missing:
                    self._of.doubted.add(target.node)
                self._say_failed(target, failed)
            except Refused:
                ok = True
                raise
            except Expired:
                raise Refused(504, "the deadline passed before an answer began", code="deadline_exceeded") from None
            finally:
                attempt.end(ok, at_fault=at_fault)
        raise _nobody(call.model, last)

    def _learn(self, call: Call, attempt: Attempt, ok: bool) -> None:
        """Count how it was answered, and have a small model asked the same where its router wants to know."""
        self._of.metrics.add("gainnet:ways_total", (("way", attempt.target.way),))
        if ok and attempt.target.audit is not None and attempt.heard is not None:
            self._of.audits.begin(call, attempt.target.audit, shown(call, b"".join(attempt.heard)))

    def _used(self, call: Call, attempt: Attempt) -> int:
        prompt = call.ask.prompt_token if attempt.prompt_token is None else attempt.prompt_token
        labels = (("model_name", call.model),)
        self._of.metrics.add("vllm:prompt_tokens_total", labels, float(prompt))
        self._of.metrics.add("vllm:generation_tokens_total", labels, float(attempt.output_token))
        return prompt + attempt.output_token

    async def _passed(self, attempt: Attempt, permit: Permit, keeping: Keeping | None) -> None:
        """Pass a whole answer on."""
        whole = await attempt.whole()
        said, form = whole.body, JSON
        if attempt.target.sure is not None:
            call = attempt.call
            said, form = kept(call, attempt.target, said), "text/event-stream" if call.stream else JSON
        permit.began()
        self._first_byte_s = time.perf_counter() - self._began_s
        self._from(attempt)
        if keeping is not None:
            keeping.whole(whole.status, {"content-type": form} | self._provenance(attempt), said)
        self._response = ready = self._whole(whole.status, said, form)
        go(self._request, ready)

    async def _streamed(self, attempt: Attempt, permit: Permit, keeping: Keeping | None) -> None:
        """Pass a stream on; once its first byte has gone out, whatever happens is said in an event."""
        data = await attempt.first()
        permit.began()
        last_s = self._first_byte_s = time.perf_counter() - self._began_s
        self._from(attempt)
        self.status = 200
        response = self._response = web.StreamResponse(headers=self._headers)
        response.content_type = "text/event-stream"
        response.headers["cache-control"] = "no-cache"
        response.headers["x-accel-buffering"] = "no"
        if self._of.draining:
            response.force_close()
        between = self._of.metrics.histogram("vllm:inter_token_latency_seconds")
        try:
            await response.prepare(self._request)
            while data:
                await self._write(response, data)
                if keeping is not None:
                    keeping.more(data)
                data = await attempt.more()
                now_s = time.perf_counter() - self._began_s
                between.observe(now_s - last_s)
                last_s = now_s
            await response.write_eof()
        except (Failed, Expired) as error:
            await self._write(response, error_event(self._broken(attempt, error)))
            await response.write_eof()
        except (ConnectionError, _TooSlow):
            self._left()
            return
        except Exception:
            await self._write(response, error_event(Refused(500, "the gateway failed", code="internal_error")))
            raise
        if attempt.done:
            if keeping is not None:
                keeping.finish(200, {"content-type": "text/event-stream"} | self._provenance(attempt))
            await attempt.finished()
        elif self._trouble is None:
            self._trouble = "the node ended its answer with an error"

    async def _write(self, response: web.StreamResponse, data: bytes) -> None:
        """Write to the client, waiting while it doesn't take what it was sent."""
        transport = self._request.transport
        if transport is not None and not transport.get_write_buffer_size() and len(data) < _SMALL_BYTE:
            await response.write(data)
            return
        try:
            async with asyncio.timeout(self._of.settings.timeouts.client_s):
                await response.write(data)
        except TimeoutError:
            if transport is not None:
                transport.abort()
            raise _TooSlow from None

    def _broken(self, attempt: Attempt, error: Failed | Expired) -> Refused:
        """What a client reads at the end of a stream that its node did not end."""
        self._of.metrics.add("gainnet:streams_lost_total", (("node", attempt.target.node),))
        if isinstance(error, Expired):
            self._trouble = "the deadline passed while the answer was streamed"
            return Refused(504, self._trouble, code="deadline_exceeded")
        self._lost = True
        self._trouble = "the node was lost while the answer was streamed"
        self._say_failed(attempt.target, error)
        return Refused(502, self._trouble, code="upstream_lost")

    def _left(self) -> None:
        self.status = _GONE
        self._trouble = "the client left"

    def _from(self, attempt: Attempt) -> None:
        self._node, self._why = attempt.target.node, attempt.target.why
        self._headers |= self._provenance(attempt)
        self._headers["openai-processing-ms"] = str(int((time.perf_counter() - self._began_s) * 1_000.0))

    def _provenance(self, attempt: Attempt) -> dict[str, str]:
        target = attempt.target
        why = target.why if target.why.isascii() and target.why.isprintable() else ascii(target.why)
        return {
            "x-gainnet-node": target.node, "x-gainnet-tier": self._of.tiers[target.node], "x-gainnet-way": target.way,
            "x-gainnet-why": why,
        }  # fmt: skip

    def _say_failed(self, target: Target, failed: Failed) -> None:
        self._of.metrics.add("gainnet:tries_failed_total", (("node", target.node),))
        logger.warning(
            "a try failed",
            extra={"request_id": self._id, "node": target.node, "reason": failed.reason, **self._trace()},
        )

    def _trace(self) -> dict[str, str]:
        trace = None if self._call is None else self._call.given.trace
        if self._span is not None:
            trace = self._span.as_parent()
        return {} if trace is None else {"trace_id": trace.trace, "span_id": trace.span}

    def _whole(self, status: int, body: bytes, form: str = JSON, *, last: bool = False) -> Ready:
        self.status = status
        self._headers["content-type"] = form
        return Ready(status, self._headers, body, last=last or self._of.draining)

    def _replayed(self, kept: Kept) -> Ready:
        self.status = kept.status
        self._why = "asked before: the answer that was kept"
        headers = {"content-type": JSON} | self._headers | kept.headers | {"x-gainnet-replayed": "true"}
        return Ready(kept.status, headers, kept.body, last=self._of.draining)

    def _refused(self, refused: Refused) -> Ready:
        """The error object, with when to come back."""
        self._trouble = refused.message
        if refused.retry_after_s is not None:
            self._headers["retry-after"] = str(max(1, round(refused.retry_after_s + 0.499)))
            self._headers["retry-after-ms"] = str(max(1, round(refused.retry_after_s * 1_000.0)))
        elif refused.status in (408, 409, 429) or refused.status >= 500:
            self._headers["x-should-retry"] = "false"
        if refused.status == 401:
            self._headers["www-authenticate"] = "Bearer"
        unread = not self._request.content.at_eof() and refused.status in (401, 408, 413, 415)
        return self._whole(refused.status, error_body(refused), last=unread)  # the rest of its body is not read

    def _count(self) -> None:
        """Put the request into the metrics, and into the log where that is wanted."""
        latency_s = time.perf_counter() - self._began_s
        if self._span is not None:
            self._end(self._span)
        call, metrics = self._call, self._of.metrics
        model = "" if call is None else call.model
        metrics.add(
            "gainnet:requests_total",
            (("kind", self._kind), ("model_name", model), ("node", self._node), ("status", str(self.status))),
        )
        if call is not None:
            labels = (("model_name", model),)
            metrics.histogram("vllm:e2e_request_latency_seconds", labels).observe(latency_s)
            operation = (("gen_ai_operation_name", self._kind),)
            metrics.histogram("gen_ai_server_request_duration_seconds", operation).observe(latency_s)
            if self._first_byte_s is not None:
                metrics.histogram("vllm:time_to_first_token_seconds", labels).observe(self._first_byte_s)
            if self._of.settings.page:
                self._keep(call, latency_s)
        if logger.isEnabledFor(logging.DEBUG):
            said: dict[str, object] = {"request_id": self._id, "kind": self._kind, "model": model, "node": self._node}
            said |= {"status": self.status, "latency_s": round(latency_s, 6)}
            logger.debug("request", extra=said | self._trace())

    def _end(self, span: Span) -> None:
        span.note(http__response__status_code=self.status, gainnet__node=self._node)
        if self._call is not None:
            span.note(gen_ai__request__model=self._call.model, gen_ai__response__model=self._call.version)
        if self._first_byte_s is not None:
            span.note(gen_ai__server__time_to_first_token=self._first_byte_s)
        span.end(self._trouble)

    def _keep(self, call: Call, latency_s: float) -> None:
        """Put the request where the live page finds it."""
        ok, deadline = self._trouble is None and self.status < 400, call.given.deadline
        done = Done(
            time.time(), call.model, call.given.end, self._node, self._of.tiers.get(self._node, ""), ok,
            ok and (deadline is None or self._loop.time() <= deadline), latency_s, self._trouble or self._why,
        )  # fmt: skip
        self._of.book.add(call.tenant.name, done)


class _TooSlow(Exception):
    """The client takes nothing."""


def _nobody(model: str, last: Failed | None) -> Refused:
    """What a client reads where no target answered."""
    if isinstance(last, Busy):
        return Refused(
            429, "every node that serves the model has its hands full", last.retry_after_s, code="overloaded"
        )
    if last is None or last.unreachable:
        return Refused(503, f"no node that serves {model!r} can be reached", 1.0, code="no_node")
    return Refused(502, f"the nodes that serve {model!r} failed", 1.0, code="upstream_failed")
