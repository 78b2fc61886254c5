"""Where a process is asked: an address with limits on connections, headers, bodies and clients that take nothing.

A gateway has two listeners, a node one; `serve` is how either lives and ends.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
import ssl
from collections.abc import Awaitable, Callable
from typing import Any, Protocol, cast, runtime_checkable

from aiohttp import web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.http import HttpVersion11
from aiohttp.http_parser import RawRequestMessage
from aiohttp.streams import StreamReader
from aiohttp.web_protocol import RequestHandler

from gainnet.errors import InputError
from gainnet.serving.answers import error_body
from gainnet.serving.ready import Patience, Ready
from gainnet.serving.router import Refused
from gainnet.serving.settings import AdminListen, Limits, Listen, Timeouts

logger = logging.getLogger(__name__)
JSON = "application/json"
Answer = Callable[[web.BaseRequest], Awaitable[web.StreamResponse | Ready]]


@runtime_checkable
class Served(Protocol):
    """A gateway or a node."""

    async def start(self) -> None:
        """Open its listeners."""

    async def drain(self) -> None:
        """Finish what is under way."""

    async def close(self) -> None:
        """End at once."""


async def serve(
    served: Served, stop: asyncio.Event | None = None, started: Callable[[], object] = lambda: None
) -> None:
    """Start, serve until ``stop`` or, without it, until SIGTERM or SIGINT; drain, leave.

    Args:
        served: what serves.
        stop: when it is to end; a start that is under way is given up then.
        started: called once it serves.

    Errors: those of `start`.
    """
    if stop is None:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
    try:
        if await _started(served, stop):
            gc.collect()
            gc.freeze()  # what there is stays: collections need not look at it again
            started()
            await stop.wait()
            await served.drain()
    finally:
        gc.unfreeze()
        await served.close()
        logger.info("left")


async def _started(served: Served, stop: asyncio.Event) -> bool:
    """Whether it started before it was to stop."""
    starting, stopping = asyncio.ensure_future(served.start()), asyncio.ensure_future(stop.wait())
    await asyncio.wait((starting, stopping), return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    if not starting.done():
        starting.cancel()
        await asyncio.gather(starting, return_exceptions=True)
        return False
    await starting
    return not stop.is_set()


class Listener:
    """One address."""

    def __init__(
        self, field: str, listen: Listen | AdminListen, limits: Limits, timeouts: Timeouts, answer: Answer
    ) -> None:
        """Make it; `open` opens it.

        Args:
            field: of the settings, for complaints.
            listen: where.
            limits: of requests and connections.
            timeouts: of everything that waits.
            answer: to a request; cancelled where its client leaves.
        """
        self._field, self._listen, self._limits, self._timeouts, self._answer = field, listen, limits, timeouts, answer
        self._runner: web.ServerRunner | None = None

    async def open(self) -> None:
        """Listen. InputError where the address or a certificate cannot be used."""
        listen = self._listen
        context = tls(self._field, listen)
        server = _Server(self._limits, self._timeouts, self._answer)
        self._runner = web.ServerRunner(server, shutdown_timeout=0.5)
        await self._runner.setup()
        try:
            await web.TCPSite(self._runner, listen.host, listen.port, ssl_context=context, backlog=1_024).start()
        except OSError as error:
            raise InputError(f"{self._field}: cannot listen on {listen.host}:{listen.port}: {error.strerror}") from None

    @property
    def url(self) -> str:
        """Where it is, without a path."""
        assert self._runner is not None
        host, port = self._runner.addresses[0][:2]
        scheme = "http" if self._listen.tls is None else "https"
        return f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}"

    @property
    def connections(self) -> int:
        """Clients' connections."""
        assert self._runner is not None
        assert self._runner.server is not None
        return len(self._runner.server.connections)

    async def drain(self, in_flight: Callable[[], int]) -> None:
        """Wait until balancers have seen that it leaves, take no more connections, and wait until nothing is in flight."""
        loop = asyncio.get_running_loop()
        await asyncio.sleep(self._timeouts.notice_s)
        for site in list(self._runner.sites if self._runner is not None else ()):
            await site.stop()
        until = loop.time() + self._timeouts.drain_s
        while in_flight() and loop.time() < until:
            await asyncio.sleep(0.01)

    async def close(self) -> None:
        """Close it and its connections at once."""
        if self._runner is not None:
            await self._runner.cleanup()


class _Server(web.Server):
    """aiohttp's server of plain handlers, with limits on connections and bodies; a client that leaves cancels its handler."""

    def __init__(self, limits: Limits, timeouts: Timeouts, answer: Answer) -> None:
        byte_max = limits.body_byte

        def request(
            message: RawRequestMessage,
            payload: StreamReader,
            protocol: RequestHandler,
            writer: AbstractStreamWriter,
            task: asyncio.Task[None],
        ) -> web.BaseRequest:
            return web.BaseRequest(
                message, payload, protocol, writer, task, asyncio.get_running_loop(), client_max_size=byte_max
            )

        super().__init__(
            cast("Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]", answer),  # `_Handler` takes `Ready` too
            request_factory=request, handler_cancellation=True, access_log=None,
            keepalive_timeout=timeouts.idle_s, lingering_time=1.0,
        )  # fmt: skip
        self._most, self._timeouts = limits.connections, timeouts

    def __call__(self) -> RequestHandler:
        """A protocol for a new connection; it is closed at once where there are too many."""
        loop = asyncio.get_running_loop()
        if len(self.connections) >= self._most:
            return _Full(self, loop=loop)
        return _Handler(self, self._timeouts, loop=loop, **self._kwargs)


class _Handler(RequestHandler):
    """A connection whose client may neither send its headers nor take its answers too slowly."""

    __slots__ = ("_head_timer", "_patience")

    def __init__(self, manager: web.Server, patience: Timeouts, **more: Any) -> None:
        super().__init__(manager, **more)
        self._patience = patience
        self._head_timer: asyncio.TimerHandle | None = None

    def data_received(self, data: bytes) -> None:
        """See asyncio.Protocol; the headers of a request must all come within a while of its first byte."""
        super().data_received(data)
        # On a new connection data may come before aiohttp waits for it.
        waits = self._request_count == 0 or (self._waiter is not None and not self._waiter.done())
        if waits and self._head_timer is None:
            self._head_timer = self._loop.call_later(self._patience.header_s, self._head_late)
        elif not waits and self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def connection_lost(self, exc: BaseException | None) -> None:
        """See asyncio.Protocol."""
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None
        super().connection_lost(exc)

    def _head_late(self) -> None:
        self._head_timer = None
        if self.transport is not None:
            body = error_body(Refused(408, "the headers came too slowly", code="header_timeout"))
            head = f"HTTP/1.1 408 Request Timeout\r\ncontent-type: {JSON}\r\ncontent-length: {len(body)}\r\n"
            self.transport.write(f"{head}connection: close\r\n\r\n".encode() + body)
            self.force_close()

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse | Ready, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        """See aiohttp; a client that takes nothing of its answer for a while is left."""
        if not isinstance(resp, Ready):
            with self._patient():
                return await super().finish_response(request, resp, start_time)
        if not resp.prepared:
            self.write_now(request, resp)
        if not resp.prepared:
            return await self.finish_response(request, resp.general(), start_time)
        return resp, await self._left()  # type: ignore[return-value]  # `start` only asks it for `keep_alive`

    def write_now(self, request: web.BaseRequest, ready: Ready) -> None:
        """Write an answer, without waiting for its client; not where aiohttp knows better how."""
        transport = self.transport
        if transport is None or self._upgraded or request.version != HttpVersion11 or request.method == "HEAD":
            return
        if ready.keep_alive is None:
            ready.keep_alive = request.keep_alive
        for part in ready.parts("" if ready.keep_alive else "connection: close\r\n"):
            transport.write(part)
            request.writer.output_size += len(part)  # whatever fails now, aiohttp writes no second answer
        ready.prepared = True

    async def _left(self) -> bool:
        """Wait while the client has much to take yet; whether it has left."""
        if self.transport is not None and not self.transport.get_write_buffer_size():
            return False
        try:
            with self._patient():
                await self._drain_helper()
        except ConnectionError:
            return True
        return False

    def _patient(self) -> Patience:
        return Patience(self._loop, self.transport, self._patience.client_s)


class _Full(RequestHandler):
    """One connection too many: it is closed before anything is read."""

    def connection_made(self, transport: Any) -> None:
        """See asyncio.Protocol."""
        transport.close()

    def connection_lost(self, exc: BaseException | None) -> None:
        """See asyncio.Protocol."""


def go(request: web.BaseRequest, ready: Ready) -> None:
    """Write an answer now, before what else is to be done for its request; what can't be is written after that."""
    if isinstance(request.protocol, _Handler):
        request.protocol.write_now(request, ready)


async def body(request: web.BaseRequest, limits: Limits, until: float) -> bytes:
    """The body of a request that is to be JSON, not looked into.

    Args:
        request: its headers have come.
        limits: of its length.
        until: when it must have come, on the loop's clock.

    Raises:
        Refused: 400, 408, 413 or 415.
    """
    headers, content = request.headers, request.content
    if headers.get("content-type") != JSON and request.content_type != JSON:
        raise Refused(415, f"the body must be {JSON}", code="unsupported_media_type")
    if (request.content_length or 0) > limits.body_byte:
        raise _too_large(limits)
    if "expect" in headers and headers["expect"].lower() == "100-continue":
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        request.writer.output_size = 0
    if content.is_eof() and content.total_bytes and content.exception() is None:
        return _lying(content, limits)
    try:
        async with asyncio.timeout_at(until):
            return await request.read()
    except web.HTTPRequestEntityTooLarge:
        raise _too_large(limits) from None
    except TimeoutError:
        raise Refused(408, "the body came too slowly", code="body_timeout") from None
    except web.RequestPayloadError:
        raise Refused(400, "the body is not what its headers say", code="invalid_body") from None


def _lying(content: StreamReader, limits: Limits) -> bytes:
    """A body all of which is here, as it lies: aiohttp's own way asks its parser for more with each part."""
    parts = content._buffer
    raw = parts[0] if len(parts) == 1 else b"".join(parts)
    parts.clear()
    if len(raw) > limits.body_byte:
        raise _too_large(limits)
    return raw


def _too_large(limits: Limits) -> Refused:
    return Refused(413, f"the body is longer than {limits.body_byte} byte", code="body_too_large")


def tls(field: str, listen: Listen | AdminListen) -> ssl.SSLContext | None:
    """How a listener shows itself; None where it has no certificate. InputError where that cannot be used."""
    if listen.tls is None:
        return None
    try:
        made = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        made.load_cert_chain(listen.tls.cert, listen.tls.key)
        if listen.tls.client_ca is not None:
            made.verify_mode = ssl.CERT_REQUIRED
            made.load_verify_locations(listen.tls.client_ca)
    except (OSError, ssl.SSLError) as error:
        raise InputError(f"{field}.tls: a certificate cannot be used: {error}") from None
    return made
