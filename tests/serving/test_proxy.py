"""Links delay, share, stall and break as they are told to."""

from __future__ import annotations

import asyncio
import math
import statistics
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
from fakes import run, until

from gainnet.errors import InputError
from gainnet.serving.links import Shape
from gainnet.serving.proxy import Link, Proxies

ACCURACY_S = 0.008
"""What timers and a busy machine may add; the median on a quiet one is within 1.5 ms."""
Talk = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(65_536):
            writer.write(data)
            await writer.drain()
        writer.write_eof()
    except ConnectionError:
        pass
    finally:
        writer.close()


@asynccontextmanager
async def linked(shape: Shape, talk: Talk = echo) -> AsyncIterator[Link]:
    server = await asyncio.start_server(talk, "127.0.0.1", 0)
    link = Link("a", *server.sockets[0].getsockname()[:2], shape)
    await link.start()
    try:
        yield link
    finally:
        await leave()
        await link.close()
        server.close()


_connected: list[asyncio.StreamWriter] = []


async def connect(where: int | str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """To a port of the loopback interface, or to an address."""
    reader, writer = await asyncio.open_connection("127.0.0.1", int(str(where).rpartition(":")[2]))
    _connected.append(writer)
    return reader, writer


async def leave() -> None:
    """Close all that connected."""
    for writer in _connected:
        writer.close()
    await asyncio.gather(*(writer.wait_closed() for writer in _connected), return_exceptions=True)
    _connected.clear()


async def trip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, data: bytes = b"x") -> float:
    began = time.perf_counter()
    writer.write(data)
    await reader.readexactly(len(data))
    return time.perf_counter() - began


@pytest.mark.parametrize("rtt_s", [0.0, 0.005, 0.03, 0.1])
def test_latency(rtt_s: float) -> None:
    async def main() -> None:
        async with linked(Shape(latency_s=rtt_s / 2.0)) as link:
            reader, writer = await connect(link.port)
            first = await trip(reader, writer)
            assert first >= 2.0 * rtt_s - 0.001  # connecting takes a round trip too
            trips = [await trip(reader, writer) for _ in range(9)]
            assert min(trips) >= rtt_s - 0.001
            assert statistics.median(trips) <= rtt_s + ACCURACY_S
            link.shape = Shape(latency_s=0.0)
            assert min([await trip(reader, writer) for _ in range(3)]) < 0.05
            writer.close()
            await until(lambda: link.connections == 0)

    run(main())


def test_rate_is_shared_by_all_connections() -> None:
    async def main() -> None:
        async with linked(Shape(rate_bit_per_s=8e6)) as link:
            both = [await connect(link.port) for _ in range(2)]
            took_s = []
            for _ in range(3):
                began = time.perf_counter()
                await asyncio.gather(*(trip(*one, b"x" * 100_000) for one in both))
                took_s.append(time.perf_counter() - began)
            assert 0.195 <= min(took_s) <= 0.195 + 0.15
            assert link.carried_byte == [600_000, 600_000]
            for _, writer in both:
                writer.close()

    run(main())


def test_more_than_the_buffer_waits_for_a_slow_reader_and_arrives_whole() -> None:
    sent = bytes(range(256)) * 8_000

    async def flood(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(sent)
        await writer.drain()
        writer.close()

    async def main() -> None:
        async with linked(Shape(latency_s=0.002, jitter_s=0.004, rate_bit_per_s=400e6, loss=0.001), flood) as link:
            reader, writer = await connect(link.port)
            await until(lambda: link.carried_byte[1] > 100_000)
            assert await reader.read() == sent
            writer.close()
            await until(lambda: link.connections == 0)

    run(main())


def test_loss_stalls() -> None:
    async def main() -> None:
        async with linked(Shape(loss=0.9)) as link:
            reader, writer = await connect(link.port)
            assert max([await trip(reader, writer) for _ in range(3)]) >= 0.2
            writer.close()

    run(main())


def test_an_outage_holds_what_is_sent_and_refuses_who_comes() -> None:
    async def main() -> None:
        server = await asyncio.start_server(echo, "127.0.0.1", 0)
        links = Proxies({"a": Shape(latency_s=0.001)})
        await links.start()
        links.joined("a", f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
        reader, writer = await connect(links.url("a"))
        await trip(reader, writer)
        await links.change("a", up=False)
        waiting = asyncio.create_task(trip(reader, writer))
        done, _ = await asyncio.wait([waiting], timeout=0.05)
        assert not done
        other, gone = await connect(links.url("a"))
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await trip(other, gone)
        assert (await links.change("a", up=True)).latency_s == 0.001
        assert await waiting >= 0.05
        seen = (await links.seen())["a"]
        assert (seen["up"], seen["connections"], seen["rate_bit_per_s"]) == (True, 1, None)
        assert seen["to_node_byte"] >= 2
        await leave()
        await links.close()
        server.close()

    run(main())


def test_a_link_that_is_cut() -> None:
    async def main() -> None:
        async with linked(Shape()) as link:
            reader, writer = await connect(link.port)
            await trip(reader, writer)
            link.cut()
            with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
                await trip(reader, writer)
            await until(lambda: link.connections == 0)

    run(main())


def test_ends_and_resets_are_passed_on() -> None:
    ended: list[str] = []

    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.read()
            ended.append("end")
            writer.write(b"still here")
            await writer.drain()
        except ConnectionError:
            ended.append("reset")
        writer.close()

    async def main() -> None:
        async with linked(Shape(latency_s=0.01), listen) as link:
            reader, writer = await connect(link.port)
            writer.write_eof()
            assert await reader.read() == b"still here"
            assert ended == ["end"]
            writer.close()
            await until(lambda: link.connections == 0)
            _, writer = await connect(link.port)
            await until(lambda: link.connections == 1)
            writer.transport.abort()
            await until(lambda: link.connections == 0)

    run(main())


def test_a_node_that_is_not_there() -> None:
    async def main() -> None:
        server = await asyncio.start_server(echo, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        server.close()
        await server.wait_closed()
        link = Link("a", "127.0.0.1", port)
        await link.start()
        reader, writer = await connect(link.port)
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await trip(reader, writer)
        await until(lambda: link.connections == 0)
        await leave()
        await link.close()

    run(main())


def test_shapes_that_cannot_be() -> None:
    for wrong in ({"latency_s": -1.0}, {"loss": 1.0}, {"jitter_s": math.nan}, {"rate_bit_per_s": 0.0}):
        with pytest.raises(InputError, match=next(iter(wrong))):
            Shape(**wrong)
    with pytest.raises(InputError, match="no link 'b'"):
        run(Proxies({"a": Shape()}).change("b", up=False))
