"""A small node in this process, and clients of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from functools import cache
from typing import Any

import aiohttp
import openai
import uvloop

from gainnet.models.hub import Language
from gainnet.scenario.knowledge import SmallModel
from gainnet.serving import node_model
from gainnet.serving.node import Node
from gainnet.serving.node_settings import NodeSettings

SHAPE = SmallModel(layers=2, width=32, heads=2, kv_heads=1, vocabulary=320, context=512)
PATIENCE_S = 120.0
MESSAGES: Any = [{"role": "user", "content": "How are you?"}]


@cache
def language() -> Language:
    return node_model.made(SHAPE, 0)


def run(main: Coroutine[Any, Any, Any]) -> None:
    """A coroutine in a loop of its own; its limit is for machines with much else to do."""
    uvloop.run(asyncio.wait_for(main, PATIENCE_S))


class Served:
    """A node that serves, and clients.

    Attributes:
        node: started.
        http: plain client.
        client: of the API.
    """

    def __init__(self, node: Node, http: aiohttp.ClientSession, client: openai.AsyncOpenAI) -> None:
        self.node, self.http, self.client = node, http, client

    async def post(self, path: str, body: Any, **headers: str) -> tuple[int, Any, dict[str, str]]:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        async with self.http.post(self.node.url + path, json=body, headers=named) as response:
            return response.status, await response.json(), {k.lower(): v for k, v in response.headers.items()}

    async def get(self, path: str) -> tuple[int, str]:
        async with self.http.get(self.node.url + path) as response:
            return response.status, await response.text()


@asynccontextmanager
async def served(**settings: Any) -> AsyncIterator[Served]:
    """A node of the small model."""
    given: dict[str, Any] = {"listen": {"port": 0}, "ids": ["m"], "slots": 2, "threads": 1} | settings
    node = Node(NodeSettings(**given), language())
    await node.start()
    try:
        async with (
            aiohttp.ClientSession() as http,
            openai.AsyncOpenAI(base_url=f"{node.url}/v1", api_key="none", max_retries=0) as client,
        ):
            yield Served(node, http, client)
    finally:
        await node.close()


async def idle(node: Node) -> None:
    """Wait until the engine has nothing to do."""
    async with asyncio.timeout(PATIENCE_S):
        while node.engine.stats().running or node.engine.stats().waiting:
            await asyncio.sleep(0.002)
