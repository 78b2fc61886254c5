"""One try of a request at one node: failures before the first byte leave the request free to go elsewhere."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import Any

from pydantic_core import from_json

from gainnet.serving.call import Call
from gainnet.serving.connection import Connection, Lost, Malformed
from gainnet.serving.events import Events, usage
from gainnet.serving.router import Ended, Refused, Router, Target
from gainnet.serving.settings import Limits
from gainnet.serving.upstream import Failed, Upstream

_THE_REQUEST_IS_WRONG = frozenset((400, 413, 415, 422))
_LARGE_BYTE = 1_000_000


class Busy(Failed):
    """The node has no room now.

    Attributes:
        retry_after_s: when it may have.
    """

    def __init__(self, retry_after_s: float) -> None:
        super().__init__("the node has no room")
        self.retry_after_s = retry_after_s


@dataclass(frozen=True, slots=True)
class Whole:
    """An answer that was not streamed."""

    status: int
    body: bytes


class Attempt:
    """A request at a node. `end` must be called, whatever happened.

    Attributes:
        call: the request.
        target: where.
        upstream: the node.
        prompt_token: as the node counted, None so far.
        output_token: as the node counted, or chunks.
        first_byte_s: after sending, None so far.
        streams: whether the node streams its answer.
        heard: what came, where it is to be learned from.
    """

    def __init__(self, call: Call, target: Target, upstream: Upstream, router: Router, limits: Limits) -> None:
        self.call, self._router, self._limits = call, router, limits
        self._loop = asyncio.get_running_loop()
        self._connection: Connection | None = None
        self._events = Events(limits.event_byte)
        self.target, self.upstream = target, upstream
        self.prompt_token: int | None = None
        self.output_token = 0
        self.first_byte_s: float | None = None
        self.streams = call.stream and target.sure is None
        self.heard: list[bytes] | None = None if target.audit is None else []
        self._over = False
        self._sent_at = self._loop.time()
        self._began_s = time.perf_counter()
        self._number = router.sent(call.ask, target)
        upstream.in_flight += 1
        self._span = None if call.span is None else call.span.child("POST", server__address=target.node)
        if self._span is not None:
            call.parent = self._span.as_parent()

    @property
    def done(self) -> bool:
        """Whether a stream has come to its end as it should."""
        return self._events.done

    async def whole(self) -> Whole:
        """The node's answer.

        Raises:
            Failed: there is none that can be passed on.
            Refused: the node finds the request wrong.
            Expired: the deadline passed.
        """
        connection = await self._opened("application/json")
        body = await self.upstream.whole(connection, self.call.given.deadline, self._limits.answer_byte)
        self.first_byte_s = time.perf_counter() - self._began_s
        self._hear(body)
        counted = usage(_object(body))
        if counted is not None:
            self.prompt_token, self.output_token = counted
        return Whole(connection.status, body)

    async def first(self) -> bytes:
        """The first events of the node's stream; raises as `whole`."""
        connection = await self._opened("text/event-stream")
        events = self._events
        while True:
            data = await self.upstream.chunk(connection, self.call.given.deadline, first=True)
            if not data:
                raise Failed("the stream ended before it began")
            out = events.feed(data)
            if events.failed and not events.output_token:
                raise Failed("the stream began with an error")
            if out:
                self.first_byte_s = time.perf_counter() - self._began_s
                self._hear(out)
                return out
            if events.wrong is not None:
                raise Failed(f"the stream began with {events.wrong}")

    async def more(self) -> bytes:
        """The next events; empty where the stream is over.

        Raises:
            Failed: the stream was cut, stalled, or holds what is no event of the API.
            Expired: the deadline passed.
        """
        events = self._events
        while not events.over:
            assert self._connection is not None
            data = await self.upstream.chunk(self._connection, self.call.given.deadline)
            if not data:
                raise Failed("the stream ended without [DONE]")
            if out := events.feed(data):
                self._hear(out)
                return out
        if events.wrong is not None:
            raise Failed(f"the stream holds {events.wrong}")
        return b""

    async def finished(self) -> None:
        """Take the end of a stream's body, so that the connection can be kept; not for long."""
        assert self._connection is not None
        try:
            await self._connection.chunk(self._loop.time() + 1.0)
        except (Lost, Malformed, TimeoutError):  # the answer was whole; the connection is merely not kept
            self._connection.close()

    def end(self, ok: bool, *, at_fault: bool = False) -> None:
        """It is over.

        Args:
            ok: a whole answer came.
            at_fault: the node failed, which its breaker counts.
        """
        if self._over:
            return
        self._over = True
        if self._span is not None:
            self._span.end("no whole answer came" if at_fault and not ok else None)
        latency_s = time.perf_counter() - self._began_s
        if self._connection is not None:
            self.upstream.close(self._connection)
        self.upstream.in_flight -= 1
        if ok:
            self.upstream.breaker.succeeded()
            self.upstream.served += 1
        elif at_fault:
            self.upstream.breaker.failed(self._loop.time())
            self.upstream.failed += 1
        else:
            self.upstream.breaker.undecided()
        if self.streams:
            self.prompt_token, self.output_token = self._events.prompt_token, self._events.output_token
        prompt = self.call.ask.prompt_token if self.prompt_token is None else self.prompt_token
        # An answer that is not shown has not begun, as far as the client knows: another may be tried.
        began_s = self.first_byte_s if ok or self.target.sure is None else None
        how = Ended(ok, at_fault and not ok, latency_s, began_s, prompt, self.output_token)
        self._router.ended(self._number, how)

    def _hear(self, data: bytes) -> None:
        if self.heard is not None:
            self.heard.append(data)

    async def _opened(self, form: str) -> Connection:
        """The connection with a good status and the form asked for."""
        posted = self.call.posted(self.target, self._sent_at)
        connection = self._connection = await self.upstream.open(posted)
        status = connection.status
        if status == 200:
            if connection.headers.get("content-type", "").startswith(form):
                return connection
            raise Failed("the answer is not in the form asked for")
        if status == 429:
            raise Busy(_retry_after_s(connection.headers))
        if status in _THE_REQUEST_IS_WRONG:
            body = await self.upstream.whole(connection, posted.deadline, _LARGE_BYTE)
            raise refused_by(status, body)
        raise Failed(f"the node answered {status}", missing=status == 404)


def _object(body: bytes) -> dict[str, Any]:
    """A JSON object; of a very long one only its ends are looked at, as it would hold up everything else."""
    if len(body) > _LARGE_BYTE:
        if body.lstrip()[:1] == b"{" and body.rstrip()[-1:] == b"}":
            return {}
        raise Failed("the answer is not a JSON object")
    try:
        answer = from_json(body, allow_inf_nan=False)
    except ValueError:
        raise Failed("the answer is not JSON") from None
    if not isinstance(answer, dict) or "error" in answer:
        raise Failed("the answer is an error" if isinstance(answer, dict) else "the answer is not a JSON object")
    return answer


def refused_by(status: int, body: bytes) -> Refused:
    """What a node says against a request, in the API's form whatever form it had."""
    message: Any = None
    code: Any = None
    param: Any = None
    try:
        tree = from_json(body)
    except ValueError:
        tree = None
    if isinstance(tree, dict):
        fault = tree.get("error", tree)
        if isinstance(fault, dict):
            message, code, param = fault.get("message", fault.get("detail")), fault.get("code"), fault.get("param")
        elif isinstance(fault, str):
            message = fault
    return Refused(
        status,
        message if isinstance(message, str) else "the node refused the request",
        code=code if isinstance(code, str) else None,
        param=param if isinstance(param, str) else None,
    )


def _retry_after_s(headers: dict[str, str]) -> float:
    for name, scale in (("retry-after-ms", 1e-3), ("retry-after", 1.0)):
        try:
            seconds = float(headers[name]) * scale
        except (KeyError, ValueError):
            continue
        if 0.0 <= seconds <= 3_600.0:
            return seconds
    return 1.0
