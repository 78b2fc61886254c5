"""What the live page is told: the network as it is, and of requests only those of who asks."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from campus import World, ask
from fakes import CHAT, Place, network, run, scene
from test_keys import ALICE, BOB, _as, _kept

from gainnet.serving.book import KEPT, Book, Done
from gainnet.serving.lab_plan import gateway_tree
from gainnet.serving.node_watch import Watched
from gainnet.serving.router import Nearest, NodeView, View
from gainnet.serving.router import Place as Node
from gainnet.serving.settings import GatewaySettings

KEYS = {
    "scenario", "keys", "models", "nodes", "ends", "cells", "services", "prices", "versions", "recent",
}  # fmt: skip


class Seeing(Nearest):
    """A router that knows places and prices."""

    def view(self) -> View:
        return View(
            "town", ((0.0, 0.0), (300.0, 0.0)), ((10.0, 5.0, 0), (290.0, 5.0, -1)), {"edge-0": (0.0, 0.0)},
            {"edge-0": NodeView(False, 3, 2)}, {f"price {i}": float(i) for i in range(20)},
        )  # fmt: skip


async def state(place: Place, **more: Any) -> Any:
    status, body = await place.get("/live/state", **more)
    assert status == 200
    tree = json.loads(body)
    assert set(tree) == KEYS
    return tree


@scene()
async def test_there_is_no_page_by_default(place: Place) -> None:
    await place.post()
    for path in ("/live", "/live/page.css", "/live/page.js", "/live/state"):
        assert (await place.get(path))[0] == 404
    assert place.state.book.recent("", 1) == []


@scene(page=True)
async def test_the_page_comes_from_here_alone(place: Place) -> None:
    for path, form in (("/live", "html"), ("/live/page.css", "css"), ("/live/page.js", "javascript")):
        async with place.client.get(place.gateway.url + path) as response:
            text = await response.text()
            assert (response.status, response.content_type) == (200, f"text/{form}")
            assert response.headers["content-security-policy"].startswith("default-src 'self';")
            assert "https:" not in text
        async with place.client.post(place.gateway.url + path) as response:
            assert (response.status, response.headers["allow"]) == (405, "GET, HEAD")


@scene(tiers="edge cloud", models={"m": "inner"}, aliases={"now": "m"}, page=True)
async def test_a_fixed_router_knows_no_places(place: Place) -> None:
    headers = {"x-gainnet-end": "3", "x-gainnet-deadline-ms": "10000"}
    await place.post(headers=headers)
    await place.post(body=CHAT | {"model": "now", "stream": True})
    place.nodes[0].how = place.nodes[1].how = "500"
    await place.post()
    found = await state(place)
    assert (found["scenario"], found["keys"], found["models"]) == ("", False, ["now", "m"])
    assert found["ends"] == found["cells"] == found["prices"] == []
    assert found["versions"] == [{"alias": "now", "version": "m", "used": 0}]
    edge, cloud = found["nodes"]
    assert edge == {
        "name": "edge-0", "tier": "edge", "end": None, "x_m": None, "y_m": None, "up": True, "running": 0,
        "waiting": None, "served": 2, "failed": 1, "models": ["m"],
    }  # fmt: skip
    assert (cloud["served"], cloud["failed"]) == (0, 1)
    failed, streamed, first = found["recent"]
    assert set(first) == {"at_s", "model", "end", "node", "tier", "ok", "latency_s", "why"}
    assert (first["model"], first["end"], first["node"], first["tier"], first["ok"]) == ("m", 3, "edge-0", "edge", True)
    assert first["why"].startswith("nearest")
    assert (streamed["model"], streamed["end"], streamed["ok"]) == ("now", None, True)
    assert (failed["node"], failed["ok"]) == ("", False)
    assert failed["why"] == "the nodes that serve 'm' failed"
    of_m, of_now = found["services"]
    assert (of_m["name"], of_m["asked"], of_m["satisfied"], of_now["name"]) == ("m", 2, 1, "now")
    assert 0.0 < of_m["p50_s"] <= of_m["p95_s"] < 10.0


@scene(make_router=Seeing, page=True, scenario="elsewhere")
async def test_a_routers_view_is_shown(place: Place) -> None:
    found = await state(place)
    assert found["scenario"] == "town"
    assert found["cells"] == [{"x_m": 0.0, "y_m": 0.0}, {"x_m": 300.0, "y_m": 0.0}]
    assert found["ends"][1] == {"number": 1, "x_m": 290.0, "y_m": 5.0, "cell": -1}
    [node] = found["nodes"]
    assert (node["x_m"], node["up"], node["running"], node["waiting"]) == (0.0, False, 3, 2)
    assert [price["value"] for price in found["prices"]] == [float(i) for i in range(19, 7, -1)]


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("cut", "the node was lost"),
        ("error event", "the node ended its answer"),
        ("endless", "the client left"),
        ("stall", "the deadline passed"),
    ],
)
def test_a_stream_that_breaks_is_no_success(how: str, said: str) -> None:
    async def main() -> None:
        async with network(page=True) as place:
            place.nodes[0].how = how
            body, headers = json.dumps(CHAT | {"stream": True}), {"content-type": "application/json"}
            if how == "stall":
                headers["x-gainnet-deadline-ms"] = "200"
            async with place.client.post(
                f"{place.gateway.url}/v1/chat/completions", data=body, headers=headers
            ) as response:
                if how != "endless":
                    await response.read()
            found = await state(place)
            while not found["recent"]:
                found = await state(place)
            [one], [service] = found["recent"], found["services"]
            assert (one["ok"], one["node"], service["satisfied"], service["p50_s"]) == (False, "edge-0", 0, None)
            assert one["why"].startswith(said)

    run(main())


@scene(page=True)
async def test_an_answer_that_was_kept(place: Place) -> None:
    for _ in range(2):
        await place.post(headers={"idempotency-key": "k"})
    again, first = (await state(place))["recent"]
    assert (first["node"], again["node"], again["ok"]) == ("edge-0", "", True)
    assert "kept" in again["why"]


def test_tenants_see_their_own(tmp_path: Path) -> None:
    async def main() -> None:
        kept = _kept(tmp_path, bob="models: [m]")
        async with network(models=["m", "other"], aliases={"now": "other"}, page=True, **kept) as place:
            assert (await place.get("/live/state"))[0] == 401
            assert (await place.get("/live"))[0] == 200
            await place.post(headers=_as(ALICE))
            await place.post(body=CHAT | {"model": "other"}, headers=_as(ALICE))
            await place.post(headers=_as(BOB) | {"x-gainnet-end": "5"})
            alice, bob = await state(place, headers=_as(ALICE)), await state(place, headers=_as(BOB))
            assert alice["keys"] is True
            assert [one["model"] for one in alice["recent"]] == ["other", "m"]
            assert [one["end"] for one in bob["recent"]] == [5]
            assert [service["asked"] for service in bob["services"]] == [1]
            assert (alice["models"], bob["models"]) == (["now", "m", "other"], ["m"])
            assert (alice["nodes"][0]["models"], bob["nodes"][0]["models"]) == (["m", "other"], ["m"])
            assert (len(alice["versions"]), bob["versions"]) == (1, [])
            assert alice["nodes"][0]["served"] == bob["nodes"][0]["served"] == 3

    run(main())


def test_the_book_is_bounded() -> None:
    book = Book()
    for number in range(KEPT + 10):
        book.add("a", Done(float(number), "m", None, "n", "edge", True, number % 2 == 0, float(number), ""))
    book.add("b", Done(0.0, "m", None, "", "", False, False, 0.0, ""))
    assert [done.at_s for done in book.recent("a", 2)] == [KEPT + 9.0, KEPT + 8.0]
    [quality] = book.services("a")
    assert (quality.asked, quality.satisfied) == (KEPT, KEPT // 2)
    assert (quality.p50_s, quality.p95_s) == (10.0 + KEPT / 2, 10.0 + 0.95 * KEPT)
    assert book.recent("c", 9) == book.services("c") == []


def test_prices_and_places_are_those_of_the_router() -> None:
    world = World()
    for _ in range(3):
        world.frame(*[ask(i, quality_min=0.55) for i in range(24)])
    view = world.router.view()
    assert view.scenario == "campus"
    assert (len(view.cells), len(view.ends)) == (3, 24)
    assert set(view.places) == {*(f"edge-{edge}" for edge in range(3)), *(f"end-{end}" for end in range(24))}
    assert view.places["end-7"] == view.ends[7][:2]
    assert view.places["edge-1"] in view.cells
    assert all(-1 <= cell < 3 for _, _, cell in view.ends)
    assert set(view.nodes) == {"cloud", *view.places}
    assert view.nodes["cloud"].up
    assert {"radio", "edge compute"} < set(view.prices)

    nodes: Sequence[Node] = [Node("end", "http://127.0.0.1:1", "end", {"llama-3.2-1b-int4": "a"}, 2)]
    watched = Watched(world.scenario, nodes)
    assert watched.view() == View("campus")
    watched.priced = world.router
    assert watched.view() == view


def test_a_lab_has_the_page() -> None:
    settings = GatewaySettings(**gateway_tree("lab", (), {}, "nearest", 0, Path()))
    assert (settings.page, settings.scenario) == (True, "lab")
