"""Clients that send or take too slowly hold nothing for long, and a process that is to end before it serves does."""

from __future__ import annotations

import asyncio
import json
import socket

import pytest
from fakes import CHAT, Place, run, scene, until

from gainnet.serving.listener import serve

HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"


@scene(timeouts={"header_s": 0.2})
async def test_headers_that_drip(place: Place) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", place.port)
    body = json.dumps(CHAT).encode()
    writer.write(HEAD + b"content-length: %d\r\n\r\n" % len(body) + body)  # a first request in time
    assert b" 200 " in await reader.readuntil(b"\r\n\r\n")
    await reader.readuntil(b"}}")
    began = asyncio.get_running_loop().time()
    for byte in HEAD:
        writer.write(bytes([byte]))
        await asyncio.sleep(0.02)
        if reader._buffer:  # type: ignore[attr-defined]
            break
    said = await reader.read()
    assert b" 408 " in said
    assert json.loads(said.partition(b"\r\n\r\n")[2])["error"]["code"] == "header_timeout"
    assert asyncio.get_running_loop().time() - began < 3.0
    await until(lambda: place.connections == 0)
    writer.close()


@scene(timeouts={"header_s": 0.2, "idle_s": 30.0})
async def test_headers_that_begin_with_the_connection_and_go_no_further(place: Place) -> None:
    with socket.create_connection(("127.0.0.1", place.port)) as client:
        client.sendall(HEAD[:40])  # both are there before the gateway looks
        await until(lambda: place.connections == 1)
        await until(lambda: place.connections == 0)
        assert b" 408 " in client.recv(4_096)


@scene(timeouts={"header_s": 0.1, "idle_s": 30.0})
async def test_a_connection_may_rest_between_requests_and_its_body_may_take_longer(place: Place) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", place.port)
    await until(lambda: place.connections == 1)
    body = json.dumps(CHAT).encode()
    for _ in range(2):
        await asyncio.sleep(0.2)
        writer.write(HEAD + b"content-length: %d\r\n\r\n" % len(body))
        await asyncio.sleep(0.2)
        writer.write(body)
        assert b" 200 " in await reader.readuntil(b"\r\n\r\n")
        await reader.readuntil(b"}}")
    writer.close()


@scene(timeouts={"client_s": 0.2})
async def test_a_client_that_takes_nothing_of_a_whole_answer(place: Place) -> None:
    place.nodes[0].how = "long"
    with socket.create_connection(("127.0.0.1", place.port)) as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        body = json.dumps(CHAT).encode()
        client.sendall(HEAD + b"content-length: %d\r\n\r\n" % len(body) + body)
        await until(lambda: place.connections == 1)
        await until(lambda: place.connections == 0)
    assert len(place.nodes[0].asked) == 1


class _Slow:
    """What takes for ever to start."""

    def __init__(self) -> None:
        self.said: list[str] = []

    async def start(self) -> None:
        self.said.append("start")
        await asyncio.Event().wait()

    async def drain(self) -> None:
        self.said.append("drain")

    async def close(self) -> None:
        self.said.append("close")


class _Failing(_Slow):
    async def start(self) -> None:
        raise RuntimeError("no")


def test_a_process_may_be_ended_while_it_starts() -> None:
    async def main() -> None:
        slow, stop = _Slow(), asyncio.Event()
        serving = asyncio.create_task(serve(slow, stop, lambda: slow.said.append("started")))
        await until(lambda: slow.said == ["start"])
        stop.set()
        await serving
        assert slow.said == ["start", "close"]
        failing = _Failing()
        with pytest.raises(RuntimeError, match="no"):
            await serve(failing, asyncio.Event())
        assert failing.said == ["close"]

    run(main())
