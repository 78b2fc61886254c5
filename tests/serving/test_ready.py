"""Whole answers are written as HTTP wants them, whichever HTTP that is."""

from __future__ import annotations

import asyncio
import gzip
import json

import pytest
from fakes import CHAT, Place, run, scene

from gainnet.serving.ready import Patience, Ready

HEAD = "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"


def test_a_short_answer_is_one_piece_and_a_long_one_two() -> None:
    [piece] = Ready(200, {"x-a": "b", "content-type": "text/plain"}, b"body").parts("")
    head, _, body = piece.partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    assert (first, body) == ("HTTP/1.1 200 OK", b"body")
    assert lines[:3] == ["x-a: b", "content-type: text/plain", "content-length: 4"]
    assert lines[3].startswith("date: ")
    assert lines[3].endswith(" GMT")
    long = bytes(70_000)
    assert Ready(299, {}, long).parts("connection: close\r\n")[1] is long
    assert Ready(299, {}, long).parts("connection: close\r\n")[0].startswith(b"HTTP/1.1 299 \r\n")


@pytest.mark.parametrize("value", ["a\r\nx-evil: 1", "a\nb", "a\rb", "a\r\r\n\n"])
def test_no_header_begins_another(value: str) -> None:
    with pytest.raises(ValueError, match="end of a line"):
        Ready(200, {"x-a": value}, b"").parts("")


@scene()
async def test_older_clients_and_those_that_leave_after_it(place: Place) -> None:
    body = json.dumps(CHAT)
    older = HEAD.replace("HTTP/1.1", "HTTP/1.0")
    for head, said in ((older, None), (HEAD + "connection: close\r\n", b"connection: close")):
        reader, writer = await asyncio.open_connection("127.0.0.1", place.port)
        writer.write(f"{head}content-length: {len(body)}\r\n\r\n{body}".encode())
        answer = await reader.read()  # to the end of the connection
        top, _, rest = answer.partition(b"\r\n\r\n")
        assert b" 200 " in top
        assert said is None or said in top
        assert json.loads(rest)["choices"]
        writer.close()


@scene()
async def test_requests_one_after_another_without_waiting(place: Place) -> None:
    body = json.dumps(CHAT)
    request = f"{HEAD}content-length: {len(body)}\r\n\r\n{body}".encode()
    reader, writer = await asyncio.open_connection("127.0.0.1", place.port)
    writer.write(request * 3)
    for _ in range(3):
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r")[0])
        assert json.loads(await reader.readexactly(length))["choices"]
    writer.close()


@scene(limits={"body_byte": 2_000})
async def test_bodies_in_other_forms(place: Place) -> None:
    body = json.dumps(CHAT).encode()
    packed = {"content-encoding": "gzip"}
    assert (await place.post(body=gzip.compress(body), headers=packed))[0] == 200
    assert place.nodes[0].asked[-1][2] == CHAT
    large = json.dumps(CHAT | {"user": "x" * 3_000}).encode()
    status, _, said = await place.post(body=gzip.compress(large), headers=packed)
    assert (status, said["error"]["code"]) == (413, "body_too_large")
    status, _, said = await place.post(body=b"")
    assert (status, said["error"]["code"]) == (400, "invalid_json")


@scene()
async def test_what_fails_after_an_answer_was_written_writes_no_second_one(place: Place) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("bookkeeping")

    place.state.versions.release = fail  # type: ignore[method-assign]
    body = json.dumps(CHAT)
    reader, writer = await asyncio.open_connection("127.0.0.1", place.port)
    writer.write(f"{HEAD}content-length: {len(body)}\r\n\r\n{body}".encode())
    assert (await reader.read()).count(b"HTTP/1.1") == 1
    writer.close()


def test_patience_lasts_while_something_is_taken() -> None:
    class Transport:
        left, aborted = 3, False

        def get_write_buffer_size(self) -> int:
            self.left = max(self.left - 1, 1)
            return self.left

        def abort(self) -> None:
            self.aborted = True
            gone.set()

    gone = asyncio.Event()
    transport = Transport()

    async def main() -> None:
        loop = asyncio.get_running_loop()
        with Patience(loop, None, 0.001), Patience(loop, transport, 0.005):
            await gone.wait()

    run(main())
    assert (transport.left, transport.aborted) == (1, True)
