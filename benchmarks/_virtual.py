"""A lab without its computer: the same routers and requests, nodes that step as its machines do, a clock that jumps.

What is left out is what a computer adds (time of its own, noise); what the routers know is what nodes of the lab say of
themselves, as often and as late. A run of half a minute takes seconds, and gives the same figures every time.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import math
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from _lab import Got, Wanted
from gainnet.execution.telemetry import NodeState
from gainnet.scenario.scenario import Scenario
from gainnet.serving import lab_plan
from gainnet.serving.fleet import Fleet
from gainnet.serving.lab_plan import SLOTS, Part
from gainnet.serving.priced import Priced
from gainnet.serving.router import FIXED, Ask, Ended, Place, Refused, Router, Target

PREFILL, QUEUE = 256, 64
"""Of a node's settings."""
WATCH_S = 0.25
GAIN, BUSY_LEAST_S = 0.3, 0.05
"""How nodes say their rates (`gainnet.serving.node_metrics`)."""
REHEARSAL = 64


@dataclass(slots=True, eq=False)
class _Text:
    """A request at a node: what is left of its prompt and answer, what is done."""

    wanted: Wanted
    sent_s: float
    over: Callable[[bool], None]
    first: Callable[[], None]
    prompt: int
    output: int
    done: int = 0
    gone: bool = False


class _Node:
    """A machine that steps: texts that decode get a token each, the rest of a step goes to prompts, in order."""

    def __init__(self, part: Part, at: Callable[[float, Callable[[], None]], None]) -> None:
        self.part, self.machine = part, part.machine
        self.slots, self.waiting, self.running = SLOTS[part.tier], deque[_Text](), list[_Text]()
        self.busy_s = 0.0
        self.prompt_rate = REHEARSAL / self.machine.step_s([(REHEARSAL, 0)])
        self.decode_rate = 1.0 / self.machine.step_s([(1, REHEARSAL)])
        self._at, self._working = at, False
        self._counted, self._seen, self._batch = [0.0, 0.0, 0.0], (0.0, 0.0, 0.0, 0.0), 1.0

    def take(self, text: _Text) -> bool:
        """Whether it takes it."""
        if len(self.waiting) >= QUEUE:
            return False
        self.waiting.append(text)
        if not self._working:
            self._step()
        return True

    def _step(self) -> None:
        self.running = [text for text in self.running if not text.gone]
        while self.waiting and len(self.running) < self.slots:
            text = self.waiting.popleft()
            if not text.gone:
                self.running.append(text)
                self._counted[0] += text.prompt
        self._working = bool(self.running)
        if not self._working:
            return
        left, parts = PREFILL, []
        for text in self.running:
            size = 1 if not text.prompt else min(text.prompt, left)
            left -= size if text.prompt else 0
            if size:
                parts.append((text, size))
        step_s = self.machine.step_s([(size, text.done) for text, size in parts])
        self.busy_s += step_s
        self._counted[2] += 1.0
        self._at(step_s, lambda: self._stepped(parts))

    def _stepped(self, parts: Sequence[tuple[_Text, int]]) -> None:
        for text, size in parts:
            text.done += size
            text.prompt = max(text.prompt - size, 0)
            if text.prompt or text.gone:
                continue
            if text.output == text.wanted.output_token:
                text.first()
            text.output -= 1
            self._counted[1] += 1
            if not text.output:
                text.gone = True
                text.over(True)
        self._step()

    def said(self) -> NodeState:
        """What it says of itself."""
        now = (*self._counted, self.busy_s)
        prompt, output, steps, busy_s = (new - old for new, old in zip(now, self._seen, strict=True))
        decoding_s = busy_s - prompt / self.prompt_rate
        if busy_s >= BUSY_LEAST_S:
            self._seen = now
            if output and decoding_s > busy_s / 2.0:
                self.decode_rate += GAIN * (output / decoding_s - self.decode_rate)
                self._batch += GAIN * (output / steps - self._batch)
        waiting = sum(not text.gone for text in self.waiting)
        own = tuple(dict.fromkeys(self.part.models.values()))
        return NodeState(
            self.part.tier,
            own,
            own,
            len(self.running),
            waiting,
            self.slots,
            self.prompt_rate,
            self.decode_rate,
            decode_batch=self._batch,
        )


@dataclass(slots=True)
class World:
    """Nodes, a router, and the clock.

    Attributes:
        now_s: what it says.
        nodes: by name.
    """

    scenario: Scenario
    now_s: float = 0.0
    nodes: dict[str, _Node] = field(default_factory=dict)
    _due: list[tuple[float, int, Callable[[], None]]] = field(default_factory=list)
    _order: Any = field(default_factory=itertools.count)

    def at(self, in_s: float, what: Callable[[], None]) -> None:
        """Have something done later."""
        heapq.heappush(self._due, (self.now_s + in_s, next(self._order), what))

    def run(self, until: Callable[[], bool]) -> None:
        """Do what is due, in order."""
        while not until():
            self.now_s, _, what = heapq.heappop(self._due)
            what()


def replayed(
    scenario: Scenario, router: str, wanted: Sequence[Wanted], warm_s: float
) -> tuple[list[Got], list[tuple[str, float]]]:
    """What comes of requests: of each, and of each node its tier and the seconds that it worked after ``warm_s``."""
    world = World(scenario)
    parts = lab_plan.parts(scenario, lab_plan.counts(scenario))
    world.nodes = {part.name: _Node(part, world.at) for part in parts}
    places = [Place(p.name, f"http://{p.name}", p.tier, dict(p.models), p.end, p.quality) for p in parts]
    chosen = _router(world, router, places)
    got = [Got() for _ in wanted]
    left = [len(wanted)]
    rtt_s = {part.name: 2.0 * part.shape.latency_s for part in parts}
    for number, one in enumerate(wanted):
        world.at(one.at_s, _Call(world, chosen, rtt_s, one, got[number], left).begin)
    before: dict[str, float] = {}
    world.at(warm_s, lambda: before.update({name: node.busy_s for name, node in world.nodes.items()}))
    world.run(lambda: not left[0])
    return got, [(node.part.tier, node.busy_s - before.get(name, 0.0)) for name, node in world.nodes.items()]


def _router(world: World, name: str, places: Sequence[Place]) -> Router:
    if name in FIXED:
        return FIXED[name](places)
    priced = Priced(world.scenario, Fleet.of(places), clock=lambda: world.now_s)

    def tick() -> None:
        priced.tick()
        world.at(world.scenario.frame_s, tick)

    def watch() -> None:
        for place, node in zip(places, world.nodes.values(), strict=True):
            priced.telemetry(place.name, node.said(), 2.0 * node.part.shape.latency_s)
        world.at(WATCH_S, watch)

    world.at(world.scenario.frame_s, tick)
    world.at(WATCH_S, watch)
    return priced


class _Call:
    """One request on its way: routed, sent, perhaps sent elsewhere, over."""

    def __init__(
        self, world: World, router: Router, rtt_s: Mapping[str, float], wanted: Wanted, got: Got, left: list[int]
    ) -> None:
        self._world, self._router, self._rtt_s, self._wanted, self._got, self._left = (
            world, router, rtt_s, wanted, got, left,
        )  # fmt: skip
        self._ask = Ask(
            "completion", "assistant", wanted.end, len(wanted.prompt), wanted.output_token, wanted.deadline_s,
            wanted.quality_min, "", None,
        )  # fmt: skip
        self._first_s: float | None = None
        self._over = False

    def begin(self) -> None:
        """Ask the router."""
        self._began_s = self._world.now_s
        try:
            targets = self._routed()
        except Refused as refused:
            self._end(refused.status, False)
            return
        self._send(list(targets))

    def _routed(self) -> tuple[Target, ...]:
        if isinstance(self._router, Priced):
            [route] = self._router.decide([self._ask])
            if isinstance(route, Refused):
                raise route
            return route.targets
        return asyncio.run(self._router.route(self._ask)).targets

    def _send(self, targets: list[Target]) -> None:
        target, *others = targets
        world, node, one_way_s = self._world, self._world.nodes[target.node], self._rtt_s[target.node] / 2.0
        number, sent_s = self._router.sent(self._ask, target), world.now_s
        self._got.tier = node.part.tier
        text = _Text(
            self._wanted, sent_s, lambda _: world.at(one_way_s, lambda: finished(True)),
            lambda: world.at(one_way_s, first), len(self._wanted.prompt), self._wanted.output_token,
        )  # fmt: skip

        def first() -> None:
            self._first_s = world.now_s

        def finished(ok: bool) -> None:
            if self._over:
                return
            how = Ended(
                ok, False, world.now_s - sent_s, None if self._first_s is None else self._first_s - sent_s,
                len(self._wanted.prompt), self._wanted.output_token - text.output,
            )  # fmt: skip
            self._router.ended(number, how)
            self._end(200 if ok or self._first_s is not None else 504, ok)

        def late() -> None:
            text.gone = True
            finished(False)

        def arrives() -> None:
            if node.take(text) or self._over:
                return
            self._router.ended(number, Ended(False, False, world.now_s - sent_s, None, 0, 0))
            if others:
                self._send(others)
            else:
                self._end(429, False)

        world.at(one_way_s, arrives)
        world.at(max(self._began_s + self._wanted.deadline_s - sent_s, 0.0), late)

    def _end(self, status: int, whole: bool) -> None:
        self._over = True
        got, now_s = self._got, self._world.now_s
        got.status, got.whole, got.latency_s = status, whole, now_s - self._began_s
        got.first_s = math.nan if self._first_s is None else self._first_s - self._began_s
        got.output_token = self._wanted.output_token if whole else 0
        self._left[0] -= 1
