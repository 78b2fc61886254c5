"""The live page: what the network does now, for a browser. Nothing on it comes from another origin."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib import resources
from typing import Any

from gainnet.serving.book import Done
from gainnet.serving.keys import Tenant
from gainnet.serving.router import NodeView, Place, View
from gainnet.serving.state import State

STATE = "/live/state"
RECENT, PRICES = 30, 12
_ASSETS = {
    "/live": ("page.html", "text/html; charset=utf-8"),
    "/live/page.css": ("page.css", "text/css; charset=utf-8"),
    "/live/page.svg": ("page.svg", "image/svg+xml"),
    "/live/page.js": ("page.js", "text/javascript; charset=utf-8"),
}
_HEADERS = {
    "content-security-policy": "default-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-cache",
}
_SILENT = NodeView(True, 0, 0)


@dataclass(frozen=True, slots=True)
class Asset:
    """A file of the page, and the headers that it is sent with."""

    body: bytes
    headers: Mapping[str, str]


def assets() -> dict[str, Asset]:
    """The page's files by path."""
    folder = resources.files("gainnet.serving") / "page"
    return {
        path: Asset((folder / name).read_bytes(), _HEADERS | {"content-type": form})
        for path, (name, form) in _ASSETS.items()
    }


def state(of: State, tenant: Tenant) -> dict[str, Any]:
    """What the page draws, as a tree for JSON: requests are those of the tenant who asks, models those it may ask."""
    view, mine = of.router.view(), frozenset(_mine(of.models(), tenant))
    aliases = of.versions.aliases.items()
    dear = sorted(view.prices.items(), key=lambda price: -price[1])
    return {
        "scenario": view.scenario or of.settings.scenario or "",
        "keys": of.settings.keys is not None,
        "models": [model for model in of.models() if model in mine and _talks(of, model)],
        "nodes": [_node(of, place, view, mine) for place in of.places],
        "ends": [
            {"number": number, "x_m": x_m, "y_m": y_m, "cell": cell} for number, (x_m, y_m, cell) in enumerate(view.ends)
        ],
        "cells": [{"x_m": x_m, "y_m": y_m} for x_m, y_m in view.cells],
        "services": [asdict(quality) for quality in of.book.services(tenant.name)],
        "prices": [{"name": name, "value": value} for name, value in dear[:PRICES] if value > 0.0],
        "versions": [
            {"alias": alias, "version": version, "used": of.versions.used(version)}
            for alias, version in aliases if alias in mine
        ],
        "recent": [_said(done) for done in of.book.recent(tenant.name, RECENT)],
    }  # fmt: skip


def _talks(of: State, model: str) -> bool:
    known = of.settings.models.get(of.versions.aliases.get(model, model))
    return known is None or "chat" in known.kinds


def _mine(models: tuple[str, ...], tenant: Tenant) -> list[str]:
    return [model for model in models if tenant.models is None or model in tenant.models]


def _node(of: State, place: Place, view: View, mine: frozenset[str]) -> dict[str, Any]:
    """A node: up where both gateway and router think so, busy with what it says, or what it was sent."""
    upstream, said = of.upstreams[place.name], view.nodes.get(place.name)
    heard = said or _SILENT
    x_m, y_m = view.places.get(place.name, (None, None))
    return {
        "name": place.name, "tier": place.tier, "end": place.end, "x_m": x_m, "y_m": y_m,
        "up": upstream.closed(of.loop.time()) and heard.up,
        "running": max(heard.running, upstream.in_flight - heard.waiting),
        "waiting": None if said is None else said.waiting,
        "served": upstream.served, "failed": upstream.failed,
        "models": [model for model in place.models if model in mine],
    }  # fmt: skip


def _said(done: Done) -> dict[str, Any]:
    tree = asdict(done)
    del tree["satisfied"]
    return tree
