"""Two models behind the gateway: the client sees one answer, the small model's or the larger one's, whole or streamed."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from functools import cache
from typing import Any

import aiohttp
import numpy as np
import pytest
import torch
from campus import LARGE, SMALL, World, ask
from fakes import FakeNode
from nodes import PATIENCE_S, SHAPE, language, run

from gainnet.execution.telemetry import Drafting, NodeState
from gainnet.inference.calibration import QUANTILES
from gainnet.models import hub
from gainnet.models.hub import Language
from gainnet.serving.gateway import Gateway
from gainnet.serving.node import Node
from gainnet.serving.node_settings import NodeSettings
from gainnet.serving.partners import alike
from gainnet.serving.router import Ask, Ended, Place, Refused, Route, Router, Sure, Target
from gainnet.serving.settings import GatewaySettings

BODY = {"model": "m", "messages": [{"role": "user", "content": "How are you?"}], "max_tokens": 12, "temperature": 0.0}


@cache
def spoken(seed: int) -> Language:
    """A model of weights so large that its answers don't repeat one token; all have one tokenizer."""
    made = hub.build(SHAPE, language().tokenizer, seed)
    with torch.no_grad():
        for tensor in made.model.parameters():
            if tensor.ndim == 2:
                tensor.mul_(8.0)
    return hub.as_language(made.model, made.tokenizer, made.context)


class Pair(Router):
    """Routes every request the same way."""

    def __init__(self, places: Sequence[Place]) -> None:
        self.small, self.large = places
        self.sure: Sure | None = None
        self.verifier: str | None = None
        self.audits = False
        self.told: list[tuple[str, list[float], str, str]] = []
        self.over: list[Ended] = []

    async def route(self, ask: Ask) -> Route:
        large = self.large.target("m", "large")
        if self.verifier is None and self.sure is None:
            small = replace(self.small.target("m", "audit"), sure=lambda _: False)
            return Route((replace(large, audit=small if self.audits else None),))
        return Route((replace(self.small.target("m", "small"), verifier=self.verifier, sure=self.sure), large))

    def ended(self, number: int, how: Ended) -> None:
        self.over.append(how)

    def judged(self, small: Target, logprobs: Sequence[float], said: str, answer: str) -> None:
        self.told.append((small.node, list(logprobs), said, answer))


class Site:
    def __init__(self, router: Pair, gateway: Gateway, http: aiohttp.ClientSession, nodes: list[Any]) -> None:
        self.router, self.gateway, self._http, self.nodes = router, gateway, http, nodes

    async def ask(self, path: str = "/v1/chat/completions", url: str = "", **more: Any) -> tuple[str, Any, bytes]:
        """Text, headers and body of an answer."""
        async with self._http.post((url or self.gateway.url) + path, json=BODY | more) as response:
            body = await response.read()
            assert response.status == 200, body
            if not more.get("stream"):
                choice = json.loads(body)["choices"][0]
                return choice["text"] if "text" in choice else choice["message"]["content"], response.headers, body
        events = [json.loads(line[6:]) for line in body.split(b"\n\n") if line.startswith(b"data: {")]
        assert body.endswith(b"data: [DONE]\n\n")
        parts = [choice for event in events for choice in event["choices"]]
        return (
            "".join(c["text"] if "text" in c else c["delta"].get("content") or "" for c in parts),
            response.headers,
            body,
        )

    async def metrics(self) -> str:
        async with self._http.get(self.gateway.admin_url + "/metrics") as response:
            return await response.text()


@asynccontextmanager
async def site(fake: bool = False) -> AsyncIterator[Site]:
    """A gateway over a small and a large model, which have one tokenizer; a fake node for the small one where wanted."""
    async with AsyncExitStack() as stack:
        large = Node(NodeSettings(listen={"port": 0}, ids=("m",), slots=2, threads=1), spoken(2))
        await large.start()
        stack.push_async_callback(large.close)
        judges = {"edge-0": {"url": large.url, "model": "m"}}
        small: Any = FakeNode()
        if not fake:
            own = {"listen": {"port": 0}, "ids": ("m",), "slots": 2, "threads": 1, "tier": "end", "verifiers": judges}
            small = Node(NodeSettings(**own), spoken(1))
        await small.start()
        stack.push_async_callback(small.close)
        nodes = [
            {"name": "end-0", "tier": "end", "url": small.url, "models": ["m"]},
            {"name": "edge-0", "tier": "edge", "url": large.url, "models": ["m"]},
        ]
        made: list[Pair] = []

        def router(places: Sequence[Place]) -> Router:
            made.append(Pair(places))
            return made[0]

        gateway = Gateway(GatewaySettings(listen={"port": 0}, admin={"port": 0}, nodes=nodes), router)
        await gateway.start()
        stack.push_async_callback(gateway.close)
        http = await stack.enter_async_context(aiohttp.ClientSession())
        yield Site(made[0], gateway, http, [small, large])


ASKED: list[dict[str, Any]] = [
    {},
    {"stream": True, "stream_options": {"include_usage": True}},
    {"path": "/v1/completions", "prompt": "How are you?"},
    {"path": "/v1/completions", "prompt": "How are you?", "stream": True},
]


def test_a_cascade_shows_the_small_models_answer_or_the_larger_ones() -> None:
    async def main() -> None:
        async with site() as here:
            small, large = (node.url for node in here.nodes)
            for how in ASKED:
                own, _, _ = await here.ask(url=small, **how)
                whole, _, _ = await here.ask(url=large, **how)
                assert own != whole
                seen: list[list[float]] = []
                here.router.sure = lambda logprobs, seen=seen: bool(seen.append(list(logprobs)) or True)  # type: ignore[misc]
                text, headers, body = await here.ask(**how)
                assert (text, headers["x-gainnet-way"], headers["x-gainnet-node"]) == (own, "cascade", "end-0")
                assert len(seen[0]) == 12
                assert max(seen[0]) <= 0.0
                assert b'"logprob":' not in body
                assert (b'"usage":{' in body) == ("stream" not in how or "stream_options" in how)
                here.router.sure = lambda _: False
                text, headers, _ = await here.ask(**how)
                assert (text, headers["x-gainnet-way"], headers["x-gainnet-node"]) == (whole, "whole", "edge-0")
                kept, deferred, answered = here.router.over[-3:]
                assert [one.ok for one in (kept, deferred, answered)] == [True, False, True]
                assert (deferred.first_byte_s, deferred.at_fault) == (None, False)
            assert 'gainnet:deferred_total{node="end-0"} 4' in await here.metrics()
            assert 'gainnet:ways_total{way="cascade"} 4' in await here.metrics()

    run(main())


def test_a_small_node_that_answers_badly_is_no_loss() -> None:
    async def main() -> None:
        async with site(fake=True) as here:
            here.router.sure = lambda _: True
            whole, _, _ = await here.ask(url=here.nodes[1].url)
            for how in ("well", "not json", "not an object", "500", "busy"):  # none has log-probabilities
                here.nodes[0].how = how
                text, headers, _ = await here.ask()
                assert (text, headers["x-gainnet-node"]) == (whole, "edge-0")

    run(main())


def test_drafts_are_judged_by_the_other_node_and_the_text_is_its_own() -> None:
    async def main() -> None:
        async with site() as here:
            large = here.nodes[1].url
            here.router.verifier = "edge-0"
            for how in [one | {"max_tokens": 24} for one in ASKED] * 2:
                whole, _, _ = await here.ask(url=large, **how)
                text, headers, body = await here.ask(**how)
                assert (text, headers["x-gainnet-way"], headers["x-gainnet-node"]) == (whole, "speculation", "end-0")
                if not how.get("stream"):
                    assert json.loads(body)["usage"]["completion_tokens"] > 0
            told = here.nodes[0].state()
            known = Drafting(**told["verifiers"]["edge-0"])
            assert known.acceptance is not None
            assert known.rtt_s is not None
            assert told["digest"] == spoken(1).digest
            url = here.nodes[0].url + "/v1/chat/completions"
            async with aiohttp.ClientSession() as http:
                async with http.post(url, json=BODY, headers={"x-gainnet-verifier": "nobody"}) as response:
                    assert response.status == 400
                await here.nodes[1].close()
                async with http.post(url, json=BODY, headers={"x-gainnet-verifier": "edge-0"}) as response:
                    assert response.status == 502

    run(main())


@pytest.mark.parametrize("stream", [False, True])
def test_what_both_answer_is_told_to_the_router(stream: bool) -> None:
    async def main() -> None:
        async with site() as here:
            here.router.audits = True
            how = {"stream": True} if stream else {}
            own, _, _ = await here.ask(url=here.nodes[0].url, **how)
            text, headers, _ = await here.ask(**how)
            assert headers["x-gainnet-way"] == "whole"
            async with asyncio.timeout(PATIENCE_S):
                while not here.router.told:
                    await asyncio.sleep(0.002)
            [(node, logprobs, said, answer)] = here.router.told
            assert (node, said, answer) == ("end-0", own, text)
            assert len(logprobs) == 12
            await here.nodes[0].close()
            await here.ask(**how)
            assert len(here.router.told) == 1

    run(main())


def test_answers_are_alike_by_their_words() -> None:
    assert alike("a b c", "a b c") == 1.0
    assert alike("a b b", "b a d d") == pytest.approx(4.0 / 7.0)
    assert (alike("", ""), alike("", "a")) == (1.0, 0.0)


# The router


def world(*more: str) -> World:
    made = World([f"collaboration.{one}" for one in ("cascade=true", "speculation=true", *more)])
    for end in range(24):
        made.tell(f"end-{end}", digest="d1")
    return made


def route_of(made: World, **more: Any) -> Route:
    [route] = made.decide(ask(**({"together": True} | more)))
    assert not isinstance(route, Refused)
    return route


def teach(made: World, model: str, good: bool, digest: str = "d1") -> None:
    """Of the end's answers the calibration knows that all are good, or none, beside the cloud's."""
    small, large = (made.scenario.artifacts.index(card) for card in (SMALL, LARGE))
    for _ in range(40):
        sure = np.full(len(QUANTILES), 0.9)
        made.router.partners.calibrations.judged(f"{model} {digest} {small} {large}", sure, good, 0.0)


def test_a_cascade_is_chosen_once_the_version_is_calibrated() -> None:
    made = world("speculation=false")
    assert {target.way for target in route_of(made, quality_min=0.7).targets} == {"whole"}
    teach(made, "assistant", True)
    route = route_of(made, quality_min=0.7)
    assert [target.way for target in route.targets[:2]] == ["cascade", "whole"]
    assert [target.node for target in route.targets[:2]] == ["end-0", "cloud"]
    first = route.targets[0]
    assert first.sure is not None
    assert first.sure([-0.1] * 5)
    assert not first.sure([])
    assert ", or cloud where it is unsure (0 %): " in first.why
    assert route_of(made, quality_min=0.7, together=False).targets[0].way == "whole"
    assert route_of(made, quality_min=0.7, model=LARGE).targets[0].way == "whole"
    assert route_of(made, quality_min=0.7, end=None).targets[0].way == "whole"
    made.tell("end-0", digest="d2")
    assert route_of(made, quality_min=0.7).targets[0].way == "whole"
    teach(made, "assistant", False, "d2")
    assert route_of(made, quality_min=0.7).targets[0].way == "whole"


def test_answers_are_audited_at_times_and_learned_from() -> None:
    made = world("speculation=false")
    router = made.router
    wish = router.catalogue.wish(ask(quality_min=0.7, together=True))
    large, audits = made.scenario.artifacts.index(LARGE), []
    for _ in range(200):
        audit = router.partners.audit(wish, large, lambda _: True)
        if audit is not None:
            audits.append(audit)
            router.judged(audit, [-0.1] * 4, "yes it is", "yes it is")
    assert {audit.node for audit in audits} == {"end-0", "edge-0"}
    assert 80 <= len(audits) < 100  # both small models are known after 40, and asked less from then on
    router.judged(audits[0], [-0.1], "a", "b")  # known already: passed over
    assert route_of(made, quality_min=0.7).targets[0].way == "cascade"
    assert router.partners.audit(router.catalogue.wish(ask(model=LARGE, together=True)), large, lambda _: True) is None


def test_speculation_is_chosen_by_what_nodes_measured() -> None:
    made = world("cascade=false")
    way = {}
    for ratio in (0.2, 5.0):
        known = {"cloud": Drafting(0.9, 0.002, ratio)}
        made.tell("end-0", digest="d1", verifiers=known)
        route = route_of(made, quality_min=0.7)
        way[ratio] = route.targets[0].way
        if ratio < 1.0:
            first, second = route.targets[:2]
            assert (first.node, first.model, first.verifier) == ("end-0", f"own/{SMALL}", "cloud")
            assert (second.node, second.way) == ("cloud", "whole")
            assert " drafts for cloud: " in first.why
    assert way == {0.2: "speculation", 5.0: "whole"}
    assert NodeState("end").verifiers == {}
