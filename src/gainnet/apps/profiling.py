"""The command that measures a node and writes its compute card."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import uvloop
from rich import box
from rich.console import Console
from rich.table import Table

from gainnet.apps.progress import stages
from gainnet.errors import InputError
from gainnet.scenario import document
from gainnet.serving import profile as profiling
from gainnet.serving.profile import Profile, Protocol, Server
from gainnet.serving.profile_fit import Fit, architecture, fit

WIDTH = 100
TIERS = ("end", "edge", "cloud")
STAND_IN = "llama-3.2-1b-int4"
"""What a model counts as where nothing is known of it: times are right all the same, flop are not."""
TOKEN = "GAINNET_PROFILE_TOKEN"  # noqa: S105  the name of the variable


@dataclass(frozen=True, slots=True)
class Asked:
    """What the command line says.

    Attributes:
        target: address of a node, or folder of a model.
        model: id by which the node knows the model; None: the first that it lists.
        shape: a preset's card or a folder, for a node whose model is not here.
        tier: where the machine stands; None: as the node says, else edge.
        name: of the card; None: the model's id or the folder's name.
        slots: the largest batch; None: as the node says, else 8.
        context: longest text.
        repeats: rounds.
        adapter: an adapter to load; below the node's root or, with a model folder, a folder.
        threads: of an engine in this process.
    """

    target: str
    model: str | None = None
    shape: str | None = None
    tier: str | None = None
    name: str | None = None
    slots: int | None = None
    context: int = 600
    repeats: int = 5
    adapter: str | None = None
    threads: int = 1


@dataclass(frozen=True, slots=True)
class _Found:
    """A node that answers, and what is known of it."""

    url: str
    model: str
    tier: str
    slots: int
    shape: str
    load_s: float | None
    adapter: str | None
    weight_byte: float | None


def profile(asked: Asked, out: Path | None) -> None:
    """Measure, print what was found on stderr, and write the card to a file or stdout.

    Errors: InputError where the node or the model can't be used; KeyboardInterrupt, and nothing written, where it is
    interrupted.
    """
    if asked.tier is not None and asked.tier not in TIERS:
        raise InputError(f"--tier {asked.tier}: must be one of {', '.join(TIERS)}")
    measured, fitted, tree = uvloop.run(_interruptible(_profiled(asked)))
    console = Console(stderr=True, highlight=False, width=None if sys.stderr.isatty() else WIDTH)
    for table in shown(measured, fitted):
        console.print(table)
    text = document.write(tree)
    if out is None:
        print(text, end="")
        return
    made = out.with_name(f".{out.name}.part")
    made.write_text(text, "utf-8")
    made.replace(out)
    print(f"card: {out}", file=sys.stderr)


async def _interruptible(work: Any) -> Any:
    """What the work gives; SIGINT and SIGTERM cancel it, so that it ends what it began, and become KeyboardInterrupt."""
    task, loop = asyncio.ensure_future(work), asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, task.cancel)
    try:
        return await task
    except asyncio.CancelledError:
        raise KeyboardInterrupt from None
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)


async def _profiled(asked: Asked) -> tuple[Profile, Fit, dict[str, Any]]:
    token = os.environ.get(TOKEN)
    headers = {} if token is None else {"authorization": f"Bearer {token}"}
    timeout = aiohttp.ClientTimeout(total=profiling.ANSWER_S)
    connections = aiohttp.TCPConnector(limit=0)
    async with (
        aiohttp.ClientSession(timeout=timeout, connector=connections, trust_env=False) as client,
        _subject(asked, client, headers) as found,
    ):
        shape = architecture(found.shape, weight_byte=found.weight_byte)
        server = Server(client, found.url, found.model, headers)
        protocol = Protocol(slots=found.slots, repeats=asked.repeats, adapter=found.adapter).within(asked.context)
        with stages("profiling", quiet=False) as show:
            measured = await profiling.measure(server, protocol, show=show)
    fitted = fit(measured.points, shape)
    name = asked.name or (Path(asked.target).resolve().name if Path(asked.target).is_dir() else found.model)
    size = _size(asked.adapter)
    tree = profiling.card(name, found.tier, measured, fitted, load_s=found.load_s, adapter_byte=size)
    return measured, fitted, tree


@asynccontextmanager
async def _subject(asked: Asked, client: aiohttp.ClientSession, headers: dict[str, str]) -> AsyncIterator[_Found]:
    """The node at the address, or one of the folder in this process, for as long as it is measured."""
    if not asked.target.startswith(("http://", "https://")):
        async with _own(asked) as found:
            yield found
        return
    url = asked.target.rstrip("/").removesuffix("/v1")
    models = await _get(client, f"{url}/v1/models", headers)
    names = [str(one["id"]) for one in (models or {}).get("data", ())]
    if not names:
        raise InputError(f"{url}/v1/models: lists no model: is it an OpenAI-compatible server?")
    model = asked.model or names[0]
    if model not in names:
        raise InputError(f"--model {model}: {url} has {', '.join(names)}")
    state = await _get(client, f"{url}/node/state", headers) or {}
    slots, tier = asked.slots or int(state.get("slots", 8)), asked.tier or str(state.get("tier", "edge"))
    yield _Found(url, model, tier, slots, asked.shape or STAND_IN, None, asked.adapter, None)


@asynccontextmanager
async def _own(asked: Asked) -> AsyncIterator[_Found]:
    from gainnet.scenario.knowledge import Pretrained
    from gainnet.serving import node_model
    from gainnet.serving.node import Node
    from gainnet.serving.node_settings import NodeSettings

    folder = Path(asked.target)
    if not folder.is_dir():
        raise InputError(f"{asked.target}: is neither an address (http://...) nor a model's folder")
    if asked.model is not None:
        raise InputError("--model ID: is for an address; a folder has one model")
    given: dict[str, Any] = {"ids": ("model",), "listen": {"port": 0}, "threads": asked.threads}
    adapter = None if asked.adapter is None else Path(asked.adapter).resolve()
    if adapter is not None:
        given["adapters"] = {"root": adapter.parent}
    kind = Pretrained(name=str(folder), context=asked.context)
    began = time.perf_counter()
    language = await asyncio.to_thread(node_model.made, kind, 0)
    load_s = time.perf_counter() - began
    slots = asked.slots or 8
    node = Node(NodeSettings(model=kind, slots=slots, **given), language)
    await node.start()
    try:
        found = None if adapter is None else adapter.name
        yield _Found(node.url, "model", asked.tier or "edge", slots, asked.target, load_s, found, 4.0)
    finally:
        await node.close()


async def _get(client: aiohttp.ClientSession, url: str, headers: dict[str, str]) -> dict[str, Any] | None:
    """What is at an address, None where nothing is. InputError where nobody answers."""
    try:
        async with client.get(url, headers=headers) as response:
            tree = await response.json(content_type=None) if response.status == 200 else None
    except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
        raise InputError(f"{url}: {error or type(error).__name__}") from None
    return tree if isinstance(tree, dict) else None


def _size(adapter: str | None) -> float | None:
    """Size of an adapter's weights, where they are here."""
    if adapter is None:
        return None
    file = Path(adapter) / "adapter_model.safetensors"
    return float(file.stat().st_size) if file.is_file() else None


def shown(measured: Profile, fitted: Fit) -> list[Table]:
    """Tables for people: each time, measured and by the fitted model, and what else was measured."""
    points = measured.points
    times = _table("step", "measured (ms)", "fitted (ms)", "error (%)")
    labels = [f"prefill of {token:.0f} tokens" for token in points.prompt_token]
    labels += [
        f"decode {b:.0f} texts of about {c:.0f}" for b, c in zip(points.batch, points.context_token, strict=True)
    ]
    seconds = np.concatenate([points.prefill_s, points.step_s])
    model = np.concatenate([fitted.prefill_s, fitted.step_s])
    for label, was, says in zip(labels, seconds.tolist(), model.tolist(), strict=True):
        times.add_row(label, f"{1e3 * was:.3f}", f"{1e3 * says:.3f}", f"{100.0 * (says / was - 1.0):+.0f}")
    rest = _table("figure", "value")
    rest.add_row("residual (rms)", f"{100.0 * fitted.residual:.1f} %")
    rest.add_row("reached", f"{fitted.flop_per_s:.3g} flop/s, {fitted.byte_per_s:.3g} byte/s")
    rest.add_row("overhead of a step", f"{1e3 * fitted.step_overhead_s:.2f} ms")
    rest.add_row("and of each text in it", f"{1e3 * fitted.text_overhead_s:.2f} ms")
    rest.add_row("overhead of a request", f"{1e3 * measured.overhead_s:.2f} ms")
    for draft, took_s in measured.verify_s.items():
        rest.add_row(f"t_v, draft of {draft}", f"{1e3 * took_s:.2f} ms")
    if measured.adapter_s is not None:
        rest.add_row("load of the adapter", f"{1e3 * measured.adapter_s:.1f} ms")
    return [times, rest]


def _table(*columns: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for index, column in enumerate(columns):
        table.add_column(column, justify="right" if index else "left")
    return table
