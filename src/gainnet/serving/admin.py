"""The other listener: metrics, the state of nodes, adapters and aliases. Never on the address that clients know."""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
import logging
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web
from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import to_json

from gainnet.serving.adapters import Adapters
from gainnet.serving.answers import error_body
from gainnet.serving.router import Place, Refused
from gainnet.serving.settings import Name
from gainnet.serving.state import State

logger = logging.getLogger(__name__)


class _Body(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True)


class Load(_Body):
    """POST /v1/load_lora_adapter, as engines have it.

    Attributes:
        lora_name: version, as `domain@v7`.
        lora_path: folder below the settings' `adapters.root`.
        digest: SHA-256 of its adapter_model.safetensors, checked where given.
        nodes: where to; all that serve `base`, or all where that is None.
        base: public id of the model that it adapts.
    """

    lora_name: Name
    lora_path: str
    digest: str | None = None
    nodes: list[str] | None = None
    base: str | None = None


class Unload(_Body):
    """POST /v1/unload_lora_adapter: once no request uses it."""

    lora_name: str


class Move(_Body):
    """POST /v1/aliases: what the alias stands for from now on; the old version is unloaded when it is unused."""

    alias: Name
    version: str
    unload: bool = False


class Admin:
    """What the other listener answers."""

    def __init__(self, state: State, adapters: Adapters) -> None:
        self._state, self._adapters = state, adapters
        self._posts: dict[str, Callable[[bytes], Awaitable[dict[str, Any]]]] = {
            "/v1/load_lora_adapter": self._load,
            "/v1/unload_lora_adapter": self._unload,
            "/v1/aliases": self._move,
        }
        self._gets: dict[str, Callable[[], dict[str, Any]]] = {"/v1/aliases": self._aliases, "/v1/nodes": self._nodes}

    async def answer(self, request: web.BaseRequest) -> web.StreamResponse:
        """The answer to any request there."""
        try:
            path = request.raw_path.partition("?")[0]
            if path == "/metrics":
                text = self._state.metrics.text(self._state.gauges())
                return web.Response(text=text, headers={"content-type": "text/plain; version=0.0.4; charset=utf-8"})
            if path == "/health":
                return web.Response()
            if request.method == "GET" and path in self._gets:
                self._may(request)
                return _answer(self._gets[path]())
            if request.method == "POST" and path in self._posts:
                self._may(request)
                return _answer(await self._posts[path](await self._body(request)))
            raise Refused(404, "there is nothing at this path", code="not_found")
        except Refused as refused:
            return web.Response(body=error_body(refused), status=refused.status, content_type="application/json")

    async def _body(self, request: web.BaseRequest) -> bytes:
        try:
            async with asyncio.timeout(self._state.settings.timeouts.body_s):
                return await request.read()
        except TimeoutError:
            raise Refused(408, "the body came too slowly", code="body_timeout") from None

    def _may(self, request: web.BaseRequest) -> None:
        """Refused: 401 or 403 for whom this is not for."""
        token = self._state.settings.admin.token
        if token is None:
            if request.remote is None or not ipaddress.ip_address(request.remote).is_loopback:
                raise Refused(403, "without admin.token only this machine may ask", code="forbidden")
            return
        shown = request.headers.get("authorization", "").encode("utf-8", "surrogateescape")
        if not hmac.compare_digest(shown, f"Bearer {token.get_secret_value()}".encode()):
            raise Refused(401, "the admin token is needed: Authorization: Bearer TOKEN", code="invalid_api_key")

    def _aliases(self) -> dict[str, Any]:
        versions = self._state.versions
        return {
            alias: {"version": version, "used": versions.used(version)} for alias, version in versions.aliases.items()
        }

    def _nodes(self) -> dict[str, Any]:
        now = self._state.loop.time()
        return {
            place.name: {
                "tier": place.tier, "url": place.url, "models": dict(place.models),
                "up": self._state.upstreams[place.name].closed(now),
                "running": self._state.upstreams[place.name].in_flight,
            }
            for place in self._state.places
        }  # fmt: skip

    async def _load(self, body: bytes) -> dict[str, Any]:
        load = _parsed(Load, body)
        places = self._places(load)
        await self._adapters.load(load.lora_name, load.lora_path, load.digest, places)
        logger.info("adapter loaded", extra={"version": load.lora_name, "nodes": [place.name for place in places]})
        return {"loaded": load.lora_name, "nodes": [place.name for place in places]}

    async def _unload(self, body: bytes) -> dict[str, Any]:
        version = _parsed(Unload, body).lora_name
        if not any(version in place.models for place in self._state.places):
            raise Refused(404, f"no node has {version!r}", code="not_found", param="lora_name")
        if names := self._state.versions.names(version):
            raise Refused(409, f"{', '.join(names)} stands for it: move that first", code="in_use", param="lora_name")
        return {"unloading": version, "nodes": [place.name for place in self._adapters.retire(version)]}

    async def _move(self, body: bytes) -> dict[str, Any]:
        move = _parsed(Move, body)
        if not any(move.version in place.models for place in self._state.places):
            raise Refused(404, f"no node has {move.version!r}", code="not_found", param="version")
        if any(move.alias in place.models for place in self._state.places):
            raise Refused(400, f"{move.alias!r} is a model that a node serves", code="duplicate", param="alias")
        old = self._adapters.move(move.alias, move.version)
        logger.info("alias moved", extra={"alias": move.alias, "version": move.version, "old": old})
        if move.unload and old is not None and old != move.version and not self._state.versions.names(old):
            self._adapters.retire(old)
        return {"alias": move.alias, "version": move.version, "old": old}

    def _places(self, load: Load) -> list[Place]:
        known = {place.name: place for place in self._state.places}
        for name in load.nodes or ():
            if name not in known:
                raise Refused(404, f"there is no node {name!r}", code="not_found", param="nodes")
        places = [
            place for place in self._state.places
            if (load.nodes is None or place.name in load.nodes) and (load.base is None or load.base in place.models)
        ]  # fmt: skip
        if not places:
            raise Refused(404, f"no node serves {load.base!r}", code="not_found", param="base")
        return places


def _parsed(model: type[Any], body: bytes) -> Any:
    try:
        return model.model_validate_json(body)
    except ValidationError as error:
        detail = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, detail["loc"]))
        raise Refused(
            400, f"{where or 'the body'}: {detail['msg']}", code="invalid_value", param=where or None
        ) from None


def _answer(tree: dict[str, Any]) -> web.Response:
    return web.Response(body=to_json(tree), content_type="application/json")
