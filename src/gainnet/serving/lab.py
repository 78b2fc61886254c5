"""A whole network on one machine: nodes and gateway as processes, shaped links between them, and this process to end them.

Every process is a child with a handle; children end when told, and when this process is gone, whatever ended it.
"""

from __future__ import annotations

import asyncio
import json
import logging
import multiprocessing
import os
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from pathlib import Path
from typing import Any

import aiohttp

from gainnet.errors import InputError
from gainnet.scenario.scenario import Scenario
from gainnet.serving import lab_child, lab_links, lab_plan, live_page
from gainnet.serving.lab_child import Child
from gainnet.serving.lab_plan import TIERS, Part

logger = logging.getLogger(__name__)
FILE = "lab.json"
READY_S = 120.0


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
        links: str = "proxy",
        patience_s: float = READY_S,
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
            links: who shapes them: proxy or netem.
            patience_s: how long it may take to be ready.
            say: tells people that a part ended.

        Errors: InputError where these do not fit the scenario.
        """
        self.parts = lab_plan.parts(scenario, lab_plan.counts(scenario, nodes))
        lab_plan.gateway_tree(scenario.name, (), {}, router, port, folder)
        self._scenario, self._folder, self._router, self._port, self._say = scenario, folder, router, port, say
        self._patience_s = patience_s
        self._models = dict(models or {})
        self._paced = {tier for tier in TIERS if paced and tier not in self._models}
        for tier in self._models:
            if tier not in TIERS:
                raise InputError(f"--model {tier}: must be one of {', '.join(TIERS)}")
        self.links = lab_links.made(links, {part.name: part.shape for part in self.parts})
        self._control = lab_links.Control(self.links)
        self._context = multiprocessing.get_context("forkserver")
        self._children: dict[str, Child] = {}
        self._starting: asyncio.Future[None] | None = None
        self._stop = asyncio.Event()
        self._closing = False
        self.failed: str | None = None
        self.ready_s = 0.0

    @property
    def url(self) -> str:
        """See the class."""
        return str(self._children["gateway"].told["url"])

    def node_url(self, name: str) -> str:
        """Where a node says that it is."""
        return str(self._children[name].told["url"])

    def pid(self, name: str) -> int:
        """The process of a node, or of ``gateway``."""
        return self._children[name].pid

    async def start(self) -> None:
        """Start everything and wait until a request would be answered. LabFailed where a part cannot be started."""
        began = time.monotonic()
        adapters = self._adapters()
        adapters.mkdir(parents=True, exist_ok=True)
        async with asyncio.timeout(self._patience_s):
            await self.links.start()
            await self._built()
            control = await self._control.open()
            urls = {part.name: self.links.url(part.name) for part in self.parts}
            tree = lab_plan.gateway_tree(self._scenario.name, self.parts, urls, self._router, self._port, adapters)
            nodes = [self._node(part, urls) for part in self.parts]
            log = self._log("gateway")
            gateway = self._child("gateway", "gateway", tree, self._scenario, control, log)
            await self._begin([*nodes, gateway])
            await _all([child.ready() for child in [*nodes, gateway]])
            for child in nodes:
                self.links.joined(child.name, self.node_url(child.name))
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
        try:
            if self._starting is not None:
                await asyncio.wait([self._starting])
            tiers = {part.name: part.tier for part in self.parts}
            for group in ("gateway", "build", "end", "edge", "cloud"):
                some = [child for name, child in self._children.items() if tiers.get(name, name) == group]
                await asyncio.gather(*(child.end() for child in some))
        finally:
            await self._control.close()
            await self.links.close()
            (self._folder / FILE).unlink(missing_ok=True)

    # Parts.

    def _child(self, name: str, what: str, *given: Any, namespace: str | None = None) -> Child:
        child = self._children[name] = Child(self._context, name, what, *given, namespace=namespace)
        return child

    def _node(self, part: Part, urls: Mapping[str, str]) -> Child:
        model, paced = self._models[part.tier].resolve(), part.tier in self._paced
        judges = lab_plan.verifiers(part, self.parts, urls, self._models)
        above = lab_plan.above(part, self.parts, urls, self._scenario)
        site = self.links.site(part.name)
        tree = lab_plan.node_tree(part, model, self._adapters(), site, paced=paced, verifiers=judges, above=above)
        return self._child(part.name, "node", tree, self._log(part.name), namespace=site.namespace)

    async def _begin(self, children: Sequence[Child]) -> None:
        """Start processes, in a thread: the first waits for what all of them import."""

        loop = asyncio.get_running_loop()
        self._starting = loop.run_in_executor(None, lab_child.begin, self._context, children)
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

    def _adapters(self) -> Path:
        """Below this folder are adapters that may be loaded."""
        return self._folder.resolve() / "adapters"

    def _log(self, name: str) -> Path:
        return self._folder / f"{name}.log"

    async def _answering(self) -> None:
        """Wait until each node is ready at the near end of its link, and the gateway, which was there first, has seen it."""
        nodes = [f"{self.links.url(part.name)}/ready" for part in self.parts]
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
                    "url": self.node_url(part.name), "link": self.links.url(part.name), "models": dict(part.models),
                }
                for part in self.parts
            ],
        }  # fmt: skip
        made = self._folder / f".{FILE}"
        made.write_text(json.dumps(tree, indent=2) + "\n", "utf-8")
        made.replace(self._folder / FILE)


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
