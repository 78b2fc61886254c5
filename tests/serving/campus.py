"""`campus` with a real node in the place of every machine, a clock that a test moves, and nodes that answer as it says."""

from __future__ import annotations

import heapq
import itertools
from collections import Counter
from collections.abc import Sequence
from typing import Any

from gainnet.execution.outcome import Outcomes
from gainnet.execution.telemetry import NodeState
from gainnet.measurement.record import Recorder
from gainnet.scenario.load import load
from gainnet.scenario.scenario import Scenario
from gainnet.serving.fleet import Fleet
from gainnet.serving.priced import Priced
from gainnet.serving.router import Ask, Ended, Place, Refused, Route, Target

SMALL, MIDDLE, LARGE, PAINTER = "llama-3.2-1b-int4", "llama-3.2-3b", "llama-3.1-70b-int8", "stable-diffusion-1.5"
MODELS = {"end": (SMALL,), "edge": (MIDDLE, PAINTER), "cloud": (LARGE,)}
LATENCY_S = {"end": 1.1, "edge": 0.8, "cloud": 1.0}
TOGETHER = {"end": 2, "edge": 20, "cloud": 40}


def place(name: str, end: int | None = None) -> Place:
    tier = name.split("-")[0]
    return Place(name, f"http://{name}", tier, {model: f"own/{model}" for model in MODELS[tier]}, end)


def fleet(ends: Sequence[int] = range(24), roots: dict[str, str] | None = None) -> Fleet:
    fixed = [place("cloud"), *(place(f"edge-{edge}") for edge in range(3))]
    return Fleet.of([*fixed, *(place(f"end-{end}", end) for end in ends)], roots)


def ask(end: int | None = 0, **more: Any) -> Ask:
    given = {
        "kind": "chat", "model": "assistant", "prompt_token": 200, "output_token": 40, "deadline_s": 4.0,
        "quality_min": 0.3, "tenant": "", "session": None,
    }  # fmt: skip
    return Ask(end=end, **(given | more))


class World:
    """A priced router and its nodes: a node answers after its tier's latency, and the slower the more it works on.

    Attributes:
        router: the router.
        now_s: what its clock says.
        dead: nodes that fail what they are sent.
        slow: factor on the latencies of some nodes.
        chosen: how often each tier was the first choice, and how many were refused, by status.
        answered: how often each node answered.
    """

    def __init__(self, overrides: Sequence[str] = (), of: Fleet | None = None, record: bool = False) -> None:
        self.scenario: Scenario = load("campus", list(overrides))
        self.now_s = 100.0
        recorder = Recorder(self.scenario) if record else None
        self.router = Priced(self.scenario, of or fleet(), clock=lambda: self.now_s, recorder=recorder)
        self.dead: set[str] = set()
        self.slow: dict[str, float] = {}
        self.chosen: Counter[str] = Counter()
        self.answered: Counter[str] = Counter()
        self.at_work: Counter[str] = Counter()
        self._order = itertools.count()
        self._ends: list[tuple[float, int, Ask, Route, int, int, float]] = []

    def decide(self, *asks: Ask) -> list[Route | Refused]:
        """Decide requests, and send those that are routed."""
        answers = self.router.decide(asks)
        for request, answer in zip(asks, answers, strict=True):
            if isinstance(answer, Refused):
                self.chosen[str(answer.status)] += 1
            else:
                self.chosen[answer.targets[0].node.split("-")[0]] += 1
                self.send(request, answer, 0)
        return answers

    def one(self, request: Ask) -> Target:
        """Where one request goes."""
        [route] = self.decide(request)
        assert isinstance(route, Route), route
        return route.targets[0]

    def send(self, request: Ask, route: Route, rank: int) -> None:
        target = route.targets[rank]
        number, tier = self.router.sent(request, target), target.node.split("-")[0]
        self.at_work[target.node] += 1
        took_s = (
            LATENCY_S[tier] * max(1.0, self.at_work[target.node] / TOGETHER[tier]) * self.slow.get(target.node, 1.0)
        )
        took_s = 0.05 if target.node in self.dead else took_s
        heapq.heappush(self._ends, (self.now_s + took_s, next(self._order), request, route, rank, number, took_s))

    def frame(self, *asks: Ask) -> Outcomes:
        """Decide requests at the start of a frame, let it pass, and tick."""
        for request in asks:
            self.decide(request)
        self.now_s += self.scenario.frame_s
        while self._ends and self._ends[0][0] <= self.now_s:
            _, _, request, route, rank, number, took_s = heapq.heappop(self._ends)
            node = route.targets[rank].node
            ok = node not in self.dead
            self.at_work[node] -= 1
            self.answered[node] += ok
            self.router.ended(number, Ended(ok, not ok, took_s, took_s / 3 if ok else None, request.prompt_token, 40))
            if not ok and rank + 1 < len(route.targets):
                self.send(request, route, rank + 1)
        outcomes = self.router.tick()
        assert outcomes is not None
        return outcomes

    def quiet(self, frames: int) -> list[Outcomes]:
        """Frames in which nothing is asked."""
        return [self.frame() for _ in range(frames)]

    def tell(self, node: str, **state: Any) -> None:
        """A node says how it is."""
        tier = node.split("-")[0]
        own = tuple(f"own/{model}" for model in MODELS[tier])
        self.router.telemetry(node, NodeState(**({"tier": tier, "models": own, "resident": own} | state)))
