"""Ways to answer over a link at three round trips: what each takes, costs and is worth, and which one is chosen.

A small and a larger model learn to write notes from dialogues of the generator (`gainnet.knowledge.synthetic`), the
larger one better; both are kept in the user's cache. The small one answers as a vehicle's computer would with a model of
a billion parameters, the larger one as a cloud's accelerator with seventy (`gainnet.inference.tempo`), behind a link whose
round trip is set (`gainnet.serving.links`). The arms take turns at the same prompts, greedily:

- ``end``: the small model's whole answer, ``cloud``: the larger one's, over the link;
- ``cascade``: the small one's where its calibration is sure, else the larger one's;
- ``speculation``: drafts of the small one that the larger one judges.

Images are drawn as a larger image model's machines would: by the ends that ask (``drawn_end``), by the cloud
(``drawn_cloud``), or begun by the cloud once for all that are alike (``sharing``, see `_sharing`).

All collaborations are made to happen; what would be chosen is then what the formulas of `gainnet.models.collaboration`
say is worth most, of what was measured before (the models alone, acceptance, deferral, round trip), against what proved
to be worth most. Worth is the objective of `gainnet.scenario.orchestrator`: an answer as good as ``QUALITY`` asks for,
less its cost, less the price of a second that it takes; at two such prices, one for who waits and one for who pays.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass, field

import aiohttp
import numpy as np
import torch
import uvloop

import _sharing
from _reader import reader
from _rig import Rig
from gainnet.inference.calibration import Calibrations
from gainnet.inference.cascade import Cascade, Costs
from gainnet.inference.engine import Engine
from gainnet.inference.pace import Choice, Link, Pace, choose
from gainnet.inference.remote import HttpVerifier
from gainnet.inference.request import Piece, Sampling
from gainnet.inference.speculate import EngineDrafter, EngineVerifier, Speculation
from gainnet.knowledge import foundation, synthetic, text
from gainnet.knowledge.example import Example
from gainnet.knowledge.score import rouge
from gainnet.models import tokens
from gainnet.models.collaboration import cascaded, expected_tokens
from gainnet.models.hub import Language
from gainnet.rng import stream
from gainnet.scenario.knowledge import SmallModel, Synthetic
from gainnet.serving import links
from gainnet.serving.node import Node
from gainnet.serving.node_settings import MachineSetting, NodeSettings
from gainnet.serving.partners import alike
from gainnet.training.digits import digits

RTT_MS = (5, 30, 100)
ARMS = ("end", "cloud", "cascade", "speculation")
LEANINGS = {"waits": 1e-3, "pays": 2e-5}
"""Price of a second, in dollars, for who waits and for who pays."""
MEANING: dict[str, str] = {
    **{
        f"{rtt}.{arm}.{name}": f"{meaning}, {arm}, round trip of {rtt} ms"
        for rtt in RTT_MS
        for arm in ARMS
        for name, meaning in {
            "p50_s": "median until an answer's end, s",
            "mean_s": "mean until an answer's end, s",
            "end_s": "time of the small model's machine for an answer, s",
            "cloud_s": "time of the larger model's machine for an answer, s",
            "cost": "what an answer costs in machine time and energy, dollars",
            "equal": "answers that are the larger model's to the letter, of all",
            "good": "answers as good as the larger model's (ROUGE-1 of at least 0.8 against it), of all",
            "rouge1": "ROUGE-1 against the note that was written with the dialogue",
        }.items()
    },
    **{
        f"{rtt}.{name}": f"{meaning}, round trip of {rtt} ms"
        for rtt in RTT_MS
        for name, meaning in {
            "acceptance": "probability that a drafted token stays where those before it did",
            "length": "of drafts",
            "tokens_per_round": "tokens that a round gave",
            "deferred": "answers that the cascade deferred, of all",
            **{
                f"chosen.{lean}": f"arm that is chosen ({', '.join(ARMS)} are 0 to 3) for who {lean}"
                for lean in LEANINGS
            },
            **{f"best.{lean}": f"arm that proved best for who {lean}" for lean in LEANINGS},
        }.items()
    },
    **_sharing.meaning(RTT_MS, tuple(LEANINGS)),
    "expected.deferred": "answers that the calibration expects to defer, of all",
    "expected.good": "answers that are then as good as the larger model's, of all",
    "chooser.right": "share of the cases (round trips and leanings) in which the chosen arm was the best, or within 5 % of it",
    "lossless": "share of speculated answers that are the larger model's to the letter",
}
VOCABULARY, CONTEXT, NOTE = 512, 320, 48
LARGE = SmallModel(
    layers=4, width=128, heads=4, kv_heads=2, vocabulary=VOCABULARY, context=CONTEXT, steps=500, batch=6,
    learning_rate=3e-3,
)  # fmt: skip
SMALL = LARGE.model_copy(update={"layers": 2, "width": 64, "heads": 2, "kv_heads": 1})
QUICK = {"steps": 15}
DATA = Synthetic(train=3_000, held=400, public=8)
QUALITY, ALIKE = 0.9, 0.8
WARM = 2
"""Answers before those that count: they connect, and the pace of drafts is measured."""
END = ("vehicle-computer", "llama-3.2-1b-int4")
CLOUD = ("cloud-accelerator", "llama-3.1-70b-int8")
IMAGES = "sdxl"
"""Whose steps images take on these machines: long enough for this computer to keep to them."""
DEADLINE_S = 120.0
NEAR = 0.05
"""Arms whose worth differs by less than this part of the best one's are as good as each other."""


def figures(quick: bool = False) -> dict[str, float]:
    """The figures of MEANING; ``quick`` trains hardly at all and asks for a few answers, to see that it runs."""
    held, small, large = learned(quick)
    torch.set_num_threads(1)
    return uvloop.run(_measured(held, small, large, 2 if quick else 16, 12 if quick else 80))


def learned(quick: bool) -> tuple[list[Example], Language, Language]:
    """Examples that no model saw, and the two models, trained on others or taken from the cache."""
    corpus = synthetic.make(DATA, ends_of_edge=[1, 1], rng=stream(0, "collaboration"))
    train = [example for domain in corpus.domains for shard in domain.shards for example in shard]
    held = [example for domain in corpus.domains for example in (*domain.validation, *domain.test) if not example.seen]
    order = stream(0, "collaboration.order").permutation(len(train)).tolist()
    texts = [f"{train[i].dialogue}\n\n## {train[i].section}\n{train[i].note}" for i in order]
    large, small = (shape.model_copy(update=QUICK if quick else {}) for shape in (LARGE, SMALL))

    def progress(_what: str, _done: int, _total: int) -> None:
        return

    big = foundation.foundation(large, texts, 0, progress)
    mixed = stream(0, "collaboration.held").permutation(len(held)).tolist()
    return [held[i] for i in mixed], foundation.small(small, big, texts, 0, progress), big


class _Forced(Pace):
    """Drafts although it may not pay."""

    def choose(self, left: int) -> Choice:
        """The best length of drafts, whatever else there is."""
        found = super().choose(left)
        if found.length or left < 2:
            return found
        return choose(self.acceptance, Link(self.rtt_s), self.draft, self.verify, float("inf"), left, self.longest)


@dataclass(slots=True)
class _Arm:
    """What was measured of one way to answer; lists have one entry an answer."""

    latency_s: list[float] = field(default_factory=list)
    end_s: list[float] = field(default_factory=list)
    cloud_s: list[float] = field(default_factory=list)
    text: list[str] = field(default_factory=list)

    def cost(self, end: Rig, cloud: Rig) -> float:
        return float(np.mean(self.end_s)) * end.price + float(np.mean(self.cloud_s)) * cloud.price

    def good(self, expected: Sequence[str]) -> float:
        return float(np.mean([alike(own, other) >= ALIKE for own, other in zip(self.text, expected, strict=True)]))


Answering = Callable[[Sequence[int]], AsyncGenerator[Piece, None]]


class _Bench:
    """The two models and what is between them."""

    def __init__(self, small: Engine, node: Node, http: aiohttp.ClientSession, url: str, held: list[Example]) -> None:
        self.small, self.node, self._http, self._url, self._held = small, node, http, url, held
        self.end, self.cloud = Rig.of(*END), Rig.of(*CLOUD)
        self._next = 0

    def example(self) -> tuple[Example, list[int]]:
        """The next one, and its prompt."""
        example = self._held[self._next % len(self._held)]
        self._next += 1
        return example, text.prompt(self.small.language.tokenizer, example, CONTEXT, NOTE).tolist()

    def through(self, tenant: str) -> HttpVerifier:
        """The larger model over the link; a tenant for each arm, so that none finds what another computed."""
        return HttpVerifier(self._http, self._url, "large", CONTEXT, tenant=tenant)

    async def take(self, arm: _Arm, answer: Answering, prompt: Sequence[int]) -> None:
        end_s, cloud_s, began_s = self._busy_s(self.small), self._busy_s(self.node.engine), time.monotonic()
        arm.text.append("".join([piece.text async for piece in answer(prompt)]))
        arm.latency_s.append(time.monotonic() - began_s)
        arm.end_s.append(self._busy_s(self.small) - end_s)
        arm.cloud_s.append(self._busy_s(self.node.engine) - cloud_s)

    @staticmethod
    def _busy_s(engine: Engine) -> float:
        return engine.stats().counters.busy_s


async def _measured(
    held: list[Example], small: Language, large: Language, answers: int, judged: int
) -> dict[str, float]:
    end, cloud = Rig.of(*END), Rig.of(*CLOUD)
    machine = MachineSetting(**{name: getattr(cloud.machine, name) for name in MachineSetting.model_fields})
    rates = _sharing.Rates(end.image_step_s(IMAGES), cloud.image_step_s(IMAGES), end.price, cloud.price)
    settings = NodeSettings(
        listen={"port": 0}, ids=("large",), slots=2, threads=1, machine=machine, images=_sharing.above_tree(rates)
    )
    node = Node(settings, large)
    await node.start()
    link = links.Link("up", "127.0.0.1", int(node.url.rpartition(":")[2]))
    await link.start()
    made: dict[str, float] = {}
    try:
        calibrations = await _calibrations(held[:judged], small, large)
        url = f"http://127.0.0.1:{link.port}"
        with Engine(small, threads=1, machine=end.machine) as engine:
            async with (
                aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=DEADLINE_S)) as http,
                _sharing.ends(small, url, rates, LEANINGS[_sharing.LEFT]) as ends,
            ):
                bench = _Bench(engine, node, http, url, held[judged:])
                images = _sharing.Sharing(ends, node, url, rates, reader(digits(0)[0]))
                right, lossless = [], []
                for rtt in RTT_MS:
                    link.shape = links.Shape(latency_s=rtt / 2_000.0)
                    found, chosen_right = await _at(bench, rtt, calibrations, answers)
                    made |= found
                    right += chosen_right
                    lossless.append(found[f"{rtt}.speculation.equal"])
                    made |= await images.at(http, rtt, max(answers // 3, 1))
                found, drawn_right = images.compared(LEANINGS, NEAR)
                made |= found | {"sharing.right": float(np.mean(drawn_right)), "sharing.behind": images.behind()}
                plan = calibrations.of(_version(small), 0.0).plan(QUALITY)
    finally:
        await link.close()
        await node.close()
    return made | {
        "expected.deferred": plan.deferred,
        "expected.good": plan.quality,
        "chooser.right": float(np.mean(right)),
        "lossless": float(np.mean(lossless)),
    }


def _version(small: Language) -> str:
    """As `gainnet.inference.cascade.Cascade` names it."""
    return f"{small.digest} "


async def _calibrations(held: Sequence[Example], small: Language, large: Language) -> Calibrations:
    """What answers that both models gave tell, at this computer's own pace."""
    kept = Calibrations(least=len(held))  # so that all of them are judged
    with Engine(small, threads=1) as own, Engine(large, threads=1) as other:
        cascade = Cascade(
            own, EngineVerifier(other), Costs(1.0, 2.0), good=lambda said, shown: alike(said, shown) >= ALIKE,
            calibrations=kept,
        )  # fmt: skip
        for example in held:
            prompt = text.prompt(small.tokenizer, example, CONTEXT, NOTE).tolist()
            async for _piece in cascade.answer(prompt, _how()):
                pass
    return kept


async def _at(
    bench: _Bench, rtt: int, calibrations: Calibrations, answers: int
) -> tuple[dict[str, float], list[float]]:
    """The figures of a round trip, and for each leaning whether the choice was right."""
    pace, how = _Forced(), _how()
    tokenizer = bench.small.language.tokenizer
    speculation = Speculation(EngineDrafter(bench.small, tenant="draft"), bench.through("verify"), tokenizer, pace, 0)
    cascade = Cascade(
        bench.small, bench.through("cascade"), Costs(1e-9, 1.0), quality=QUALITY, calibrations=calibrations,
        audit_every=0, tenant="cascade",
    )  # fmt: skip
    alone, above = EngineVerifier(bench.small, tenant="alone"), bench.through("whole")
    ways: dict[str, Answering] = {
        "end": lambda prompt: alone.whole(prompt, how),
        "cloud": lambda prompt: above.whole(prompt, how),
        "cascade": lambda prompt: cascade.answer(prompt, how),
        "speculation": lambda prompt: speculation.answer(prompt, how),
    }
    arms, notes = {name: _Arm() for name in ARMS}, []
    for turn in range(answers + WARM):
        example, prompt = bench.example()
        if turn >= WARM:
            notes.append(example.note)
        for name in ARMS:
            await bench.take(arms[name] if turn >= WARM else _Arm(), ways[name], prompt)
    await speculation.close()
    deferred = 1.0 - cascade.counters.kept / cascade.counters.answers
    choice, counters = pace.choose(NOTE), speculation.counters
    found = {f"{rtt}.{name}.{of}": value for name, arm in arms.items() for of, value in _shown(bench, arms, arm, notes)}
    found |= {
        f"{rtt}.acceptance": pace.acceptance,
        f"{rtt}.length": float(choice.length),
        f"{rtt}.tokens_per_round": counters.tokens / max(counters.rounds, 1),
        f"{rtt}.deferred": deferred,
    }
    plan = calibrations.of(_version(bench.small.language), 0.0).plan(QUALITY)
    right = []
    for leaning, price in LEANINGS.items():
        proved = _worth(
            {name: _Expected(float(np.mean(arm.latency_s)), arm.cost(bench.end, bench.cloud)) for name, arm in arms.items()},
            {name: arm.good(arms["cloud"].text) for name, arm in arms.items()}, price,
        )  # fmt: skip
        # The small model alone is as good as the calibration says it is where nothing is deferred.
        whole = calibrations.of(_version(bench.small.language), 0.0).probability.mean()
        told = {"end": float(whole), "cloud": 1.0, "cascade": plan.quality, "speculation": 1.0}
        expected = _worth(_expectations(bench, arms, pace, plan.deferred), told, price)
        chosen, best = max(expected, key=expected.__getitem__), max(proved, key=proved.__getitem__)
        found |= {
            f"{rtt}.chosen.{leaning}": float(ARMS.index(chosen)),
            f"{rtt}.best.{leaning}": float(ARMS.index(best)),
        }
        right.append(float(proved[chosen] >= proved[best] - NEAR * abs(proved[best])))
    return found, right


def _shown(bench: _Bench, arms: dict[str, _Arm], arm: _Arm, notes: list[str]) -> list[tuple[str, float]]:
    expected = arms["cloud"].text
    return [
        ("p50_s", float(np.median(arm.latency_s))),
        ("mean_s", float(np.mean(arm.latency_s))),
        ("end_s", float(np.mean(arm.end_s))),
        ("cloud_s", float(np.mean(arm.cloud_s))),
        ("cost", arm.cost(bench.end, bench.cloud)),
        ("equal", float(np.mean([own == other for own, other in zip(arm.text, expected, strict=True)]))),
        ("good", arm.good(expected)),
        ("rouge1", float(rouge(arm.text, notes).one.mean())),
    ]


@dataclass(frozen=True, slots=True)
class _Expected:
    """What an answer takes, in s, and costs, in dollars."""

    latency_s: float
    cost: float


def _expectations(bench: _Bench, arms: dict[str, _Arm], pace: Pace, deferred: float) -> dict[str, _Expected]:
    """What the formulas say of every arm, from the models alone, acceptance, deferral, and the round trip."""
    end, cloud = arms["end"], arms["cloud"]
    alone = _Expected(float(np.mean(end.latency_s)), end.cost(bench.end, bench.cloud))
    whole = _Expected(float(np.mean(cloud.latency_s)), cloud.cost(bench.end, bench.cloud))
    both = [
        float(cascaded(np.array([small]), np.array([large]), np.array([deferred]))[0])
        for small, large in ((alone.latency_s, whole.latency_s), (alone.cost, whole.cost))
    ]
    tokenizer = bench.small.language.tokenizer
    token = float(np.mean([len(tokens.ids(tokenizer, one)) for one in cloud.text])) + 1.0
    choice = pace.choose(round(token) + 1)
    rounds = token / expected_tokens(pace.acceptance, choice.length)
    first_s = max(whole.latency_s - token * pace.token_s, 0.0)  # the prompt, and the first crossing
    verify_s, draft_s = pace.verify.at(choice.length), pace.draft.at(choice.length)
    drafted = _Expected(
        first_s + rounds * (pace.rtt_s + verify_s + draft_s),
        max(float(np.mean(cloud.cloud_s)) - token * pace.token_s + rounds * verify_s, 0.0) * bench.cloud.price
        + rounds * draft_s * bench.end.price,
    )
    return {"end": alone, "cloud": whole, "cascade": _Expected(*both), "speculation": drafted}


def _worth(of: dict[str, _Expected], good: dict[str, float], price: float) -> dict[str, float]:
    """What answers are worth, less what they cost; none where too few are good."""
    enough = {name for name, share in good.items() if share >= QUALITY - NEAR}
    return {name: -(one.cost + price * one.latency_s) if name in enough else -np.inf for name, one in of.items()}


def _how() -> Sampling:
    return Sampling(max_tokens=NOTE, temperature=0.0, stop=("\n",))
