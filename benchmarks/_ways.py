"""The arms of `collaboration` at one round trip on one mix of requests, and the routers that choose among them."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass, field

import aiohttp
import numpy as np
from jaxtyping import Float

from _chooser import CLOUD, Chooser, Judged, scenario
from _questions import ANSWER, Question
from _rig import Rig
from gainnet.inference.engine import Engine
from gainnet.inference.pace import Choice, Link, Pace, choose
from gainnet.inference.remote import HttpVerifier
from gainnet.inference.request import Piece, Sampling
from gainnet.inference.speculate import EngineDrafter, EngineVerifier, Larger, Speculation
from gainnet.measurement.interval import interval
from gainnet.models import tokens
from gainnet.models.hub import Language
from gainnet.serving.node import Node
from gainnet.serving.node_draft import measured
from gainnet.serving.router import Sure

ARMS = ("end", "cloud", "cascade", "speculation")
LEANINGS = {"waits": 1e-3, "pays": 2e-5}
"""Price of a second, in dollars, for who waits and for who pays."""
SWITCHES = {"all": True, "no_drafts": False}
"""Whether the router may speculate."""
QUALITY, ASKED = 0.9, 0.95
"""Least part of answers that must be the larger model's, and what cascades aim at."""
NEAR = 0.05
"""Arms whose losses differ by less than this part are as good as each other."""
WARM = 2
"""Answers before those that count: they connect, and the pace of drafts is measured."""
END_MACHINE = ("vehicle-computer", "llama-3.2-1b-int4")
CLOUD_MACHINE = ("cloud-accelerator", "llama-3.1-70b-int8")


class Forced(Pace):
    """Drafts although it may not pay, but where it is asked what it measured.

    Attributes:
        forced: whether it does.
    """

    forced = True

    def choose(self, left: int) -> Choice:
        """The best length of drafts, whatever else there is."""
        found = super().choose(left)
        if found.length or left < 2 or not self.forced:
            return found
        return choose(self.acceptance, Link(self.rtt_s), self.draft, self.verify, float("inf"), left, self.longest)


@dataclass(slots=True)
class Arm:
    """What was measured of one way to answer; lists have one entry an answer."""

    latency_s: list[float] = field(default_factory=list)
    end_s: list[float] = field(default_factory=list)
    cloud_s: list[float] = field(default_factory=list)
    text: list[str] = field(default_factory=list)

    def cost(self, end: Rig, cloud: Rig) -> Float[np.ndarray, " answer"]:
        """Of each answer, dollars."""
        return np.asarray(np.array(self.end_s) * end.price + np.array(self.cloud_s) * cloud.price)

    def equal(self, other: Sequence[str]) -> float:
        """Of all answers, those that are the same text."""
        return float(np.mean([own == one for own, one in zip(self.text, other, strict=True)]))


Answering = Callable[[Sequence[int]], AsyncGenerator[Piece, None]]


class Bench:
    """The two models and what is between them."""

    def __init__(self, small: Engine, node: Node, http: aiohttp.ClientSession, url: str) -> None:
        self.small, self.node, self._http, self._url = small, node, http, url
        self.end, self.cloud = Rig.of(*END_MACHINE), Rig.of(*CLOUD_MACHINE)

    def prompt(self, question: Question) -> list[int]:
        return prompt_of(self.small.language, question)

    def tokens(self, text: str) -> int:
        """Of an answer, the one that ends it included."""
        return len(tokens.ids(self.small.language.tokenizer, text)) + 1

    def through(self, tenant: str) -> HttpVerifier:
        """The larger model over the link; a tenant for each arm, so that none finds what another computed."""
        return HttpVerifier(self._http, self._url, "large", self.small.language.context, tenant=tenant)

    async def take(self, arm: Arm, answer: Answering, prompt: Sequence[int]) -> None:
        end_s, cloud_s, began_s = self._busy_s(self.small), self._busy_s(self.node.engine), time.monotonic()
        arm.text.append("".join([piece.text async for piece in answer(prompt)]))
        arm.latency_s.append(time.monotonic() - began_s)
        arm.end_s.append(self._busy_s(self.small) - end_s)
        arm.cloud_s.append(self._busy_s(self.node.engine) - cloud_s)

    async def cascade(self, prompt: Sequence[int], sure: Sure, larger: Larger) -> AsyncGenerator[Piece, None]:
        """As a gateway does it: the small model's whole answer where the router is sure of it, else the larger one's."""
        answer = self.small.submit(prompt, how_of(0), tenant="cascade")
        said = [piece async for piece in answer]
        if sure([piece.logprob for piece in said if piece.logprob is not None]):
            for piece in said:
                yield piece
            return
        async for piece in larger.whole(prompt, how_of()):
            yield piece

    @staticmethod
    def _busy_s(engine: Engine) -> float:
        return engine.stats().counters.busy_s


class Case:
    """All arms at one round trip on one mix of requests, and routers that choose among them.

    Attributes:
        plan: of the cascade.
    """

    def __init__(self, bench: Bench, rtt_s: float, mix: str, told: Sequence[Judged]) -> None:
        self._bench, self._mix = bench, mix
        self._arms = {name: Arm() for name in ARMS}
        self._asked: list[Question] = []
        self._routers: dict[tuple[str, str], Chooser] = {}
        self._picked: dict[tuple[str, str], list[str]] = {}
        self._pace, self._rounds = Forced(), 0.0
        digest, self._small = bench.small.language.digest, float(np.mean([one.good for one in told]))
        for switch, drafts in SWITCHES.items():
            for lean, price in LEANINGS.items():
                together = {"cascade": True, "speculation": drafts, "good": ASKED, "alike": 1.0}
                made = scenario(
                    (mix,), (END_MACHINE[0], CLOUD_MACHINE[0]), (END_MACHINE[1], CLOUD_MACHINE[1]), small=self._small,
                    quality_min=QUALITY, rtt_s=rtt_s, waiting_per_s=price, collaboration=together,
                )  # fmt: skip
                chooser = self._routers[switch, lean] = Chooser(made, digest)
                chooser.judged(mix, told)
                self._picked[switch, lean] = []
        self._sure = chooser.sure(mix)
        self.plan = chooser.plan(mix)

    async def run(self, asked: Sequence[Question]) -> None:
        """Ask every arm everything, and every router where it would go."""
        bench, how, counted = self._bench, how_of(), 0
        drafter = EngineDrafter(bench.small, tenant="draft")
        speculation = Speculation(drafter, bench.through("verify"), bench.small.language.tokenizer, self._pace, 0)
        alone, above, larger = (
            EngineVerifier(bench.small, tenant="alone"), bench.through("whole"), bench.through("cascade"),
        )  # fmt: skip
        ways: dict[str, Answering] = {
            "end": lambda prompt: alone.whole(prompt, how),
            "cloud": lambda prompt: above.whole(prompt, how),
            "cascade": lambda prompt: bench.cascade(prompt, self._sure, larger),
            "speculation": lambda prompt: speculation.answer(prompt, how),
        }
        for turn, question in enumerate(asked):
            if turn == WARM:
                self._arms, counted = {name: Arm() for name in ARMS}, turn
            prompt = bench.prompt(question)
            for name in ARMS:
                await bench.take(self._arms[name], ways[name], prompt)
            self._choose(len(prompt), count=turn >= WARM)
        self._asked = list(asked[counted:])
        await speculation.close()
        self._rounds = speculation.counters.tokens / max(speculation.counters.rounds, 1)

    def _choose(self, prompt: int, *, count: bool) -> None:
        """Ask the routers about the last request, and tell each how what it chose has ended."""
        self._pace.forced = False
        drafting = measured(self._pace)
        self._pace.forced = True
        for key, chooser in self._routers.items():
            chooser.heard(drafting)
            ask, target = chooser.choose(self._mix, prompt, ANSWER)
            name = target.way if target.way != "whole" else "cloud" if target.node == CLOUD else "end"
            arm = self._arms[name]
            chooser.answered(ask, target, arm.latency_s[-1], self._bench.tokens(arm.text[-1]))
            if count:
                self._picked[key].append(name)

    def figures(self) -> tuple[dict[str, float], list[float]]:
        """Of the case, and for each router whether what it mostly chose was right."""
        bench, arms = self._bench, self._arms
        found = {f"{name}.{of}": value for name, arm in arms.items() for of, value in self._of_arm(arm)}
        found |= {
            "acceptance": self._pace.acceptance, "length": float(self._pace.choose(ANSWER).length),
            "tokens_per_round": self._rounds, "deferred": float(np.mean(np.array(arms["cascade"].cloud_s) > 0.0)),
        }  # fmt: skip
        equal = {name: arm.equal(arms["cloud"].text) for name, arm in arms.items()} | {"end": self._small}
        right = []
        for (switch, lean), picked in self._picked.items():
            price, drafts = LEANINGS[lean], SWITCHES[switch]
            lost = {
                name: arm.cost(bench.end, bench.cloud) + price * np.array(arm.latency_s)
                for name, arm in arms.items()
            }  # fmt: skip
            able = [name for name in ARMS if equal[name] >= QUALITY - NEAR and (drafts or name != "speculation")]
            best = min(able, key=lambda name: float(lost[name].mean()))
            [(chosen, times)] = Counter(picked).most_common(1)
            taken = float(np.mean([lost[name][turn] for turn, name in enumerate(picked)]))
            name = f"{switch}.{lean}"
            found |= {
                f"{name}.chosen": float(ARMS.index(chosen)), f"{name}.steady": times / len(picked),
                f"{name}.best": float(ARMS.index(best)), f"{name}.loss": taken / float(lost["cloud"].mean()),
            }  # fmt: skip
            near = float(lost[chosen].mean()) <= (1.0 + NEAR) * float(lost[best].mean())
            right.append(float(near and chosen in able))
        return found, right

    def _of_arm(self, arm: Arm) -> list[tuple[str, float]]:
        bench, whole = self._bench, self._arms["cloud"]
        cost = arm.cost(bench.end, bench.cloud)
        more = interval((np.array(arm.latency_s) - whole.latency_s).tolist())
        dearer = interval((cost - whole.cost(bench.end, bench.cloud)).tolist())
        return [
            ("p50_s", float(np.median(arm.latency_s))),
            ("mean_s", float(np.mean(arm.latency_s))),
            ("end_s", float(np.mean(arm.end_s))),
            ("cloud_s", float(np.mean(arm.cloud_s))),
            ("cost", float(cost.mean())),
            ("equal", arm.equal(whole.text)),
            ("right", arm.equal([question.answer for question in self._asked])),
            ("more_s", more.mean or 0.0),
            ("more_s_half", more.half_width or 0.0),
            ("dearer", dearer.mean or 0.0),
            ("dearer_half", dearer.half_width or 0.0),
        ]


def prompt_of(language: Language, question: Question) -> list[int]:
    return [*tokens.start(language.tokenizer), *tokens.ids(language.tokenizer, question.ask)]


def how_of(logprobs: int | None = None) -> Sampling:
    return Sampling(max_tokens=ANSWER, temperature=0.0, stop=("\n",), logprobs=logprobs)
