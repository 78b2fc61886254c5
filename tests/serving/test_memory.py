"""Adapters and aliases outlive restarts of gateways, and come back to nodes that lost them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from fakes import CHAT, FakeNode, Place, run, until

from gainnet.errors import InputError
from gainnet.serving.gateway import Gateway
from gainnet.serving.settings import GatewaySettings

LOAD, UNLOAD, ALIAS = "/v1/load_lora_adapter", "/v1/unload_lora_adapter", "/v1/aliases"


def _registry(folder: Path) -> Path:
    for number in (1, 2):
        version = folder / "registry" / "domain" / str(number)
        version.mkdir(parents=True)
        (version / "adapter_model.safetensors").write_bytes(b"weights %d" % number)
    return folder / "registry"


@asynccontextmanager
async def _gateway(nodes: list[FakeNode], folder: Path, **sections: Any) -> AsyncIterator[Place]:
    listed = [
        {"name": f"edge-{number}", "tier": "edge", "url": node.url, "models": ["m"]}
        for number, node in enumerate(nodes)
    ]
    own: dict[str, Any] = {
        "listen": {"port": 0}, "admin": {"port": 0}, "nodes": listed, "probes": None,
        "adapters": {"root": str(folder / "registry")}, "state": str(folder / "state.json"),
    }  # fmt: skip
    gateway = Gateway(GatewaySettings(**(own | sections)))
    await gateway.start()
    try:
        async with aiohttp.ClientSession() as client:
            yield Place(gateway, nodes, client)
    finally:
        await gateway.close()


def _loads(node: FakeNode) -> list[str]:
    return [body["lora_name"] for path, _, body in node.asked if path == LOAD]


def test_a_restart_forgets_nothing(tmp_path: Path) -> None:
    _registry(tmp_path)

    async def main() -> None:
        nodes = [FakeNode(), FakeNode()]
        for node in nodes:
            await node.start()
        load = {"lora_name": "domain@v1", "lora_path": "domain/1"}
        async with _gateway(nodes, tmp_path) as place:
            assert (await place.admin(LOAD, load))[0] == 200
            assert (await place.admin(LOAD, load | {"lora_name": "domain@v2", "nodes": ["edge-0"]}))[0] == 200
            assert (await place.admin(ALIAS, {"alias": "a", "version": "domain@v1"}))[0] == 200
            assert (await place.admin(ALIAS, {"alias": "b", "version": "m"}))[0] == 200
        for node in nodes:
            node.asked.clear()
        async with _gateway(nodes, tmp_path) as place:
            assert [sorted(_loads(node)) for node in nodes] == [["domain@v1", "domain@v2"], ["domain@v1"]]
            assert nodes[0].asked[0][2]["digest"]
            assert (await place.post(body=CHAT | {"model": "a"}))[2]["model"] == "domain@v1"
            assert (await place.post(body=CHAT | {"model": "b"}))[2]["model"] == "m"
            assert (await place.admin(ALIAS, {"alias": "a", "version": "m"}))[0] == 200
            assert (await place.admin(UNLOAD, {"lora_name": "domain@v1"}))[0] == 200
            await until(lambda: nodes[1].asked[-1][0] == UNLOAD)
        nodes[1].asked.clear()
        async with _gateway(nodes, tmp_path, aliases={"a": "m", "b": "m"}) as place:
            assert _loads(nodes[1]) == []
            assert json.loads((await place.get(ALIAS, True))[1])["a"]["version"] == "m"
            assert (await place.post(body=CHAT | {"model": "domain@v1"}))[0] == 404
        for node in nodes:
            await node.close()

    run(main())


def test_a_node_that_lost_its_adapters_is_told_again(tmp_path: Path) -> None:
    _registry(tmp_path)

    async def main() -> None:
        node = FakeNode()
        await node.start()
        often = {"every_s": 0.01, "timeout_s": 1.0, "rise": 1, "fall": 1}
        async with _gateway([node], tmp_path, probes=often) as place:
            assert (await place.admin(LOAD, {"lora_name": "v1", "lora_path": "domain/1"}))[0] == 200
            node.how = "404"  # it was restarted, faster than a probe sees
            assert (await place.post(body=CHAT | {"model": "v1"}))[0] == 502
            assert place.state.doubted == {"edge-0"}
            assert place.state.upstreams["edge-0"].breaker.closed(place.state.loop.time())
            node.how = "well"
            await until(lambda: _loads(node) == ["v1", "v1"])
            assert (await place.post(body=CHAT | {"model": "v1"}))[0] == 200
            node.ready = 500
            await until(lambda: not place.state.ready())
            node.ready = 200
            await until(lambda: _loads(node) == ["v1", "v1", "v1"])
        await node.close()
        async with _gateway([node], tmp_path) as place:  # no node is there: its models are known all the same
            assert (await place.post(body=CHAT | {"model": "v1"}))[0] == 503
            await node.start()
            place.state.upstreams["edge-0"]._pool._port = int(node.url.rsplit(":", 1)[1])
            await until(lambda: _loads(node)[3:] == ["v1"])
            await asyncio.sleep(0)
            await until(lambda: "v1" in place.gateway.places[0].models)
            assert (await place.post(body=CHAT | {"model": "v1"}))[0] == 200
        await node.close()

    run(main())


def test_what_cannot_be_recalled(tmp_path: Path) -> None:
    _registry(tmp_path)

    async def main() -> None:
        (tmp_path / "state.json").write_text('{"adapters": {"v1": {"path": "x"}}}')
        with pytest.raises(InputError, match=r"state: .*state.json: adapters.v1.digest: Field required"):
            async with _gateway([], tmp_path):
                pass
        (tmp_path / "state.json").unlink()
        node = FakeNode()
        await node.start()
        (tmp_path / "nowhere").write_text("")
        async with _gateway([node], tmp_path, state=str(tmp_path / "nowhere" / "state.json")) as place:
            found, said = await place.admin(ALIAS, {"alias": "a", "version": "m"})
            assert (found, said["error"]["code"]) == (500, "not_kept")
        await node.close()

    run(main())
