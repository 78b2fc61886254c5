"""The parts of `bench soak`: processes that are killed and come back, nodes that misbehave when asked to, and a client."""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import os
import signal
import socket
import sys
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

from gainnet.errors import GainnetError
from gainnet.scenario.knowledge import SmallModel
from gainnet.serving import lab_process

PATIENCE_S = 90.0
START_S = 600.0
JSON = "application/json"


def free_port() -> int:
    """A port that nobody has now."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


class Process(ABC):
    """A gateway or a node of its own settings, at a port that it keeps.

    Attributes:
        url: where it is.
    """

    def __init__(self, settings: dict[str, Any], folder: Path, name: str) -> None:
        self._settings, self._name, self._log = settings, name, folder / f"{name}.log"
        self.url = f"http://127.0.0.1:{settings['listen']['port']}"

    async def start(self, client: aiohttp.ClientSession) -> None:
        """Start it, and wait until it is ready."""
        await self._begin()
        async with asyncio.timeout(START_S):
            while not await ready(client, self.url):
                if self.status is not None:
                    raise GainnetError(f"bench soak: {self._name} ended at its start: {self._log.read_text()[-500:]}")
                await asyncio.sleep(0.05)

    async def end(self, number: signal.Signals) -> int:
        """Send it a signal where it runs, and wait until it has ended; its exit status."""
        if self.status is None:
            self.signal(number)
        async with asyncio.timeout(PATIENCE_S):
            while (status := self.status) is None:
                await asyncio.sleep(0.01)
        return status

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        os.kill(self.pid, number)

    def used(self) -> tuple[float, float]:
        """Its resident memory in byte, and how many files it has open."""
        pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        return float(pages * os.sysconf("SC_PAGE_SIZE")), float(len(os.listdir(f"/proc/{self.pid}/fd")))

    @abstractmethod
    async def _begin(self) -> None: ...

    @property
    @abstractmethod
    def pid(self) -> int:
        """Of the process that runs now."""

    @property
    @abstractmethod
    def status(self) -> int | None:
        """How it ended, None while it runs; 0 where it never began."""


class GatewayProcess(Process):
    """A gateway, by its command."""

    _process: asyncio.subprocess.Process | None = None

    async def _begin(self) -> None:
        config = self._log.with_suffix(".json")  # JSON is YAML
        config.write_text(json.dumps(self._settings))
        with self._log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "gainnet", "gateway", "--config", str(config), stdout=log, stderr=log
            )

    @property
    def pid(self) -> int:
        """See `Process`."""
        assert self._process is not None
        return self._process.pid

    @property
    def status(self) -> int | None:
        """See `Process`."""
        return 0 if self._process is None else self._process.returncode


class NodeProcess(Process):
    """A node, forked from a server that has imported torch, so that it is soon back."""

    _process: Any = None

    async def _begin(self) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload([lab_process.__name__])
        self._pipe, theirs = context.Pipe()  # a node ends when this end of it is closed
        self._process = context.Process(target=lab_process.node, args=(self._settings, self._log, theirs), daemon=True)
        await asyncio.to_thread(self._process.start)
        theirs.close()

    @property
    def pid(self) -> int:
        """See `Process`."""
        return int(self._process.pid)

    @property
    def status(self) -> int | None:
        """See `Process`."""
        return 0 if self._process is None else self._process.exitcode


async def build(shape: dict[str, int], folder: Path) -> None:
    """Build a small model of random weights in a folder."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([lab_process.__name__])
    mine, theirs = context.Pipe()
    made = {folder: SmallModel(**shape)}
    process = context.Process(target=lab_process.build, args=(made, theirs), daemon=True)
    await asyncio.to_thread(process.start)
    await asyncio.to_thread(process.join)
    if "built" not in mine.recv():
        raise GainnetError("bench soak: the model cannot be built")


async def ready(client: aiohttp.ClientSession, url: str) -> bool:
    """Whether a server is there and ready."""
    try:
        async with client.get(f"{url}/ready", timeout=aiohttp.ClientTimeout(total=2.0)) as response:
            return response.status == 200
    except (aiohttp.ClientError, TimeoutError, OSError):
        return False


@dataclass(frozen=True)
class End:
    """How a request ended.

    Attributes:
        how: ok, refused (an error object), broken (an error event), silent (a stream without an end), lost (no answer).
        status: of HTTP, 0 without.
        headers: of the answer.
        said: what there was, for people.
    """

    how: str
    status: int
    headers: Mapping[str, str]
    said: str

    def __str__(self) -> str:
        return f"{self.how} {self.status} by {self.headers.get('x-gainnet-node')}: {self.said[-200:]!r}"


class Client:
    """Asks gateways, as a balancer that knows which are ready would.

    Attributes:
        ended: how many requests ended how.
        wrong: what is to be explained, the first of it.
    """

    def __init__(self, session: aiohttp.ClientSession, gateways: list[Process]) -> None:
        self._session, self._gateways, self._turn = session, gateways, 0
        self._ready = {gateway.url: True for gateway in gateways}
        self.ended: Counter[str] = Counter()
        self.wrong: list[str] = []

    async def balance(self) -> None:
        """See which gateways are ready, again and again."""
        while True:
            for url in self._ready:
                self._ready[url] = await ready(self._session, url)
            await asyncio.sleep(0.1)

    def gateway(self) -> str:
        """The next gateway that is ready."""
        able = [url for url, well in self._ready.items() if well] or [self._gateways[0].url]
        self._turn += 1
        return able[self._turn % len(able)]

    async def ask(
        self, model: str, text: str, *, stream: bool, headers: Mapping[str, str] | None = None, at: str | None = None,
        tokens: int = 8, began: asyncio.Event | None = None,
    ) -> End:  # fmt: skip
        """Ask for a chat; however it ends, it is counted."""
        body: dict[str, Any] = {"model": model, "messages": [{"role": "user", "content": text}], "max_tokens": tokens}
        body |= {"stream": stream, "temperature": 0.0, "ignore_eos": True}
        return await self.post(json.dumps(body).encode(), headers=headers, at=at, began=began)

    async def post(
        self, body: bytes, *, path: str = "/v1/chat/completions", headers: Mapping[str, str] | None = None,
        at: str | None = None, began: asyncio.Event | None = None,
    ) -> End:  # fmt: skip
        """Ask for anything."""
        url = (at or self.gateway()) + path
        try:
            try:
                end = await self._posted(url, body, {"content-type": JSON, **(headers or {})}, began)
            except aiohttp.ClientConnectorError:
                if at is not None:
                    raise
                url = self._gateways[0].url + path  # nothing was sent: a balancer asks another one
                end = await self._posted(url, body, {"content-type": JSON, **(headers or {})}, began)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            end = End("lost", 0, {}, f"{type(error).__name__}: {error}")
        self.ended[end.how] += 1
        if end.how in ("lost", "silent"):
            self.note(f"{end.how}: {url} {body[:120]!r}: {end.status} {end.said[-300:]}")
        return end

    def note(self, what: str) -> None:
        """Keep what is to be explained."""
        if len(self.wrong) < 20:
            self.wrong.append(what)

    async def _posted(self, url: str, body: bytes, headers: dict[str, str], began: asyncio.Event | None) -> End:
        timeout = aiohttp.ClientTimeout(total=PATIENCE_S)
        async with self._session.post(url, data=body, headers=headers, timeout=timeout) as response:
            text, cut = "", ""
            try:
                async for part in response.content.iter_any():
                    text += part.decode("utf-8", "replace")
                    if began is not None:
                        began.set()
            except aiohttp.ClientPayloadError as error:
                cut = str(error)
            return End(_how(response, text, cut), response.status, response.headers, text + cut)


def _how(response: aiohttp.ClientResponse, text: str, cut: str) -> str:
    if response.content_type == "text/event-stream":
        last = text.rstrip().rpartition("\n\n")[2].removeprefix("data: ")
        if cut or not last:
            return "silent"
        return "ok" if last == "[DONE]" else "broken" if '"error"' in last else "silent"
    try:
        tree = json.loads(text)
    except ValueError:
        return "lost"
    if cut:
        return "lost"
    if response.status == 200:
        return "ok"
    return "refused" if isinstance(tree.get("error"), dict) and tree["error"].get("message") else "lost"


def message(text: str) -> dict[str, str]:
    """A message of a chat."""
    return {"role": "user", "content": text}


def head(length: int) -> bytes:
    """The head of a request for a chat with a body of this length."""
    lines = ("POST /v1/chat/completions HTTP/1.1", "host: soak", f"content-type: {JSON}", f"content-length: {length}")
    return "\r\n".join((*lines, "", "")).encode()


def connected(url: str) -> socket.socket:
    """A plain connection to a server."""
    host, port = url.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)))


def node_settings(name: str, known: dict[str, Any], idle_s: float) -> dict[str, Any]:
    """Of a node that is soon full, and closes connections without requests soon."""
    return {
        "name": name, "listen": {"port": free_port()}, "model": known, "ids": ["gainnet"], "slots": 4, "queue": 12,
        "threads": 1, "prefix_byte": 4_000_000, "log_level": "warning",
        "timeouts": {"session_s": 5.0, "drain_s": 60.0, "idle_s": idle_s},
    }  # fmt: skip


def gateway_settings(nodes: list[dict[str, Any]], admin: int) -> dict[str, Any]:
    """Of a gateway that waits for nothing long."""
    timeouts = {"first_byte_s": 20.0, "between_chunks_s": 8.0, "client_s": 2.0, "header_s": 2.0, "body_s": 2.0}
    timeouts |= {"notice_s": 0.5, "drain_s": 30.0}
    return {
        "listen": {"port": free_port()}, "admin": {"port": admin}, "nodes": nodes, "router": "round_robin",
        "limits": {"body_byte": 1_000_000}, "timeouts": timeouts, "breaker": {"failures": 5, "rest_s": 1.0},
        "probes": {"every_s": 0.5, "timeout_s": 2.0}, "log_level": "warning",
    }  # fmt: skip


async def sums(client: aiohttp.ClientSession, url: str) -> Counter[str]:
    """A server's metrics, summed over labels."""
    async with client.get(f"{url}/metrics") as response:
        text = await response.text()
    found: Counter[str] = Counter()
    for line in text.splitlines():
        if not line.startswith("#"):
            name, _, value = line.rpartition(" ")
            found[name.partition("{")[0]] += float(value)  # type: ignore[assignment]
    return found


async def until(so: Callable[[], bool], otherwise: str) -> str | None:
    """Wait until something is so, None; what is otherwise, where it does not become so."""
    for _ in range(1_000):
        if so():
            return None
        await asyncio.sleep(0.02)
    return otherwise
