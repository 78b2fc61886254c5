"""A node of `bench soak` that misbehaves when asked to."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from typing import Any

from aiohttp import web

from _soak import JSON, PATIENCE_S, free_port

ANSWER = {
    "id": "c-1", "object": "chat.completion", "created": 1, "model": "m",
    "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "one two"}}],
    "usage": {"prompt_tokens": 7, "completion_tokens": 2, "total_tokens": 9},
}  # fmt: skip
IDLE_S = 5.0
"""That a connection without requests is kept."""
DONE = b"data: [DONE]\n\n"


class Odd:
    """A node that answers well unless a prompt has `fault:HOW@NAME` in it with its name.

    Attributes:
        url: where it is, also when it is away.
        cancelled: requests that were cancelled by who asked.
    """

    def __init__(self, name: str) -> None:
        self._name, self._port = name, free_port()
        self.url = f"http://127.0.0.1:{self._port}"
        self.cancelled = 0

    async def start(self) -> None:
        """Listen."""
        self._runner = web.ServerRunner(
            web.Server(self._answer, handler_cancellation=True, access_log=None, keepalive_timeout=IDLE_S),
            shutdown_timeout=0.1,
        )
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self._port, reuse_address=True).start()

    async def close(self) -> None:
        """Be gone, with all connections."""
        await self._runner.cleanup()

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        if request.method == "GET":
            return web.Response(status=200 if request.path == "/ready" else 404)
        text = (await request.read()).decode()
        how = text.partition("fault:")[2].partition(f"@{self._name}")[0] if f"@{self._name}" in text else ""
        try:
            return await self._as_told(request, json.loads(text), how)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        except ConnectionError:
            self.cancelled += 1
            return web.Response()

    async def _as_told(self, request: web.BaseRequest, body: Any, how: str) -> web.StreamResponse:
        assert request.transport is not None
        match how:
            case "close" | "garbage":
                if how == "garbage":
                    request.transport.write(b"nonsense\r\n\r\n")
                request.transport.close()
                return web.Response()
            case "500":
                return web.Response(status=500, text="boom")
            case "busy":
                return web.Response(status=429, headers={"retry-after": "1"})
            case "not json":
                return web.Response(text="{", content_type=JSON)
            case "silent":
                await asyncio.sleep(PATIENCE_S)
            case "held":
                await asyncio.sleep(0.5)
        if not body.get("stream"):
            return web.json_response(ANSWER)
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        await self._streamed(response, how)
        if how == "cut":
            await asyncio.sleep(0.02)  # what was written is to arrive before the reset
            request.transport.abort()
        await response.write_eof()
        return response

    async def _streamed(self, response: web.StreamResponse, how: str) -> None:
        writes: Mapping[str, list[bytes]] = {
            "empty": [],
            "error first": [b'data: {"error": {"message": "oops"}}\n\n'],
            "malformed first": [b"data: {nope\n\n"],
            "malformed": [event("one"), b"data: {nope\n\n"],
            "not an event": [event("one"), b"data: [1]\n\n"],
            "too long": [event("one"), b"data: " + b"x" * 2_000_000],
            "error event": [event("one"), b'data: {"error": {"message": "oops"}}\n\n'],
            "no done": [event("one"), event(None, "stop")],
            "cut": [event("one")],
            "stall": [event("one")],
        }
        for data in writes.get(how, [event("one"), event("two")]):
            await response.write(data)
        if how == "stall":
            await asyncio.sleep(PATIENCE_S)
        if how == "endless":
            while True:
                await response.write(event("x" * 20_000))
        if how == "slow":
            for _ in range(20):
                await asyncio.sleep(0.1)
                await response.write(event("more"))
        if how not in writes:
            await response.write(event(None, "stop") + DONE)


def event(text: str | None, finish: str | None = None) -> bytes:
    """An event of a chat's stream."""
    choice = {"index": 0, "delta": {} if text is None else {"content": text}, "finish_reason": finish}
    tree = {"id": "c-1", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice]}
    return b"data: " + json.dumps(tree).encode() + b"\n\n"
