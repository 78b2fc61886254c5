"""The gateway: one address in front of all nodes. `Gateway` is the process's parts; `listener.serve` runs it."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from urllib.parse import unquote

from aiohttp import web
from pydantic_core import to_json

from gainnet import __version__
from gainnet.errors import InputError
from gainnet.scenario.complaint import nearest
from gainnet.serving import live_page, openapi
from gainnet.serving.adapters import Adapters
from gainnet.serving.admin import Admin
from gainnet.serving.answers import ModelCard, ModelList, error_body
from gainnet.serving.exchange import Exchange
from gainnet.serving.following import Following
from gainnet.serving.listener import Listener
from gainnet.serving.probes import Probes
from gainnet.serving.ready import Ready
from gainnet.serving.router import FIXED, Kind, Place, Refused, Router
from gainnet.serving.settings import GatewaySettings
from gainnet.serving.state import State
from gainnet.serving.wire import PATHS

logger = logging.getLogger(__name__)
MakeRouter = Callable[[Sequence[Place]], Router]
_MODEL = "/v1/models/"
_GET = ("/health", "/ready", "/v1/models", "/version", "/openapi.json")


class Gateway:
    """Everything that one gateway consists of; `start` it inside a loop, `close` it there.

    Attributes:
        settings: of the gateway.
        places: the nodes as routers see them.
    """

    def __init__(self, settings: GatewaySettings, make_router: MakeRouter | None = None) -> None:
        self.settings = settings
        self.places = tuple(
            Place(node.name, node.url.rstrip("/"), node.tier, dict(node.models), node.end, node.quality)
            for node in settings.nodes
        )
        if make_router is None and settings.router not in FIXED:
            known = ", ".join(FIXED)
            raise InputError(f"router: unknown {settings.router!r}: one of {known}{nearest(settings.router, FIXED)}")
        make: MakeRouter = make_router or FIXED[settings.router]
        self._router = make(self.places)
        self._state: State | None = None
        self._adapters: Adapters | None = None
        self._following: Following | None = None
        self._probes: Probes | None = None
        self._listeners: list[Listener] = []
        self._since = int(time.time())
        self._assets = live_page.assets() if settings.page else {}
        self._gets = {*_GET, *self._assets, *((live_page.STATE,) if settings.page else ())}

    async def start(self) -> None:
        """Open both listeners. InputError where an address, a certificate or what was kept cannot be used."""
        settings = self.settings
        state = self._state = State(settings, self.places, self._router)
        self._adapters = Adapters(state)
        admin = Admin(state, self._adapters)
        for field, listen, answer in (
            ("listen", settings.listen, self._answer), ("admin", settings.admin, admin.answer),
        ):  # fmt: skip
            self._listeners.append(Listener(field, listen, settings.limits, settings.timeouts, answer))
        try:
            await self._router.start()
            await self._adapters.start()
            self._following = Following(state, self._adapters)
            self._following.start()
            for listener in self._listeners:
                await listener.open()
            if settings.probes is not None:
                self._probes = Probes(state, settings.probes)
                self._probes.start()
        except BaseException:
            await self.close()
            raise
        logger.info("listening", extra={"address": self.url, "admin": self.admin_url})

    @property
    def url(self) -> str:
        """Where requests come in, without `/v1`."""
        return self._listeners[0].url

    @property
    def admin_url(self) -> str:
        """Where metrics and administration are."""
        return self._listeners[1].url

    async def drain(self) -> None:
        """Fail readiness, wait until balancers have seen it, close the door, and finish what is under way."""
        assert self._state is not None
        self._state.draining = True
        logger.info("draining", extra={"in_flight": self._state.admission.in_flight})
        admission = self._state.admission
        await self._listeners[0].drain(lambda: admission.in_flight)

    async def close(self) -> None:
        """Close listeners, connections and the router at once; `drain` first where requests are to be finished."""
        for listener in self._listeners:
            await listener.close()
        if self._probes is not None:
            await self._probes.close()
        if self._following is not None:
            await self._following.close()
        if self._adapters is not None:
            await self._adapters.close()
        await self._router.close()
        if self._state is not None:
            await self._state.audits.close()
            for upstream in self._state.upstreams.values():
                upstream.shut()
        if self._state is not None and self._state.tracing is not None:
            await asyncio.to_thread(self._state.tracing.close)
        self._listeners.clear()

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse | Ready:
        path = request.raw_path.partition("?")[0]
        kind = PATHS.get(path)
        assert self._state is not None
        if kind is not None and request.method == "POST":
            return await Exchange(self._state, request, kind, path).answer()
        try:
            return self._page(request, path, kind)
        except Refused as refused:
            return _refusal(refused)

    def _page(self, request: web.BaseRequest, path: str, kind: Kind | None) -> web.Response:
        state = self._state
        assert state is not None
        if kind is not None or path in self._gets:
            allowed = "POST" if kind is not None else "GET, HEAD"
            if request.method not in allowed:
                refusal = _refusal(Refused(405, f"{request.method} is not allowed here", code="method_not_allowed"))
                refusal.headers["allow"] = allowed
                return refusal
        match path:
            case "/health":
                return web.Response()
            case "/ready":
                if not state.ready():
                    raise Refused(503, "draining" if state.draining else "no node can be asked", code="not_ready")
                return web.Response()
            case "/v1/models":
                tenant = state.tenants.who(request.headers.get("authorization"))
                names = [name for name in state.models() if tenant.models is None or name in tenant.models]
                return _json(ModelList(data=[self._card(name) for name in names]).model_dump())
            case _ if path.startswith(_MODEL) and request.method in ("GET", "HEAD"):
                return _json(self._known(unquote(path.removeprefix(_MODEL)), request).model_dump())
            case "/version":
                return _json({"version": __version__})
            case "/openapi.json":
                return _json(openapi.page(__version__, state.models(), self.settings.limits))
            case live_page.STATE if self.settings.page:
                tenant = state.tenants.who(request.headers.get("authorization"))
                return _json(live_page.state(state, tenant), {"cache-control": "no-store"})
        if (asset := self._assets.get(path)) is not None:
            return web.Response(body=asset.body, headers=asset.headers)
        raise Refused(404, "there is nothing at this path", code="not_found")

    def _known(self, name: str, request: web.BaseRequest) -> ModelCard:
        """One model, where there is one that the asker may name."""
        assert self._state is not None
        tenant = self._state.tenants.who(request.headers.get("authorization"))
        if name not in self._state.models() or (tenant.models is not None and name not in tenant.models):
            raise Refused(404, f"the model {name[:200]!r} does not exist", code="model_not_found", param="model")
        return self._card(name)

    def _card(self, name: str) -> ModelCard:
        assert self._state is not None
        version = self._state.versions.aliases.get(name)
        known = self.settings.models.get(name)
        root = known.root if known is not None and known.root is not None else None
        return ModelCard(id=name, created=self._since, root=version or root or name, parent=root)


def _json(tree: object, headers: Mapping[str, str] | None = None) -> web.Response:
    return web.Response(body=to_json(tree), content_type="application/json", headers=headers)


def _refusal(refused: Refused) -> web.Response:
    return web.Response(body=error_body(refused), status=refused.status, content_type="application/json")
