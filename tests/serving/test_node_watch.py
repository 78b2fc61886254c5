"""What a priced router hears of its nodes, and tells links."""

from __future__ import annotations

import json
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from aiohttp import web
from fakes import run, until

from gainnet.errors import InputError
from gainnet.execution.telemetry import NodeState
from gainnet.network import topology
from gainnet.network.state import LinkView, NetworkState
from gainnet.run import Run
from gainnet.scenario.load import load
from gainnet.scenario.scenario import Scenario
from gainnet.serving.node_watch import Watched
from gainnet.serving.priced import Priced
from gainnet.serving.router import Ask, Ended, Place, Route, Target

CARD = "llama-3.2-1b-int4"
ASK = Ask("chat", CARD, 2, 10, 10, None, None, "", None)
HOW = Ended(True, False, 0.1, 0.1, 10, 10)
SAID = {"tier": "edge", "models": ["a"], "resident": ["a"], "running": 1, "slots": 4, "kv_use": 0.5, "more": 1}


def state() -> NetworkState:
    run = Run(load("lab"))
    real = run.network.advance(run.execution.load)
    count = real.candidate.shape[1]
    ones = np.ones((4, count))
    served = np.repeat(np.array([[0], [0], [1], [-1]]), count, axis=1)
    return replace(real, candidate=served, truth=LinkView(ones, 2.0 * ones, ones))


class FakePriced(Priced):
    """Stands for prices, which take long to compile."""

    def __init__(self, scenario: Scenario) -> None:
        network = SimpleNamespace(topology=topology.build(scenario.network))
        self.run = SimpleNamespace(state=state(), network=network)
        self.heard: dict[str, tuple[NodeState | None, float | None]] = {}
        self.ended_with: list[int] = []
        self.closed = False

    async def start(self) -> None: ...

    async def close(self) -> None:
        self.closed = True

    async def route(self, _: Ask) -> Route:
        return Route(())

    def sent(self, _: Ask, target: Target) -> int:
        return 7

    def ended(self, number: int, how: Ended) -> None:
        self.ended_with.append(number)

    def telemetry(self, node: str, said: NodeState | None, rtt_s: float | None = None) -> None:
        self.heard[node] = said, rtt_s


def test_without_prices_the_nearest_answers(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        router = Watched(load("lab"), [Place("end", "http://127.0.0.1:1", "end", {CARD: "a"}, 2)])

        def fail() -> Any:
            raise RuntimeError("no compiler")

        router._make = fail
        await router.start()
        await until(lambda: "no prices" in caplog.text)
        assert (await router.route(ASK)).targets[0].node == "end"
        await router.close()

    run(main())
    with pytest.raises(InputError, match="none serves"):
        Watched(load("lab"), [Place("end", "http://127.0.0.1:1", "end", {"other": "a"}, 2)])


def test_nodes_are_asked_and_links_told() -> None:
    heard: dict[str, tuple[NodeState | None, float | None]] = {}
    told: list[Any] = []

    async def answer(request: web.BaseRequest) -> web.Response:
        name = request.path.split("/")[1]
        if name == "links":
            told.append(json.loads(await request.read()))
            return web.Response()
        if name == "ours" and request.headers.get("authorization") != "Bearer t":
            return web.Response(status=401)
        bodies = {"ours": json.dumps(SAID), "odd": "[]", "broken": ""}
        status = {"other": 404, "broken": 500}.get(name, 200)
        return web.Response(status=status, text=bodies.get(name, ""))

    async def main() -> None:
        runner = web.ServerRunner(web.Server(answer))
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        names = ("ours", "other", "odd", "broken")
        places = [Place(name, f"{url}/{name}", "edge", {"p": "own"}) for name in names]
        places += [
            Place("dead", "http://127.0.0.1:1", "edge", {"a": "a"}),
            Place("end", f"{url}/ours", "end", {CARD: "a"}, 2),
        ]
        scenario = load(
            "lab", ["network.cells_per_edge=1", f"network.topology.cells={[{'x_m': i, 'y_m': 0} for i in range(5)]}"]
        )
        headers = {"ours": {"authorization": "Bearer t"}}
        router = Watched(scenario, places, headers=headers, links=f"{url}/links")
        made = FakePriced(scenario)
        router._make = lambda: made  # type: ignore[assignment, return-value]
        assert (await router.route(ASK)).targets[0].node == "end"
        assert router.sent(ASK, Target("end", "", "", "")) == 0
        router.ended(0, HOW)
        await router.start()
        await until(lambda: len(made.heard) == 6 and bool(told))
        assert (await router.route(ASK)).targets == ()
        router.ended(router.sent(ASK, Target("end", "", "", "")), HOW)
        assert made.ended_with == [7]
        made.heard.clear()
        await until(lambda: len(made.heard) == 6)
        assert len(told) == 1  # nothing has changed
        heard.update(made.heard)
        await router.close()
        assert made.closed
        await runner.cleanup()

    run(main())
    said, rtt_s = heard["ours"]
    assert said == NodeState("edge", ("a",), ("a",), running=1, slots=4, kv_use=0.5)
    assert rtt_s is not None
    assert heard["other"][0] == NodeState("edge", ("own",), ("own",))
    assert heard["odd"][0] is heard["broken"][0] is heard["dead"][0] is heard["end"][0] is None
    assert told[0]["end"] == {"up": True, "rate_bit_per_s": 40e6, "back_bit_per_s": 20e6}
    assert told[0]["ours"] == {"up": True, "rate_bit_per_s": 1e9}
