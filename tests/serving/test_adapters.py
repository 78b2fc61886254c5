"""Adapters come and go under load: each request keeps the version that it began with, and only the registry's are loaded."""

from __future__ import annotations

import asyncio
import hashlib
import json
from pathlib import Path
from typing import Any

from fakes import CHAT, Place, network, run, scene, until

from gainnet.serving.versions import Versions


def _registry(folder: Path) -> Path:
    for number in (1, 2):
        version = folder / "registry" / "domain" / str(number)
        version.mkdir(parents=True)
        (version / "adapter_model.safetensors").write_bytes(b"weights %d" % number)
    (folder / "adapter_model.safetensors").write_bytes(b"elsewhere")
    (folder / "registry" / "link").symlink_to(folder)
    return folder / "registry"


def _load(number: int, **more: Any) -> dict[str, Any]:
    return {"lora_name": f"domain@v{number}", "lora_path": f"domain/{number}"} | more


def test_an_alias_moves_under_load(tmp_path: Path) -> None:
    async def main() -> None:
        async with network(adapters={"root": str(_registry(tmp_path))}) as place:
            node = place.nodes[0]
            digest = hashlib.sha256(b"weights 1").hexdigest()
            assert (await place.admin("/v1/load_lora_adapter", _load(1, digest=digest, base="m")))[0] == 200
            assert node.asked[-1][2]["lora_path"].endswith("registry/domain/1")
            assert (await place.admin("/v1/aliases", {"alias": "domain", "version": "domain@v1"}))[0] == 200
            assert (await place.admin("/v1/load_lora_adapter", _load(2)))[0] == 200
            node.how = "held"
            old = asyncio.create_task(place.post(body=CHAT | {"model": "domain"}))
            await until(lambda: node.asked[-1][0] == "/v1/chat/completions")
            move = {"alias": "domain", "version": "domain@v2", "unload": True}
            assert (await place.admin("/v1/aliases", move))[1]["old"] == "domain@v1"
            new = asyncio.create_task(place.post(body=CHAT | {"model": "domain"}))
            await until(lambda: len(node.asked) == 4)
            assert json.loads((await place.get("/v1/aliases", True))[1]) == {
                "domain": {"version": "domain@v2", "used": 1}
            }
            assert not any(path == "/v1/unload_lora_adapter" for path, _, _ in node.asked)
            node.hold.set()
            assert [(await old)[2]["model"], (await new)[2]["model"]] == ["domain@v1", "domain@v2"]
            await until(lambda: node.asked[-1][0] == "/v1/unload_lora_adapter")
            assert node.asked[-1][2] == {"lora_name": "domain@v1"}
            assert (await place.post(body=CHAT | {"model": "domain@v1"}))[0] == 404
            assert 'vllm:lora_requests_info{version="domain@v2"} 0' in (await place.get("/metrics", True))[1].decode()

    run(main())


def test_what_is_not_loaded(tmp_path: Path) -> None:
    async def main() -> None:
        async with network("edge cloud", adapters={"root": str(_registry(tmp_path))}) as place:
            load, unload, alias = "/v1/load_lora_adapter", "/v1/unload_lora_adapter", "/v1/aliases"
            assert (await place.admin(load, _load(1, nodes=["edge-0"])))[0] == 200
            for path, body, status, code in (
                (load, _load(1, lora_path="domain/2"), 409, "conflict"),
                (load, _load(2, lora_path=".."), 400, "forbidden"),
                (load, _load(2, lora_path="link"), 400, "forbidden"),
                (load, _load(2, lora_path="/etc"), 400, "forbidden"),
                (load, _load(3), 404, "not_found"),
                (load, _load(2, digest="0" * 64), 400, "invalid_value"),
                (load, _load(2, nodes=["nowhere"]), 404, "not_found"),
                (load, _load(2, base="none"), 404, "not_found"),
                (load, {"lora_name": 1}, 400, "invalid_value"),
                (unload, {"lora_name": "domain@v9"}, 404, "not_found"),
                (alias, {"alias": "a", "version": "domain@v9"}, 404, "not_found"),
                (alias, {"alias": "m", "version": "domain@v1"}, 400, "duplicate"),
                ("/v1/other", {}, 404, "not_found"),
            ):
                found, said = await place.admin(path, body)
                assert (found, said["error"]["code"]) == (status, code), body
            assert len(place.nodes[0].asked) == 1
            assert (await place.admin(alias, {"alias": "a", "version": "domain@v1"}))[0] == 200
            assert (await place.admin(unload, {"lora_name": "domain@v1"}))[0] == 409
            nodes = json.loads((await place.get("/v1/nodes", True))[1])
            assert nodes["edge-0"]["models"] == {"m": "m", "domain@v1": "domain@v1"}
            assert nodes["cloud-1"]["up"] is True
            place.nodes[1].how = "500"  # the second node fails: the first forgets it too
            found, said = await place.admin(load, _load(2))
            assert found == 502
            assert "domain@v2" not in json.loads((await place.get("/v1/nodes", True))[1])["edge-0"]["models"]
            await place.nodes[1].close()
            assert (await place.admin(load, _load(2, nodes=["cloud-1"])))[0] == 502
            await place.admin(alias, {"alias": "a", "version": "m"})
            assert (await place.admin(unload, {"lora_name": "domain@v1"}))[0] == 200
            await until(lambda: place.nodes[0].asked[-1][0] == unload)

    run(main())


@scene(admin={"port": 0, "token": "of the operator"})
async def test_with_a_token_only_its_bearer_changes_anything(place: Place) -> None:
    assert (await place.admin("/v1/aliases", {"alias": "a", "version": "m"}))[0] == 401
    assert (await place.get("/v1/nodes", True))[0] == 401
    assert (await place.get("/metrics", True))[0] == 200
    assert (await place.get("/health", True))[0] == 200
    shown = {"authorization": "Bearer of the operator"}
    assert (await place.get("/v1/nodes", True, headers=shown))[0] == 200
    found, said = await place.admin("/v1/load_lora_adapter", _load(1), headers=shown)
    assert (found, said["error"]["code"]) == (403, "forbidden")


def test_references_are_counted() -> None:
    async def main() -> None:
        versions = Versions({"a": "v1"})
        assert (versions.pin("a"), versions.pin("a"), versions.pin("plain")) == ("v1", "v1", "plain")
        assert versions.move("a", "v2") == "v1"
        assert (versions.pin("a"), versions.names("v2"), versions.names("v1")) == ("v2", ("a",), ())
        waiting = asyncio.create_task(versions.unused("v1"))
        versions.release("v1")
        await asyncio.sleep(0)
        assert not waiting.done()
        assert versions.used("v1") == 1
        versions.release("v1")
        await waiting
        await versions.unused("never")

    run(main())
