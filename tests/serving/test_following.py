"""An alias follows the champion of a knowledge loop's registry, under load, and stays where nodes refuse it."""

from __future__ import annotations

import asyncio
import json
import logging
from pathlib import Path
from typing import Any

import pytest
from fakes import CHAT, network, run, until
from pydantic import ValidationError

from gainnet.knowledge.registry import Origin, Registry, Version
from gainnet.serving import following
from gainnet.serving.settings import GatewaySettings


def _promote(root: Path, number: int) -> str:
    """Another champion; its version's name at nodes."""
    digest = f"{number}" * 64

    def save(folder: Path) -> None:
        (folder / "adapter_model.safetensors").write_bytes(b"weights %d" % number)

    registry = Registry(root)
    found = registry.register("foundation", digest, save, Origin(number, "base"))
    registry.promote(found)
    return f"foundation@{found.number}-{digest[:8]}"


def _follow(root: Path, **more: Any) -> dict[str, Any]:
    return {"root": str(root), "follow": {"notes": {"base": "m"}}, "look_s": 0.01} | more


async def _stands_for(place: Any, version: str) -> None:
    await until(lambda: place.state.versions.aliases.get("notes") == version)


def test_requests_get_the_champion_and_keep_the_one_that_they_began_with(tmp_path: Path) -> None:
    async def main() -> None:
        async with network(adapters=_follow(tmp_path)) as place:
            node = place.nodes[0]
            assert (await place.post(body=CHAT | {"model": "notes"}))[0] == 404  # nothing was learnt yet
            first = _promote(tmp_path, 1)
            await _stands_for(place, first)
            assert node.asked[-1][2]["lora_path"] == str(tmp_path / "foundation" / "1")
            node.how = "held"
            old = asyncio.create_task(place.post(body=CHAT | {"model": "notes"}))
            await until(lambda: node.asked[-1][0] == "/v1/chat/completions")
            node.how = ""
            second = _promote(tmp_path, 2)
            await _stands_for(place, second)
            assert not any(path == "/v1/unload_lora_adapter" for path, _, _ in node.asked)
            node.hold.set()
            assert (await old)[2]["model"] == first
            await until(lambda: node.asked[-1][0] == "/v1/unload_lora_adapter")
            assert node.asked[-1][2] == {"lora_name": first}
            assert (await place.post(body=CHAT | {"model": "notes"}))[2]["model"] == second
            said = json.loads((await place.get("/v1/aliases", True))[1])
            assert said == {"notes": {"version": second, "used": 0}}

    run(main())


def test_one_that_nodes_refuse_is_said_once_and_one_that_cannot_be_told_is_tried_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[str] = []

    def looked(root: Path, model: str) -> Version | None:
        looks.append(model)
        return Registry(root).champion(model)

    monkeypatch.setattr(following, "_champion", looked)

    async def main() -> None:
        async with network(adapters=_follow(tmp_path)) as place:
            node = place.nodes[0]
            first = _promote(tmp_path, 1)
            await _stands_for(place, first)
            node.how = "400"
            _promote(tmp_path, 2)
            await until(lambda: any(r.message == "alias stays" for r in caplog.records))
            asked, before = len(node.asked), len(looks)
            await until(lambda: len(looks) > before + 5)
            assert len(node.asked) == asked
            assert place.state.versions.aliases["notes"] == first
            assert sum(record.message == "alias stays" for record in caplog.records) == 1
            node.how = "500"
            third = _promote(tmp_path, 3)
            await until(lambda: len(node.asked) > asked + 1)
            node.how = ""
            await _stands_for(place, third)

    with caplog.at_level(logging.WARNING, "gainnet.serving.following"):
        run(main())


def test_a_broken_registry_is_survived(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        (tmp_path / "foundation").mkdir()
        (tmp_path / "foundation" / "versions.json").write_text("{")
        async with network(adapters=_follow(tmp_path)) as place:
            await until(lambda: any("is broken" in str(r.__dict__.get("reason")) for r in caplog.records))
            assert (await place.post())[0] == 200
            (tmp_path / "foundation" / "versions.json").unlink()
            await _stands_for(place, _promote(tmp_path, 1))

    with caplog.at_level(logging.WARNING, "gainnet.serving.following"):
        run(main())


@pytest.mark.parametrize(
    ("changed", "complaint"),
    [
        ({"follow": {"m": {}}}, r"adapters\.follow\.m: is a model of a node already"),
        ({"follow": {"a": {}}}, r"adapters\.follow\.a: is in aliases already"),
        ({"follow": {"notes": {"base": "n"}}}, r"adapters\.follow\.notes\.base: no node serves 'n'"),
        ({"look_s": 0.0}, "look_s"),
    ],
)
def test_what_cannot_be_followed_is_refused(changed: dict[str, Any], complaint: str, tmp_path: Path) -> None:
    node = {"name": "edge", "tier": "edge", "url": "http://127.0.0.1:1", "models": ["m"]}
    with pytest.raises(ValidationError, match=complaint):
        GatewaySettings(nodes=[node], aliases={"a": "m"}, adapters=_follow(tmp_path, **changed))  # type: ignore[arg-type]
