"""Ten minutes at load with faults of every kind: nobody is left without an answer, and nothing is left behind.

Two gateways (`steady` runs throughout, `rolling` is drained and started again) before two nodes with the embedded engine
(`steady` again, and `mortal`, which is killed) and two odd ones that misbehave where a prompt tells them to. Clients ask
all the time; beside them faults come at random moments, of all kinds in turn, chosen by the seed. Every request must end
in a whole answer, in an error object, or in an error event; where a fault's end is known, that is checked too.
"""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import ClassVar

import aiohttp
import numpy as np
import uvloop

from _soak import (
    Client,
    End,
    GatewayProcess,
    NodeProcess,
    build,
    connected,
    free_port,
    gateway_settings,
    head,
    message,
    node_settings,
    sums,
    until,
)
from _soak_odd import IDLE_S, Odd
from gainnet.errors import GainnetError

CLIENTS, PAUSE_S, SAMPLE_S, REST_S = 8, 0.05, 1.0, 60.0
MEGA = 1e6
BEFORE = ("close", "garbage", "500", "empty", "error first", "malformed first", "silent", "not json")
AMID = ("cut", "stall", "malformed", "not an event", "too long", "no done", "error event")
SHAPE = {"layers": 2, "width": 64, "heads": 2, "kv_heads": 1, "vocabulary": 512, "context": 512}
MEANING: dict[str, str] = {
    "requests": "asked, those of faults too",
    "ok": "whole answers",
    "refused": "answers that are error objects",
    "broken": "streams that ended in an error event",
    "left": "that their client left, or took nothing of",
    "lost": "without an answer: must be 0",
    "silent_ends": "streams that ended without saying so: must be 0",
    "faults": "injected, of all kinds",
    "kinds": "kinds of them",
    "unexpected": "faults that did not end as they should: must be 0",
    "retried": "tries at a node that failed, as the steady gateway counted",
    "streams_lost": "streams that it ended in an error event",
    "running_end": "requests that gateway and nodes still have at the end: must be 0",
    "sessions_end": "sessions that the steady node still has open at the end: must be 0",
    **{
        f"{who}_{what}": f"of the steady {who}: {said}"
        for who in ("gateway", "node")
        for what, said in {
            "rss_start_mb": "resident memory after the first quarter, MB",
            "rss_end_mb": "at the end",
            "rss_slope_mb_per_min": "fitted to the last half",
            "fds_start": "open files before any load",
            "fds_end": "at the end, idle again",
        }.items()
    },
}


def figures(
    duration_s: float | None = None, faults: int | None = None, seed: int = 0, quick: bool = False
) -> dict[str, float]:
    """The figures; see MEANING. By default 600 s and 200 faults, quick 30 s and one of each kind."""
    length_s = duration_s or (30.0 if quick else 600.0)
    with tempfile.TemporaryDirectory() as folder:
        return uvloop.run(_soak(length_s, faults or (len(Soak.KINDS) if quick else 200), seed, Path(folder)))


async def _soak(length_s: float, faults: int, seed: int, folder: Path) -> dict[str, float]:
    async with AsyncExitStack() as stack:
        session = await stack.enter_async_context(
            aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0, force_close=True), trust_env=False)
        )
        soak = Soak(session, folder, np.random.default_rng(seed))
        stack.push_async_callback(soak.close)
        await soak.start()
        return await soak.run(length_s, faults)


class Soak:
    """The network, its load and its faults."""

    def __init__(self, session: aiohttp.ClientSession, folder: Path, rng: np.random.Generator) -> None:
        self._http, self._rng = session, rng
        self._odd = [Odd("odd-0"), Odd("odd-1")]
        self._lonely = Odd("lonely")  # which never comes
        self._model = folder / "model"
        known = {"kind": "pretrained", "name": str(self._model), "context": SHAPE["context"]}
        self._nodes = {
            name: NodeProcess(node_settings(name, known, IDLE_S), folder, name) for name in ("steady", "mortal")
        }
        listed = [
            {"name": name, "tier": "edge", "url": node.url, "models": {"m": "gainnet", name: "gainnet"}}
            for name, node in self._nodes.items()
        ]
        listed[1]["models"] |= {"pair": "gainnet"}
        listed += [
            {"name": name, "tier": "cloud", "url": odd.url, "models": ["m", "odd", "pair", name]}
            for name, odd in zip(("odd-0", "odd-1"), self._odd, strict=True)
        ]
        listed.append({"name": "lonely", "tier": "cloud", "url": self._lonely.url, "models": ["lonely"]})
        self._admin = f"http://127.0.0.1:{(admin := free_port())}"
        self._gateways = [
            GatewayProcess(gateway_settings(listed, admin), folder, "steady-gateway"),
            GatewayProcess(gateway_settings(listed, free_port()), folder, "rolling-gateway"),
        ]
        self.client = Client(session, self._gateways)
        self._left, self._unexpected, self._injected = 0, 0, Counter[str]()
        self._samples: list[tuple[float, ...]] = []
        self._mortal, self._rolling, self._flapping = asyncio.Lock(), asyncio.Lock(), asyncio.Lock()

    async def start(self) -> None:
        """Start all of it."""
        await asyncio.gather(*(odd.start() for odd in self._odd), build(SHAPE, self._model))
        await asyncio.gather(*(node.start(self._http) for node in self._nodes.values()))
        await asyncio.gather(*(gateway.start(self._http) for gateway in self._gateways))

    async def close(self) -> None:
        """End all of it."""
        for process in (*self._gateways, *self._nodes.values()):
            await process.end(signal.SIGKILL)
        for odd in self._odd:
            await odd.close()

    async def run(self, length_s: float, faults: int) -> dict[str, float]:
        """Load and faults, then rest, and what is left."""
        await self.client.ask("m", "warm", stream=False)
        fds = [self._used(who)[1] for who in ("gateway", "node")]
        beside = [asyncio.create_task(work) for work in (self.client.balance(), self._sample())]
        stop = asyncio.Event()
        load = [asyncio.create_task(self._ask_on(np.random.default_rng(n), stop)) for n in range(CLIENTS)]
        times, kinds = sorted(self._rng.uniform(0.0, length_s, faults)), self._kinds(faults)
        began = time.monotonic()
        injected = []
        for at_s, kind in zip(times, kinds, strict=True):
            await asyncio.sleep(max(began + at_s - time.monotonic(), 0.0))
            injected.append(asyncio.create_task(self._inject(kind)))
        await asyncio.sleep(max(began + length_s - time.monotonic(), 0.0))
        await asyncio.gather(*injected)
        stop.set()
        await asyncio.gather(*load)
        running, sessions = await self._rest()
        for task in beside:
            task.cancel()
        await asyncio.gather(*beside, return_exceptions=True)
        for what in self.client.wrong:
            print(what, file=sys.stderr)  # noqa: T201
        return await self._figures(fds, running, sessions)

    async def _figures(self, fds: list[float], running: float, sessions: float) -> dict[str, float]:
        ended, metrics = self.client.ended, await sums(self._http, self._admin)
        found = {
            "requests": float(ended.total() + self._left), "ok": float(ended["ok"]),
            "refused": float(ended["refused"]), "broken": float(ended["broken"]), "left": float(self._left),
            "lost": float(ended["lost"]), "silent_ends": float(ended["silent"]),
            "faults": float(self._injected.total()), "kinds": float(len(self._injected)),
            "unexpected": float(self._unexpected), "retried": metrics["gainnet:tries_failed_total"],
            "streams_lost": metrics["gainnet:streams_lost_total"], "running_end": running, "sessions_end": sessions,
        }  # fmt: skip
        table = np.array(self._samples)
        later = table[len(table) // 2 :]
        for number, who in enumerate(("gateway", "node")):
            rss, end = table[:, 1 + number], self._used(who)
            slope = np.polyfit(later[:, 0], later[:, 1 + number], 1)[0] if len(later) > 2 else 0.0
            found |= {
                f"{who}_rss_start_mb": float(rss[len(rss) // 4]) / MEGA, f"{who}_rss_end_mb": end[0] / MEGA,
                f"{who}_rss_slope_mb_per_min": float(slope) * 60.0 / MEGA, f"{who}_fds_start": fds[number],
                f"{who}_fds_end": end[1],
            }  # fmt: skip
        return found

    def _used(self, who: str) -> tuple[float, float]:
        return (self._gateways[0] if who == "gateway" else self._nodes["steady"]).used()

    async def _sample(self) -> None:
        while True:
            self._samples.append((time.monotonic(), self._used("gateway")[0], self._used("node")[0]))
            await asyncio.sleep(SAMPLE_S)

    async def _rest(self) -> tuple[float, float]:
        """Wait until nothing is under way; requests and sessions that are there all the same."""
        over = time.monotonic() + REST_S
        while True:
            gateway, *nodes = [
                await sums(self._http, url) for url in (self._admin, *(node.url for node in self._nodes.values()))
            ]
            names = ("vllm:num_requests_running", "vllm:num_requests_waiting")
            running = sum(one[name] for one in (gateway, *nodes) for name in names)
            sessions = sum(node["gainnet:sessions"] for node in nodes)
            if not (running or sessions) or time.monotonic() > over:
                await asyncio.sleep(2.0 * IDLE_S)  # connections that nobody uses are closed
                return float(running), float(sessions)
            await asyncio.sleep(0.2)

    async def _ask_on(self, rng: np.random.Generator, stop: asyncio.Event) -> None:
        while not stop.is_set():
            text, tokens = f"Say {rng.integers(1_000)} things.", int(rng.integers(2, 24))
            await self.client.ask("m", text, stream=bool(rng.random() < 0.6), tokens=tokens)
            await asyncio.sleep(float(rng.exponential(PAUSE_S)))

    # Faults.

    def _kinds(self, count: int) -> list[str]:
        """All kinds in turn, each turn in another order."""
        found: list[str] = []
        while len(found) < count:
            found += [list(self.KINDS)[number] for number in self._rng.permutation(len(self.KINDS))]
        return found[:count]

    async def _inject(self, kind: str) -> None:
        self._injected[kind] += 1
        try:
            said = await self.KINDS[kind](self)
        except (aiohttp.ClientError, TimeoutError, OSError, GainnetError) as error:
            said = f"{type(error).__name__}: {error}"
        if said is not None:
            self._unexpected += 1
            self.client.note(f"unexpected after {kind}: {said}")

    async def _before(self) -> str | None:
        """Whatever a node does before its first byte, another one answers."""
        how = BEFORE[self._injected["fails before"] % len(BEFORE)]
        stream = how in ("empty", "error first", "malformed first") or self._injected["fails before"] % 2 == 0
        end = await self.client.ask(
            "odd", f"fault:{how}@odd-{self._injected.total() % 2}", stream=stream and how != "not json"
        )
        return None if end.how == "ok" else f"{how}: {end}"

    async def _amid(self) -> str | None:
        how = AMID[self._injected["fails amid"] % len(AMID)]
        end = await self.client.ask("odd-0", f"fault:{how}@odd-0", stream=True)
        return None if end.how == "broken" else f"{how}: {end}"

    async def _kill_waiting(self) -> str | None:
        async with self._mortal:
            asked = [
                asyncio.create_task(self.client.ask("pair", "Hello?", stream=n % 2 == 0, tokens=30)) for n in range(4)
            ]
            await self._nodes["mortal"].end(signal.SIGKILL)
            ends = await asyncio.gather(*asked)
            await self._nodes["mortal"].start(self._http)
        wrong = [end for end in ends if end.how not in ("ok", "broken")]
        return None if not wrong else str(wrong[0])

    async def _kill_streaming(self) -> str | None:
        async with self._mortal:
            asked = await self._streaming("mortal")
            await self._nodes["mortal"].end(signal.SIGKILL)
            end = await asked
            await self._nodes["mortal"].start(self._http)
        return None if end.how == "broken" else str(end)

    async def _streaming(self, model: str, at: str | None = None, text: str = "Tell me all.") -> asyncio.Task[End]:
        """A stream that has begun; one that is refused, as a node is not known to be back yet, is asked for again."""
        while True:
            began = asyncio.Event()
            asked = asyncio.create_task(self.client.ask(model, text, stream=True, tokens=200, began=began, at=at))
            waiting = asyncio.create_task(began.wait())
            await asyncio.wait((waiting, asked), return_when=asyncio.FIRST_COMPLETED)
            waiting.cancel()
            if not asked.done() or asked.result().how != "refused":
                return asked
            await asyncio.sleep(0.25)

    async def _node_hangs(self) -> str | None:
        """A node that is stopped, and goes on."""
        async with self._mortal:
            node = self._nodes["mortal"]
            node.signal(signal.SIGSTOP)
            ends = await asyncio.gather(*(self.client.ask("pair", "Hello?", stream=True) for _ in range(3)))
            node.signal(signal.SIGCONT)
        wrong = [end for end in ends if end.how not in ("ok", "broken")]
        return None if not wrong else str(wrong[0])

    async def _node_drains(self) -> str | None:
        async with self._mortal:
            asked = await self._streaming("mortal")
            status = await self._nodes["mortal"].end(signal.SIGTERM)
            end = await asked
            await self._nodes["mortal"].start(self._http)
        return None if (status, end.how) == (0, "ok") else f"exit {status}, {end}"

    async def _gateway_drains(self) -> str | None:
        async with self._rolling:
            gateway = self._gateways[1]
            asked = await self._streaming("odd-0", gateway.url, "fault:slow@odd-0")
            status = await gateway.end(signal.SIGTERM)
            end = await asked
            await gateway.start(self._http)
        return None if (status, end.how) == (0, "ok") else f"exit {status}, {end}"

    async def _flap(self) -> str | None:
        """A node comes and goes."""
        async with self._flapping:
            ends = []
            for _ in range(3):
                await self._odd[1].close()
                ends.append(await self.client.ask("odd", "Hello?", stream=True))
                await self._odd[1].start()
                ends.append(await self.client.ask("odd", "Hello?", stream=False))
        wrong = [end for end in ends if end.how != "ok"]
        return None if not wrong else str(wrong[0])

    async def _nobody(self) -> str | None:
        end = await self.client.ask("lonely", "Hello?", stream=True)
        return None if (end.status, end.how) == (503, "refused") else str(end)

    async def _full(self) -> str | None:
        """More than the node takes, and one that says so."""
        said = await self.client.ask("odd-0", "fault:busy@odd-0", stream=False)
        asked = [self.client.ask("steady", "Hello?", stream=n % 2 == 0, tokens=60) for n in range(30)]
        ends = [said, *await asyncio.gather(*asked)]
        wrong = [end for end in ends if end.how != "ok" and not (end.status == 429 and "retry-after" in end.headers)]
        wrong += [said] if said.status != 429 else []
        return None if not wrong else str(wrong[0])

    async def _deadline(self) -> str | None:
        over = await self.client.ask("odd-0", "Hello?", stream=False, headers={"x-gainnet-deadline-ms": "-5"})
        soon = {"x-gainnet-deadline-ms": "300"}
        late = await self.client.ask("odd-0", "fault:held@odd-0", stream=False, headers=soon)
        amid = await self.client.ask("odd-0", "fault:stall@odd-0", stream=True, headers=soon)
        fine = over.status == 408 and late.status in (408, 504) and (amid.how == "broken" or amid.status in (408, 504))
        return None if fine else f"{over} {late} {amid}"

    async def _bad_body(self) -> str | None:
        wrong = ((b"x" * 2_000_000, 413), (b"{", 400), (b'{"model": "none", "messages": []}', 400))
        ends = [(await self.client.post(body), status) for body, status in wrong]
        ends.append((await self.client.ask("none", "Hello?", stream=False), 404))
        odd = [end for end, status in ends if (end.status, end.how) != (status, "refused")]
        return None if not odd else str(odd[0])

    async def _leave(self) -> str | None:
        """A client leaves while its answer is streamed: the work is cancelled."""
        before = self._odd[0].cancelled
        for model, text in (("odd-0", "fault:slow@odd-0"), ("steady", "Tell me all.")):
            asked = await self._streaming(model, text=text)
            if not asked.done():
                asked.cancel()
                self._left += 1
            await asyncio.gather(asked, return_exceptions=True)
        return await until(lambda: self._odd[0].cancelled > before, "the node was not told")

    async def _takes_nothing(self) -> str | None:
        self._left += 1
        body = json.dumps({"model": "odd-0", "stream": True, "messages": [message("fault:endless@odd-0")]}).encode()
        before = self._odd[0].cancelled
        with connected(self.client.gateway()) as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
            client.sendall(head(len(body)) + body)
            return await until(lambda: self._odd[0].cancelled > before, "the node still writes")

    async def _drips(self) -> str | None:
        """Headers, then a body, that never come whole."""
        for data in (head(100)[:40], head(100) + b"{"):
            host, port = self.client.gateway().removeprefix("http://").split(":")
            reader, writer = await asyncio.open_connection(host, int(port))
            writer.write(data)
            async with asyncio.timeout(30.0):
                said = await reader.read()
            writer.close()
            if b" 408 " not in said or b'"error"' not in said:
                return f"{said!r}"
        return None

    async def _session_left(self) -> str | None:
        """Someone opens a session for drafts at the node, and is never heard of again."""
        asked = {"model": "gainnet", "prompt": "Hello?", "max_tokens": 20}
        async with self._http.post(f"{self._nodes['steady'].url}/verify", json=asked) as response:
            status = response.status
        return None if status in (200, 429) else f"{status}"

    KINDS: ClassVar[dict[str, Callable[[Soak], Awaitable[str | None]]]] = {
        "fails before": _before, "fails amid": _amid, "killed waiting": _kill_waiting,
        "killed streaming": _kill_streaming, "node hangs": _node_hangs, "node drains": _node_drains,
        "gateway drains": _gateway_drains, "flap": _flap, "no node": _nobody, "full queue": _full,
        "deadline": _deadline, "bad body": _bad_body, "client leaves": _leave, "client takes nothing": _takes_nothing,
        "client drips": _drips, "session left": _session_left,
    }  # fmt: skip
