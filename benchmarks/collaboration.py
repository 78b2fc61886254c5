"""Two text collaborations over a link beside the whole request: latency, processor time, equality, and what is chosen.

A node serves the larger model behind a link whose round trip is set (`gainnet.serving.links`); the small model runs
here. Its layers are the first of the larger one's, whose others change little, so that the two agree often, as a
distilled model would. Arms take turns at the same prompts, so that a busy machine slows all of them. Node and client
share this process: processor time is that of both.

Speculation is measured where it is forced (`speculation`) and where the rule decides (`chosen`), on long answers. The
cascade is measured on short ones, whose texts can be the same as a whole. A choice is right where it is the arm of the
two that had the lower mean latency.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass, field

import aiohttp
import numpy as np
import torch
import uvloop

from gainnet.inference.calibration import Calibrations
from gainnet.inference.cascade import Cascade, Costs
from gainnet.inference.engine import Engine
from gainnet.inference.pace import Choice, Link, Pace, choose
from gainnet.inference.remote import HttpVerifier
from gainnet.inference.request import Piece, Sampling
from gainnet.inference.speculate import EngineDrafter, EngineVerifier, Speculation
from gainnet.models import hub
from gainnet.models.hub import Language
from gainnet.scenario.knowledge import SmallModel
from gainnet.serving import links, node_model
from gainnet.serving.node import Node
from gainnet.serving.node_settings import NodeSettings

RTT_MS = (5, 30, 100)
LONG_ARMS = ("whole", "speculation", "chosen")
SHORT_ARMS = ("short_whole", "cascade")
MEANING: dict[str, str] = {
    **{
        f"{rtt}.{arm}.{name}": f"{meaning}, {arm}, {rtt} ms"
        for rtt in RTT_MS
        for arm in (*LONG_ARMS, *SHORT_ARMS)
        for name, meaning in {
            "latency_s": "mean until an answer's end, s",
            "cpu_s": "processor time of an answer, both models, s",
            "node_s": "time that the larger model's engine computed for an answer, s",
            "equal": "answers whose text is that of the larger model alone, of all",
        }.items()
    },
    **{
        f"{rtt}.{name}": f"{meaning}, {rtt} ms"
        for rtt in RTT_MS
        for name, meaning in {
            "chosen_right": "1 where whole request or speculation was chosen rightly",
            "cascade_chosen_right": "1 where whole request or cascade was chosen rightly",
            "length": "of drafts that are chosen; 0: the whole request is",
            "acceptance": "probability that a drafted token stays where those before it did",
            "tokens_per_round": "tokens that a round gave",
            "bit_per_token": "bodies of verification, bit for each token",
            "deferred": "answers that the cascade deferred, or asked only the larger model for, of all",
        }.items()
    },
    "token_s": "time between the larger model's tokens, streamed alone, s",
    "verify_s": "time to verify eight tokens, s",
    "draft_s": "time to draft eight tokens, s",
    "cascade_quality": "share of answers that were to be the larger model's, or the same",
}
SHAPE = SmallModel(layers=10, width=512, heads=8, kv_heads=2, vocabulary=2048, context=256)
SMALL_LAYERS = 2
LATER = 0.04
"""By what the outputs of the larger model's other layers are multiplied."""
PROMPT, LONG, SHORT, QUALITY = 24, 48, 4, 0.9
DEADLINE_S = 120.0


def figures(quick: bool = False) -> dict[str, float]:
    """The figures of MEANING; ``quick`` asks for fewer answers."""
    torch.set_num_threads(1)
    return uvloop.run(_measured(2 if quick else 6, 12 if quick else 60))


def pair(shape: SmallModel, layers: int, later: float) -> tuple[Language, Language]:
    """A model of random weights that are wide apart, and its first layers, which agree with it often."""
    made = node_model.made(shape, 0)
    with torch.no_grad():
        for name, tensor in made.model.named_parameters():
            if tensor.ndim == 2:
                number = int(name.split(".")[2]) if ".layers." in name else 0
                out = name.endswith(("o_proj.weight", "down_proj.weight"))
                tensor.mul_(2.0 * (later if number >= layers and out else 1.0))
    small = hub.build(shape.model_copy(update={"layers": layers}), made.tokenizer, 0)
    known = small.model.state_dict()
    small.model.load_state_dict({name: made.model.state_dict()[name] for name in known})
    return tuple(hub.as_language(one.model, made.tokenizer, shape.context) for one in (small, made))  # type: ignore[return-value]


class _Forced(Pace):
    """May be made to draft although it does not pay."""

    forced = True

    def choose(self, left: int) -> Choice:
        """The best length of drafts, whatever else there is."""
        found = super().choose(left)
        if found.length or not self.forced:
            return found
        never = float("inf")
        return choose(self.acceptance, Link(self.rtt_s), self.draft, self.verify, never, left, self.longest)


@dataclass(slots=True)
class _Arm:
    """What was measured of one way to answer."""

    latency_s: list[float] = field(default_factory=list)
    cpu_s: list[float] = field(default_factory=list)
    node_s: list[float] = field(default_factory=list)
    equal: list[bool] = field(default_factory=list)

    def figures(self, name: str) -> dict[str, float]:
        equal = [float(one) for one in self.equal]
        columns = {"latency_s": self.latency_s, "cpu_s": self.cpu_s, "node_s": self.node_s, "equal": equal}
        return {f"{name}.{column}": float(np.mean(values)) for column, values in columns.items()}


Answering = Callable[[Sequence[int]], AsyncGenerator[Piece, None]]


class _Bench:
    """The two models and what is between them."""

    def __init__(self, small: Engine, node: Node, http: aiohttp.ClientSession, url: str) -> None:
        self.small, self.node = small, node
        self._http, self._url = http, url
        self.alone = EngineVerifier(node.engine)
        self._rng = np.random.default_rng(0)

    def prompt(self) -> list[int]:
        drawn: list[int] = self._rng.integers(3, len(self.small.language.tokenizer), PROMPT).tolist()
        return drawn

    def through(self, tenant: str) -> HttpVerifier:
        """The larger model over the link; a tenant for each arm, so that none finds what another computed."""
        return HttpVerifier(self._http, self._url, "large", SHAPE.context, tenant=tenant)

    async def take(self, arm: _Arm, answer: Answering, prompt: Sequence[int], expected: str | None) -> str:
        cpu_s, node_s, began_s = time.process_time(), self._node_s(), time.monotonic()
        found = "".join([piece.text async for piece in answer(prompt)])
        arm.latency_s.append(time.monotonic() - began_s)
        arm.cpu_s.append(time.process_time() - cpu_s)
        arm.node_s.append(self._node_s() - node_s)
        arm.equal.append(found == (found if expected is None else expected))
        return found

    def _node_s(self) -> float:
        return self.node.engine.stats().counters.busy_s


async def _measured(answers: int, learned: int) -> dict[str, float]:
    small, large = pair(SHAPE, SMALL_LAYERS, LATER)
    settings = NodeSettings(listen={"port": 0}, ids=("large",), slots=2, threads=1)
    node = Node(settings, large)
    await node.start()
    link = links.Link("up", "127.0.0.1", int(node.url.rpartition(":")[2]))
    await link.start()
    made: dict[str, float] = {"cascade_quality": QUALITY}
    try:
        with Engine(small, threads=1) as engine:
            async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=DEADLINE_S)) as http:
                bench = _Bench(engine, node, http, f"http://127.0.0.1:{link.port}")
                calibrations = await _learned(bench, learned)
                for rtt in RTT_MS:
                    link.shape = links.Shape(latency_s=rtt / 2_000.0)
                    made |= await _long(bench, f"{rtt}.", answers)
                    made |= await _short(bench, f"{rtt}.", calibrations, 4 * answers)
    finally:
        await link.close()
        await node.close()
    return made


async def _long(bench: _Bench, rtt: str, answers: int) -> dict[str, float]:
    """Whole requests and speculation in turn."""
    how = Sampling(max_tokens=LONG, temperature=0.0, ignore_eos=True)
    pace = _Forced()
    tokenizer = bench.small.language.tokenizer
    speculation, chosen = (
        Speculation(EngineDrafter(bench.small, tenant=name), bench.through(name), tokenizer, pace, 0)
        for name in LONG_ARMS[1:]
    )
    whole = bench.through("whole")
    arms = {name: _Arm() for name in LONG_ARMS}
    ways: dict[str, Answering] = {
        "whole": lambda prompt: whole.whole(prompt, how),
        "speculation": lambda prompt: speculation.answer(prompt, how),
        "chosen": lambda prompt: chosen.answer(prompt, how),
    }
    for turn in range(answers + 2):
        prompt, expected = bench.prompt(), None
        for name in LONG_ARMS:
            pace.forced = name != "chosen"
            arm = arms[name] if turn >= 2 else _Arm()  # the first connect, and measure the pace
            expected = await bench.take(arm, ways[name], prompt, expected)
    await speculation.close()
    await chosen.close()
    pace.forced = False
    choice, counters = pace.choose(LONG), speculation.counters
    faster = np.mean(arms["speculation"].latency_s) < np.mean(arms["whole"].latency_s)
    found = {name: value for arm in LONG_ARMS for name, value in arms[arm].figures(rtt + arm).items()}
    return found | {
        f"{rtt}chosen_right": float((choice.length > 0) == faster),
        f"{rtt}length": float(choice.length),
        f"{rtt}acceptance": pace.acceptance,
        f"{rtt}tokens_per_round": counters.tokens / max(counters.rounds, 1),
        f"{rtt}bit_per_token": counters.bits / max(counters.tokens, 1),
        "token_s": pace.token_s,
        "verify_s": pace.verify.at(8),
        "draft_s": pace.draft.at(8),
    }


async def _learned(bench: _Bench, count: int) -> Calibrations:
    """Calibrations of answers that both models gave."""
    cascade = Cascade(bench.small, bench.alone, Costs(1.0, 2.0), calibrations=Calibrations(count))
    for _ in range(count):
        async for _piece in cascade.answer(bench.prompt(), _short_answer()):
            pass
    return cascade.calibrations


async def _short(bench: _Bench, rtt: str, calibrations: Calibrations, answers: int) -> dict[str, float]:
    """Whole requests and the cascade in turn; the cascade is forced, what it would choose is noted."""
    how = _short_answer()
    cascade = Cascade(
        bench.small, bench.through("cascade"), Costs(1e-9, 1.0), quality=QUALITY, calibrations=calibrations,
        audit_every=0, tenant="cascade",
    )  # fmt: skip
    local, larger = EngineVerifier(bench.small), bench.through("whole")
    arms, alone = {name: _Arm() for name in SHORT_ARMS}, _Arm()
    for turn in range(answers + 1):
        prompt = bench.prompt()
        whole, both, own = (_Arm(), _Arm(), _Arm()) if turn == 0 else (arms["short_whole"], arms["cascade"], alone)
        expected = await bench.take(whole, lambda one: larger.whole(one, how), prompt, None)
        await bench.take(own, lambda one: local.whole(one, how), prompt, expected)
        await bench.take(both, lambda one: cascade.answer(one, how), prompt, expected)
    deferred = 1.0 - cascade.counters.kept / cascade.counters.answers
    cascade.costs = Costs(float(np.median(alone.latency_s)), float(np.median(arms["short_whole"].latency_s)))
    faster = np.mean(arms["cascade"].latency_s) < np.mean(arms["short_whole"].latency_s)
    found = {name: value for arm in SHORT_ARMS for name, value in arms[arm].figures(rtt + arm).items()}
    return found | {
        f"{rtt}cascade_chosen_right": float((cascade.plan() is not None) == faster),
        f"{rtt}deferred": deferred,
    }


def _short_answer() -> Sampling:
    return Sampling(max_tokens=SHORT, temperature=0.0, ignore_eos=True)
