"""Nodes that fail, clients that leave or dawdle, too much at once: what the client is told, and what is left behind."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Sequence
from typing import Any

import pytest
from fakes import CHAT, Place, answer, network, run, scene, until

from gainnet.serving.router import Ended, Nearest
from gainnet.serving.router import Place as Node

STREAM = CHAT | {"stream": True}
BEFORE = ("500", "404", "close", "garbage", "not json", "not an object", "html", "silent")
BEFORE_STREAM = ("500", "close", "garbage", "empty", "error first", "malformed first", "silent", "html")
FAST = {"first_byte_s": 1.0, "between_chunks_s": 1.0, "connect_s": 2.0}


@pytest.mark.parametrize("body", [CHAT, STREAM], ids=["whole", "stream"])
def test_before_the_first_byte_another_node_answers(body: dict[str, Any]) -> None:
    async def main() -> None:
        async with network("edge cloud", timeouts=FAST, breaker={"failures": 100}) as place:
            for how in BEFORE_STREAM if "stream" in body else BEFORE:
                place.nodes[0].how = how
                status, headers, said = await place.post(body=body)
                assert (status, headers["x-gainnet-node"]) == (200, "cloud-1"), how
                assert b"error" not in (said if isinstance(said, bytes) else json.dumps(said).encode())
            await place.nodes[0].close()
            assert (await place.post(body=body))[0] == 200
            flat(place)

    run(main())


@pytest.mark.parametrize("how", ["cut", "stall", "malformed", "not an event", "too long", "no done"])
def test_a_stream_that_is_lost_ends_in_an_error_event(how: str) -> None:
    async def main() -> None:
        async with network(timeouts=FAST) as place:
            place.nodes[0].how = how
            status, _, text = await place.post(body=STREAM)
            events = text.decode().strip().split("\n\n")
            assert status == 200
            assert '"one"' in events[0]
            assert json.loads(events[-1][6:])["error"]["code"] == "upstream_lost"
            assert b"[DONE]" not in text
            assert b"nope" not in text
            assert 'gainnet:streams_lost_total{node="edge-0"} 1' in (await place.get("/metrics", True))[1].decode()
            flat(place)

    run(main())


class Listening(Nearest):
    """A router that keeps what it hears."""

    def __init__(self, places: Sequence[Node]) -> None:
        super().__init__(places)
        self.heard: list[Ended] = []

    def ended(self, number: int, how: Ended) -> None:
        self.heard.append(how)


@pytest.mark.parametrize(
    ("how", "body", "ok", "at_fault"),
    [
        ("well", CHAT, True, False), ("well", STREAM, True, False), ("500", CHAT, False, True),
        ("close", STREAM, False, True), ("cut", STREAM, False, True), ("400", CHAT, True, False),
        ("busy", CHAT, False, False), ("held", CHAT, False, False), ("endless", STREAM, False, False),
    ],
)  # fmt: skip
@pytest.mark.untraced
def test_routers_hear_who_is_at_fault(how: str, body: dict[str, Any], ok: bool, at_fault: bool) -> None:
    async def main() -> None:
        made: list[Listening] = []

        def make(places: Sequence[Node]) -> Listening:
            made.append(Listening(places))
            return made[0]

        async with network(make_router=make) as place:
            place.nodes[0].how = how
            leaves = how in ("held", "endless")
            try:
                async with asyncio.timeout(0.2 if leaves else None):
                    await place.post(body=body)
            except TimeoutError:
                assert leaves
            await until(lambda: len(made[0].heard) == 1)
            [heard] = made[0].heard
            assert (heard.ok, heard.at_fault) == (ok, at_fault)
            assert 0.0 < heard.latency_s < 10.0
            assert heard.first_byte_s is None or 0.0 < heard.first_byte_s <= heard.latency_s
            flat(place)

    run(main())


@scene()
async def test_a_node_that_says_the_error_itself(place: Place) -> None:
    place.nodes[0].how = "error event"
    text = (await place.post(body=STREAM))[2].decode()
    assert text.count("error") == 1
    assert "[DONE]" not in text
    flat(place)


@scene()
async def test_streams_in_other_dress(place: Place) -> None:
    for how in ("crlf", "split"):
        place.nodes[0].how = how
        text = (await place.post(body=STREAM))[2]
        assert text.endswith(b"data: [DONE]\n\n")
        assert b"one" in text
        assert b"\r" not in text


def flat(place: Place) -> None:
    """Nothing of a request is left."""
    state = place.state
    assert (state.admission.in_flight, state.admission.waiting, state.admission.queued_prompt_token) == (0, 0, 0)
    assert all(upstream.in_flight == 0 for upstream in state.upstreams.values())
    assert not state.versions._used


@scene(timeouts=FAST, breaker={"failures": 100})
async def test_where_no_node_answers(place: Place) -> None:
    for how, status, code in (
        ("500", 502, "upstream_failed"), ("close", 503, "no_node"), ("busy", 429, "overloaded"),
        ("400", 400, "context_length_exceeded"), ("400 text", 400, None), ("silent", 502, "upstream_failed"),
    ):  # fmt: skip
        place.nodes[0].how = how
        found, headers, said = await place.post()
        assert (found, said["error"]["code"]) == (status, code), how
        if how == "busy":
            assert (headers["retry-after"], headers["retry-after-ms"]) == ("7", "7000")
    flat(place)


@scene(breaker={"failures": 2, "rest_s": 1.0}, probes=None)
async def test_a_node_that_keeps_failing_is_left_alone_for_a_while(place: Place) -> None:
    node = place.nodes[0]
    node.how = "500"
    assert [(await place.post())[0] for _ in range(4)] == [502, 502, 503, 503]
    assert len(node.asked) == 2
    assert (await place.get("/ready"))[0] == 503
    await asyncio.sleep(1.01)
    assert (await place.post())[0] == 502  # one tries, and it rests again
    assert (await place.post())[0] == 503
    node.how = "well"
    await asyncio.sleep(1.01)
    assert [(await place.post())[0] for _ in range(2)] == [200, 200]
    assert (await place.get("/ready"))[0] == 200


def test_a_kept_connection_that_the_node_closed_is_no_failure() -> None:
    async def main() -> None:
        async with network(breaker={"failures": 1}) as place:
            assert (await place.post())[0] == 200
            idle = place.state.upstreams["edge-0"]._pool._idle
            connection = idle[0]
            send = connection.send

            def closed_meanwhile(head: bytes, body: bytes) -> None:
                send(head, body)
                asyncio.get_running_loop().call_soon(connection.connection_lost, None)

            connection.send = closed_meanwhile  # type: ignore[method-assign]
            assert (await place.post())[0] == 200
            flat(place)

    run(main())


@scene()
async def test_deadlines(place: Place) -> None:
    place.nodes[0].how = "held"
    status, headers, said = await place.post(headers={"x-gainnet-deadline-ms": "1000"})
    assert (status, said["error"]["code"], headers["x-should-retry"]) == (504, "deadline_exceeded", "false")
    await until(lambda: place.nodes[0].cancelled == 1)
    place.nodes[0].how = "stall"
    status, _, text = await place.post(body=STREAM, headers={"x-gainnet-deadline-ms": "1000"})
    assert status == 200
    assert json.loads(text.decode().strip().split("\n\n")[-1][6:])["error"]["code"] == "deadline_exceeded"
    flat(place)


@pytest.mark.parametrize("how", ["held", "stall"])
def test_a_client_that_leaves_cancels_the_work(how: str) -> None:
    async def main() -> None:
        async with network() as place:
            node = place.nodes[0]
            node.how = how
            task = asyncio.create_task(place.post(body=STREAM))
            await until(lambda: len(node.asked) == 1 and (how == "held" or not place.state.admission.waiting))
            task.cancel()
            await until(lambda: node.cancelled == 1)
            await until(lambda: place.state.admission.in_flight == 0)
            flat(place)
            assert 'status="499"' in (await place.get("/metrics", True))[1].decode()

    run(main())


@scene(timeouts={"client_s": 0.3})
async def test_a_client_that_takes_nothing_holds_nothing(place: Place) -> None:
    place.nodes[0].how = "endless"
    host, port = place.gateway.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        body = json.dumps(STREAM).encode()
        head = "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
        client.sendall(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
        await until(lambda: place.state.admission.in_flight == 1)
        await until(lambda: place.state.admission.in_flight == 0)
    await until(lambda: place.nodes[0].cancelled == 1)
    flat(place)


@scene(limits={"in_flight": 2, "queued_prompt_token": 100})
async def test_too_much_at_once_is_shed(place: Place) -> None:
    node = place.nodes[0]
    node.how = "held"
    first = asyncio.create_task(place.post())
    await until(lambda: len(node.asked) == 1)
    long = CHAT | {"messages": [{"role": "user", "content": "x" * 500}]}
    status, headers, said = await place.post(body=long)
    assert (status, said["error"]["code"], headers["retry-after"]) == (429, "overloaded", "1")
    second = asyncio.create_task(place.post())
    await until(lambda: len(node.asked) == 2)
    assert (await place.post())[0] == 429
    metrics = (await place.get("/metrics", True))[1].decode()
    assert "vllm:num_requests_running 2" in metrics
    assert "vllm:num_requests_waiting 2" in metrics
    node.hold.set()
    assert [(await first)[0], (await second)[0]] == [200, 200]
    assert (await place.post(body=long))[0] == 200  # one alone always has room
    flat(place)


@scene()
async def test_draining_finishes_what_is_under_way(place: Place) -> None:
    node = place.nodes[0]
    node.how = "held"
    under_way = asyncio.create_task(place.post())
    await until(lambda: len(node.asked) == 1)
    draining = asyncio.create_task(place.gateway.drain())
    await until(lambda: place.state.draining)
    await until(lambda: _refuses(place.port))
    assert not draining.done()
    node.hold.set()
    status, headers, _ = await under_way
    assert (status, headers.get("connection")) == (200, "close")
    await draining


def _refuses(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port)).close()
    except ConnectionRefusedError:
        return True
    return False


@scene(idempotency={"byte": 40_000})
async def test_an_idempotency_key_gets_the_first_answer_again(place: Place) -> None:
    node = place.nodes[0]
    key = {"idempotency-key": "k1"}
    for body in (CHAT, STREAM):
        key = {"idempotency-key": f"k{bool(body.get('stream'))}"}
        first = await place.post(body=body, headers=key)
        again = await place.post(body=body, headers=key)
        assert first[0] == again[0] == 200
        assert first[2] == again[2]
        assert again[1]["x-gainnet-replayed"] == "true"
        assert first[1]["content-type"].split(";")[0] == again[1]["content-type"].split(";")[0]
        assert again[1]["x-gainnet-node"] == "edge-0"
    assert len(node.asked) == 2
    status, _, said = await place.post(body=CHAT | {"seed": 1}, headers=key)
    assert (status, said["error"]["code"]) == (422, "idempotency_key_reused")

    node.how = "held"
    tasks = [asyncio.create_task(place.post(headers={"idempotency-key": "k2"})) for _ in range(3)]
    await until(lambda: len(node.asked) == 3)
    await asyncio.sleep(0.02)
    assert len(node.asked) == 3
    node.hold.set()
    assert {(await task)[0] for task in tasks} == {200}
    assert len(node.asked) == 3

    node.how = "500"
    assert (await place.post(headers={"idempotency-key": "k3"}))[0] == 502
    node.how = "well"
    assert (await place.post(headers={"idempotency-key": "k3"}))[0] == 200  # a failure is not kept
    node.how = "400"
    assert [(await place.post(headers={"idempotency-key": "k4"}))[0] for _ in range(2)] == [400, 400]
    assert len(node.asked) == 6
    for number in range(60):  # the oldest are forgotten
        await place.post(headers={"idempotency-key": f"many{number}"})
    assert place.state.idempotency._byte < 42_000
    asked = len(node.asked)
    await place.post(headers={"idempotency-key": "kFalse"})
    assert len(node.asked) == asked + 1
    flat(place)


@scene()
async def test_a_first_client_that_leaves_gives_its_key_to_the_next(place: Place) -> None:
    node = place.nodes[0]
    node.how = "held"
    first, second = (asyncio.create_task(place.post(headers={"idempotency-key": "k"})) for _ in range(2))
    await until(lambda: len(node.asked) == 1)
    await asyncio.sleep(0.02)
    first.cancel()
    await until(lambda: len(node.asked) == 2)
    node.hold.set()
    assert (await second)[0] == 200
    flat(place)


async def _raw(place: Place, data: bytes) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", place.port)
    writer.write(data)
    try:
        async with asyncio.timeout(2.0):
            return await reader.read(4_096)
    finally:
        writer.close()


@scene(timeouts={"body_s": 0.1}, limits={"body_byte": 1_000})
async def test_bodies_that_come_oddly(place: Place) -> None:
    head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
    slow = await _raw(place, head + b"content-length: 100\r\n\r\n{")
    assert b" 408 " in slow
    assert b"body_timeout" in slow
    chunked = head + b"transfer-encoding: chunked\r\n\r\n" + b"3e9\r\n" + b"x" * 1_001 + b"\r\n0\r\n\r\n"
    assert b" 413 " in await _raw(place, chunked)
    body = json.dumps(CHAT).encode()
    asked = await _raw(place, head + f"expect: 100-continue\r\ncontent-length: {len(body)}\r\n\r\n".encode())
    assert asked.startswith(b"HTTP/1.1 100 Continue")
    assert b" 400 " in await _raw(place, head + b"content-length: 5\r\ncontent-length: 6\r\n\r\n123456")
    flat(place)


@scene(limits={"connections": 2})
async def test_connections_are_limited(place: Place) -> None:
    held = [await asyncio.open_connection("127.0.0.1", place.port) for _ in range(2)]
    await until(lambda: place.connections == 2)
    reader, writer = await asyncio.open_connection("127.0.0.1", place.port)
    assert await reader.read(1) == b""
    for _, other in (*held, (reader, writer)):
        other.close()


def test_the_fake_answers_in_the_form_of_the_api() -> None:
    from gainnet.serving.answers import ANSWERS
    from gainnet.serving.wire import PATHS

    for path, kind in PATHS.items():
        ANSWERS[kind].model_validate(answer(path, CHAT))
