"""The processes of a lab, forked from a server that has imported what they need once; each tells its parent where it is.

Each ends on SIGTERM, and when its parent is gone: then the pipe between them is closed.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import uvloop

from gainnet.errors import GainnetError
from gainnet.models import hub
from gainnet.scenario.knowledge import SmallModel
from gainnet.scenario.scenario import Scenario
from gainnet.serving import log, node_model
from gainnet.serving.gateway import Gateway
from gainnet.serving.listener import serve
from gainnet.serving.node import Node
from gainnet.serving.node_settings import NodeSettings
from gainnet.serving.router import FIXED, Place, Router
from gainnet.serving.settings import GatewaySettings
from gainnet.serving.shaping import Moved

Server = Node | Gateway
Make = Callable[[], tuple[Server, Callable[[], dict[str, Any]]]]


def build(models: Mapping[Path, SmallModel], pipe: Connection) -> None:
    """Make models and write them to folders."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        for folder, shape in models.items():
            hub.save(node_model.made(shape, 0), folder)
        pipe.send({"built": len(models)})
    except (GainnetError, OSError) as error:
        pipe.send({"error": str(error)})


def node(tree: dict[str, Any], logs: Path, pipe: Connection) -> None:
    """A node of these settings."""

    def make() -> tuple[Server, Callable[[], dict[str, Any]]]:
        made = Node(NodeSettings(**tree))
        return made, lambda: {"url": made.url}

    _run(make, logs, pipe)


def gateway(tree: dict[str, Any], scenario: Scenario, links: str, logs: Path, pipe: Connection) -> None:
    """A gateway of these settings, priced by the scenario where its router is to be, over links that the scenario shapes."""

    def make() -> tuple[Server, Callable[[], dict[str, Any]]]:
        settings = GatewaySettings(**tree)
        made = Gateway(settings, lambda places: _router(settings.router, scenario, places, links))
        return made, lambda: {"url": made.url, "admin": made.admin_url}

    _run(make, logs, pipe)


def _router(name: str, scenario: Scenario, places: Sequence[Place], links: str) -> Router:
    if name != "priced":
        return Moved(FIXED[name](places), scenario, places, links)
    from gainnet.serving.node_watch import Watched

    return Watched(scenario, places, links=links)


def _run(make: Make, logs: Path, pipe: Connection) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's Ctrl-C is for the lab, which ends all in order
    with logs.open("ab", buffering=0) as file:
        for descriptor in (1, 2):
            os.dup2(file.fileno(), descriptor)
    log.begin("info")
    uvloop.run(_served(make, pipe))


async def _served(make: Make, pipe: Connection) -> None:
    loop, stop = asyncio.get_running_loop(), asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stop.set)

    def gone() -> None:  # nothing is ever sent: the pipe is readable when the parent has closed it, or is no more
        loop.remove_reader(pipe.fileno())
        stop.set()

    loop.add_reader(pipe.fileno(), gone)
    try:
        server, told = make()
        await serve(server, stop, lambda: pipe.send(told()))
    except GainnetError as error:
        pipe.send({"error": str(error)})
