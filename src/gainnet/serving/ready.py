"""A whole answer on its way out, and patience with the client who takes it."""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import Mapping
from email.utils import formatdate
from http import HTTPStatus
from typing import Any

from aiohttp import web

_LINES = {status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n" for status in HTTPStatus}
_ONE_WRITE_BYTE = 65_536


class Ready:
    """A whole answer. It goes out as one piece, at a fraction of what aiohttp takes for answers of every kind.

    Attributes:
        status: of HTTP.
        keep_alive: False where the connection ends after it, None where the request decides.
        prepared: whether it was written.
    """

    __slots__ = ("_body", "_headers", "keep_alive", "prepared", "status")

    def __init__(self, status: int, headers: Mapping[str, str], body: bytes, *, last: bool = False) -> None:
        """Make it.

        Args:
            status: of HTTP.
            headers: all but those of the connection, the length and the date.
            body: of the answer.
            last: the connection ends after it.
        """
        self.status, self._headers, self._body = status, headers, body
        self.keep_alive = False if last else None
        self.prepared = False

    def general(self) -> web.Response:
        """The same for aiohttp."""
        response = web.Response(body=self._body, status=self.status, headers=self._headers)
        if self.keep_alive is False:
            response.force_close()
        return response

    def parts(self, connection: str) -> list[bytes]:
        """What is written: one piece, or the head and a long body.

        Args:
            connection: line of the header of that name, or nothing.

        Raises:
            ValueError: a header holds the end of a line.
        """
        lines = "".join([f"{name}: {value}\r\n" for name, value in self._headers.items()])
        if not lines.count("\n") == lines.count("\r") == len(self._headers):
            raise ValueError("a header holds the end of a line")
        first = _LINES.get(self.status) or f"HTTP/1.1 {self.status} \r\n"
        rest = f"content-length: {len(self._body)}\r\ndate: {_date(int(time.time()))}\r\n{connection}\r\n"
        head = f"{first}{lines}{rest}".encode()
        return [head + self._body] if len(self._body) < _ONE_WRITE_BYTE else [head, self._body]


@functools.lru_cache(maxsize=1)
def _date(second: int) -> str:
    return formatdate(second, usegmt=True)


class Patience:
    """A while in which a client must take something of its answer, again and again, or it is left."""

    __slots__ = ("_left_byte", "_loop", "_timer", "_transport", "_wait_s")

    def __init__(self, loop: asyncio.AbstractEventLoop, transport: Any, wait_s: float) -> None:
        # uvloop's transports are no asyncio.Transport
        self._loop, self._transport, self._wait_s = loop, transport, wait_s

    def __enter__(self) -> None:
        self._wait(1 << 62)

    def __exit__(self, *error: object) -> None:
        self._timer.cancel()

    def _wait(self, left_byte: int) -> None:
        self._left_byte = left_byte
        self._timer = self._loop.call_later(self._wait_s, self._look)

    def _look(self) -> None:
        if self._transport is None:
            return
        left_byte = self._transport.get_write_buffer_size()
        if left_byte >= self._left_byte:
            self._transport.abort()
        else:
            self._wait(left_byte)
