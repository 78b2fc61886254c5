"""What the kernel is told of links; nodes' namespaces, for root, with a queueing discipline that only has a rate.

The delays, losses and outages of netem itself are tested where the kernel has it.
"""

from __future__ import annotations

import asyncio
import json
import math
import socket
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from fakes import run
from plumbing import left, need, plumb, rate_only

from gainnet.errors import InputError
from gainnet.serving import namespaces, netem
from gainnet.serving.links import Shape
from gainnet.serving.netem import Netem


@pytest.fixture
def plumbed(monkeypatch: pytest.MonkeyPatch) -> None:
    plumb(monkeypatch)


@pytest.fixture
def shaped() -> None:
    need(netem.arguments(Shape(), 0))


def inside(links: Netem, name: str) -> socket.socket:
    """A socket in a node's namespace: it stays there, whichever thread uses it."""
    made: list[socket.socket] = []

    def make() -> None:
        namespace = links.site(name).namespace
        assert namespace is not None
        namespaces.enter(namespace)
        made.append(socket.socket())

    thread = threading.Thread(target=make)
    thread.start()
    thread.join()
    made[0].setblocking(False)
    return made[0]


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(65_536):
            writer.write(data)
            await writer.drain()
    except ConnectionError:
        pass
    finally:
        writer.close()


@asynccontextmanager
async def joined(**shapes: Shape) -> AsyncIterator[Netem]:
    """Links to nodes that say what they hear."""
    links, servers = Netem(shapes), []
    try:
        await links.start()
        for name in shapes:
            listening, site = inside(links, name), links.site(name)
            listening.bind((site.host, site.port))
            servers.append(await asyncio.start_server(echo, sock=listening))
            links.joined(name, links.url(name))
        yield links
    finally:
        for server in servers:
            server.close()
        await links.close()


def where(links: Netem, name: str) -> tuple[str, int]:
    host, _, port = links.url(name).removeprefix("http://").rpartition(":")
    return host, int(port)


async def trip(streams: tuple[asyncio.StreamReader, asyncio.StreamWriter], data: bytes = b"x") -> float:
    began = time.perf_counter()
    streams[1].write(data)
    assert await streams[0].readexactly(len(data)) == data
    return time.perf_counter() - began


def test_what_the_kernel_is_told() -> None:
    shape = Shape(latency_s=0.02, jitter_s=0.004, rate_bit_per_s=8e6, back_bit_per_s=1e6, loss=0.015)
    there = "netem limit 189 delay 22000us 2000us loss 1.5% rate 8000000bit"
    back = "netem limit 176 delay 22000us 2000us loss 1.5% rate 1000000bit"
    assert [" ".join(netem.arguments(shape, direction)) for direction in (0, 1)] == [there, back]
    free = "netem limit 174 delay 0us 0us loss 0% rate 32000000000bit"
    assert " ".join(netem.arguments(Shape(), 1)) == free
    assert " ".join(netem.arguments(Shape(up=False, loss=0.1), 0)) == free.replace("loss 0%", "loss 100%")
    assert netem.arguments(Shape(rate_bit_per_s=0.1), 0)[-1] == "8bit"
    assert netem.arguments(Shape(latency_s=0.001, rate_bit_per_s=math.inf), 0)[2] == "2816"


def test_tc_reads_all_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """`tc` reads what it is given before it asks the kernel, which may have no netem."""
    known = netem.arguments
    plumb(monkeypatch)
    shape = Shape(latency_s=0.0123456, jitter_s=60.0, rate_bit_per_s=16_000.4, loss=0.0123)
    read = (None, "the kernel has no netem (its module sch_netem)")
    for told in (known(shape, 0), known(Shape(), 0), known(Shape(latency_s=60.0, up=False), 1)):
        assert namespaces.missing(told) in read
    assert namespaces.missing(["netem", "loss", "much"]) not in read


def test_a_subnet_has_room_for_so_many() -> None:
    with pytest.raises(InputError, match="at most 240 nodes, not 241"):
        Netem({f"end-{number}": Shape() for number in range(241)})


def test_where_it_may_not_be_it_says_so_and_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(namespaces, "missing", lambda _: "the kernel has no netem")

    async def main() -> None:
        links = Netem({"a": Shape()})
        with pytest.raises(InputError, match=r"^--links netem: the kernel has no netem; --links proxy .* everywhere$"):
            await links.start()
        await links.close()

    run(main())


@pytest.mark.usefixtures("plumbed")
def test_nodes_are_reached_over_their_links_and_nothing_else_is() -> None:
    async def main() -> None:
        async with joined(a=Shape(), b=Shape()) as links:
            streams = await asyncio.open_connection(*where(links, "a"))
            assert streams[1].get_extra_info("sockname")[0] == links.url("a").removeprefix("http://")[:-7] + "1"
            before = (await links.seen())["a"]
            await trip(streams, b"x" * 100_000)
            seen = await links.seen()
            assert seen["a"]["to_node_byte"] - before["to_node_byte"] >= 100_000
            assert seen["a"]["from_node_byte"] - before["from_node_byte"] >= 100_000
            assert seen["b"]["to_node_byte"] < 10_000
            said = namespaces.run("ip", "-n", links._hub, "-s", "-j", "link", "show", "dev", "node0")
            for count in json.loads(said)[0]["stats64"].values():
                assert count["bytes"] <= 1_514 * count["packets"]
            streams[1].close()
            other = inside(links, "b")
            await asyncio.get_running_loop().sock_connect(other, where(links, "a"))
            streams = await asyncio.open_connection(sock=other)
            await trip(streams, b"from b")
            streams[1].close()
            for name in ("a", "b"):
                with pytest.raises(namespaces.CommandFailed, match="unreachable"):
                    namespaces.run("ip", "-n", links.site(name).namespace or "", "route", "get", "192.0.2.1")
        assert not left()

    run(main())


@pytest.mark.usefixtures("plumbed")
@pytest.mark.parametrize("direction", ["rate_bit_per_s", "back_bit_per_s"])
def test_a_rate_is_changed_while_it_carries(direction: str) -> None:
    async def main() -> None:
        async with joined(a=Shape(rate_bit_per_s=1e9, back_bit_per_s=1e9)) as links:
            streams = await asyncio.open_connection(*where(links, "a"))
            await trip(streams)
            assert getattr(await links.change("a", **{direction: 8e6}), direction) == 8e6
            assert await trip(streams, b"x" * 200_000) >= 0.15  # all but a burst and what was queued takes its time
            streams[1].close()
            with pytest.raises(InputError, match="no link 'b'"):
                await links.change("b", up=False)

    run(main())


@pytest.mark.usefixtures("plumbed")
def test_two_labs_that_begin_at_once_do_not_meet_and_leave_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def blind(*words: str) -> str:
        """Routes are looked at before the other's is there."""
        return "" if "route" in words else namespaces.run(*words)

    monkeypatch.setattr(netem, "run", blind)

    async def main() -> None:
        async with joined(a=Shape()) as one, joined(a=Shape()) as two:
            assert one.url("a") != two.url("a")
            assert one.site("a").namespace != two.site("a").namespace
            for links in (one, two):
                streams = await asyncio.open_connection(*where(links, "a"))
                await trip(streams)
                streams[1].close()
        assert not left()

    run(main())


def test_subnets_may_all_be_in_use(monkeypatch: pytest.MonkeyPatch) -> None:
    said = "\n".join(f"198.19.{subnet}.0/24 dev a scope link" for subnet in range(256))
    monkeypatch.setattr(netem, "run", lambda *words: said if "route" in words else "")
    with pytest.raises(InputError, match=r"all subnets of 198\.19\.0\.0/16 are in use"):
        Netem({"a": Shape()})._join_lab()


@pytest.mark.usefixtures("plumbed")
def test_a_start_that_fails_or_is_given_up_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    async def failed() -> None:
        links = Netem({"a": Shape(), "b": Shape(loss=0.5)})
        with pytest.raises(namespaces.CommandFailed, match="nonsense"):
            await links.start()
        assert left()
        await links.close()
        assert not left()

    async def given_up() -> None:
        links = Netem({f"end-{number}": Shape() for number in range(2)})
        starting = asyncio.create_task(links.start())
        while not left():
            await asyncio.sleep(0.001)
        starting.cancel()
        await asyncio.gather(starting, return_exceptions=True)
        await links.close()
        assert not left()

    run(given_up())
    wrong = lambda shape, direction: ["nonsense"] if shape.loss else rate_only(shape, direction)  # noqa: E731
    monkeypatch.setattr(netem, "arguments", wrong)
    run(failed())


@pytest.mark.usefixtures("shaped")
def test_netem_delays_and_breaks_as_it_is_told() -> None:
    async def main() -> None:
        async with joined(a=Shape(latency_s=0.02)) as links:
            streams = await asyncio.open_connection(*where(links, "a"))
            assert 0.039 <= min([await trip(streams) for _ in range(5)]) <= 0.055
            await links.change("a", latency_s=0.005)
            assert 0.009 <= min([await trip(streams) for _ in range(5)]) <= 0.025
            await links.change("a", up=False)
            waiting = asyncio.create_task(trip(streams))
            assert not (await asyncio.wait([waiting], timeout=0.2))[0]
            await links.change("a", up=True, rate_bit_per_s=8e6)
            assert await waiting >= 0.2
            assert await trip(streams, b"x" * 200_000) >= 0.15
            streams[1].close()

    run(main())
