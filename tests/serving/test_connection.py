"""One timer watches a connection to a node through many requests, and each has the time that it was given."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from gainnet.serving.connection import Connection, Lost

ANSWER = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"


class _Loop(asyncio.SelectorEventLoop):
    """A loop whose clock can be put forward."""

    ahead_s = 0.0

    def time(self) -> float:
        return time.monotonic() + self.ahead_s


class _Transport:
    """Takes what is written."""

    closed = False

    def write(self, data: bytes) -> None:
        assert data

    def is_closing(self) -> bool:
        return self.closed

    def abort(self) -> None:
        self.closed = True


async def _asked(loop: _Loop, connection: Connection, wait_s: float) -> asyncio.Task[None]:
    connection.send(b"POST / HTTP/1.1\r\n\r\n", b"")
    asking = asyncio.create_task(connection.answer(loop.time() + wait_s))
    await _later(loop, 0.0)
    return asking


async def _later(loop: _Loop, ahead_s: float) -> None:
    loop.ahead_s += ahead_s
    for _ in range(4):
        await asyncio.sleep(0)


def _run(test: Any) -> None:
    loop = _Loop()

    async def main() -> None:
        connection = Connection(loop)
        connection.connection_made(_Transport())
        await test(loop, connection)

    try:
        loop.run_until_complete(asyncio.wait_for(main(), 1e6))
    finally:
        loop.close()


async def _answered(loop: _Loop, connection: Connection, wait_s: float) -> None:
    asking = await _asked(loop, connection, wait_s)
    connection.data_received(ANSWER)
    await asking
    assert await connection.chunk(loop.time() + wait_s) == b"ok"
    assert await connection.chunk(loop.time() + wait_s) == b""
    assert connection.release()


def test_a_later_request_has_all_its_time() -> None:
    async def test(loop: _Loop, connection: Connection) -> None:
        await _answered(loop, connection, 10.0)
        await _later(loop, 8.0)
        asking = await _asked(loop, connection, 10.0)
        await _later(loop, 8.0)  # past what the first had
        assert not asking.done()
        await _later(loop, 3.0)
        with pytest.raises(TimeoutError):
            await asking

    _run(test)


def test_a_request_in_a_hurry_does_not_wait_as_long_as_the_one_before() -> None:
    async def test(loop: _Loop, connection: Connection) -> None:
        await _answered(loop, connection, 100.0)
        asking = await _asked(loop, connection, 1.0)
        await _later(loop, 1.1)
        with pytest.raises(TimeoutError):
            await asking

    _run(test)


def test_a_connection_at_rest_is_not_late_and_one_that_is_lost_watches_no_more() -> None:
    async def test(loop: _Loop, connection: Connection) -> None:
        await _answered(loop, connection, 1.0)
        await _later(loop, 2.0)
        assert connection.open
        asking = await _asked(loop, connection, 1.0)
        connection.connection_lost(None)
        with pytest.raises(Lost, match="closed"):
            await asking
        await _later(loop, 2.0)
        assert connection._timer is None

    _run(test)
