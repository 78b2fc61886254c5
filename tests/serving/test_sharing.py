"""First steps of images that a router has another node take: how it chooses, and what nodes make of its word."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import pytest
from campus import PAINTER, World, ask
from nodes import language, run
from pydantic import TypeAdapter

from gainnet.execution.telemetry import NodeState
from gainnet.orchestrator import pattern_kernel as pk
from gainnet.orchestrator.sharing import MOST_SAVED
from gainnet.orchestrator.ways import Beginning, Way
from gainnet.serving.gateway import Gateway
from gainnet.serving.node import Node
from gainnet.serving.node_settings import NodeSettings
from gainnet.serving.router import Ask, Place, Route, Router, Target
from gainnet.serving.settings import GatewaySettings
from painted import pipeline

ASK: Any = {"model": "pictures", "prompt": "a two", "seed": 1, "steps": 4}
KNOWN = Beginning(0.4, 0.1, 0.01, 0.02, 6.0)

# The router


def world(*more: str, **state: Any) -> World:
    """Of all edges only the first is up; the second may begin its images."""
    made = World(["orchestrator.foresight=0", "collaboration.sharing=true", *more])
    for edge in (1, 2):
        made.router.telemetry(f"edge-{edge}", None)
    made.tell("edge-0", **({"beginners": {"cloud": KNOWN}} | state))
    return made


def picture(made: World, **more: Any) -> Target:
    given = {
        "kind": "image",
        "model": "pictures",
        "quality_min": None,
        "deadline_s": 8.0,
        "output_token": 0,
        "step": 20,
    }
    return made.one(ask(**(given | more)))


@pytest.mark.untraced
def test_sharing_is_chosen_where_it_pays() -> None:
    target = picture(world())
    assert (target.node, target.begun_by, target.way, target.model) == ("edge-0", "cloud", "sharing", f"own/{PAINTER}")
    dear = Beginning(0.4, 0.1, 1.0, 0.02, 1.0)  # slow up there, and nobody asks for the same
    whole = picture(world(beginners={"cloud": dear}))
    assert (whole.node, whole.begun_by, whole.way) == ("edge-0", "", "whole")
    far = picture(world(beginners={"cloud": replace(KNOWN, crossing_s=7.9)}))
    assert far.way == "whole"
    assert picture(world(beginners={"nobody": KNOWN})).way == "whole"
    assert picture(world(), step=2).way == "whole"  # of which none is shared
    assert ", first 8 steps at cloud: " in target.why  # of the 20 that the node will draw, not of fewer


def test_sharing_has_a_switch() -> None:
    off = picture(world("collaboration.sharing=false"))
    assert (off.way, off.begun_by) == ("whole", "")
    cascades = picture(world("collaboration.sharing=false", "collaboration.cascade=true"))
    assert (cascades.way, cascades.begun_by) == ("whole", "")
    text = world().one(ask())
    assert (text.way, text.begun_by) == ("whole", None)


def test_what_nobody_measured_is_tried() -> None:
    assert picture(world(beginners={"cloud": Beginning(0.4)})).way == "sharing"
    few = replace(KNOWN, above_step_s=0.05, alike=1.0)
    made = world("collaboration.audit_every=2", "orchestrator.objective.latency_weight=0", beginners={"cloud": few})
    ways = []
    for _ in range(16):
        ways.append(picture(made).way)
        made.quiet(10)
    assert ways.count("sharing") == 2  # one of eight, to see whether more are alike by now


def test_a_sharing_takes_what_the_steps_take() -> None:
    made = world()
    router = made.router
    wish = router.catalogue.wish(
        ask(kind="image", model="pictures", deadline_s=8.0, quality_min=None, step=20, image=1)
    )
    posed = router._posed_between(router._state, router.estimates.tasks([wish], 0.0), [wish])
    ways = posed.ways
    assert ways is not None
    [p] = np.flatnonzero((ways.way == Way.SHARING) & (posed.floats[:, pk.STEP] == 20.0)).tolist()
    assert ways.length[p] == 8
    whole = int(ways.upper[p])
    tables = router.run.orchestrator.tables
    cloud, edge = 0, 1
    saved_s = min(8 * 0.1, MOST_SAVED * saved_most(tables, edge))
    begun_s = 8 * 0.01 / 6.0
    gain_s = posed.floats[whole, pk.ASAP_S] - posed.floats[p, pk.ASAP_S]
    assert gain_s == pytest.approx(saved_s - 8 * 0.01 - 0.02)
    price = tables.node["price_per_s"] + tables.node["busy_w"] * tables.run[0]["energy_price_per_j"]
    dearer = posed.floats[p, pk.COST] - posed.floats[whole, pk.COST]
    assert dearer == pytest.approx(begun_s * price[cloud] - saved_s * price[edge])
    pool, dense = router.run.orchestrator.pool, np.zeros((2, router.run.orchestrator.pool.rows))
    for row, pattern in enumerate((whole, p)):
        entries = slice(posed.problem.demand_ptr[pattern], posed.problem.demand_ptr[pattern + 1])
        dense[row, posed.problem.row_id[posed.problem.demand_row[entries]]] = posed.problem.demand_amount[entries]
    of_node = (
        dense[:, pool.compute_start * pool.slots : pool.end_start * pool.slots].reshape(2, -1, pool.slots).max(axis=2)
    )
    assert of_node[0, edge] - of_node[1, edge] == pytest.approx(saved_s)
    assert (of_node[0, cloud], of_node[1, cloud]) == (0.0, pytest.approx(begun_s))


def saved_most(tables: Any, node: int) -> float:
    """All that an image of 20 steps takes of a node."""
    machine, card = tables.node[node], tables.artifact[np.flatnonzero(tables.artifact["step_flop"] == 0.80e12 * 2)[0]]
    return float(card["overhead_s"] + (20 * card["step_flop"] + card["fixed_flop"]) / machine["flop_per_s"])


def test_shared_images_are_followed_to_their_end() -> None:
    made = world()
    for _ in range(3):
        assert picture(made).way == "sharing"
        made.frame()
    made.quiet(20)
    assert sum(made.answered.values()) == 3
    assert made.router.live.under_way == 0


# Nodes


class Told(Router):
    """Sends all images to one node, with a word about who begins them."""

    def __init__(self, places: Sequence[Place]) -> None:
        self.below, self.above = places
        self.word: str | None = None

    async def route(self, ask: Ask) -> Route:
        return Route((replace(self.below.target(ask.model, "told"), begun_by=self.word),))


@asynccontextmanager
async def site(folder: Path) -> AsyncIterator[tuple[Told, Gateway, aiohttp.ClientSession, list[Node]]]:
    """A gateway over a node that draws and one above that may begin; steps up there take long, so that it never pays."""
    async with AsyncExitStack() as stack:
        nodes: list[Node] = []
        images: dict[str, Any] = {"model": str(folder), "ids": ["pictures"], "width": 2, "share": {"part": 0.5}}
        above: dict[str, Any] = {"step_s": 0.2}
        for tier in ("cloud", "edge"):
            given: Any = {"tier": tier, "listen": {"port": 0}, "ids": ["m"], "threads": 1, "images": images | above}
            node = Node(NodeSettings(**given), language())
            await node.start()
            stack.push_async_callback(node.close)
            nodes.append(node)
            above = {"above": {"url": node.url, "model": "pictures", "name": "cloud"}}
        routers: list[Told] = []

        def router(places: Sequence[Place]) -> Router:
            routers.append(Told(places))
            return routers[0]

        trees: Any = [
            {"name": node.settings.tier, "tier": node.settings.tier, "url": node.url, "models": ["pictures"]}
            for node in reversed(nodes)
        ]
        models: Any = {"pictures": {"kinds": ["image"]}}
        listen: Any = {"port": 0}
        gateway = Gateway(GatewaySettings(listen=listen, admin=listen, nodes=trees, models=models), router)
        await gateway.start()
        stack.push_async_callback(gateway.close)
        http = await stack.enter_async_context(aiohttp.ClientSession())
        yield routers[0], gateway, http, nodes


def test_a_node_does_as_the_gateway_says(tmp_path: Path) -> None:
    pipeline().save_pretrained(tmp_path)

    async def main() -> None:
        async with site(tmp_path) as (router, gateway, http, (above, below)):

            async def draw(**more: Any) -> tuple[str, int]:
                async with http.post(f"{gateway.url}/v1/images/generations", json=ASK | more) as response:
                    tree = await response.json()
                    assert response.status == 200, tree
                    return response.headers["x-gainnet-way"], tree["steps_begun_above"]

            said = TypeAdapter(NodeState).validate_json(json.dumps(below.state()))  # as gateways read it
            assert said.beginners == {"cloud": Beginning(0.5)}
            assert above.state()["beginners"] == {}
            router.word = ""
            assert await draw() == ("whole", 0)
            assert await draw(share=True) == ("whole", 0)
            router.word = "cloud"
            assert await draw(share=False) == ("sharing", 0)
            found = await asyncio.gather(draw(), draw(seed=2))
            assert found == [("sharing", 2)] * 2
            known = below.state()["beginners"]["cloud"]
            assert known["above_step_s"] > 0.05
            assert known["alike"] > 1.0
            router.word = None
            assert await draw() == ("whole", 0)  # a step above takes many times one here: its own rule draws here
            async with http.get(f"{gateway.admin_url}/metrics") as response:
                assert 'gainnet:ways_total{way="sharing"} 3' in await response.text()

    run(main())


def test_words_that_nodes_do_not_know(tmp_path: Path) -> None:
    pipeline().save_pretrained(tmp_path)

    async def main() -> None:
        async with site(tmp_path) as (_, _, http, (above, below)):
            for node, word, status in ((below, "edge-7", 400), (above, "cloud", 400), (above, "-", 200)):
                url = f"{node.url}/v1/images/generations"
                async with http.post(url, json=ASK, headers={"x-gainnet-begun-by": word}) as response:
                    tree = json.loads(await response.read())
                    assert response.status == status, tree
                    assert status == 200 or tree["error"]["param"] == "x-gainnet-begun-by"
            await above.close()
            async with http.post(
                f"{below.url}/v1/images/generations", json=ASK, headers={"x-gainnet-begun-by": "cloud"}
            ) as response:
                assert (await response.json())["steps_begun_above"] == 0  # drawn by the node itself
            assert below.state()["beginners"] == {}

    run(main())
