"""One HTTP/1.1 connection to a node, and the pool of those that are kept alive.

A client made for passing answers on: it parses only what it must (llhttp through httptools), buffers at most
`BUFFER_BYTE` before it stops reading, and one request costs a fraction of what general clients take.
"""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from typing import Any
from urllib.parse import urlsplit

import httptools

BUFFER_BYTE = 262_144
IDLE_KEPT = 256
HEADER_BYTE = 65_536


class Lost(Exception):
    """The connection ended before the answer did, or could not be made.

    Attributes:
        before_answer: nothing of the answer had come.
    """

    def __init__(self, reason: str, *, before_answer: bool) -> None:
        super().__init__(reason)
        self.before_answer = before_answer


class Malformed(Exception):
    """What came is not HTTP, or not what it says it is."""


class Connection(asyncio.Protocol):
    """A connection that carries one request at a time.

    Attributes:
        used: requests that it has carried before.
        status: of the answer.
        headers: of the answer, names in lower case; of several of one name the last.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._transport: Any = None
        self._waiter: asyncio.Future[None] | None = None
        self._until = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._error: Exception | None = None
        self._parser = httptools.HttpResponseParser(self)
        self.used = 0
        self._busy = False
        self._begin()

    def _begin(self) -> None:
        self.status = 0
        self.headers: dict[str, str] = {}
        self._header_byte = 0
        self._chunks: deque[bytes] = deque()
        self._buffered = 0
        self._paused = False
        self._head_done = self._done = self._kept = False

    @property
    def open(self) -> bool:
        """Whether it can carry another request."""
        return self._error is None and self._transport is not None and not self._transport.is_closing()

    def send(self, head: bytes, body: bytes) -> None:
        """Write a request; the answer is had by `answer`, then `chunk` until it is empty."""
        assert self._transport is not None
        self._begin()
        self._busy = True
        self._transport.write(head + body if len(body) < 65_536 else head)
        if len(body) >= 65_536:
            self._transport.write(body)

    async def answer(self, until: float) -> None:
        """Wait for status and headers, until then on the loop's clock.

        Raises:
            Lost, Malformed: they do not come.
            TimeoutError: they did not come in time.
        """
        while not self._head_done:
            self._raise()
            await self._wait(until)

    async def chunk(self, until: float) -> bytes:
        """What has come of the body since, at least one byte; empty at its end. Raises as `answer` where it is cut."""
        while not self._chunks:
            if self._done:
                return b""
            self._raise()
            await self._wait(until)
        joined = self._chunks[0] if len(self._chunks) == 1 else b"".join(self._chunks)
        self._chunks.clear()
        self._buffered = 0
        if self._paused:
            self._paused = False
            if self.open and self._transport is not None:
                self._transport.resume_reading()
        return joined

    def release(self) -> bool:
        """The request is over: whether the connection may carry another. It is closed where not."""
        whole = self._done and not self._chunks and self._kept and self.open
        self._busy = False
        self.used += 1
        if not whole:
            self.close()
        return whole

    def close(self) -> None:
        """End it at once, which a node takes as the wish to have its work cancelled."""
        if self._transport is not None:
            self._transport.abort()

    async def _wait(self, until: float) -> None:
        self._until = until
        if self._timer is None or self._timer.when() > until:
            self._set(until)
        self._waiter = self._loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _set(self, until: float) -> None:
        """Look then. One timer lasts for many requests: it is moved on when it is due, not for each of them."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_at(until, self._look)

    def _look(self) -> None:
        self._timer = None
        if self._waiter is None or self._waiter.done():
            return
        if self._until > self._loop.time():
            self._set(self._until)
        else:
            self._waiter.set_exception(TimeoutError())

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _raise(self) -> None:
        if self._error is not None:
            raise self._error

    # What asyncio calls.

    def connection_made(self, transport: Any) -> None:
        """See asyncio.Protocol; uvloop's transports are no asyncio.Transport."""
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """See asyncio.Protocol."""
        if not self._busy:  # an answer that nobody asked for
            self._error = Malformed("an answer without a request")
            self.close()
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._error = Malformed(f"no HTTP: {error}")
            self.close()
        self._wake()

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio.Protocol."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        until_close = self._head_done and not {"content-length", "transfer-encoding"} & self.headers.keys()
        if exc is None and until_close and not self._done:
            self._done = True
        elif self._error is None:
            reason = "closed" if exc is None else (str(exc) or type(exc).__name__)
            self._error = Lost(
                f"connection lost: {reason}", before_answer=not self._head_done and self._header_byte == 0
            )
        self._wake()

    # What httptools calls.

    def on_message_begin(self) -> None:
        """See httptools."""
        if self._done:
            raise httptools.HttpParserError("a second answer to one request")

    def on_header(self, name: bytes, value: bytes) -> None:
        """See httptools."""
        self._header_byte += len(name) + len(value)
        if self._header_byte > HEADER_BYTE:
            raise httptools.HttpParserError("headers are too long")
        self.headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        """See httptools."""
        status = self._parser.get_status_code()
        if status < 200:  # an interim answer: the real one follows
            self.headers = {}
            return
        self.status = status
        self._head_done = True

    def on_body(self, data: bytes) -> None:
        """See httptools."""
        self._chunks.append(data)
        self._buffered += len(data)
        if self._buffered > BUFFER_BYTE and not self._paused and self._transport is not None:
            self._paused = True
            self._transport.pause_reading()

    def on_message_complete(self) -> None:
        """See httptools."""
        if self._head_done:
            self._done = True
            self._kept = self._parser.should_keep_alive()  # later it no longer knows


class Pool:
    """Connections to one node, kept alive between requests.

    Attributes:
        prefix: path before `/v1`, mostly empty.
        host: value of the host header.
    """

    def __init__(self, url: str, tls: ssl.SSLContext | None) -> None:
        parts = urlsplit(url)
        self._secure = parts.scheme == "https"
        self._host = parts.hostname or "127.0.0.1"
        self._port = parts.port or (443 if self._secure else 80)
        self._tls = (tls or ssl.create_default_context()) if self._secure else None
        self._idle: list[Connection] = []
        self.prefix = parts.path.rstrip("/")
        self.host = parts.netloc

    def take(self) -> Connection | None:
        """An idle connection, the last used first; None where there is none."""
        while self._idle:
            connection = self._idle.pop()
            if connection.open:
                return connection
        return None

    async def connect(self) -> Connection:
        """A new connection. Lost where it cannot be made."""
        loop = asyncio.get_running_loop()
        try:
            _, connection = await loop.create_connection(
                lambda: Connection(loop), self._host, self._port, ssl=self._tls
            )
        except (OSError, ssl.SSLError) as error:
            raise Lost(f"cannot connect: {error}", before_answer=True) from None
        return connection

    def give(self, connection: Connection) -> None:
        """A request on this connection is over, whole or not."""
        if connection.release():
            if len(self._idle) < IDLE_KEPT:
                self._idle.append(connection)
            else:
                connection.close()

    def close(self) -> None:
        """Close all idle connections."""
        for connection in self._idle:
            connection.close()
        self._idle.clear()
