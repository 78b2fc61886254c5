"""`bench gateway`: its upstream keeps its delay, its clients measure it, and a wrong answer is no request."""

from __future__ import annotations

import asyncio
import sys
import time
from types import ModuleType
from typing import Any

import pytest
import uvloop

from gainnet.apps import bench
from gainnet.errors import GainnetError

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="timers of Linux")


@pytest.fixture(scope="module")
def gateway() -> ModuleType:
    """The benchmark."""
    return bench._module(bench.FOLDER / "gateway.py")


def test_what_is_given_later_is_written_after_the_delay_and_in_order(gateway: ModuleType) -> None:
    class Taking:
        def write(self, data: bytes) -> None:
            taken.append((time.monotonic(), data))

    taken: list[tuple[float, bytes]] = []
    given: list[float] = []

    async def main() -> None:
        later, to = gateway._Later(0.0205), Taking()
        for number in range(6):
            given.append(time.monotonic())
            later.write(to, b"%d" % number)
            await asyncio.sleep(0.001 if number % 2 else 0.0)
        async with asyncio.timeout(5.0):
            while len(taken) < 6:
                await asyncio.sleep(0.001)

    uvloop.run(main())
    assert [data for _, data in taken] == [b"%d" % number for number in range(6)]
    assert all(at - since >= 0.0205 for since, (at, _) in zip(given, taken, strict=True))


async def _loaded(gateway: ModuleType, upstream: Any, stream: bool) -> Any:
    server = await asyncio.get_running_loop().create_server(upstream, "127.0.0.1", 0)
    async with server:
        return await gateway._load(server.sockets[0].getsockname()[1], 3, 0.3, stream)


@pytest.mark.parametrize("stream", [False, True])
def test_clients_ask_until_they_are_stopped(gateway: ModuleType, stream: bool) -> None:
    async def main() -> Any:
        later = gateway._Later(0.01)
        return await _loaded(gateway, lambda: gateway._Upstream(later), stream)

    load = uvloop.run(main())
    assert len(load.seconds) >= 3
    assert min(load.seconds) >= 0.01
    assert load.wall_s >= 0.3 - 0.002  # timers go by whole milliseconds


def test_a_wrong_answer_is_said(gateway: ModuleType) -> None:
    class Wrong(asyncio.Protocol):
        def connection_made(self, transport: Any) -> None:
            self.transport = transport

        def data_received(self, _: bytes) -> None:
            self.transport.write(b"HTTP/1.1 500 No\r\ncontent-length: 0\r\n\r\n")

    with pytest.raises(GainnetError, match="an answer was wrong"):
        uvloop.run(_loaded(gateway, Wrong, False))
