"""Ways to answer over a link at three round trips: what each takes, costs and is worth, and which one the router chooses.

A small and a larger model learn the same text; the small one keeps what is often asked, the larger one what is rarely
asked as well (`_questions`). Requests are ``common``, mostly of the first kind, or ``rare``, mostly of the second. The
small model answers as a vehicle's computer would with a model of a billion parameters, the larger one as a cloud's
accelerator with seventy (`gainnet.inference.tempo`), behind a link whose round trip is set (`gainnet.serving.proxy`). The
arms take turns at the same prompts, greedily:

- ``end``: the small model's whole answer, ``cloud``: the larger one's, over the link;
- ``cascade``: the small one's where its calibration is sure, else the larger one's;
- ``speculation``: drafts of the small one that the larger one judges.

All of them are made to happen. Which one is chosen is what the gateway's own router says (`_chooser`), which is told what
a gateway's is: calibrations, how drafts did, and how what it chose has ended. That is held against what proved to be
worth most: answers that are the larger model's in ``QUALITY`` of all cases, for the least cost and waiting, at two prices
of a second, one for who waits and one for who pays; once among all arms, once with speculation switched off.

Images are drawn as a larger image model's machines would: by the ends that ask (``drawn_end``), by the cloud
(``drawn_cloud``), or begun by the cloud once for all that are alike (``sharing``, see `_sharing`).
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import asynccontextmanager

import aiohttp
import numpy as np
import torch
import uvloop

import _sharing
from _chooser import Judged, pictures
from _questions import KINDS, Question, learned, mixed
from _reader import reader
from _rig import Rig
from _ways import ARMS, CLOUD_MACHINE, END_MACHINE, LEANINGS, NEAR, SWITCHES, WARM, Bench, Case, how_of, prompt_of
from gainnet.inference.engine import Engine
from gainnet.models.hub import Language
from gainnet.rng import stream
from gainnet.scenario.scenario import Scenario
from gainnet.serving.links import Shape
from gainnet.serving.node import Node
from gainnet.serving.node_settings import MachineSetting, NodeSettings
from gainnet.serving.proxy import Link
from gainnet.training.digits import digits

RTT_MS = (5, 30, 100)
MIXES = {"common": 0.7, "rare": 0.15}
"""Part of the requests that is of the frequent kind."""
IMAGES = "sdxl"
"""Whose steps images take on these machines: long enough for this computer to keep to them."""
TIMEOUT_S = 120.0


def _meaning() -> Iterator[tuple[str, str]]:
    of_arm = {
        "p50_s": "median until an answer's end, s",
        "mean_s": "mean until an answer's end, s",
        "end_s": "time of the small model's machine for an answer, s",
        "cloud_s": "time of the larger model's machine for an answer, s",
        "cost": "what an answer costs in machine time and energy, dollars",
        "equal": "answers that are the larger model's to the letter, of all",
        "right": "answers that are right, of all",
        "more_s": "mean time more than of whole requests in the cloud, paired, s (negative: less)",
        "more_s_half": "half of its 95 % interval",
        "dearer": "mean cost more than of whole requests in the cloud, paired, dollars (negative: less)",
        "dearer_half": "half of its 95 % interval",
    }
    numbers = f"({', '.join(ARMS)} are 0 to 3)"
    for rtt in RTT_MS:
        for mix in MIXES:
            at = f"{mix} requests, round trip of {rtt} ms"
            for arm in ARMS:
                yield from ((f"{rtt}.{mix}.{arm}.{name}", f"{said}, {arm}, {at}") for name, said in of_arm.items())
            yield f"{rtt}.{mix}.acceptance", f"probability that a drafted token stays where those before it did, {at}"
            yield f"{rtt}.{mix}.length", f"of drafts, {at}"
            yield f"{rtt}.{mix}.tokens_per_round", f"tokens that a round gave, {at}"
            yield f"{rtt}.{mix}.deferred", f"answers that the cascade deferred, of all, {at}"
            for switch, drafts in SWITCHES.items():
                for lean in LEANINGS:
                    who = f"for who {lean}{'' if drafts else ', without speculation'}, {at}"
                    name = f"{rtt}.{mix}.{switch}.{lean}"
                    yield f"{name}.chosen", f"arm that the router mostly chose {numbers} {who}"
                    yield f"{name}.steady", f"how often it did, of all, {who}"
                    yield f"{name}.best", f"arm that proved best {numbers} {who}"
                    yield (
                        f"{name}.loss",
                        f"cost and waiting by what the router chose, over those of whole requests, {who}",
                    )
    for mix in MIXES:
        yield f"{mix}.expected.deferred", f"answers that the calibration expects to defer, of all, {mix} requests"
        yield f"{mix}.expected.good", f"answers that are then the larger model's, of all, {mix} requests"
    for kind in KINDS:
        yield f"end.{kind}.right", f"{kind} questions that the small model knows, of all of them"
        yield f"cloud.{kind}.right", f"{kind} questions that the larger model knows, of all of them"
    yield "chooser.right", f"share of the cases in which the chosen arm was the best, or within {100 * NEAR:g} % of it"
    yield "lossless", "share of speculated answers that are the larger model's to the letter"


MEANING: dict[str, str] = dict(_meaning()) | _sharing.meaning(RTT_MS, tuple(LEANINGS))


def figures(quick: bool = False) -> dict[str, float]:
    """The figures of MEANING; ``quick`` asks for little, and for images at one round trip only, to see that it runs."""
    questions, small, large = learned()
    torch.set_num_threads(1)
    return uvloop.run(_measured(questions, small, large, quick))


async def _measured(questions: list[Question], small: Language, large: Language, quick: bool) -> dict[str, float]:
    rng, answers, judged = stream(0, "collaboration"), *((2, 60) if quick else (48, 120))
    known, made = _known(questions, small, large)
    told = {mix: [known[one.ask] for one in mixed(questions, easy, judged, rng)] for mix, easy in MIXES.items()}
    end, cloud = Rig.of(*END_MACHINE), Rig.of(*CLOUD_MACHINE)
    steps = _sharing.QUICK if quick else _sharing.STEPS
    rates = _sharing.Rates(end.image_step_s(IMAGES), cloud.image_step_s(IMAGES), end.price, cloud.price, steps)
    drawn_at = RTT_MS[1:2] if quick else RTT_MS
    right, lossless = [], []
    async with _linked(large, cloud, rates) as (node, link), aiohttp.ClientSession(timeout=_TIMEOUT) as http:
        url = f"http://127.0.0.1:{link.port}"
        with Engine(small, threads=1, machine=end.machine) as engine:
            async with _sharing.ends(small, url, rates) as ends:
                bench = Bench(engine, node, http, url)
                reads, left = reader(digits(0)[0]), LEANINGS[_sharing.LEFT]
                images = _sharing.Sharing(ends, node, url, rates, reads, _pictures, left)
                for rtt in RTT_MS:
                    link.shape = Shape(latency_s=rtt / 2_000.0)
                    for mix, easy in MIXES.items():
                        asked = mixed(questions, easy, answers + WARM, rng)
                        case = Case(bench, rtt / 1e3, mix, told[mix])
                        await case.run(asked)
                        found, chosen_right = case.figures()
                        made |= {f"{rtt}.{mix}.{name}": value for name, value in found.items()}
                        made |= {
                            f"{mix}.expected.deferred": case.plan.deferred,
                            f"{mix}.expected.good": case.plan.quality,
                        }
                        right += chosen_right
                        lossless.append(found["speculation.equal"])
                    if rtt in drawn_at:
                        made |= await images.at(http, rtt, max(answers // 8, 1))
                found, drawn_right = images.compared(LEANINGS, NEAR)
                made |= found | {"sharing.right": float(np.mean(drawn_right)), "sharing.behind": images.behind()}
    return made | {"chooser.right": float(np.mean(right)), "lossless": float(np.mean(lossless))}


def _pictures(rtt_s: float, waiting_per_s: float) -> Scenario:
    return pictures((END_MACHINE[0], CLOUD_MACHINE[0]), IMAGES, rtt_s, waiting_per_s)


_TIMEOUT = aiohttp.ClientTimeout(total=TIMEOUT_S)


@asynccontextmanager
async def _linked(large: Language, cloud: Rig, rates: _sharing.Rates) -> AsyncGenerator[tuple[Node, Link], None]:
    """The cloud, and the link to it."""
    machine = MachineSetting(**{name: getattr(cloud.machine, name) for name in MachineSetting.model_fields})
    listen = {"port": 0}
    settings = NodeSettings(
        listen=listen, ids=("large",), slots=2, threads=1, machine=machine, images=_sharing.above_tree(rates)
    )
    node = Node(settings, large)
    await node.start()
    link = Link("up", "127.0.0.1", int(node.url.rpartition(":")[2]))
    try:
        await link.start()
        yield node, link
    finally:
        await link.close()
        await node.close()


def _known(
    questions: Sequence[Question], small: Language, large: Language
) -> tuple[dict[str, Judged], dict[str, float]]:
    """The small model's answer to every question beside the larger one's, and how many of each are right."""
    with Engine(small, threads=1) as own, Engine(large, threads=1) as other:
        pairs = [[engine.submit(prompt_of(small, one), how_of(0)) for engine in (own, other)] for one in questions]
        said = [[answer.wait() for answer in pair] for pair in pairs]
    texts = [["".join(piece.text for piece in pieces) for pieces in pair] for pair in said]
    found = {}
    for one, (pieces, _), (mine, theirs) in zip(questions, said, texts, strict=True):
        logprobs = [piece.logprob for piece in pieces if piece.logprob is not None]
        found[one.ask] = Judged(logprobs, mine == theirs)
    right: dict[str, list[bool]] = {}
    for one, pair in zip(questions, texts, strict=True):
        for place, text in zip(("end", "cloud"), pair, strict=True):
            right.setdefault(f"{place}.{one.kind}.right", []).append(text == one.answer)
    return found, {name: float(np.mean(of)) for name, of in right.items()}
