"""A node that answers as it is told to, well or badly, and a gateway in front of such nodes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, TypeVar

import aiohttp
import uvloop
from aiohttp import web

from gainnet.serving.gateway import Gateway, MakeRouter
from gainnet.serving.settings import GatewaySettings
from gainnet.serving.state import State

Result = TypeVar("Result")
CHAT = {"model": "m", "messages": [{"role": "user", "content": "hello"}]}
USAGE = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}


def run(main: Coroutine[Any, Any, Result]) -> Result:
    """A coroutine in a loop of its own, as gateways run in."""
    return uvloop.run(asyncio.wait_for(main, 30.0))


async def until(what: Callable[[], bool]) -> None:
    """Wait until something is so."""
    async with asyncio.timeout(5.0):
        while not what():
            await asyncio.sleep(0.002)


def chunk(text: str | None = None, finish: str | None = None, **more: Any) -> bytes:
    """An event of a chat's stream."""
    delta = {} if text is None else {"content": text}
    tree = {
        "id": "c-1", "object": "chat.completion.chunk", "created": 1, "model": "m",
        "choices": [{"index": 0, "delta": delta, "finish_reason": finish}],
    } | more  # fmt: skip
    return b"data: " + json.dumps(tree).encode() + b"\n\n"


class FakeNode:
    """An OpenAI-compatible server on a free port of the loopback interface.

    Attributes:
        how: how it answers: well, or which fault it has.
        asked: (path, headers, body) of each request.
        cancelled: requests that were cancelled by who asked.
        ready: status of /ready.
        probed: pages that were got.
        hold: requests wait for this event where `how` is ``held``.
    """

    def __init__(self) -> None:
        self.how = "well"
        self.asked: list[tuple[str, dict[str, str], Any]] = []
        self.cancelled = self.probed = 0
        self.ready = 200
        self.hold = asyncio.Event()
        self.url = ""

    async def start(self) -> None:
        self._runner = web.ServerRunner(
            web.Server(self._answer, handler_cancellation=True, access_log=None), shutdown_timeout=0.1
        )
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        host, port = self._runner.addresses[0][:2]
        self.url = f"http://{host}:{port}"

    async def close(self) -> None:
        self.hold.set()
        await self._runner.cleanup()

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        if request.method == "GET":  # a probe, or /node/state, which this kind of server lacks
            self.probed += 1
            return web.Response(status=self.ready if request.path == "/ready" else 404)
        body = json.loads(await request.read() or b"null")
        self.asked.append((request.path, {k.lower(): v for k, v in request.headers.items()}, body))
        try:
            return await self._answered(request, body)
        except (asyncio.CancelledError, ConnectionError):
            self.cancelled += 1
            raise

    async def _answered(self, request: web.BaseRequest, body: Any) -> web.StreamResponse:
        faults: dict[str, Callable[[], web.Response]] = {
            "500": lambda: web.Response(status=500, text="boom"),
            "404": lambda: web.Response(status=404, text="no such model"),
            "400": lambda: web.json_response(
                {"error": {"message": "too long", "code": "context_length_exceeded"}}, status=400
            ),
            "400 text": lambda: web.Response(status=400, text="no"),
            "busy": lambda: web.Response(status=429, headers={"retry-after": "7"}),
            "not json": lambda: web.Response(text="{", content_type="application/json"),
            "not an object": lambda: web.Response(text="[]", content_type="application/json"),
            "long": lambda: web.json_response(answer(request.path, body) | {"padding": "x" * 8_000_000}),
            "html": lambda: web.Response(text="<html>", content_type="text/html"),
        }
        if self.how in faults:
            return faults[self.how]()
        if self.how in ("close", "garbage"):
            assert request.transport is not None
            if self.how == "garbage":
                request.transport.write(b"nonsense\r\n\r\n")
            request.transport.close()
            return web.Response()
        if self.how == "silent":
            await asyncio.sleep(30.0)
        if self.how == "held":
            await self.hold.wait()
        if body.get("stream"):
            return await self._streamed(request, body)
        return web.json_response(answer(request.path, body))

    async def _streamed(self, request: web.BaseRequest, body: Any) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        writes: dict[str, list[bytes]] = {
            "empty": [],
            "error first": [b'data: {"error": {"message": "oops"}}\n\n'],
            "malformed first": [b"data: {nope\n\n"],
            "malformed": [chunk("one"), b"data: {nope\n\n", chunk("two")],
            "not an event": [chunk("one"), b"data: [1]\n\n"],
            "too long": [chunk("one"), b"data: " + b"x" * 2_000_000],
            "error event": [chunk("one"), b'data: {"error": {"message": "oops"}}\n\n'],
            "no done": [chunk("one"), chunk(None, "stop")],
            "crlf": [b": ping\r\n\r\n", *(c.replace(b"\n", b"\r\n") for c in (chunk("one"), b"data: [DONE]\n\n"))],
            "split": [bytes([byte]) for byte in chunk("one") + b"data: [DONE]\n\n"],
            "endless": [chunk("x" * 10_000)] * 10_000,
        }
        well = [chunk(role="assistant"), chunk("one"), chunk(" two"), chunk(None, "stop")]
        if (body.get("stream_options") or {}).get("include_usage"):
            well.append(chunk(choices=[], usage=USAGE))
        well.append(b"data: [DONE]\n\n")
        for data in writes.get(self.how, [chunk("one")] if self.how in ("cut", "stall") else well):
            await response.write(data)
        if self.how == "cut":
            await asyncio.sleep(0.02)  # the chunk is to arrive before the reset
            assert request.transport is not None
            request.transport.abort()
        if self.how == "stall":
            await asyncio.sleep(30.0)
        await response.write_eof()
        return response


def answer(path: str, body: Any) -> dict[str, Any]:
    """A good answer."""
    match path.rsplit("/v1/", 1)[1]:
        case "chat/completions":
            choice: dict[str, Any] = {"message": {"role": "assistant", "content": "one two"}}
            name = "chat.completion"
        case "completions":
            choice, name = {"text": "one two"}, "text_completion"
        case "embeddings":
            vector = {"object": "embedding", "index": 0, "embedding": [0.5, -0.5]}
            usage = {"prompt_tokens": 2, "total_tokens": 2}
            return {"object": "list", "data": [vector], "model": body["model"], "usage": usage}
        case "images/generations":
            return {"created": 1, "data": [{"b64_json": "aGk="}]}
        case _:
            return {}
    return {
        "id": "c-1", "object": name, "created": 1, "model": body["model"], "usage": USAGE,
        "choices": [{"index": 0, "finish_reason": "stop", **choice}],
    }  # fmt: skip


class Place:
    """A gateway in front of fake nodes, and a client of it.

    Attributes:
        gateway: started.
        nodes: in order of the settings.
        client: of aiohttp.
    """

    def __init__(self, gateway: Gateway, nodes: list[FakeNode], client: aiohttp.ClientSession) -> None:
        self.gateway, self.nodes, self.client = gateway, nodes, client
        self.port = int(gateway.url.rsplit(":", 1)[1])

    @property
    def connections(self) -> int:
        """Clients' connections."""
        return self.gateway._listeners[0].connections

    @property
    def state(self) -> State:
        """What the gateway's requests share."""
        assert self.gateway._state is not None
        return self.gateway._state

    async def post(
        self, path: str = "/v1/chat/completions", body: Any = CHAT, headers: dict[str, str] | None = None
    ) -> tuple[int, dict[str, str], Any]:
        """Status, headers in lower case, and body of the answer, as JSON where it is."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        headers = {"content-type": "application/json"} | (headers or {})
        async with self.client.post(self.gateway.url + path, data=data, headers=headers) as response:
            text = await response.read()
            said = json.loads(text) if response.content_type == "application/json" else text
            return response.status, {name.lower(): value for name, value in response.headers.items()}, said

    async def get(self, path: str, admin: bool = False, **more: Any) -> tuple[int, bytes]:
        """Status and body."""
        url = self.gateway.admin_url if admin else self.gateway.url
        async with self.client.get(url + path, **more) as response:
            return response.status, await response.read()

    async def admin(self, path: str, body: Any, **more: Any) -> tuple[int, Any]:
        """Status and JSON of a change."""
        async with self.client.post(self.gateway.admin_url + path, json=body, **more) as response:
            return response.status, await response.json()


@asynccontextmanager
async def network(
    tiers: str = "edge", make_router: MakeRouter | None = None, models: Any = ("m",), known: Any = None, **sections: Any
) -> AsyncIterator[Place]:
    """A gateway over fake nodes of these tiers (words), named tier-0 and so on; `known` and sections are settings."""
    async with AsyncExitStack() as stack:
        nodes = [FakeNode() for _ in tiers.split()]
        listed = []
        for number, (tier, node) in enumerate(zip(tiers.split(), nodes, strict=True)):
            await node.start()
            stack.push_async_callback(node.close)
            listed.append(
                {
                    "name": f"{tier}-{number}",
                    "tier": tier,
                    "url": node.url,
                    "models": models if isinstance(models, dict) else list(models),
                }
            )
        own = {"listen": {"port": 0}, "admin": {"port": 0}, "nodes": listed, "models": known or {}}
        gateway = Gateway(GatewaySettings(**(own | sections)), make_router)
        await gateway.start()
        stack.push_async_callback(gateway.close)
        client = await stack.enter_async_context(aiohttp.ClientSession())
        yield Place(gateway, nodes, client)


def scene(**network_of: Any) -> Callable[[Callable[[Place], Awaitable[None]]], Callable[[], None]]:
    """A test of a coroutine that is given a network of its own."""

    def decorate(test: Callable[[Place], Awaitable[None]]) -> Callable[[], None]:
        def wrapped() -> None:
            async def main() -> None:
                async with network(**network_of) as place:
                    await test(place)

            run(main())

        wrapped.__name__, wrapped.__doc__ = test.__name__, test.__doc__
        return wrapped

    return decorate
