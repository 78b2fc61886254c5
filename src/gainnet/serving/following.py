"""Aliases that follow a knowledge loop: whenever its registry has another champion, nodes load it and the alias moves there.

Requests under way keep the version that they began with; the one before is unloaded once none uses it. A champion that nodes
refuse (it adapts another base) is said once, and the alias stays; one that cannot be told is tried again.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from pathlib import Path

from gainnet.errors import InputError
from gainnet.knowledge.registry import Registry, Version
from gainnet.serving.adapters import Adapters
from gainnet.serving.router import Refused
from gainnet.serving.settings import FollowSetting
from gainnet.serving.state import State

logger = logging.getLogger(__name__)
DIGITS = 8
"""Of a version's digest in its name at nodes: a registry that is begun anew numbers other versions the same."""


class Following:
    """The aliases of a gateway that follow champions.

    Args:
        state: of the gateway.
        adapters: that it loads and moves.
    """

    def __init__(self, state: State, adapters: Adapters) -> None:
        self._state, self._adapters = state, adapters
        setting = state.settings.adapters
        self._root = None if setting is None else setting.root
        self._every_s = 0.0 if setting is None else setting.look_s
        self._follow = {} if setting is None else dict(setting.follow)
        self._said: dict[str, str] = {}
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Look at once, and from time to time from then on."""
        if self._follow:
            self._task = asyncio.create_task(self._look_on())

    async def close(self) -> None:
        """Leave off."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
            self._task = None

    async def _look_on(self) -> None:
        while True:
            for alias, followed in self._follow.items():
                await self._look(alias, followed)
            await asyncio.sleep(self._every_s)

    async def _look(self, alias: str, followed: FollowSetting) -> None:
        assert self._root is not None  # settings without a root follow nothing
        try:
            champion = await asyncio.to_thread(_champion, self._root, followed.model)
            if champion is None:
                return
            version = f"{champion.name}@{champion.number}-{champion.digest[:DIGITS]}"
            if self._state.versions.aliases.get(alias) != version and self._said.get(alias) != version:
                await self._move(alias, followed, champion, version)
        except (InputError, OSError) as error:
            self._warn(alias, "", str(error))

    async def _move(self, alias: str, followed: FollowSetting, champion: Version, version: str) -> None:
        places = [p for p in self._state.places if followed.base is None or followed.base in p.models]
        try:
            await self._adapters.load(version, f"{champion.name}/{champion.number}", None, places)
            old = self._adapters.move(alias, version)
        except Refused as refused:
            self._warn(alias, version if refused.status < 500 else "", refused.message)
            return
        self._said.pop(alias, None)
        logger.info("alias follows", extra={"alias": alias, "version": version, "old": old})
        if old is not None and self._adapters.holds(old) and not self._state.versions.names(old):
            self._adapters.retire(old)

    def _warn(self, alias: str, refused: str, reason: str) -> None:
        """Say what is wrong, once for the same; a version that was ``refused`` is not tried again."""
        if self._said.get(alias) != (refused or reason):
            logger.warning("alias stays", extra={"alias": alias, "version": refused, "reason": reason})
        self._said[alias] = refused or reason


def _champion(root: Path, model: str) -> Version | None:
    """Read anew: the loop is another process."""
    return Registry(root).champion(model)
