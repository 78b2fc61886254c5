"""A lab as a process of its own, and requests sent to it when they are due, whatever became of those before (open loop)."""

from __future__ import annotations

import asyncio
import json
import math
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

from gainnet.errors import GainnetError

READY_S, PRICED_S, END_S, ANSWER_S = 600.0, 300.0, 60.0, 180.0
_METRIC = re.compile(r"^gainnet:engine_(busy|behind)_seconds_total\{[^}]*\} (\S+)$", re.MULTILINE)
TOKENS = range(3, 250)
"""Prompts are drawn from tokens that any of the lab's models has."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """A request.

    Attributes:
        at_s: when it is sent.
        prompt: its tokens.
        output_token: how many it gets, to the last.
        deadline_s: what it is allowed.
        quality_min: least quality, None for any.
        end: that asks, None for the gateway.
    """

    at_s: float
    prompt: Sequence[int]
    output_token: int
    deadline_s: float
    quality_min: float | None = None
    end: int | None = None

    @property
    def headers(self) -> dict[str, str]:
        """What it says of itself."""
        said = {"x-gainnet-deadline-ms": f"{1e3 * self.deadline_s:.0f}"}
        said |= {} if self.quality_min is None else {"x-gainnet-quality-min": f"{self.quality_min:g}"}
        return said | ({} if self.end is None else {"x-gainnet-end": str(self.end)})


@dataclass(slots=True)
class Got:
    """What came of it.

    Attributes:
        status: of HTTP, 0 where the connection broke.
        tier: that answered.
        whole: all of it came.
        latency_s: from sending to the last byte.
        first_s: from sending to the first token; nan where none came.
        gaps_s: between the tokens that were shown.
        output_token: as the node counted.
    """

    status: int = 0
    tier: str = ""
    whole: bool = False
    latency_s: float = math.nan
    first_s: float = math.nan
    gaps_s: list[float] = field(default_factory=list)
    output_token: int = 0


async def open_loop(address: str, model: str, wanted: Sequence[Wanted]) -> list[Got]:
    """Send all of them, each at its time, and wait for the last answer."""
    timeout, connections = aiohttp.ClientTimeout(total=ANSWER_S), aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(timeout=timeout, connector=connections, trust_env=False) as client:
        began = time.perf_counter()

        async def later(number: int, one: Wanted) -> Got:
            await asyncio.sleep(max(began + one.at_s - time.perf_counter(), 0.0))
            got, sent = Got(), time.perf_counter()
            try:
                await _ask(client, f"{address}/completions", _body(model, number, one), one.headers, got, sent)
            except (aiohttp.ClientError, TimeoutError, OSError, ValueError):
                got.whole = False
            got.latency_s = time.perf_counter() - sent
            return got

        return list(await asyncio.gather(*(later(number, one) for number, one in enumerate(wanted))))


def _body(model: str, number: int, one: Wanted) -> dict[str, Any]:
    return {
        "model": model, "prompt": list(one.prompt), "max_tokens": one.output_token, "ignore_eos": True, "seed": number,
        "stream": True, "stream_options": {"include_usage": True},
    }  # fmt: skip


async def _ask(
    client: aiohttp.ClientSession, url: str, body: Mapping[str, Any], headers: Mapping[str, str], got: Got, sent: float
) -> None:
    async with client.post(url, json=body, headers=headers) as response:
        got.status, got.tier = response.status, response.headers.get("x-gainnet-tier", "")
        if response.status != 200:
            await response.read()
            return
        last = sent
        async for line in response.content:
            if line.startswith(b"data: [DONE]"):
                got.whole = got.output_token == body["max_tokens"]
            elif line.startswith(b"data: "):
                tree = json.loads(line[6:])
                now = time.perf_counter()
                if tree.get("usage"):
                    got.output_token = tree["usage"]["completion_tokens"]
                elif any(choice.get("text") for choice in tree.get("choices", ())):
                    if math.isnan(got.first_s):
                        got.first_s = now - sent
                    else:
                        got.gaps_s.append(now - last)
                    last = now


@dataclass(frozen=True, slots=True)
class Running:
    """A lab that runs: what it wrote of itself."""

    tree: Mapping[str, Any]

    @property
    def address(self) -> str:
        """For clients, with `/v1`."""
        return str(self.tree["address"])

    def busy(self) -> dict[str, tuple[str, float, float]]:
        """Tier of each node, the seconds that its machine worked so far, and by how many of them this computer was late."""
        found = {}
        for node in self.tree["nodes"]:
            metrics = dict(_METRIC.findall(_get(f"{node['url']}/metrics")))
            found[node["name"]] = node["tier"], float(metrics["busy"]), float(metrics["behind"])
        return found


@contextmanager
def lab(folder: Path, router: str, *more: str) -> Iterator[Running]:
    """`gainnet lab up lab` from its first process to its last, once prices are there where it has any.

    Errors: GainnetError where it does not start.
    """
    folder.mkdir(parents=True, exist_ok=True)
    told = folder / "lab.json"
    told.unlink(missing_ok=True)
    command = [sys.executable, "-m", "gainnet", "lab", "up", "lab", "--router", router, "--out", str(folder), *more]
    with (folder / "lab.log").open("ab") as log:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        _until(told.is_file, process, READY_S, f"the lab did not start: see {folder / 'lab.log'}")
        running = Running(json.loads(told.read_text("utf-8")))
        if router == "priced":
            state = running.address.removesuffix("/v1") + "/live/state"
            _until(lambda: bool(json.loads(_get(state))["ends"]), process, PRICED_S, "the lab has no prices")
        yield running
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(END_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _until(true: Any, process: subprocess.Popen[bytes], seconds: float, otherwise: str) -> None:
    until = time.monotonic() + seconds
    while not true():
        if process.poll() is not None or time.monotonic() > until:
            raise GainnetError(f"bench live: {otherwise}")
        time.sleep(0.1)


def _get(url: str) -> str:
    with urllib.request.urlopen(url, timeout=30.0) as response:
        return str(response.read().decode())
