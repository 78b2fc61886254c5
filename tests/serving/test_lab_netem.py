"""A whole network whose links the kernel shapes, asked by the openai package while a link slows down and breaks.

No node draws images here: `make netem` runs this where a process may have few pages, and with images nodes have more.
"""

from __future__ import annotations

import asyncio
import json
import math
import socket
import sys
import time
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import uvloop
from openai import APIStatusError, AsyncOpenAI
from plumbing import left, need

from gainnet.scenario.load import load
from gainnet.serving import netem
from gainnet.serving.lab import FILE, Lab
from gainnet.serving.links import Shape

PATIENCE_S = 1_200.0
"""A user-mode Linux has one CPU, on which eight processes start."""
SCENARIO = ["network.edge.resident=[llama-3.2-3b]", "network.cloud.resident=[llama-3.1-70b-int8]"]
ASKED: Any = {"model": "assistant", "messages": [{"role": "user", "content": "How are you?"}], "max_tokens": 4}
CLOUD_ONLY = {"x-gainnet-quality-min": "0.8", "x-gainnet-deadline-ms": "100000"}
ANY = {"x-gainnet-quality-min": "0.3", "x-gainnet-deadline-ms": "100000", "x-gainnet-end": "0"}


@pytest.fixture
def shaped() -> None:
    need(netem.arguments(Shape(), 0))


async def said(client: aiohttp.ClientSession, links: str, **change: Any) -> Any:
    """What `/links` says, after a change where one is given."""
    async with client.post(links, json=change) if change else client.get(links) as response:
        assert response.status == 200
        return await response.json()


async def round_trip_s(client: aiohttp.ClientSession, url: str) -> float:
    """The least of five, over a connection that is there."""
    taken = []
    for _ in range(6):
        began = time.perf_counter()
        async with client.get(f"{url}/ready") as response:
            await response.read()
        taken.append(time.perf_counter() - began)
    return min(taken[1:])


async def chat(asking: AsyncOpenAI, headers: dict[str, str]) -> str:
    """The node that answers."""
    raw = await asking.chat.completions.with_raw_response.create(**ASKED, extra_headers=headers)
    answer = raw.parse()
    assert answer.usage.completion_tokens > 0
    return str(raw.headers["x-gainnet-node"])


async def begins_s(asking: AsyncOpenAI) -> float:
    """Time until the cloud's streamed answer begins, the least of five; all are read to the end."""
    taken = []
    for _ in range(5):
        began, first_s, finished = time.perf_counter(), math.inf, None
        stream = await asking.chat.completions.create(**ASKED, stream=True, extra_headers=CLOUD_ONLY)
        async for chunk in stream:
            first_s = min(first_s, time.perf_counter() - began)
            finished = chunk.choices[0].finish_reason if chunk.choices else finished
        assert finished in ("stop", "length")
        taken.append(first_s)
    return min(taken)


async def answered(asking: AsyncOpenAI, headers: dict[str, str]) -> str:
    """The node that answers, as soon as one does."""
    while True:
        try:
            return await chat(asking, headers)
        except APIStatusError:
            await asyncio.sleep(0.1)


async def lived_through(tree: dict[str, Any], seen: dict[str, Any]) -> None:
    """A link carries, slows down, breaks, and is mended."""
    links, cloud = tree["links"], next(node["link"] for node in tree["nodes"] if node["name"] == "cloud")
    asking = AsyncOpenAI(base_url=tree["address"], api_key="none", max_retries=0, timeout=PATIENCE_S)
    async with asking, aiohttp.ClientSession() as client:
        before = (await said(client, links))["cloud"]
        assert await chat(asking, CLOUD_ONLY) == "cloud"
        after = (await said(client, links))["cloud"]
        seen["carried"] = {way: after[way] - before[way] for way in ("to_node_byte", "from_node_byte")}
        assert min(seen["carried"].values()) > 100
        seen["near_s"] = await round_trip_s(client, cloud), await begins_s(asking)
        changed = await said(client, links, cloud={"latency_s": 0.22})
        assert changed["cloud"]["latency_s"] == 0.22
        seen["far_s"] = await round_trip_s(client, cloud), await begins_s(asking)
        assert 0.04 <= seen["near_s"][0] < 0.44 <= seen["far_s"][0] < 0.44 + 0.40
        assert seen["far_s"][1] >= 0.44
        await said(client, links, cloud={"latency_s": 0.02, "up": False})
        with pytest.raises((TimeoutError, aiohttp.ClientError)):
            async with asyncio.timeout(2.0):
                await round_trip_s(client, cloud)
        waiting = asyncio.create_task(chat(asking, CLOUD_ONLY))
        assert (await answered(asking, ANY)) != "cloud"
        assert waiting not in (await asyncio.wait([waiting], timeout=2.0))[0] or waiting.exception() is not None
        began = time.perf_counter()
        await said(client, links, cloud={"up": True})
        assert await answered(asking, CLOUD_ONLY) == "cloud"
        seen["mended_s"] = time.perf_counter() - began
        await asyncio.wait([waiting])
        seen["waited"] = repr(waiting.exception() or waiting.result())


@pytest.mark.slow
@pytest.mark.untraced
@pytest.mark.usefixtures("shaped")
def test_a_network_whose_links_the_kernel_shapes_lives_through_a_slow_and_a_broken_one(tmp_path: Path) -> None:
    seen: dict[str, Any] = {}
    interfaces = socket.if_nameindex()

    async def main() -> None:
        lab = Lab(load("lab", SCENARIO), tmp_path, links="netem", patience_s=PATIENCE_S)
        try:
            await lab.start()
            tree = json.loads((tmp_path / FILE).read_text())
            assert [node["tier"] for node in tree["nodes"]] == ["cloud", *["edge"] * 2, *["end"] * 4]
            seen["ready_s"] = lab.ready_s
            assert len(left()) == 1 + len(tree["nodes"])
            await lived_through(tree, seen)
        finally:
            await lab.close()

    uvloop.run(asyncio.wait_for(main(), PATIENCE_S))
    assert not left()
    assert socket.if_nameindex() == interfaces
    sys.stdout.write(json.dumps(seen))  # `make netem` shows it
