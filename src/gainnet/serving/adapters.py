"""The adapters that a gateway's administration loaded, and what aliases stand for: told to nodes, kept over restarts.

A node that lost an adapter (it was restarted, or another gateway unloaded it) is told again: the nodes in
`State.doubted` are looked after in the background.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine, Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field
from pydantic_core import from_json, to_json

from gainnet.serving.attempt import refused_by
from gainnet.serving.memory import adapter_folder, recall, remember, weights_digest
from gainnet.serving.router import Place, Refused
from gainnet.serving.state import State
from gainnet.serving.upstream import Expired, Failed, Posted

logger = logging.getLogger(__name__)
LOAD_S, RESTORE_S, LOOK_S = 120.0, 10.0, 1.0
_LOAD, _UNLOAD = "/v1/load_lora_adapter", "/v1/unload_lora_adapter"


class Held(BaseModel):
    """An adapter version at nodes: where it lies below the root, SHA-256 of its weights, the nodes' names."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: str
    digest: str
    nodes: tuple[str, ...]


class Moved(BaseModel):
    """An alias that was moved: what it stands for, and what the settings said at the time, who win when they change."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: str
    instead_of: str | None


class _Memory(BaseModel):
    model_config = ConfigDict(extra="forbid")

    adapters: dict[str, Held] = Field(default_factory=dict)
    aliases: dict[str, Moved] = Field(default_factory=dict)


class Adapters:
    """What was loaded, and where."""

    def __init__(self, state: State) -> None:
        """Recall what was there before. InputError where the settings' `state` cannot be read."""
        self._state, settings = state, state.settings
        self._file = settings.state
        self._root = None if settings.adapters is None else settings.adapters.root
        self._memory = recall(self._file, _Memory)
        self._changing = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()
        for alias, moved in list(self._memory.aliases.items()):
            if settings.aliases.get(alias) != moved.instead_of:
                del self._memory.aliases[alias]  # the settings were changed since
            else:
                state.versions.move(alias, moved.version)
        state.awaited.update(self._memory.adapters)

    async def start(self) -> None:
        """Tell nodes what they may have lost, not for long; what is left is told later."""
        self._state.doubted.update(name for held in self._memory.adapters.values() for name in held.nodes)
        try:
            async with asyncio.timeout(RESTORE_S):
                await self._look()
        except TimeoutError:
            logger.warning("adapters are not restored yet", extra={"nodes": sorted(self._state.doubted)})
        self._keep(self._look_on())

    async def close(self) -> None:
        """Leave off."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def load(self, version: str, path: str, digest: str | None, places: Sequence[Place]) -> None:
        """Load a version at places; one that is there already is no error.

        Raises:
            Refused: 400, 403 or 404 where the files are not in order, 409 where other weights have that name, 502
                where a node cannot be told.
        """
        folder, found = await asyncio.to_thread(self._checked, path, digest)
        async with self._changing:
            held = self._memory.adapters.get(version)
            if held is None and self._state.serves(version):
                raise Refused(400, f"{version!r} is served already", code="duplicate", param="lora_name")
            if held is not None and held.digest != found:
                raise Refused(409, f"{version!r} has other weights: versions never change", code="conflict")
            fresh = [place for place in places if version not in place.models]
            try:
                for place in places:
                    await self._tell_load(place, version, folder, found)
            except Refused:
                for place in fresh:
                    own(place).pop(version, None)
                raise
            had = () if held is None else held.nodes
            names = dict.fromkeys((*had, *(place.name for place in places)))
            self._memory.adapters[version] = Held(path=path, digest=found, nodes=tuple(names))
            self._state.awaited.add(version)
            self._write()

    def holds(self, version: str) -> bool:
        """Whether a version was loaded here."""
        return version in self._memory.adapters

    def move(self, alias: str, version: str) -> str | None:
        """An alias stands for this version from now on; the one that it stood for."""
        old = self._state.versions.move(alias, version)
        written = self._state.settings.aliases.get(alias)
        if version == written:
            self._memory.aliases.pop(alias, None)
        else:
            self._memory.aliases[alias] = Moved(version=version, instead_of=written)
        self._write()
        return old

    def retire(self, version: str) -> list[Place]:
        """Take a version from nodes once no request uses it; where it is."""
        places = [place for place in self._state.places if version in place.models]
        self._memory.adapters.pop(version, None)
        self._state.awaited.discard(version)
        self._keep(self._unload(version, places))
        self._write()
        return places

    def _checked(self, path: str, digest: str | None) -> tuple[Path, str]:
        folder = adapter_folder(self._root, path)
        found = weights_digest(folder)
        if digest is not None and found != digest:
            raise Refused(400, "digest: the weights have another digest", code="invalid_value", param="digest")
        return folder, found

    async def _tell_load(self, place: Place, version: str, folder: Path, digest: str) -> None:
        body = to_json({"lora_name": version, "lora_path": str(folder), "digest": digest})
        try:
            await self._told(place, _LOAD, body)
        except Refused as refused:
            # Engines of others call a second load wrong, whatever it holds: then the path tells, as versions never change.
            if refused.status != 400 or not await self._has(place, version, folder):
                raise
        own(place)[version] = version

    async def _has(self, place: Place, version: str, folder: Path) -> bool:
        """Whether a node says that it has a version from this folder."""
        upstream = self._state.upstreams[place.name]
        try:
            status, said = await upstream.get("/v1/models", LOAD_S)
            cards = from_json(said).get("data", ()) if status == 200 else ()
            return any(card.get("id") == version and card.get("root") == str(folder) for card in cards)
        except (Failed, Expired, ValueError, AttributeError):
            return False

    async def _unload(self, version: str, places: Sequence[Place]) -> None:
        await self._state.versions.unused(version)
        for place in places:
            own(place).pop(version, None)
            try:
                await self._told(place, _UNLOAD, to_json({"lora_name": version}))
            except Refused as refused:
                logger.warning(
                    "not unloaded", extra={"version": version, "node": place.name, "reason": refused.message}
                )

    async def _look_on(self) -> None:
        while True:
            await asyncio.sleep(LOOK_S)
            if self._state.doubted:
                await self._look()

    async def _look(self) -> None:
        """Tell doubted nodes that may be asked what they should have; who cannot be told stays in doubt."""
        async with self._changing:
            now = self._state.loop.time()
            doubted = [place for place in self._state.places if place.name in self._state.doubted]
            asked = [place for place in doubted if self._state.upstreams[place.name].closed(now)]
            await asyncio.gather(*map(self._again, asked))

    async def _again(self, place: Place) -> None:
        self._state.doubted.discard(place.name)
        try:
            await self._tell_all(place)
        except asyncio.CancelledError:
            self._state.doubted.add(place.name)
            raise

    async def _tell_all(self, place: Place) -> None:
        for version, held in list(self._memory.adapters.items()):
            if place.name not in held.nodes:
                continue
            try:
                folder, digest = await asyncio.to_thread(self._checked, held.path, held.digest)
                await self._tell_load(place, version, folder, digest)
            except Refused as refused:
                own(place).pop(version, None)
                if refused.status >= 500:
                    self._state.doubted.add(place.name)
                logger.warning(
                    "not restored", extra={"version": version, "node": place.name, "reason": refused.message}
                )

    async def _told(self, place: Place, path: str, body: bytes) -> None:
        """Tell a node something. Refused: what it says against it, 502 where it cannot be told."""
        upstream = self._state.upstreams[place.name]
        until = self._state.loop.time() + LOAD_S
        try:
            connection = await upstream.open(Posted(path, b"", body, until))
            try:
                said = await upstream.whole(connection, until, 1_000_000)
            finally:
                upstream.close(connection)
        except (Failed, Expired) as error:
            raise Refused(502, f"{place.name}: {error}", code="upstream_failed") from None
        if connection.status != 200:
            raise refused_by(connection.status if connection.status < 500 else 502, said)

    def _write(self) -> None:
        try:
            remember(self._file, self._memory)
        except OSError as error:
            raise Refused(
                500, f"state: {self._file}: {error.strerror}: a restart forgets it", code="not_kept"
            ) from None

    def _keep(self, work: Coroutine[object, object, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def own(place: Place) -> dict[str, str]:
    """The models of a place of a gateway, which are its to change."""
    assert isinstance(place.models, dict)
    return place.models
