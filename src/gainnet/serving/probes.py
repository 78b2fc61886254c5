"""Nodes are asked how they are, so that a dead one is known before a request finds out, and one that is back is used."""

from __future__ import annotations

import asyncio
import logging

from gainnet.serving.settings import ProbeSetting
from gainnet.serving.state import State
from gainnet.serving.upstream import Failed, Upstream

logger = logging.getLogger(__name__)


class Probes:
    """Asks every node again and again."""

    def __init__(self, state: State, setting: ProbeSetting) -> None:
        self._state, self._setting = state, setting
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begin."""
        self._tasks = [asyncio.create_task(self._watch(node)) for node in self._state.upstreams.values()]

    async def close(self) -> None:
        """End."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _watch(self, upstream: Upstream) -> None:
        setting = self._setting
        while True:
            try:
                status, _ = await upstream.get(setting.path, setting.timeout_s)
                well, reason = status < 500, f"it answered {status}"  # a 404 is a server that has no such page
            except Failed as failed:
                well, reason = False, failed.reason
            except Exception:  # a node is never unwatched
                logger.exception("a probe failed", extra={"node": upstream.node.name})
                well, reason = False, "its probe failed"
            if upstream.health.heard(well, setting):
                self._changed(upstream, reason)
            await asyncio.sleep(setting.every_s)

    def _changed(self, upstream: Upstream, reason: str) -> None:
        name = upstream.node.name
        if upstream.health.up:
            upstream.breaker.succeeded()
            self._state.doubted.add(name)  # it may have been restarted, and have lost its adapters
            logger.info("a node is back", extra={"node": name})
        else:
            logger.warning("a node is down", extra={"node": name, "reason": reason})
