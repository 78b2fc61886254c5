"""A process of a lab: a child with a handle, which ends when told, and when the lab is gone, whatever ended that."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import importlib
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext
from multiprocessing.process import BaseProcess
from typing import Any

from gainnet.errors import GainnetError
from gainnet.serving import namespaces
from gainnet.serving.lab_plan import DRAIN_S
from gainnet.workers.workers import ONE_THREAD

logger = logging.getLogger(__name__)
GRACE_S = DRAIN_S + 3.0
_PROCESSES = "gainnet.serving.lab_process"


class LabFailed(GainnetError):
    """A part of a lab could not be started: the message names it."""


class Child:
    """A process of the lab.

    Attributes:
        name: of the part that it is.
        told: what it said when it was ready.
        exit_code: how it ended, None while it runs; -9 is signal 9.
    """

    def __init__(
        self, context: ForkServerContext, name: str, what: str, *given: Any, namespace: str | None = None
    ) -> None:
        """One that runs a function of `gainnet.serving.lab_process`, in a network namespace where one is named."""
        self.name = name
        self._pipe, theirs = context.Pipe()
        self._theirs: Connection | None = theirs
        self._process: BaseProcess = context.Process(
            target=_child, args=(namespace, what, *given, theirs), name=name, daemon=True
        )
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


def begin(context: ForkServerContext, children: Sequence[Child]) -> None:
    """Start processes; the first waits until their server has imported what all of them need."""
    with _plain_environment():
        context.set_forkserver_preload(["__main__", _PROCESSES])
        for child in children:
            child.begin()


def _child(namespace: str | None, what: str, *given: Any) -> None:
    """What each process runs; its module is imported in the fork server, and never in the lab's own process."""
    gc.freeze()  # a collection would write to all that was imported, and give this process a copy of it
    if namespace is not None:
        namespaces.enter(namespace)
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
