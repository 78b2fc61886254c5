"""A small lab from end to end, the openai package against one as `gainnet bench live` has it do, and what cannot be a lab.

All labs of a process are forked from one server, which takes seconds to import what they need.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import uvloop
from plumbing import left, plumb

from gainnet.apps import bench
from gainnet.errors import InputError
from gainnet.scenario.load import load
from gainnet.serving import lab_plan, netem
from gainnet.serving.lab import FILE, Lab, asking
from gainnet.serving.lab_child import LabFailed
from gainnet.serving.links import Site

PATIENCE_S = 300.0
"""For machines with much else to do."""
CHAT: Any = {"model": "assistant", "messages": [{"role": "user", "content": "How are you?"}], "max_tokens": 5}


def gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


async def ask(client: aiohttp.ClientSession, lab: Lab) -> tuple[int, str, Any]:
    headers = {"x-gainnet-end": "0"}
    async with client.post(f"{lab.url}/v1/chat/completions", json=CHAT, headers=headers) as response:
        return response.status, response.headers["x-gainnet-node"], await response.json()


async def shaped(client: aiohttp.ClientSession, links: str, **change: Any) -> tuple[int, Any]:
    async with client.post(links, json=change) as response:
        return response.status, await response.json()


@pytest.mark.slow
def test_a_lab_answers_lives_through_a_death_and_leaves_nothing(tmp_path: Path) -> None:
    said: list[str] = []

    async def main() -> list[int]:
        lab = Lab(
            load("lab"),
            tmp_path,
            nodes="cloud=1,edge=1,end=1",
            router="nearest",
            say=said.append,
            patience_s=PATIENCE_S,
        )
        try:
            await lab.start()
            tree = json.loads((tmp_path / FILE).read_text())
            pids = [tree["gateway_pid"], *(node["pid"] for node in tree["nodes"])]
            assert [node["name"] for node in tree["nodes"]] == ["cloud", "edge-0", "end-0"]
            assert tree["address"] == f"{lab.url}/v1"
            async with aiohttp.ClientSession() as client:
                status, first, answer = await ask(client, lab)
                assert (status, answer["usage"]["completion_tokens"] > 0) == (200, True)
                assert first == "end-0"
                async with client.get(f"{lab.url}/live/state") as response:
                    live = await response.json()
                assert (live["scenario"], live["recent"][0]["node"]) == ("lab", "end-0")
                assert [node["served"] for node in live["nodes"]] == [0, 0, 1]
                links = tree["links"]
                status, seen = await shaped(client, links, cloud={"latency_s": 0.03, "up": True})
                assert (status, seen["cloud"]["latency_s"]) == (200, 0.03)
                assert (await shaped(client, links, cloud={"latency": 1.0}))[0] == 400
                assert (await shaped(client, links, sky={"up": False}))[0] == 400
                assert (await shaped(client, links, cloud={"loss": 2.0}))[0] == 400
                async with client.post(links, data=b"[]") as response:
                    assert response.status == 400
                os.kill(lab.pid(first), signal.SIGKILL)
                status, second, _ = await ask(client, lab)
                assert (status, second) == (200, "edge-0")
            async with asyncio.timeout(PATIENCE_S):
                while not said:
                    await asyncio.sleep(0.01)
            os.kill(lab.pid("gateway"), signal.SIGKILL)
            await lab.run(asyncio.Event())
            assert lab.failed == "the gateway ended by signal 9"
            return pids
        finally:
            await lab.close()

    pids = uvloop.run(asyncio.wait_for(main(), PATIENCE_S))
    assert said[0].partition(":")[0].endswith("ended by signal 9")
    assert len(pids) == 4
    assert all(map(gone, pids))
    assert not (tmp_path / FILE).exists()


@pytest.mark.slow
@pytest.mark.untraced
def test_the_openai_client_does_all_that_it_can(tmp_path: Path) -> None:
    module = bench._module(bench.FOLDER / "_openai_client.py")

    async def main() -> dict[str, str]:
        lab = Lab(load("lab"), tmp_path, nodes="cloud=1,edge=1,end=0", router="priced", patience_s=PATIENCE_S)
        try:
            await lab.start()
            found: dict[str, str] = await module.checked(json.loads((tmp_path / FILE).read_text()), tmp_path)
            return found
        finally:
            await lab.close()

    found = uvloop.run(asyncio.wait_for(main(), PATIENCE_S))
    checks = ("models", "chat", "stream", "completion", "embedding", "image", "errors", "adapters")
    assert found == dict.fromkeys(checks, "")


@pytest.mark.slow
@pytest.mark.untraced
def test_a_lab_whose_nodes_are_in_namespaces_answers_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plumb(monkeypatch)

    async def main() -> None:
        lab = Lab(
            load("lab"), tmp_path, nodes="cloud=0,edge=1,end=1", router="nearest", links="netem", patience_s=PATIENCE_S
        )
        try:
            await lab.start()
            tree = json.loads((tmp_path / FILE).read_text())
            assert [node["url"] for node in tree["nodes"]] == [lab.links.url(name) for name in ("edge-0", "end-0")]
            assert Path(f"/proc/{lab.pid('edge-0')}/ns/net").readlink() != Path("/proc/self/ns/net").readlink()
            async with aiohttp.ClientSession() as client:
                assert (await ask(client, lab))[:2] == (200, "end-0")
                status, seen = await shaped(client, tree["links"], **{"end-0": {"loss": 0.5}})
                assert (status, seen["end-0"]["loss"], seen["end-0"]["from_node_byte"] > 0) == (200, 0.5, True)
                monkeypatch.setattr(netem, "arguments", lambda shape, _: ["nonsense", str(shape.loss)])
                status, said = await shaped(client, tree["links"], **{"end-0": {"loss": 0.2}})
                assert (status, "nonsense" in said["error"]["message"]) == (500, True)
        finally:
            await lab.close()
        assert not left()

    uvloop.run(asyncio.wait_for(main(), PATIENCE_S))


def test_a_lab_that_cannot_start_says_why_and_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")

    async def main() -> None:
        models = dict.fromkeys(("cloud", "edge", "end"), tmp_path / "model")
        lab = Lab(
            load("lab"), tmp_path, nodes="cloud=0,edge=1,end=0", models=models, router="nearest", patience_s=PATIENCE_S
        )
        try:
            with pytest.raises(LabFailed, match=r"edge-0: model .*: holds no safetensors file"):
                await lab.start()
        finally:
            await lab.close()
        assert gone(lab.pid("edge-0"))
        assert gone(lab.pid("gateway"))

    uvloop.run(asyncio.wait_for(main(), PATIENCE_S))


def test_what_a_scenario_has(tmp_path: Path) -> None:
    lab = load("lab")
    assert lab_plan.counts(lab) == {"cloud": 1, "edge": 2, "end": 4}
    assert lab_plan.counts(load("vehicular")) == {"cloud": 1, "edge": 2, "end": 4}
    parts = lab_plan.parts(lab, lab_plan.counts(lab))
    assert [part.name for part in parts] == ["cloud", "edge-0", "edge-1", "end-0", "end-1", "end-2", "end-3"]
    assert parts[3].models == {"llama-3.2-1b-int4": "end-model", "assistant": "end-model"}
    assert (parts[0].shape.latency_s, parts[0].public) == (0.02, "assistant")
    assert [part.quality for part in parts[2:4]] == [0.63, 0.49]
    assert [dict(part.images) for part in parts[:4]] == [dict.fromkeys(("digits", "pictures"), "image-model")] * 3 + [
        {}
    ]
    urls = {part.name: f"http://127.0.0.1:{1000 + number}" for number, part in enumerate(parts)}
    begins = lab_plan.above(parts[1], parts, urls, lab)
    assert begins is not None
    assert (begins["url"], begins["model"]) == ("http://127.0.0.1:1000", "image-model")
    assert begins["prices"] == pytest.approx(
        {
            "here_per_s": (0.71 + 56e-3 * 0.30) / 3600, "above_per_s": (3.0 + 630e-3 * 0.30) / 3600,
            "waiting_per_s": 0.002 * 0.1 / 3.0,
        }
    )  # fmt: skip
    assert [lab_plan.above(part, parts, urls, lab) for part in (parts[0], parts[3])] == [None, None]
    assert parts[0].machine.step_s([(1, 0)]) == pytest.approx(70.6e9 / (0.7 * 3350e9), rel=1e-3)
    for nodes, said in (
        ("sky=1", "--nodes sky=1"),
        ("edge=3", "has 2 of tier edge"),
        ("edge", "TIER=NUMBER"),
        ("cloud=0,edge=0,end=0", "nothing left"),
    ):
        with pytest.raises(InputError, match=said):
            Lab(lab, tmp_path, nodes=nodes)
    with pytest.raises(InputError, match="--router any"):
        Lab(lab, tmp_path, router="any")
    with pytest.raises(InputError, match="--links any: must be one of proxy, netem"):
        Lab(lab, tmp_path, links="any")
    with pytest.raises(InputError, match="--model sky"):
        Lab(lab, tmp_path, models={"sky": tmp_path})
    bare = load("lab", ["network.cloud.resident=[]", "network.edge.resident=[]", "network.end.resident=[]"])
    with pytest.raises(InputError, match="no text service"):
        Lab(bare, tmp_path)
    with pytest.raises(InputError, match=r"config\.json"):
        lab_plan.node_tree(parts[0], tmp_path, tmp_path, Site("127.0.0.1", 0), paced=True)
    assert "curl" in asking("http://127.0.0.1:1/v1", "assistant")
