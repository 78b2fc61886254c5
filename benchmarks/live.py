"""The live network under a recorded load: the scenario's prices beside fixed routers, and what clients make of it.

Every run is a lab of its own (`gainnet lab up`): cloud, two edges, four ends and the gateway over shaped links, nodes that
take the time of the scenario's machines. A slice of the Azure trace of conversations is replayed on it, open loop and
streaming, every router getting the same requests from the same ends with the same deadlines and least qualities, which
are those of the scenario's service. Times are scaled so that nodes queue, tokens so that they fit the service. Slices are
different parts of the trace; the order of routers is rotated from slice to slice. Intervals are paired by slice.

``virtual`` is the same without the computer that the lab runs on: nodes that step as the scenario's machines would, on a
simulated clock (more slices, no noise). ``load`` is what `vllm bench serve` measures, on random lengths as ShareGPT's, at
once and at a rate; ``client`` is what the openai package does. With a folder to resume every part of the lab is kept as
soon as it is measured; remove it where the code has changed. ``--quick`` is less of everything.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import math
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from _lab import TOKENS, Got, Running, Wanted, lab, open_loop
from _openai_client import checked
from _virtual import replayed
from gainnet.demand.arrivals import Replay
from gainnet.demand.service import sampler
from gainnet.demand.trace import read
from gainnet.errors import InputError
from gainnet.measurement.interval import interval, paired
from gainnet.network import compute
from gainnet.scenario.demand import Lognormal, Text, TraceArrivals
from gainnet.scenario.load import load
from gainnet.scenario.models import card
from gainnet.scenario.scenario import Scenario

SERVICE = "assistant"
ROUTERS = {"price": "priced", "nearest": "nearest", "cloud": "cloud", "round-robin": "round_robin"}
SLICES, QUICK_SLICES, VIRTUAL_SLICES = 4, 2, 10
SPAN_S, QUICK_SPAN_S, WARM_S = 24.0, 4.0, 4.0
"""Of requests that count, and of those before them that do not: batches and estimates begin somewhere."""
RATE_PER_S, QUICK_RATE_PER_S = 12.0, 2.0
"""Of requests, on the mean of the whole trace; nodes' slots give 780 tokens a second, and a request takes 45 or so."""
PROMPT_PART, OUTPUT_PART = 1.0 / 8.0, 1.0 / 4.0
"""Of the trace's tokens, then no more than the service has at most."""
SAMPLED = (
    "satisfaction", "answered", "refused", "latency_p50_s", "latency_p95_s", "ttft_p50_s", "cost", "worth", "on_end",
    "on_edge", "on_cloud",
)  # fmt: skip
DIFFERENCES = ("satisfaction", "latency_p95_s", "cost", "worth")
LOAD_REQUESTS, QUICK_LOAD_REQUESTS = 100, 8
LOAD_RATE_PER_S = 6.0
LOAD_DEADLINE_S = 120.0
MEANING = {
    "satisfaction_mean": "share of requests answered whole, in time, by a model as good as asked for; mean over slices",
    "ci95": "half of the 95 % interval of the figure before it over slices; of price_minus_X of the paired difference",
    "answered": "share that got a whole answer, late or not",
    "refused": "share that got an error instead of an answer's beginning",
    "latency_p50_s": "from sending to the last byte, of whole answers",
    "ttft_p50_s": "from sending to the first token",
    "cost": "time that machines worked at their prices, over requests, USD",
    "worth": "the service's value of satisfied requests less that cost, over requests, USD",
    "on_X": "share of whole answers that tier X gave",
    "behind": "time by which nodes' steps ended later than on the scenario's machines, over the time of all steps: "
    "above a few percent this computer was too slow to be that network",
    "virtual.X": "the same of nodes on a simulated clock, over more slices",
    "load.inf.X": "all requests at once; load.rate.X: at 6 a second",
    "load.answered": "share of them that got a whole answer",
    "tpot": "time of a token after the first, mean of each request",
    "itl": "time between two tokens shown",
    "client.checks": "what the openai package was seen to do; client.failed: what failed of it",
}

Sample = dict[str, float | None]
"""Figures of a part; None where nothing was answered."""


def figures(data: Path, resume: Path | None = None, quick: bool = False) -> dict[str, float]:
    """All of it.

    Args:
        data: the folder with conv.csv, the Azure LLM inference trace 2023.
        resume: where parts are kept and looked for.
        quick: less of everything.

    Raises:
        InputError: the trace is not there.
        GainnetError: a lab did not start.
    """
    trace = data / "conv.csv"
    if not trace.is_file():
        raise InputError(f"--data {data}: holds no conv.csv")
    scenario = load("lab")
    with tempfile.TemporaryDirectory() as fleeting:
        folder = resume or Path(fleeting)
        parts = _Parts(folder, quick)
        samples: dict[str, list[Sample]] = {name: [] for name in ROUTERS}
        for slice_ in range(QUICK_SLICES if quick else SLICES):
            wanted = requests(trace, scenario, slice_, quick)
            for name in _rotated(list(ROUTERS), slice_):
                made = parts.get(f"{name}-{slice_}", lambda n=name, w=wanted: _replayed(folder, n, w, scenario))
                samples[name].append(made)
        found = compared(samples)
        for name, value in parts.get("load", lambda: _loaded(folder, quick)).items():
            _put(found, name, value)
    slices = range(QUICK_SLICES if quick else VIRTUAL_SLICES)
    virtual = {
        name: [_virtual_run(name, requests(trace, scenario, slice_, quick), scenario) for slice_ in slices]
        for name in ROUTERS
    }
    return found | {f"virtual.{name}": value for name, value in compared(virtual).items()}


class _Parts:
    """Parts that are measured once, by name; kept apart by what they were measured with."""

    def __init__(self, folder: Path, quick: bool) -> None:
        what = [quick, SPAN_S, WARM_S, RATE_PER_S, PROMPT_PART, OUTPUT_PART, LOAD_REQUESTS, LOAD_RATE_PER_S]
        what.append(load("lab").model_dump_json())
        self._folder = folder / f"parts-{hashlib.sha256(json.dumps(what).encode()).hexdigest()[:12]}"

    def get(self, name: str, measure: Callable[[], Sample]) -> Sample:
        """A part as it was kept, or measured now; one in which a client's check failed is not kept."""
        file = self._folder / f"{name}.json"
        if file.is_file():
            kept: Sample = json.loads(file.read_text("utf-8"))
            return kept
        sys.stderr.write(f"live: {name}\n")
        made = measure()
        if not made.get("client.failed"):
            self._folder.mkdir(parents=True, exist_ok=True)
            file.write_text(json.dumps(made, indent=1) + "\n", "utf-8")
        return made


def _rotated(names: Sequence[str], by: int) -> list[str]:
    first = by % len(names)
    return [*names[first:], *names[:first]]


# The trace.


def requests(trace: Path, scenario: Scenario, slice_: int, quick: bool = False) -> list[Wanted]:
    """A slice of the trace as requests of the scenario's service; those before `WARM_S` only warm up."""
    service = scenario.demand.services[SERVICE]
    assert isinstance(service, Text)
    recorded = read(trace)
    rng = np.random.default_rng(slice_)
    speed = (QUICK_RATE_PER_S if quick else RATE_PER_S) * recorded.length_s / len(recorded)
    seconds = WARM_S + (QUICK_SPAN_S if quick else SPAN_S)
    # Golden steps: however many slices there are, they lie apart.
    start_s = (0.1 + slice_ * 0.618034) % 1.0 * (recorded.length_s - seconds * speed)
    arrivals = TraceArrivals(path=trace, speed=speed, start_s=start_s)
    drawn = Replay(arrivals, scenario.network.ends, rng, seconds).draw(rng, 0.0, seconds)
    quality = sampler(service.quality_min)(rng, len(drawn.row))
    prompt = _scaled(recorded.prompt_token[drawn.row], PROMPT_PART, service.prompt_token)
    output = _scaled(recorded.output_token[drawn.row], OUTPUT_PART, service.output_token)
    return [
        Wanted(
            float(at_s),
            _tokens(rng, p),
            o,
            service.deadline_s + service.deadline_per_token_s * o,
            float(least),
            int(end),
        )
        for at_s, p, o, least, end in zip(drawn.time_s, prompt, output, quality, drawn.user, strict=True)
    ]


def _scaled(token: np.ndarray, part: float, size: object) -> list[int]:
    assert isinstance(size, Lognormal)
    return [int(number) for number in np.clip(np.rint(token * part), 2.0, size.high)]


def _tokens(rng: np.random.Generator, number: int) -> list[int]:
    return [int(token) for token in rng.integers(TOKENS.start, TOKENS.stop, number)]


# One router's run.


def _replayed(folder: Path, name: str, wanted: Sequence[Wanted], scenario: Scenario) -> Sample:
    with lab(folder / "lab", ROUTERS[name]) as running:
        got, before, after = asyncio.run(_measured(running, wanted))
    spent = {
        node: (tier, after[node][1] - at_s, after[node][2] - late_s) for node, (tier, at_s, late_s) in before.items()
    }
    made = _judged(wanted, got, [(tier, busy_s) for tier, busy_s, _ in spent.values()], scenario)
    worked_s = max(sum(busy_s for _, busy_s, _ in spent.values()), 1e-9)
    return made | {"behind": sum(late_s for _, _, late_s in spent.values()) / worked_s}


def _virtual_run(name: str, wanted: Sequence[Wanted], scenario: Scenario) -> Sample:
    got, busy = replayed(scenario, ROUTERS[name], wanted, WARM_S)
    return _judged(wanted, got, busy, scenario)


def _judged(
    wanted: Sequence[Wanted], got: Sequence[Got], busy: Sequence[tuple[str, float]], scenario: Scenario
) -> Sample:
    """Figures of a run; ``busy`` is the tier of each node, and for how long it worked."""
    counted = [(w, g) for w, g in zip(wanted, got, strict=True) if w.at_s >= WARM_S]
    made = sample(counted, {tier: _quality(scenario, tier) for tier in ("end", "edge", "cloud")})
    price, value = _prices(scenario), scenario.demand.services[SERVICE].value
    cost = sum(price[tier] * busy_s for tier, busy_s in busy) / len(counted)
    return made | {"cost": cost, "worth": value * (made["satisfaction"] or 0.0) - cost}


Busy = dict[str, tuple[str, float, float]]


async def _measured(running: Running, wanted: Sequence[Wanted]) -> tuple[list[Got], Busy, Busy]:
    """What came of the requests, and what nodes had done when the first that counts was sent and when all were over."""
    sending = asyncio.create_task(open_loop(running.address, SERVICE, wanted))
    await asyncio.sleep(WARM_S)
    before = await asyncio.to_thread(running.busy)
    got = await sending
    return got, before, await asyncio.to_thread(running.busy)


def sample(counted: Sequence[tuple[Wanted, Got]], quality: dict[str, float]) -> Sample:
    """Figures of one run; ``quality`` is that of each tier's model."""
    whole = [(wanted, got) for wanted, got in counted if got.whole]
    good = [
        got.latency_s <= wanted.deadline_s and quality.get(got.tier, 0.0) >= (wanted.quality_min or 0.0)
        for wanted, got in whole
    ]
    latency_s, first_s = [got.latency_s for _, got in whole], [got.first_s for _, got in whole]
    made: Sample = {
        "satisfaction": sum(good) / len(counted),
        "answered": len(whole) / len(counted),
        "refused": sum(got.status != 200 for _, got in counted) / len(counted),
        "latency_p50_s": _percentile(latency_s, 50),
        "latency_p95_s": _percentile(latency_s, 95),
        "ttft_p50_s": _percentile(first_s, 50),
    }
    tiers = [got.tier for _, got in whole]
    return made | {f"on_{tier}": tiers.count(tier) / max(len(tiers), 1) for tier in ("end", "edge", "cloud")}


def _percentile(values: Sequence[float], rank: float) -> float | None:
    there = [value for value in values if not math.isnan(value)]
    return float(np.percentile(there, rank)) if there else None


def _prices(scenario: Scenario) -> dict[str, float]:
    """What a second of each tier's machine costs, all its accelerators together."""
    network = scenario.network
    nodes = compute.build(network, clouds=1, edges=network.edges)
    places = {"cloud": 0, "edge": 1, "end": 1 + network.edges}
    return {tier: float(nodes.price_per_s[at] * nodes.count[at]) for tier, at in places.items()}


def _quality(scenario: Scenario, tier: str) -> float:
    machine = {"cloud": scenario.network.cloud, "edge": scenario.network.edge, "end": scenario.network.end}[tier]
    return max((card(name, scenario.models).quality for name in machine.resident), default=0.0)  # type: ignore[union-attr]


def compared(samples: dict[str, list[Sample]]) -> dict[str, float]:
    """Means over slices with their intervals, and the differences of prices from fixed routers, paired by slice."""
    found: dict[str, float] = {}
    for name, made in samples.items():
        for figure in SAMPLED:
            mean = interval([one[figure] for one in made])
            end = "_mean" if figure == "satisfaction" else ""
            _put(found, f"{name}.{figure}{end}", mean.mean)
            _put(found, f"{name}.{figure}{'_' if end else '.'}ci95", mean.half_width)
    for other in ROUTERS:
        if other == "price":
            continue
        for figure in DIFFERENCES:
            apart = paired([one[figure] for one in samples["price"]], [one[figure] for one in samples[other]])
            _put(found, f"price_minus_{other}.{figure}_mean", apart.mean)
            _put(found, f"price_minus_{other}.{figure}_ci95", apart.half_width)
    _put(found, "behind", interval([one.get("behind") for made in samples.values() for one in made]).mean)
    return found


def _put(found: dict[str, float], name: str, value: float | None) -> None:
    if value is not None:
        found[name] = value


# What clients do and measure.


def _loaded(folder: Path, quick: bool) -> Sample:
    with lab(folder / "lab", "priced") as running:
        checks = asyncio.run(checked(running.tree, folder / "lab"))
        found: Sample = {"client.checks": float(len(checks)), "client.failed": float(sum(map(bool, checks.values())))}
        for name, failure in checks.items():
            if failure:
                sys.stderr.write(f"live: client: {name}: {failure}\n")
        rng = np.random.default_rng(0)
        number = QUICK_LOAD_REQUESTS if quick else LOAD_REQUESTS
        answered = []
        for how in ("inf", "rate"):
            wanted = _random(rng, number, None if how == "inf" else LOAD_RATE_PER_S)
            got = asyncio.run(open_loop(running.address, SERVICE, wanted))
            found |= {f"load.{how}.{figure}": value for figure, value in served(wanted, got).items()}
            answered += [one.whole for one in got]
    return found | {"load.answered": float(np.mean(answered))}


def _random(rng: np.random.Generator, number: int, rate_per_s: float | None) -> list[Wanted]:
    """Lengths as of ShareGPT's conversations (log-normal, long tails), cut to the small models' context."""
    prompt = [int(p) for p in np.clip(np.rint(rng.lognormal(4.1, 1.0, number)), 4, 400)]
    output = [int(o) for o in np.clip(np.rint(rng.lognormal(3.7, 0.9, number)), 4, 200)]
    at_s = np.zeros(number) if rate_per_s is None else np.cumsum(rng.exponential(1.0 / rate_per_s, number))
    return [
        Wanted(float(when), _tokens(rng, p), o, LOAD_DEADLINE_S)
        for when, p, o in zip(at_s, prompt, output, strict=True)
    ]


def served(wanted: Sequence[Wanted], got: Sequence[Got]) -> Sample:
    """What `vllm bench serve` says of a load: percentiles of whole answers, and how much came in a second."""
    whole = [(w, g) for w, g in zip(wanted, got, strict=True) if g.whole]
    lasted_s = max((w.at_s + g.latency_s for w, g in whole), default=1.0) - min(w.at_s for w in wanted)
    times = {
        "ttft": [g.first_s for _, g in whole],
        "tpot": [(g.latency_s - g.first_s) / (g.output_token - 1) for _, g in whole if g.output_token > 1],
        "itl": [gap for _, g in whole for gap in g.gaps_s],
        "e2e": [g.latency_s for _, g in whole],
    }
    found: Sample = {f"{name}_p{rank}_s": _percentile(of, rank) for name, of in times.items() for rank in (50, 95, 99)}
    tokens = sum(g.output_token for _, g in whole)
    return found | {"requests_per_s": len(whole) / lasted_s, "output_token_per_s": tokens / lasted_s}
