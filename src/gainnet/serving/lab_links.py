"""Which links a lab has, and the address at which they are set, by people and by the gateway's router."""

from __future__ import annotations

import json
from collections.abc import Mapping

from aiohttp import web
from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import to_json

from gainnet.errors import GainnetError, InputError
from gainnet.scenario.complaint import nearest
from gainnet.serving.links import Links, Shape
from gainnet.serving.netem import Netem
from gainnet.serving.proxy import Proxies

KINDS: dict[str, type[Links]] = {"proxy": Proxies, "netem": Netem}
"""Who shapes: this process, or the kernel."""


def made(kind: str, shapes: Mapping[str, Shape]) -> Links:
    """Links of one of `KINDS`. InputError for another."""
    if kind not in KINDS:
        raise InputError(f"--links {kind}: must be one of {', '.join(KINDS)}{nearest(kind, KINDS)}")
    return KINDS[kind](shapes)


class _Change(BaseModel):
    """Fields of a link's shape."""

    model_config = ConfigDict(strict=True, extra="forbid")

    latency_s: float | None = None
    jitter_s: float | None = None
    rate_bit_per_s: float | None = None
    back_bit_per_s: float | None = None
    loss: float | None = None
    up: bool | None = None


class Control:
    """A page of the loopback interface that shows links, and takes changes of their shapes."""

    def __init__(self, links: Links) -> None:
        """A page of those; `open` opens it."""
        self._links = links
        self._runner: web.AppRunner | None = None

    async def open(self) -> str:
        """Listen on a free port. Where the page is."""
        app = web.Application()
        app.router.add_get("/links", self._show)
        app.router.add_post("/links", self._change)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.5)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        return f"http://127.0.0.1:{self._runner.addresses[0][1]}/links"

    async def close(self) -> None:
        """Close it."""
        if self._runner is not None:
            await self._runner.cleanup()

    async def _show(self, _: web.Request) -> web.Response:
        return web.Response(body=to_json(await self._links.seen()), content_type="application/json")

    async def _change(self, request: web.Request) -> web.Response:
        """Fields of shapes by name of link: all or, where one is wrong, none after it."""
        try:
            tree = json.loads(await request.read())
            if not isinstance(tree, dict):
                raise InputError("must be an object: fields of shapes by name of link")
            for name, fields in tree.items():
                change = _Change.model_validate(fields)
                await self._links.change(name, **change.model_dump(exclude_none=True))
        except (ValueError, InputError) as error:
            said = error.errors(include_url=False)[0]["msg"] if isinstance(error, ValidationError) else str(error)
            return web.json_response({"error": {"message": said}}, status=400)
        except GainnetError as error:
            return web.json_response({"error": {"message": str(error)}}, status=500)
        return await self._show(request)
