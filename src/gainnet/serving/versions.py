"""Adapter versions: an alias stands for one version at a time, and each request keeps the one that it began with.

A version is never changed in place, so a node's cache of one can't answer for another. It is unloaded when no alias
stands for it and no request uses it.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping


class Versions:
    """Aliases, and how many requests use each version.

    Attributes:
        aliases: the version that each stands for.
    """

    def __init__(self, aliases: Mapping[str, str]) -> None:
        self.aliases = dict(aliases)
        self._used: Counter[str] = Counter()
        self._waiting: dict[str, list[asyncio.Future[None]]] = {}

    def pin(self, model: str) -> str:
        """The version that a request for this model is answered by, in use until `release`."""
        version = self.aliases.get(model, model)
        self._used[version] += 1
        return version

    def release(self, version: str) -> None:
        """A request that had pinned this version is over."""
        self._used[version] -= 1
        if self._used[version] <= 0:
            del self._used[version]
            for waiter in self._waiting.pop(version, ()):
                if not waiter.done():
                    waiter.set_result(None)

    def used(self, version: str) -> int:
        """How many requests use a version."""
        return self._used[version]

    def move(self, alias: str, version: str) -> str | None:
        """Requests that begin from now on get this version; the one that the alias stood for."""
        old = self.aliases.get(alias)
        self.aliases[alias] = version
        return old

    def names(self, version: str) -> tuple[str, ...]:
        """The aliases that stand for a version."""
        return tuple(alias for alias, stands_for in self.aliases.items() if stands_for == version)

    async def unused(self, version: str) -> None:
        """Wait until no request uses a version."""
        while self._used[version] > 0:
            waiter = asyncio.get_running_loop().create_future()
            self._waiting.setdefault(version, []).append(waiter)
            await waiter
