"""The lab and its twin: the same requests to real nodes, and to the simulator on the cards that `gainnet profile` makes.

One tier at a time, so that no node takes another's processor: a lab of the gateway and one node behind its link is
started, and the node is profiled before, between and after three streams of requests (Poisson, at three shares of what
the node can do) whose prompts and answers are as long as the built-in lab's. The card of all those rounds, and what the
gateway adds at rest, make a scenario with the same link, through which the same requests go again, sent at the very
times at which the real ones were. The simulator reads nothing else of the measured streams.

Times are of this machine while nothing else runs; `disturbed` says how far that was so.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import aiohttp
import numpy as np
import uvloop
from jaxtyping import Float, Int

from gainnet.demand.task import Tasks
from gainnet.errors import GainnetError, InputError
from gainnet.network.compute_kernel import decode_step_s, prefill_s
from gainnet.run import Run
from gainnet.scenario import document
from gainnet.scenario.load import dump, load
from gainnet.scenario.models import MODELS
from gainnet.scenario.scenario import Scenario
from gainnet.serving import profile as profiling
from gainnet.serving.lab import Lab
from gainnet.serving.lab_plan import TIERS
from gainnet.serving.profile import Profile, Protocol, Server
from gainnet.serving.profile_fit import Fit, Points, architecture, fit

LOADS = (30, 60, 85)
"""In per cent of what a node can do with all of its slots in use."""
REQUESTS, REQUESTS_QUICK = 300, 20
ROUNDS, ROUNDS_QUICK = 3, 1
PARTS = (50, 95)
MODEL = "twin"
FRAME_S = 0.004
"""Of the simulator: a request that comes waits for the next frame, here about as long as for an engine's next step."""
PATIENCE_S = 120.0
PROMPTS = (16, 48, 96, 192, 384)
CONTEXTS = (48, 160)
FIRST_S = 0.05
MEANING: dict[str, str] = {
    **{
        f"{tier}.p{part}_error": f"{part}th percentile of latency: |predicted / measured - 1|, the median over loads"
        for tier in TIERS
        for part in PARTS
    },
    **{f"load_{load}.error": f"median of that over tiers and percentiles, at {load} % of capacity" for load in LOADS},
    **{
        f"{tier}.load_{load}.p{part}_{kind}_s": f"{part}th percentile of latency, {kind}, s"
        for tier in TIERS
        for load in LOADS
        for part in PARTS
        for kind in ("measured", "predicted")
    },
    **{
        f"{tier}.{name}": meaning
        for tier in TIERS
        for name, meaning in {
            "residual": "of the card: rms of log(fitted / measured)",
            "capacity_per_s": "requests that the node can answer, by its card",
            "besides_s": "what a request takes besides its steps, with the gateway and without the link",
        }.items()
    },
    "error_median": "median of |predicted / measured - 1| over tiers, loads and percentiles",
    "requests": "answers that were measured",
    "lost": "requests that the lab did not answer",
    "disturbed": "of the processor time of this machine while latencies were measured, what other programs took",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Stream:
    """Requests to one node.

    Attributes:
        sent_s: when each is sent, from 0.
        prompt_token: length of its prompt.
        output_token: length of its answer.
    """

    sent_s: Float[np.ndarray, " request"]
    prompt_token: Int[np.ndarray, " request"]
    output_token: Int[np.ndarray, " request"]

    def __len__(self) -> int:
        return len(self.sent_s)


@dataclass(slots=True)
class Measured:
    """What was measured of a tier: for each load the requests as they were sent, and their latencies (nan: no answer).

    ``besides_s`` are measurements of what a request takes besides its steps, through the gateway, less the link;
    ``processor_s`` what the lab, all programs, and all processors spent while latencies were measured.
    """

    profiles: list[Profile] = field(default_factory=list)
    besides_s: list[float] = field(default_factory=list)
    streams: dict[int, Stream] = field(default_factory=dict)
    latency_s: dict[int, Float[np.ndarray, " request"]] = field(default_factory=dict)
    processor_s: dict[str, float] = field(default_factory=dict)

    def fit(self, folder: Path) -> Fit:
        """The machine that explains all rounds."""
        names = ("prompt_token", "prefill_s", "batch", "context_token", "step_s")
        every = {name: np.concatenate([getattr(one.points, name) for one in self.profiles]) for name in names}
        return fit(Points(**every), architecture(str(folder), weight_byte=4.0))


def figures(quick: bool = False) -> dict[str, float]:
    """The figures of MEANING; ``quick`` sends few requests."""
    requests, rounds = (REQUESTS_QUICK, ROUNDS_QUICK) if quick else (REQUESTS, ROUNDS)
    made: dict[str, float] = {"requests": 0.0, "lost": 0.0}
    errors: dict[str, list[float]] = {}
    spent: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        for tier in TIERS:
            root = Path(folder) / tier
            measured = uvloop.run(_measured(tier, root, requests, rounds, not quick))
            made |= _tier(tier, measured, root / "models" / tier, errors)
            for latency_s in measured.latency_s.values():
                made["requests"] += float(np.isfinite(latency_s).sum())
                made["lost"] += float(np.isnan(latency_s).sum())
            spent = {name: spent.get(name, 0.0) + used_s for name, used_s in measured.processor_s.items()}
    made |= {name: median(several) for name, several in errors.items()}
    if spent["whole_s"] > 0.0:
        made["disturbed"] = (spent["busy_s"] - spent["own_s"]) / spent["whole_s"]
    return made


def _tier(tier: str, measured: Measured, model: Path, errors: dict[str, list[float]]) -> dict[str, float]:
    """Figures of a tier; its errors are added to those of each name."""
    fitted, besides_s, slots = measured.fit(model), max(median(measured.besides_s), 0.0), measured.profiles[0].slots
    card = profiling.card(MODEL, tier, measured.profiles[0], fitted)
    card["network"][tier]["hardware"]["request_overhead_s"] = besides_s
    made = {"residual": fitted.residual, "besides_s": besides_s, "capacity_per_s": capacity(fitted, slots)}
    twin = scenario(tier, card)
    for share, stream in measured.streams.items():
        found = compared(measured.latency_s[share], simulated(twin, stream))
        made |= {f"load_{share}.{name}": value for name, value in found.items()}
        for part in PARTS:
            error = abs(found[f"p{part}_predicted_s"] / found[f"p{part}_measured_s"] - 1.0)
            for name in (f"{tier}.p{part}_error", f"load_{share}.error", "error_median"):
                errors.setdefault(name, []).append(error)
    return {f"{tier}.{name}": value for name, value in made.items()}


def compared(real: Float[np.ndarray, " request"], predicted: Float[np.ndarray, " request"]) -> dict[str, float]:
    """Percentiles of both. GainnetError where nothing was answered."""
    both = {"measured": real, "predicted": predicted}
    for name, latency_s in both.items():
        if np.isnan(latency_s).all():
            raise GainnetError(f"no request was answered ({name}): see the lab's logs")
    return {
        f"p{part}_{name}_s": float(np.nanpercentile(latency_s, part))
        for name, latency_s in both.items()
        for part in PARTS
    }


# The twin.


def scenario(tier: str, card: Mapping[str, Any]) -> Scenario:
    """The built-in lab with one site, one end, and one model, which the tier alone holds.

    Deadlines are all alike and far, so that who comes first is served first, as by an engine. Radio has no latency in
    the simulator, and the link to the edge none here: it is the end's own edge.
    """
    tree = document.read(dump(load("lab")), "lab")
    text = tree["demand"]["services"]["assistant"]
    nothing = {"kind": "constant", "value": 0.0}
    network = tree["network"] | {
        "topology": {"kind": "explicit", "cells": [{"x_m": 0.0, "y_m": 0.0}], "margin_m": 30.0},
        "mobility": {"kind": "waypoint", "speed_min_m_per_s": 1e-3, "speed_max_m_per_s": 1e-3},
        "ends": 1,
        "backhaul": tree["network"]["backhaul"] | {"ring_latency_s": 0.0},
        **{one: tree["network"][one] | {"resident": []} for one in TIERS},
    }
    tree |= {
        "frame_s": FRAME_S,
        "collaboration": {},
        "network": network,
        "demand": {
            "services": {
                "assistant": text
                | {
                    "models": [MODEL], "arrivals": {"kind": "poisson", "rate_per_end_per_s": 0.0}, "quality_min": nothing,
                    "deadline_s": PATIENCE_S, "deadline_per_token_s": 0.0, "value": 1.0,
                }
            }
        },
        "orchestrator": {"matcher": {"kind": tier}, "foresight": 0.0, "reserve": 0.0, "patience_s": PATIENCE_S},
    }  # fmt: skip
    return Scenario.model_validate(profiling.merged(tree, card))


def simulated(twin: Scenario, stream: Stream) -> Float[np.ndarray, " request"]:
    """Latency of each request in the simulator, nan where it was lost.

    A prefill gives the first token of an answer, so that one less is decoded.
    """
    run, number = Run(twin), len(stream)
    zero = np.zeros(number)
    bit = twin.demand.services["assistant"].bit_per_token  # type: ignore[union-attr]
    tasks = Tasks(
        task_id=np.arange(number), service=np.zeros(number, np.int64), user=np.zeros(number, np.int64),
        arrival_s=stream.sent_s, deadline_s=stream.sent_s + PATIENCE_S, quality_min=zero, value=np.ones(number),
        prompt_token=stream.prompt_token.astype(np.float64), output_token=stream.output_token - 1.0, step=zero, image=zero,
        uplink_bit=bit * stream.prompt_token, downlink_bit=bit * stream.output_token,
        adapter=np.full(number, -1), target_range_m=zero,
    )  # fmt: skip
    latency_s, ended, begun, frame = np.full(number, np.nan), 0, 0, 0
    while ended < number and frame * FRAME_S < stream.sent_s[-1] + PATIENCE_S:
        came = int(np.searchsorted(stream.sent_s, frame * FRAME_S + 1e-9, "right"))
        run.observe(_part(tasks, begun, came))
        outcomes = run.commit(run.match()).outcomes
        answered = outcomes.node >= 0
        latency_s[outcomes.task_id[answered]] = (outcomes.end_s - outcomes.arrival_s)[answered]
        ended, begun, frame = ended + len(outcomes), came, frame + 1
    return latency_s


def _part(tasks: Tasks, first: int, last: int) -> Tasks:
    return Tasks(**{name: getattr(tasks, name)[first:last] for name in Tasks.__dataclass_fields__})


def drawn(rng: np.random.Generator, rate_per_s: float, number: int) -> Stream:
    """Poisson arrivals with prompts and answers of the built-in lab's lengths."""
    service: Any = load("lab").demand.services["assistant"]

    def lengths(given: Any) -> Int[np.ndarray, " request"]:
        drawn_ = rng.lognormal(np.log(given.median), given.sigma, number)
        return np.clip(np.rint(drawn_), max(given.low, 1.0), given.high).astype(np.int64)

    sent_s = np.cumsum(rng.exponential(1.0 / rate_per_s, number))
    return Stream(sent_s - sent_s[0], lengths(service.prompt_token), lengths(service.output_token))


def capacity(fitted: Fit, slots: int) -> float:
    """Requests that a node answers in a second with all its slots in use, by its card."""
    stream = drawn(np.random.default_rng(0), 1.0, 2000)
    model = fitted.model
    given = (
        2.0 * model.parameters, 2.0 * model.layers * model.width,
        2.0 * model.layers * model.kv_heads * model.head_width * model.kv_byte, model.parameters * model.weight_byte,
        fitted.flop_per_s, fitted.byte_per_s,
    )  # fmt: skip
    prefill = np.mean([prefill_s(float(token), *given, 0.0, fitted.text_overhead_s) for token in stream.prompt_token])
    context = float(stream.prompt_token.mean() + 0.5 * stream.output_token.mean())
    step = decode_step_s(float(slots), context, *given, fitted.step_overhead_s, fitted.text_overhead_s)
    return 1.0 / float(prefill + (stream.output_token.mean() - 1.0) * step / slots)


# The lab.


async def _measured(tier: str, folder: Path, requests: int, rounds: int, again: bool) -> Measured:
    """A lab with one node, profiled and asked in turn; profiled only once, unless ``again``."""
    unknown = {"models": {MODEL: MODELS["llama-3.2-1b-int4"].model_dump(mode="json")}}
    begun = scenario(tier, unknown | {"network": {tier: {"resident": [MODEL]}}})
    nodes = ",".join(f"{one}={int(one == tier)}" for one in TIERS)
    lab = Lab(begun, folder, nodes=nodes, router="nearest", paced=False)
    measured, rng = Measured(), np.random.default_rng(TIERS.index(tier))
    try:
        await lab.start()
        part = lab.parts[0]
        # What an end asks its own machine goes over no link in the simulator.
        fields = {"latency_s": 0.0} if tier == "end" else {}
        rtt_s = 2.0 * (await lab.links.change(part.name, **fields)).latency_s
        waits = aiohttp.ClientTimeout(total=PATIENCE_S)
        async with aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0), timeout=waits, trust_env=False
        ) as http:
            node = Server(http, lab.node_url(part.name), f"{tier}-model")
            gateway = Server(http, lab.url, MODEL, {"x-gainnet-end": "0"})
            slots = int((await _state(http, node.url))["slots"])
            protocol = Protocol(prompts=PROMPTS, contexts=CONTEXTS, slots=slots, repeats=rounds, drafts=())
            await _profiled(measured, node, gateway, protocol, rtt_s)
            most = capacity(measured.fit(folder / "models" / tier), slots)
            pids = [os.getpid(), lab.pid("gateway"), lab.pid(part.name)]
            for share in LOADS:
                stream = drawn(rng, most * share / 100.0, requests)
                before = _processor_s(pids)
                measured.streams[share], measured.latency_s[share] = await _asked(gateway, stream)
                for name, used_s in zip(("own_s", "busy_s", "whole_s"), _processor_s(pids) - before, strict=True):
                    measured.processor_s[name] = measured.processor_s.get(name, 0.0) + float(used_s)
                if again:
                    await _profiled(measured, node, gateway, protocol, rtt_s)
    finally:
        await lab.close()
    return measured


async def _state(http: aiohttp.ClientSession, url: str) -> dict[str, Any]:
    async with http.get(f"{url}/node/state") as response:
        tree: dict[str, Any] = await response.json()
        return tree


async def _profiled(measured: Measured, node: Server, gateway: Server, protocol: Protocol, rtt_s: float) -> None:
    """One more profile of a node, and what a request takes besides, through the gateway."""
    profile = await profiling.measure(node, protocol)
    more = []
    for _ in range(4 * protocol.repeats):
        took = []
        for server in (node, gateway):
            began = time.perf_counter()
            await server.answer((1,), 1)
            took.append(time.perf_counter() - began)
        more.append(took[1] - took[0])
    measured.profiles.append(profile)
    measured.besides_s.append(profile.overhead_s + median(more) - rtt_s)


async def _asked(server: Server, stream: Stream) -> tuple[Stream, Float[np.ndarray, " request"]]:
    """Send every request at its time; the stream as it was sent, and the latency of each, nan where it was refused."""
    sent_s, latency_s = np.zeros(len(stream)), np.full(len(stream), np.nan)
    began = time.perf_counter() + FIRST_S

    async def one(number: int) -> None:
        await asyncio.sleep(max(began + stream.sent_s[number] - time.perf_counter(), 0.0))
        sent_s[number] = time.perf_counter() - began
        try:
            await server.answer((int(stream.prompt_token[number]),), int(stream.output_token[number]))
        except InputError:
            return
        latency_s[number] = time.perf_counter() - began - sent_s[number]

    await asyncio.gather(*(one(number) for number in range(len(stream))))
    order = np.argsort(sent_s, kind="stable")
    sent = Stream(sent_s[order] - sent_s.min(), stream.prompt_token[order], stream.output_token[order])
    return sent, latency_s[order]


def _processor_s(pids: Sequence[int]) -> Float[np.ndarray, " three"]:
    """Processor time so far, in s: of these processes, of all programs, and that there was; zeros where unknown."""
    try:
        tick = os.sysconf("SC_CLK_TCK")
        own = sum(
            sum(map(int, Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13])) for pid in pids
        )
        spent = [int(part) for part in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
    except (OSError, ValueError):
        return np.zeros(3)
    whole = sum(spent)
    return np.array([own, whole - spent[3] - spent[4], whole]) / tick
