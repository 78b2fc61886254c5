"""A node's adapters: loaded from below its root, once however often they are asked for, and kept over restarts."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from gainnet.errors import GainnetError
from gainnet.inference.engine import Engine
from gainnet.models import adapter as storing
from gainnet.serving.memory import adapter_folder, recall, remember, weights_digest
from gainnet.serving.node_settings import NodeSettings
from gainnet.serving.node_wire import AdapterRequest
from gainnet.serving.router import Refused

logger = logging.getLogger(__name__)


class Held(BaseModel):
    """An adapter: its folder, and the digest of what it is."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: str
    digest: str


class _Memory(BaseModel):
    model_config = ConfigDict(extra="forbid")

    adapters: dict[str, Held] = Field(default_factory=dict)


class NodeAdapters:
    """What may be asked for beside the model itself."""

    def __init__(self, settings: NodeSettings, engine: Engine) -> None:
        """Load those of the settings, and those that were loaded before the node ended.

        Errors: InputError or Refused where one of the settings cannot be loaded; one that was there before is left out.
        """
        self._settings, self._engine = settings, engine
        self._root = None if settings.adapters is None else settings.adapters.root
        self._changing = asyncio.Lock()
        self._digests = {
            name: engine.load_adapter(name, adapter_folder(self._root, path)) for name, path in settings.load.items()
        }
        self._memory = _Memory()
        for name, held in recall(settings.state, _Memory).adapters.items():
            if name in self._digests or name in settings.ids:
                continue
            try:
                digest = engine.load_adapter(name, adapter_folder(self._root, held.path))
            except GainnetError as error:
                logger.warning("not restored", extra={"adapter": name, "reason": str(error)})
                continue
            if digest != held.digest:
                engine.unload_adapter(name)
                logger.warning("not restored", extra={"adapter": name, "reason": "its folder holds another now"})
                continue
            self._digests[name] = digest
            self._memory.adapters[name] = held

    async def load(self, request: AdapterRequest) -> str:
        """Load an adapter; the digest of what it is. The same again under its name is no error.

        Raises:
            Refused: 400, 403 or 404 where it is not in order, 409 where another adapter has its name.
        """
        name = request.lora_name
        if request.lora_path is None:
            raise Refused(400, "lora_path: Field required", code="missing_field", param="lora_path")
        if name in self._settings.ids:
            raise Refused(400, f"{name!r} is the model itself", code="duplicate", param="lora_name")
        async with self._changing:
            folder = await asyncio.to_thread(self._checked, request.lora_path, request.digest)
            known = self._digests.get(name)
            if known is not None:
                base = self._engine.language.digest
                if (await asyncio.to_thread(storing.load, folder, base)).digest() != known:
                    raise Refused(409, f"{name!r} is another adapter: versions never change", code="conflict")
                return known
            digest = await asyncio.to_thread(self._engine.load_adapter, name, folder)
            self._digests[name] = digest
            self._memory.adapters[name] = Held(path=str(folder), digest=digest)
            self._write()
        logger.info("adapter loaded", extra={"adapter": name, "digest": digest})
        return digest

    async def unload(self, name: str) -> None:
        """Take no more requests for an adapter. Refused: 404 where there is none."""
        async with self._changing:
            if self._digests.pop(name, None) is None:
                raise Refused(404, f"there is no adapter {name!r}", code="not_found", param="lora_name")
            self._engine.unload_adapter(name)
            self._memory.adapters.pop(name, None)
            self._write()
        logger.info("adapter unloaded", extra={"adapter": name})

    def _checked(self, path: str, digest: str | None) -> Path:
        folder = adapter_folder(self._root, path)
        if digest is not None and weights_digest(folder) != digest:
            raise Refused(400, "digest: the weights have another digest", code="invalid_value", param="digest")
        return folder

    def _write(self) -> None:
        try:
            remember(self._settings.state, self._memory)
        except OSError as error:
            raise Refused(500, f"state: {error.strerror}: a restart forgets it", code="not_kept") from None
