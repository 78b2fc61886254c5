"""A whole network on one machine: nodes and gateway as processes, shaped links between them, and this process to end them.

Every process is a child with a handle; children end when told, and when this process is gone, whatever ended it.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import json
import logging
import multiprocessing
import os
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import to_json

from gainnet.errors import GainnetError, InputError
from gainnet.scenario.scenario import Scenario
from gainnet.serving import lab_plan, live_page
from gainnet.serving.lab_plan import DRAIN_S, TIERS, Part
from gainnet.serving.links import Link, Links
from gainnet.workers.workers import ONE_THREAD

logger = logging.getLogger(__name__)
FILE = "lab.json"
READY_S = 120.0
GRACE_S = DRAIN_S + 3.0
_PROCESSES = "gainnet.serving.lab_process"


class LabFailed(GainnetError):
    """A part of a lab could not be started: the message names it."""


class _Change(BaseModel):
    """Fields of a link's shape."""

    model_config = ConfigDict(strict=True, extra="forbid")

    latency_s: float | None = None
    jitter_s: float | None = None
    rate_bit_per_s: float | None = None
    back_bit_per_s: float | None = None
    loss: float | None = Field(default=None)
    up: bool | None = None


class Child:
    """A process of the lab.

    Attributes:
        name: of the part that it is.
        told: what it said when it was ready.
        exit_code: how it ended, None while it runs; -9 is signal 9.
    """

    def __init__(self, context: ForkServerContext, name: str, what: str, *given: Any) -> None:
        self.name = name
        self._pipe, theirs = context.Pipe()
        self._theirs: Connection | None = theirs
        self._process: BaseProcess = context.Process(target=_child, args=(what, *given, theirs), name=name, daemon=True)
        self.told: dict[str, Any] = {}
        self.exit_code: int | None = None
        self.ended = asyncio.Event()
        self._began = self._watched = False

    def begin(self) -> None:
        """Start it; this blocks until its server has imported what it needs."""
        self._process.start()
        self._began = True
        assert self._theirs is not None
        self._theirs.close()
        self._theirs = None

    @property
    def pid(self) -> int:
        """Its number."""
        assert self._process.pid is not None
        return self._process.pid

    def watch(self, loop: asyncio.AbstractEventLoop, ended: Callable[[Child], None]) -> None:
        """Have ``ended`` called when it ends, however it does."""

        def over() -> None:
            loop.remove_reader(self._process.sentinel)
            self._process.join()
            self.exit_code = self._process.exitcode
            self.ended.set()
            ended(self)

        loop.add_reader(self._process.sentinel, over)
        self._watched = True

    async def ready(self) -> None:
        """Wait until it says where it is. LabFailed where it ends before, with its reason."""
        loop, came = asyncio.get_running_loop(), asyncio.Event()
        loop.add_reader(self._pipe.fileno(), came.set)
        try:
            await came.wait()
        finally:
            loop.remove_reader(self._pipe.fileno())
        try:
            self.told = self._pipe.recv()
        except (EOFError, OSError):
            raise LabFailed(f"{self.name} ended before it was ready: see its log") from None
        if "error" in self.told:
            raise LabFailed(f"{self.name}: {self.told['error']}")

    async def end(self, grace_s: float = GRACE_S) -> None:
        """End it: by SIGTERM, and SIGKILL where that does not do in time."""
        if self._began and not self._watched:  # starting was given up
            self.watch(asyncio.get_running_loop(), lambda _: None)
        if self._began and not self.ended.is_set():
            with contextlib.suppress(ProcessLookupError):
                self._process.terminate()
            try:
                async with asyncio.timeout(grace_s):
                    await self.ended.wait()
            except TimeoutError:
                logger.warning("%s did not leave: killed", self.name)
                self._process.kill()
                await self.ended.wait()
        self._pipe.close()
        if self._theirs is not None:
            self._theirs.close()


class Lab:
    """A running lab.

    Attributes:
        parts: its nodes.
        url: of the gateway, without `/v1`.
        ready_s: how long it took to be ready.
        failed: why it cannot go on, None while it can.
    """

    def __init__(
        self,
        scenario: Scenario,
        folder: Path,
        *,
        nodes: str = "",
        router: str = "priced",
        models: Mapping[str, Path] | None = None,
        paced: bool = True,
        port: int = 0,
        say: Callable[[str], None] = logger.warning,
    ) -> None:
        """A lab of a scenario.

        Args:
            scenario: whose machines it has.
            folder: for logs, small models and `lab.json`.
            nodes: how many of each tier, as ``cloud=1,edge=2,end=4``.
            router: nearest, cloud, round_robin or priced.
            models: folders of models by tier, in place of small ones of random weights.
            paced: nodes take the time of the scenario's machines, except where a model is given; else what they take here.
            port: of the gateway; 0 takes a free one.
            say: tells people that a part ended.

        Errors: InputError where these do not fit the scenario.
        """
        self.parts = lab_plan.parts(scenario, lab_plan.counts(scenario, nodes))
        lab_plan.gateway_tree(scenario.name, (), {}, router, port, folder)
        self._scenario, self._folder, self._router, self._port, self._say = scenario, folder, router, port, say
        self._models = dict(models or {})
        self._paced = {tier for tier in TIERS if paced and tier not in self._models}
        for tier in self._models:
            if tier not in TIERS:
                raise InputError(f"--model {tier}: must be one of {', '.join(TIERS)}")
        self.links = Links({part.name: Link(part.name, "127.0.0.1", 1, part.shape) for part in self.parts})
        self._context = multiprocessing.get_context("forkserver")
        self._children: dict[str, Child] = {}
        self._control: web.AppRunner | None = None
        self._starting: asyncio.Future[None] | None = None
        self._stop = asyncio.Event()
        self._closing = False
        self.failed: str | None = None
        self.ready_s = 0.0

    @property
    def url(self) -> str:
        """See the class."""
        return str(self._children["gateway"].told["url"])

    def pid(self, name: str) -> int:
        """The process of a node, or of ``gateway``."""
        return self._children[name].pid

    async def start(self) -> None:
        """Start everything and wait until a request would be answered. LabFailed where a part cannot be started."""
        began = time.monotonic()
        adapters = self._adapters()
        adapters.mkdir(parents=True, exist_ok=True)
        async with asyncio.timeout(READY_S):
            await self._built()
            await self.links.start()
            control = await self._listen()
            ports = {part.name: self.links[part.name].port for part in self.parts}
            tree = lab_plan.gateway_tree(self._scenario.name, self.parts, ports, self._router, self._port, adapters)
            nodes = [self._child(part.name, "node", self._tree(part), self._log(part.name)) for part in self.parts]
            log = self._log("gateway")
            gateway = self._child("gateway", "gateway", tree, self._scenario, control, log)
            await self._begin([*nodes, gateway])
            await _all([child.ready() for child in [*nodes, gateway]])
            for child in nodes:
                host, _, port = child.told["url"].removeprefix("http://").rpartition(":")
                self.links[child.name].to = host, int(port)
            await self._answering()
        self.ready_s = time.monotonic() - began
        self._write(control)

    async def run(self, stop: asyncio.Event) -> None:
        """Until ``stop``, or the gateway ends."""
        waits = [asyncio.create_task(event.wait()) for event in (stop, self._stop)]
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        for task in waits:
            task.cancel()

    async def close(self) -> None:
        """End everything in order: gateway, ends, edges, cloud, links."""
        self._closing = True
        if self._starting is not None:
            await asyncio.wait([self._starting])
        tiers = {part.name: part.tier for part in self.parts}
        for group in ("gateway", "build", "end", "edge", "cloud"):
            some = [child for name, child in self._children.items() if tiers.get(name, name) == group]
            await asyncio.gather(*(child.end() for child in some))
        await self.links.close()
        if self._control is not None:
            await self._control.cleanup()
        (self._folder / FILE).unlink(missing_ok=True)

    # Parts.

    def _child(self, name: str, what: str, *given: Any) -> Child:
        child = self._children[name] = Child(self._context, name, what, *given)
        return child

    async def _begin(self, children: Sequence[Child]) -> None:
        """Start processes, in a thread: the first waits for what all of them import."""

        def begin() -> None:
            with _plain_environment():
                self._context.set_forkserver_preload(["__main__", _PROCESSES])
                for child in children:
                    child.begin()

        loop = asyncio.get_running_loop()
        self._starting = loop.run_in_executor(None, begin)
        await asyncio.shield(self._starting)
        for child in children:
            child.watch(loop, self._ended)

    def _ended(self, child: Child) -> None:
        if self._closing or child.name == "build":
            return
        code = child.exit_code
        how = f"by signal {-code}" if code is not None and code < 0 else f"with exit code {code}"
        self._say(f"{child.name} ended {how}: see {self._log(child.name)}")
        if child.name == "gateway":
            self.failed = f"the gateway ended {how}"
            self._stop.set()

    async def _built(self) -> None:
        """Make small models where no folder is given; all nodes of a tier read the same."""
        needed = {part.tier for part in self.parts} - set(self._models)
        folders = {self._folder / "models" / tier: lab_plan.SMALL[tier] for tier in sorted(needed)}
        self._models |= {folder.name: folder for folder in folders}
        missing = {path: shape for path, shape in folders.items() if not (path / "model.safetensors").is_file()}
        if missing:
            child = self._child("build", "build", missing)
            await self._begin([child])
            await child.ready()

    def _tree(self, part: Part) -> dict[str, Any]:
        model, paced = self._models[part.tier].resolve(), part.tier in self._paced
        ports = {other.name: self.links[other.name].port for other in self.parts}
        judges = lab_plan.verifiers(part, self.parts, ports, self._models)
        above = lab_plan.above(part, self.parts, ports, self._scenario)
        return lab_plan.node_tree(part, model, self._adapters(), paced=paced, verifiers=judges, above=above)

    def _adapters(self) -> Path:
        """Below this folder are adapters that may be loaded."""
        return self._folder.resolve() / "adapters"

    def _log(self, name: str) -> Path:
        return self._folder / f"{name}.log"

    async def _answering(self) -> None:
        """Wait until each node is ready at the near end of its link, and the gateway, which was there first, has seen it."""
        nodes = [f"http://127.0.0.1:{self.links[part.name].port}/ready" for part in self.parts]
        async with aiohttp.ClientSession(trust_env=False) as client:
            for url in [*nodes, f"{self.url}{live_page.STATE}"]:
                while not await _well(client, url):
                    await asyncio.sleep(0.02)

    def _write(self, control: str) -> None:
        gateway = self._children["gateway"]
        tree = {
            "scenario": self._scenario.name, "address": f"{self.url}/v1", "admin": gateway.told["admin"],
            "adapters": str(self._adapters()),
            "links": control, "router": self._router, "models": list(dict.fromkeys(m for p in self.parts for m in p.models)),
            "images": list(dict.fromkeys(m for p in self.parts for m in p.images)),
            "ready_s": round(self.ready_s, 3), "pid": os.getpid(), "gateway_pid": gateway.pid,
            "nodes": [
                {
                    "name": part.name, "tier": part.tier, "end": part.end, "pid": self.pid(part.name),
                    "url": self._children[part.name].told["url"],
                    "link": f"http://127.0.0.1:{self.links[part.name].port}", "models": dict(part.models),
                }
                for part in self.parts
            ],
        }  # fmt: skip
        made = self._folder / f".{FILE}"
        made.write_text(json.dumps(tree, indent=2) + "\n", "utf-8")
        made.replace(self._folder / FILE)

    # Links are set here, by people and by the gateway's router.

    async def _listen(self) -> str:
        app = web.Application()
        app.router.add_get("/links", self._show)
        app.router.add_post("/links", self._change)
        self._control = web.AppRunner(app, access_log=None, shutdown_timeout=0.5)
        await self._control.setup()
        await web.TCPSite(self._control, "127.0.0.1", 0).start()
        return f"http://127.0.0.1:{self._control.addresses[0][1]}/links"

    async def _show(self, _: web.Request) -> web.Response:
        return web.Response(body=to_json(self.links.seen()), content_type="application/json")

    async def _change(self, request: web.Request) -> web.Response:
        """Fields of shapes by name of link: all or, where one is wrong, none after it."""
        try:
            tree = json.loads(await request.read())
            if not isinstance(tree, dict):
                raise InputError("must be an object: fields of shapes by name of link")
            for name, fields in tree.items():
                change = _Change.model_validate(fields)
                self.links.change(name, **change.model_dump(exclude_none=True))
        except (ValueError, InputError) as error:
            said = error.errors(include_url=False)[0]["msg"] if isinstance(error, ValidationError) else str(error)
            return web.json_response({"error": {"message": said}}, status=400)
        return await self._show(request)


async def _all(works: Sequence[Coroutine[Any, Any, None]]) -> None:
    """Wait for all, or for the first that fails, whose error it is; nothing goes on after that."""
    tasks = [asyncio.create_task(work) for work in works]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _child(what: str, *given: Any) -> None:
    """What each process runs; its module is imported in the fork server, and never in the lab's own process."""
    getattr(importlib.import_module(_PROCESSES), what)(*given)


@contextlib.contextmanager
def _plain_environment() -> Iterator[None]:
    """One thread each, and no settings of other nodes and gateways, while the fork server starts."""
    kept = dict(os.environ)
    for name in kept:
        if name.startswith(("GAINNET_NODE_", "GAINNET_GATEWAY_")):
            del os.environ[name]
    os.environ.update(ONE_THREAD)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(kept)


def asking(address: str, model: str) -> str:
    """How to ask, for people: curl, and the openai client."""
    body = json.dumps({"model": model, "messages": [{"role": "user", "content": "Hello"}]})
    return (
        f"curl -i {address}/chat/completions -H 'content-type: application/json' -d '{body}'\n"
        f"python -c \"import openai; print(openai.OpenAI(base_url='{address}', api_key='none').chat.completions"
        f".create(model='{model}', messages=[{{'role': 'user', 'content': 'Hello'}}]))\""
    )


async def _well(client: aiohttp.ClientSession, url: str) -> bool:
    """Whether a page is there; of one that tells of nodes, whether all are up."""
    try:
        async with client.get(url) as response:
            if response.status != 200:
                return False
            return response.content_type != "application/json" or all(n["up"] for n in (await response.json())["nodes"])
    except aiohttp.ClientError:
        return False
