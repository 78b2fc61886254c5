"""What a simulated network lets through becomes the shapes of links: rates, outages, and what is left of the backhaul."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import aiohttp
import numpy as np
from aiohttp import web
from fakes import run, until

from gainnet.run import Run
from gainnet.scenario.load import load
from gainnet.scenario.scenario import Scenario
from gainnet.serving.router import Ask, Nearest, Place
from gainnet.serving.shaping import CONTROL_BIT_PER_S, Moved, Shaping, radio

PLACES = (
    Place("cloud", "", "cloud", {"m": "m"}),
    Place("edge-0", "", "edge", {"m": "m"}),
    Place("edge-1", "", "edge", {"m": "m"}),
    *(Place(f"end-{end}", "", "end", {"m": "m"}, end) for end in range(4)),
)


def faulty(*faults: str) -> Scenario:
    return load("lab", [f"execution.faults=[{', '.join(faults)}]"])


def test_a_cells_band_is_shared_by_those_it_serves() -> None:
    up = np.array([0.5, 1.0, 0.0, 2.0])
    made = radio(np.array([0, 0, 1, -1]), 2.0 * up, up, {0: "a", 1: "b", 2: "c", 3: "d"}, 20e6)
    assert made["a"] == {"up": True, "rate_bit_per_s": 10e6, "back_bit_per_s": 5e6}
    assert made["b"] == {"up": True, "rate_bit_per_s": 20e6, "back_bit_per_s": 10e6}
    assert made["c"] == {"up": True, "rate_bit_per_s": CONTROL_BIT_PER_S, "back_bit_per_s": CONTROL_BIT_PER_S}
    assert made["d"] == {"up": False}


def test_what_fails_in_the_network_loses_its_link() -> None:
    scenario = faulty(
        "{kind: edge_down, edge: 1, begin_s: 0.1, end_s: 0.2}",
        "{kind: end_down, ends: [2], begin_s: 0.1, end_s: 0.2}",
        "{kind: link_degradation, factor: 0.25, begin_s: 0.2, end_s: 0.3}",
        "{kind: link_degradation, factor: 0.0, begin_s: 0.3, end_s: 0.4}",
        "{kind: cell_outage, cell: 0, begin_s: 0.4, end_s: 0.6}",
        "{kind: cell_outage, cell: 1, begin_s: 0.4, end_s: 0.6}",
    )
    made = Run(scenario)
    shaping, frames = Shaping(scenario, made.network.topology, PLACES, ""), []
    for frame in range(7):
        health = shaping.health(frame * scenario.frame_s)
        frames.append(shaping.shapes(made.network.advance(replace(made.execution.load, health=health))))
    whole, down, thin, none, dark, light = frames[0], frames[1], frames[2], frames[3], frames[5], frames[6]
    assert all(shape["up"] for shape in whole.values())
    assert (whole["cloud"]["rate_bit_per_s"], whole["edge-0"]["rate_bit_per_s"]) == (200e6, 1e9)
    assert [name for name, shape in down.items() if not shape["up"]] == ["end-2", "edge-1"]
    assert (thin["cloud"]["rate_bit_per_s"], thin["edge-0"]["rate_bit_per_s"]) == (50e6, 0.25e9)
    assert [name for name, shape in none.items() if not shape["up"]] == ["cloud", "edge-0", "edge-1"]
    assert {name for name, shape in dark.items() if not shape["up"]} == {f"end-{end}" for end in range(4)}
    assert any(light[f"end-{end}"]["up"] for end in range(4))


def listening(told: list[Any]) -> Callable[[web.BaseRequest], Any]:
    async def answer(request: web.BaseRequest) -> web.Response:
        told.append(json.loads(await request.read()))
        return web.Response(status=400 if len(told) == 1 else 200)

    return answer


def test_a_fixed_routers_links_move_too_and_only_what_changed_is_told() -> None:
    told: list[Any] = []

    async def main() -> None:
        runner = web.ServerRunner(web.Server(listening(told)))
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        links = f"http://127.0.0.1:{runner.addresses[0][1]}"
        router = Moved(Nearest(PLACES), faulty(), PLACES, links)
        ask = Ask("chat", "m", 1, 10, 10, None, None, "", None)
        assert (await router.route(ask)).targets[0].node == "end-1"
        await router.start()
        await until(lambda: len(told) >= 4)
        assert router.view() == Nearest(PLACES).view()
        await router.close()
        async with aiohttp.ClientSession() as client:  # nobody listens there: it is only logged
            made = Run(faulty())
            shaping = Shaping(faulty(), made.network.topology, PLACES, "http://127.0.0.1:1")
            await shaping.tell(client, made.network.advance(made.execution.load))
        await runner.cleanup()

    run(main())
    assert set(told[0]) == set(told[1]) == {place.name for place in PLACES}  # the first was refused
    assert all(set(change) <= {f"end-{end}" for end in range(4)} and "up" not in change for change in told[3:])
