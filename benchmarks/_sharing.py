"""Images that ends ask for at once: drawn by each end, drawn above over a link, or begun above once and ended by the ends.

Every end is a node of this project with the image model that comes with it, and so is the one above; steps take as long as
those of a larger model would on their machines. In the arm ``sharing`` ends ask the node above for the first steps, which
it takes once for all that come with a like prompt; half-drawn images come down the link, and each end goes on with noise
of its own. ``alike`` ends ask for the same prompt at once, or one of them is ``alone``. What is chosen is what the gateway's
own router says (`_chooser`), by what the ends' nodes measured; in turns that are left to it, nodes do as it says.
"""

from __future__ import annotations

import asyncio
import base64
import io
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import numpy as np
from PIL import Image

from _chooser import CLOUD, drawn
from _reader import WORDS, flat
from gainnet.inference.images.engine import ImageCounters
from gainnet.inference.images.pace import Handing
from gainnet.models.hub import Language
from gainnet.orchestrator.ways import Beginning
from gainnet.rng import stream
from gainnet.scenario.scenario import Scenario
from gainnet.serving.node import Node
from gainnet.serving.node_half import HEADER, Above
from gainnet.serving.node_settings import NodeSettings

ARMS = ("drawn_end", "drawn_cloud", "sharing")
ENDS, STEPS, QUICK = 4, 10, 3
CASES = {"alike": ENDS, "alone": 1}
"""How many ends ask at once."""
LEAST_READ = 0.85
"""Share of images that must be read right for an arm to be as good as the others."""
MODEL = "pictures"
LEFT = "pays"
"""For whom the router chooses where it is left to it."""
WARM, FREE = 1, 3
"""Turns before those that count, and turns that are left to the router."""


def meaning(rtts: Sequence[int], leanings: Sequence[str]) -> dict[str, str]:
    """What the figures mean, at these round trips in ms, for those who lean so."""
    of_arm = {
        "p50_s": "median until an image", "mean_s": "mean until an image", "end_s": "time of ends' machines for an image, s",
        "cloud_s": "time of the machine above for an image, s",
        "cost": "what an image costs in machine time and energy, dollars",
        "good": "images in which a classifier reads the digit that was asked for",
    }  # fmt: skip
    numbers = f"({', '.join(ARMS)} are 0 to 2)"
    found = {}
    for rtt in rtts:
        at = f"round trip of {rtt} ms"
        for arm in ARMS:
            found |= {
                f"{rtt}.{arm}.{name}": f"{said}, {arm}, {ENDS} ends at once, {at}" for name, said in of_arm.items()
            }
        for case, number in CASES.items():
            asked = f"{number} end{'s' if number > 1 else ''} at once, {at}"
            found[f"{rtt}.{case}.left_shared"] = (
                f"requests left to the router, for who {LEFT}, that were begun above, {asked}"
            )
            for lean in leanings:
                found[f"{rtt}.{case}.chosen.{lean}"] = f"arm that is chosen {numbers} for who {lean}, {asked}"
                found[f"{rtt}.{case}.best.{lean}"] = f"arm that proved best for who {lean}, {asked}"
    return found | {
        "sharing.right": "share of the cases of images in which the chosen arm was the best, or within 5 % of it",
        "sharing.behind": "time by which steps of images ended later than on the machines, over the time of all of them",
    }


@dataclass(frozen=True, slots=True)
class Rates:
    """What a step takes on each machine, s, what a second of each costs, dollars, and how many steps an image has."""

    end_step_s: float
    cloud_step_s: float
    end_per_s: float
    cloud_per_s: float
    steps: int = STEPS


@dataclass(slots=True)
class Arm:
    """What was measured of one way to draw: of every image, and of all of them."""

    latency_s: list[float] = field(default_factory=list)
    read: list[bool] = field(default_factory=list)
    begun: list[bool] = field(default_factory=list)
    end_s: float = 0.0
    cloud_s: float = 0.0
    cost: float = 0.0

    def loss(self, waiting_per_s: float) -> float:
        """What an image costs, and waiting for it."""
        return self.cost / len(self.read) + waiting_per_s * float(np.mean(self.latency_s))

    def figures(self) -> dict[str, float]:
        """Its figures, an image."""
        images = len(self.latency_s)
        return {
            "p50_s": float(np.median(self.latency_s)), "mean_s": float(np.mean(self.latency_s)),
            "end_s": self.end_s / images, "cloud_s": self.cloud_s / images, "cost": self.cost / images,
            "good": float(np.mean(self.read)),
        }  # fmt: skip


Arms = dict[str, Arm]
Known = dict[str, Beginning]
"""What an end's node measured, by the name of the node that may begin its images."""
Making = Callable[[float, float], Scenario]


def above_tree(rates: Rates) -> dict[str, Any]:
    """Settings of the images of the node above."""
    return {"ids": [MODEL], "width": 1, "steps": rates.steps, "share": {}, "step_s": rates.cloud_step_s}


@asynccontextmanager
async def ends(small: Language, above: str, rates: Rates) -> AsyncIterator[list[Node]]:
    """Ends whose images may be begun by the node at an address."""
    images: Any = {
        "ids": [MODEL], "width": 1, "steps": rates.steps, "share": {}, "step_s": rates.end_step_s,
        "above": {"url": above, "model": MODEL, "name": CLOUD},
    }  # fmt: skip
    made = [Node(NodeSettings(tier="end", listen={"port": 0}, threads=1, images=images), small) for _ in range(ENDS)]
    started = []
    try:
        for node in made:
            await node.start()
            started.append(node)
        yield made
    finally:
        for node in started:
            await node.close()


class Sharing:
    """Ends, the node above them and who reads what they draw."""

    def __init__(
        self, nodes: Sequence[Node], above: Node, url: str, rates: Rates, reader: Any, made: Making, left_per_s: float
    ) -> None:
        """``made`` makes the router's scenario of a round trip and a price of waiting, ``left_per_s`` is that of free turns."""
        self._ends, self._above, self._url, self._rates, self._reader = nodes, above, url, rates, reader
        self._rng, self._seed = stream(0, "collaboration.sharing"), 0
        self._made, self._left_per_s = made, left_per_s
        self._seen: list[tuple[int, str, Arms, Known]] = []

    async def at(self, http: aiohttp.ClientSession, rtt: int, turns: int) -> dict[str, float]:
        """What was measured at a round trip."""
        found: dict[str, float] = {}
        for case in CASES:
            arms, free, known = await self._measured(http, rtt, case, turns)
            self._seen.append((rtt, case, arms, known))
            for name, arm in arms.items() if case == "alike" else ():
                found |= {f"{rtt}.{name}.{of}": value for of, value in arm.figures().items()}
            found[f"{rtt}.{case}.left_shared"] = float(np.mean(free.begun))
        return found

    def compared(self, leanings: Mapping[str, float], near: float) -> tuple[dict[str, float], list[bool]]:
        """The chosen arms and the best ones of all cases, and whether the choice was right in each.

        How well an arm's images can be read is judged by all that it drew: no round trip changes what is drawn.
        """
        good = {name: float(np.mean([one for *_, arms, _ in self._seen for one in arms[name].read])) for name in ARMS}
        found: dict[str, float] = {}
        right = []
        for rtt, case, arms, known in self._seen:
            for lean, price in leanings.items():
                proved = {name: arm.loss(price) if good[name] >= LEAST_READ else np.inf for name, arm in arms.items()}
                chosen, best = self._chosen(rtt, known, price), min(proved, key=proved.__getitem__)
                found[f"{rtt}.{case}.chosen.{lean}"] = float(ARMS.index(chosen))
                found[f"{rtt}.{case}.best.{lean}"] = float(ARMS.index(best))
                right.append(proved[chosen] <= proved[best] * (1.0 + near))
        return found, right

    def behind(self) -> float:
        """Time by which steps were late, over that of all steps."""
        counters = [_counters(node) for node in (*self._ends, self._above)]
        return sum(one.behind_s for one in counters) / sum(one.busy_s for one in counters)

    async def _measured(self, http: aiohttp.ClientSession, rtt: int, case: str, turns: int) -> tuple[Arms, Arm, Known]:
        """The arms, what became of requests that were left to the router, and what the first end knows."""
        asking = self._ends[: CASES[case]]
        arms, free = {name: Arm() for name in ARMS}, Arm()
        for turn in range(turns + WARM):
            if turn in (0, WARM):  # what others measured, and what connecting took, is no part of it
                for node in asking:
                    _above(node).pace = Handing()
            label = int(self._rng.integers(10))
            for name in ARMS:
                await self._turn(http, asking, arms[name] if turn >= WARM else Arm(), name, label)
        known = _above(asking[0]).state()
        for _ in range(min(turns, FREE)):
            name = self._chosen(rtt, known, self._left_per_s)
            await self._turn(http, asking, free, name, int(self._rng.integers(10)))
        return arms, free, known

    def _chosen(self, rtt: int, known: Known, waiting_per_s: float) -> str:
        """The arm that the router chooses, by what an end measured."""
        target = drawn(self._made(rtt / 1e3, waiting_per_s), known, self._rates.steps)
        return "sharing" if target.begun_by else "drawn_cloud" if target.node == CLOUD else "drawn_end"

    async def _turn(self, http: aiohttp.ClientSession, asking: Sequence[Node], arm: Arm, name: str, label: int) -> None:
        """All of them ask for one digit."""
        before = self._busy_s()
        urls = [self._url if name == "drawn_cloud" else node.url for node in asking]
        await asyncio.gather(*(self._ask(http, url, arm, label, name == "sharing") for url in urls))
        end_s, cloud_s = (after - was for after, was in zip(self._busy_s(), before, strict=True))
        arm.end_s += end_s
        arm.cloud_s += cloud_s
        arm.cost += end_s * self._rates.end_per_s + cloud_s * self._rates.cloud_per_s

    async def _ask(self, http: aiohttp.ClientSession, url: str, arm: Arm, label: int, share: bool) -> None:
        self._seed += 1
        body = {"model": MODEL, "prompt": WORDS[label], "steps": self._rates.steps, "seed": self._seed}
        body |= {} if share else {"share": False}
        headers = {HEADER: CLOUD} if share else {}
        began_s = time.monotonic()
        async with http.post(f"{url}/v1/images/generations", json=body, headers=headers) as response:
            tree = await response.json()
        arm.latency_s.append(time.monotonic() - began_s)
        pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(tree["data"][0]["b64_json"]))))
        arm.read.append(bool(self._reader.predict(flat(pixels[None] / 127.5 - 1.0))[0] == label))
        arm.begun.append(tree["steps_begun_above"] > 0)

    def _busy_s(self) -> tuple[float, float]:
        """Of all ends, and of the node above."""
        return sum(_counters(node).busy_s for node in self._ends), _counters(self._above).busy_s


def _above(node: Node) -> Above:
    assert node.images is not None
    assert node.images.above is not None
    return node.images.above


def _counters(node: Node) -> ImageCounters:
    assert node.images is not None
    return node.images.engine.stats().counters
