"""What a node does in which time, measured from outside: prefill, decode by batch, drafts, adapters, a request's overhead.

Every time is the median of rounds; a round measures everything once, so that a busy spell of the machine touches all
alike, and the first one only warms up. Times of prefill and decode are differences of whole requests within a round, so
that what a request takes besides cancels. Texts that decode together differ in length, as they do in service: engines
that pad take the longest's time for all.
"""

from __future__ import annotations

import asyncio
import random
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import aiohttp
import numpy as np
from scipy.special import ndtri

from gainnet.errors import GainnetError, InputError
from gainnet.scenario.hardware import Hardware
from gainnet.scenario.models import Adapter
from gainnet.serving.profile_fit import Fit, Points

Clock = Callable[[], float]
Show = Callable[[str, int, int], None]
TOKENS = range(3, 250)
"""Prompts are drawn from tokens that any vocabulary has."""
SPREAD = 0.6
"""By how much prompts that decode together differ: standard deviation of the logarithm of their lengths."""
ANSWER_S = 600.0
TRIES = 4
"""Times as many rounds as were asked for are measured at most, where times come out as nothing."""
IDLE_W, PEAK_W = 10.0, 65.0
"""Power can't be measured from here: a small desktop's."""


@dataclass(frozen=True, slots=True)
class Protocol:
    """What is measured.

    Attributes:
        prompts: lengths of prompts, in tokens.
        contexts: mean lengths of the prompts of texts that decode together.
        slots: the largest batch; 1, 2, 4 ... are measured up to it.
        outputs: tokens of a short and of a long answer; their difference is decoded.
        drafts: lengths of drafts.
        repeats: rounds besides the first.
        adapter: what the node is asked to load, a path below its root; None: nothing.
    """

    prompts: tuple[int, ...] = (32, 64, 128, 256, 512)
    contexts: tuple[int, ...] = (32, 256)
    slots: int = 8
    outputs: tuple[int, int] = (4, 28)
    drafts: tuple[int, ...] = (1, 2, 4, 8)
    repeats: int = 5
    adapter: str | None = None

    @property
    def batches(self) -> tuple[int, ...]:
        """1, 2, 4 ... and the slots."""
        powers = [1 << k for k in range(self.slots.bit_length()) if 1 << k < self.slots]
        return (*powers, self.slots)

    def within(self, context: int) -> Protocol:
        """The same for a model with so many positions at most."""
        room = context - self.outputs[1]
        prompts = tuple(length for length in self.prompts if length <= room) or (max(room, 2),)
        contexts = tuple(c for c in self.contexts if max(spread(c, self.slots)) <= room) or (max(room // 4, 1),)
        return Protocol(prompts, contexts, self.slots, self.outputs, self.drafts, self.repeats, self.adapter)


@dataclass(frozen=True, slots=True)
class Profile:
    """What was measured of a node.

    Attributes:
        points: of prefill and decode.
        overhead_s: what a request takes besides.
        verify_s: time to judge a draft, by its tokens, less that overhead; empty where the node judges none.
        adapter_s: time to load the adapter.
        slots: the largest batch.
        context: longest text that was measured.
    """

    points: Points
    overhead_s: float
    verify_s: Mapping[int, float]
    adapter_s: float | None
    slots: int
    context: int


class Subject(ABC):
    """A node that is measured."""

    @abstractmethod
    async def answer(self, prompts: Sequence[int], output: int) -> None:
        """Ask with prompts of these lengths at once, and wait for the last answer, each of exactly ``output`` tokens."""

    @abstractmethod
    async def judge(self, draft: int) -> float | None:
        """Have drafts of so many tokens judged; the time of one in s, or None where the node judges none."""

    @abstractmethod
    async def load(self, adapter: str) -> float:
        """Load an adapter; the time that took in s. It is unloaded again."""


async def measure(
    subject: Subject, protocol: Protocol, clock: Clock = time.perf_counter, show: Show | None = None
) -> Profile:
    """Measure a node; on a machine that is so busy that times come out as nothing, for longer than was asked.

    Raises:
        GainnetError: they still come out as nothing.
    """
    rounds = _Rounds(subject, protocol, clock, show)
    await rounds.go(counts=False)
    for _ in range(TRIES):
        for _ in range(protocol.repeats):
            await rounds.go()
        found = rounds.profile()
        if found is not None:
            return found
    raise GainnetError("times of steps came out as nothing: the machine is too busy, or ask for more --repeats")


@dataclass(slots=True)
class _Rounds:
    """Rounds of one measurement, and what they took."""

    subject: Subject
    protocol: Protocol
    clock: Clock
    show: Show | None
    took: dict[Any, list[float]] = field(default_factory=dict)
    loads: list[float] = field(default_factory=list)
    judges: bool = True
    done: int = 0

    async def go(self, counts: bool = True) -> None:
        """One more round."""
        took = self.took if counts else {}
        for asked in _answers(self.protocol):
            began = self.clock()
            await self.subject.answer(*asked)
            took.setdefault(asked, []).append(self.clock() - began)
            self._show(f"{len(asked[0])} x {max(asked[0])} + {asked[1]} tokens")
        for draft in self.protocol.drafts:
            seconds = await self.subject.judge(draft) if self.judges else None
            self.judges = seconds is not None
            if seconds is not None:
                took.setdefault(draft, []).append(seconds)
            self._show(f"draft of {draft} tokens")
        if self.protocol.adapter is not None:
            self.loads.append(await self.subject.load(self.protocol.adapter))

    def profile(self) -> Profile | None:
        """Of the rounds so far; None where times come out as nothing."""
        loads = self.loads[1:] or self.loads
        return _profile(self.protocol, self.took, median(loads) if loads else None)

    def _show(self, what: str) -> None:
        self.done += 1
        if self.show is not None:
            every = (self.protocol.repeats + 1) * (len(_answers(self.protocol)) + len(self.protocol.drafts))
            self.show(what, self.done, max(every, self.done))


def spread(mean: int, count: int) -> tuple[int, ...]:
    """So many lengths with about that mean, as far apart as `SPREAD` says: quantiles of a log-normal."""
    lengths = np.exp(SPREAD * ndtri((np.arange(count) + 0.5) / count))
    return tuple(max(round(float(length)), 1) for length in mean * lengths / lengths.mean())


def _answers(protocol: Protocol) -> list[tuple[tuple[int, ...], int]]:
    """The requests of a round: tokens of each prompt, and of an answer."""
    decoding = [
        (spread(context, batch), output)
        for context in protocol.contexts
        for batch in protocol.batches
        for output in protocol.outputs
    ]
    return list(dict.fromkeys([((1,), 1), *(((length,), 1) for length in protocol.prompts), *decoding]))


def _profile(protocol: Protocol, took: Mapping[Any, list[float]], adapter_s: float | None) -> Profile | None:
    """Medians of differences within rounds; None where they are nothing."""
    short, long = protocol.outputs
    steps: dict[tuple[int, float], float] = {}
    for context in protocol.contexts:
        for batch in protocol.batches:
            prompts = spread(context, batch)
            pairs = zip(took[prompts, long], took[prompts, short], strict=True)
            mean = sum(prompts) / batch + (short + long) / 2.0
            steps[batch, mean] = median((more - less) / (long - short) for more, less in pairs)
    one_s = min(seconds for (batch, _), seconds in steps.items() if batch == 1)
    least = took[(1,), 1]
    prefills = {
        length: one_s + median(whole - base for whole, base in zip(took[(length,), 1], least, strict=True))
        for length in protocol.prompts
    }
    prefills = {length: seconds for length, seconds in prefills.items() if seconds > 0.0}
    steps = {key: seconds for key, seconds in steps.items() if seconds > 0.0}
    if one_s <= 0.0 or not prefills:
        return None
    overhead_s = max(median(least) - one_s, 0.0)
    points = Points(
        np.array(list(prefills), np.float64),
        np.array(list(prefills.values()), np.float64),
        np.array([batch for batch, _ in steps], np.float64),
        np.array([context for _, context in steps], np.float64),
        np.array(list(steps.values()), np.float64),
    )
    verify = {draft: max(median(took[draft]) - overhead_s, 0.0) for draft in protocol.drafts if draft in took}
    longest = max(*protocol.prompts, max(spread(max(protocol.contexts), protocol.slots)) + long)
    return Profile(points, overhead_s, verify, adapter_s, protocol.slots, longest)


@dataclass(slots=True)
class Server(Subject):
    """A node behind an address.

    Attributes:
        client: that asks.
        url: of the node, without `/v1`.
        model: id by which it knows the model.
        headers: of all requests.
        clock: seconds that never go back.
    """

    client: aiohttp.ClientSession
    url: str
    model: str
    headers: Mapping[str, str] = field(default_factory=dict)
    clock: Clock = time.perf_counter
    _random: random.Random = field(default_factory=lambda: random.Random(0))  # noqa: S311  prompts are no secrets

    async def answer(self, prompts: Sequence[int], output: int) -> None:
        """See `Subject`. InputError where the node refuses."""
        await asyncio.gather(*(self._answer(prompt, output) for prompt in prompts))

    async def _answer(self, prompt: int, output: int) -> None:
        body = {
            "model": self.model, "prompt": self._prompt(prompt), "max_tokens": output, "temperature": 0.0,
            "ignore_eos": True,
        }  # fmt: skip
        tree = await self.post("/v1/completions", body)
        got = tree.get("usage", {}).get("completion_tokens", output)
        if got != output:
            raise InputError(f"{self.url}: gave {got} tokens where {output} were asked for: it must know ignore_eos")

    async def judge(self, draft: int) -> float | None:
        """See `Subject`: the median of a few drafts of one session."""
        opening = {"model": self.model, "prompt": self._prompt(32), "ignore_eos": True}
        opened = await self.post("/verify", opening, absent=(404, 405))
        if "session" not in opened:
            return None
        session = {"session": opened["session"]}
        await self.post("/verify", session | {"draft": self._prompt(draft)})  # computes the prompt
        times = []
        for _ in range(3):
            body = session | {"draft": self._prompt(draft)}
            began = self.clock()
            await self.post("/verify", body)
            times.append(self.clock() - began)
        await self.post("/verify", session | {"close": True})
        return median(times)

    async def load(self, adapter: str) -> float:
        """See `Subject`. InputError where the node refuses."""
        name = {"lora_name": f"profile-{self._random.getrandbits(48):x}"}
        began = self.clock()
        await self.post("/v1/load_lora_adapter", name | {"lora_path": adapter})
        took_s = self.clock() - began
        await self.post("/v1/unload_lora_adapter", name)
        return took_s

    async def post(self, path: str, body: Any, absent: tuple[int, ...] = ()) -> dict[str, Any]:
        """The answer to a request, empty where its status is one of ``absent``. InputError with the node's reason."""
        try:
            async with self.client.post(self.url + path, json=body, headers=self.headers) as response:
                tree = await response.json(content_type=None)
                status = response.status
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            raise InputError(f"{self.url}{path}: {error or type(error).__name__}") from None
        if status in absent:
            return {}
        if status != 200 or not isinstance(tree, dict):
            raise InputError(f"{self.url}{path}: {status}: {_reason(tree)}")
        return tree

    def _prompt(self, length: int) -> list[int]:
        return self._random.choices(TOKENS, k=length)


def _reason(tree: Any) -> str:
    error = tree.get("error") if isinstance(tree, dict) else None
    return str(error.get("message", error) if isinstance(error, dict) else error or tree)[:300]


def card(
    name: str, tier: str, profile: Profile, fit: Fit, *, load_s: float | None = None, adapter_byte: float | None = None
) -> dict[str, Any]:
    """Sections of a scenario, as plain data: ``models`` with the card, and ``network.TIER`` with the machine.

    Args:
        name: of the card.
        tier: end, edge or cloud.
        profile: what was measured.
        fit: of it.
        load_s: time to load the model; None where it wasn't measured.
        adapter_byte: size of the adapter that was loaded; None where it isn't known.
    """
    model = fit.model
    size_byte = model.parameters * model.weight_byte
    cache_byte = 2.0 * model.layers * model.kv_heads * model.head_width * model.kv_byte
    said = f"gainnet profile: rates, overheads and kv_byte fitted, rms {100.0 * fit.residual:.0f} %"
    machine = Hardware(
        flop_per_s=fit.flop_per_s,
        memory_bandwidth_byte_per_s=fit.byte_per_s,
        memory_byte=1.25 * (size_byte + profile.slots * profile.context * cache_byte),
        load_byte_per_s=size_byte / load_s if load_s else 1e9,
        load_overhead_s=0.0,
        idle_w=IDLE_W,
        peak_w=PEAK_W,
        efficiency=1.0,
        bandwidth_efficiency=1.0,
        batch_max=profile.slots,
        step_overhead_s=fit.step_overhead_s,
        text_overhead_s=fit.text_overhead_s,
        request_overhead_s=profile.overhead_s,
        source=f"{said}; power" + ("" if load_s else " and load rate") + " not measured",
    )
    models: dict[str, Any] = {name: model.model_copy(update={"source": said}).model_dump(mode="json")}
    if profile.adapter_s is not None:
        size = adapter_byte or 1e6
        rest_s = max(profile.adapter_s - size / machine.load_byte_per_s, 0.0)
        models[f"{name}-adapter"] = Adapter(base=name, size_byte=size, load_s=rest_s, source=said).model_dump(
            mode="json"
        )
    return {"models": models, "network": {tier: {"hardware": machine.model_dump(mode="json"), "resident": [name]}}}


def merged(scenario: Mapping[str, Any], *cards: Mapping[str, Any]) -> dict[str, Any]:
    """A scenario's tree with the sections of cards put in: sections are joined, machines and cards replaced."""
    found = dict(scenario)
    for sections in cards:
        for key, value in sections.items():
            sections_both = isinstance(value, Mapping) and isinstance(found.get(key), Mapping)
            joins = sections_both and key != "hardware" and "kind" not in value
            found[key] = merged(found[key], value) if joins else value
    return found
