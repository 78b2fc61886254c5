"""The gateway: one address in front of all nodes. `Gateway` is the process's parts, `serve` the process."""

from __future__ import annotations

import asyncio
import logging
import signal
import ssl
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from aiohttp import web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.http_parser import RawRequestMessage
from aiohttp.streams import StreamReader
from aiohttp.web_protocol import RequestHandler
from pydantic_core import to_json

from gainnet import __version__
from gainnet.errors import InputError
from gainnet.scenario.complaint import nearest
from gainnet.serving import live_page, openapi
from gainnet.serving.admin import Admin
from gainnet.serving.answers import ModelCard, ModelList, error_body
from gainnet.serving.exchange import Exchange
from gainnet.serving.router import FIXED, Kind, Place, Refused, Router
from gainnet.serving.settings import AdminListen, GatewaySettings, Listen
from gainnet.serving.state import State
from gainnet.serving.wire import PATHS

logger = logging.getLogger(__name__)
MakeRouter = Callable[[Sequence[Place]], Router]
Answer = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]
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
            Place(node.name, node.url.rstrip("/"), node.tier, dict(node.models), node.end) for node in settings.nodes
        )
        if make_router is None and settings.router not in FIXED:
            known = ", ".join(FIXED)
            raise InputError(f"router: unknown {settings.router!r}: one of {known}{nearest(settings.router, FIXED)}")
        make: MakeRouter = make_router or FIXED[settings.router]
        self._router = make(self.places)
        self._state: State | None = None
        self._admin: Admin | None = None
        self._runners: list[web.ServerRunner] = []
        self._since = int(time.time())
        self._assets = live_page.assets() if settings.page else {}
        self._gets = {*_GET, *self._assets, *((live_page.STATE,) if settings.page else ())}

    async def start(self) -> None:
        """Open both listeners. InputError where an address or a certificate cannot be used."""
        state = self._state = State(self.settings, self.places, self._router)
        self._admin = Admin(state)
        try:
            await self._router.start()
            self._runners.append(await self._listening("listen", self.settings.listen, self._answer))
            self._runners.append(await self._listening("admin", self.settings.admin, self._admin.answer))
        except BaseException:
            await self.close()
            raise
        logger.info("listening", extra={"address": self.url, "admin": self.admin_url})

    @property
    def url(self) -> str:
        """Where requests come in, without `/v1`."""
        return self._url(0, self.settings.listen.tls is not None)

    @property
    def admin_url(self) -> str:
        """Where metrics and administration are."""
        return self._url(1, self.settings.admin.tls is not None)

    async def drain(self) -> None:
        """Fail readiness, wait until balancers have seen it, close the door, and finish what is under way."""
        assert self._state is not None
        self._state.draining = True
        logger.info("draining", extra={"in_flight": self._state.admission.in_flight})
        await asyncio.sleep(self.settings.timeouts.notice_s)
        runner = self._runners[0]
        for site in list(runner.sites):
            await site.stop()
        until = self._state.loop.time() + self.settings.timeouts.drain_s
        while self._state.admission.in_flight and self._state.loop.time() < until:
            await asyncio.sleep(0.01)

    async def close(self) -> None:
        """Close listeners, connections and the router at once; `drain` first where requests are to be finished."""
        for runner in self._runners:
            await runner.cleanup()
        if self._admin is not None:
            await self._admin.close()
        await self._router.close()
        if self._state is not None:
            for upstream in self._state.upstreams.values():
                upstream.shut()
        self._runners.clear()

    async def serve(self) -> None:
        """Start, serve until SIGTERM or SIGINT, drain, leave."""
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        await self.start()
        try:
            await stop.wait()
            await self.drain()
        finally:
            await self.close()
            logger.info("left")

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
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

    def _card(self, name: str) -> ModelCard:
        assert self._state is not None
        version = self._state.versions.aliases.get(name)
        known = self.settings.models.get(name)
        root = known.root if known is not None and known.root is not None else None
        return ModelCard(id=name, created=self._since, root=version or root or name, parent=root)

    async def _listening(self, field: str, listen: Listen | AdminListen, answer: Answer) -> web.ServerRunner:
        server = _Server(self.settings, answer)
        runner = web.ServerRunner(server, shutdown_timeout=0.5)
        await runner.setup()
        site = web.TCPSite(runner, listen.host, listen.port, ssl_context=tls(field, listen), backlog=1_024)
        try:
            await site.start()
        except OSError as error:
            await runner.cleanup()
            raise InputError(f"{field}: cannot listen on {listen.host}:{listen.port}: {error.strerror}") from None
        return runner

    def _url(self, number: int, secure: bool) -> str:
        host, port = self._runners[number].addresses[0][:2]
        return f"http{'s' if secure else ''}://{f'[{host}]' if ':' in host else host}:{port}"


class _Server(web.Server):
    """aiohttp's server of plain handlers, with limits on connections and bodies; a client that leaves cancels its handler."""

    def __init__(self, settings: GatewaySettings, answer: Answer) -> None:
        byte_max = settings.limits.body_byte

        def request(
            message: RawRequestMessage,
            payload: StreamReader,
            protocol: RequestHandler,
            writer: AbstractStreamWriter,
            task: asyncio.Task[None],
        ) -> web.BaseRequest:
            return web.BaseRequest(
                message, payload, protocol, writer, task, asyncio.get_running_loop(), client_max_size=byte_max
            )

        super().__init__(
            answer, request_factory=request, handler_cancellation=True, access_log=None,
            keepalive_timeout=settings.timeouts.idle_s, lingering_time=1.0,
        )  # fmt: skip
        self._most = settings.limits.connections

    def __call__(self) -> RequestHandler:
        """A protocol for a new connection; it is closed at once where there are too many."""
        if len(self.connections) >= self._most:
            return _Full(self, loop=asyncio.get_running_loop())
        return super().__call__()


class _Full(RequestHandler):
    """One connection too many: it is closed before anything is read."""

    def connection_made(self, transport: Any) -> None:
        """See asyncio.Protocol."""
        transport.close()

    def connection_lost(self, exc: BaseException | None) -> None:
        """See asyncio.Protocol."""


def tls(field: str, listen: Listen | AdminListen) -> ssl.SSLContext | None:
    """How a listener shows itself; None where it has no certificate. InputError where that cannot be used."""
    if listen.tls is None:
        return None
    try:
        made = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        made.load_cert_chain(listen.tls.cert, listen.tls.key)
        if listen.tls.client_ca is not None:
            made.verify_mode = ssl.CERT_REQUIRED
            made.load_verify_locations(listen.tls.client_ca)
    except (OSError, ssl.SSLError) as error:
        raise InputError(f"{field}.tls: a certificate cannot be used: {error}") from None
    return made


def _json(tree: object, headers: Mapping[str, str] | None = None) -> web.Response:
    return web.Response(body=to_json(tree), content_type="application/json", headers=headers)


def _refusal(refused: Refused) -> web.Response:
    return web.Response(body=error_body(refused), status=refused.status, content_type="application/json")
