"""What all requests of a gateway share."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

from gainnet.serving.admission import Admission
from gainnet.serving.book import Book
from gainnet.serving.collaborate import Audits
from gainnet.serving.idempotency import Idempotency
from gainnet.serving.keys import Tenants
from gainnet.serving.metrics import Labels, Metrics
from gainnet.serving.router import Place, Router
from gainnet.serving.settings import GatewaySettings
from gainnet.serving.tracing import Tracing
from gainnet.serving.upstream import Upstream, upstreams
from gainnet.serving.versions import Versions


class State:
    """What all requests share; made inside the loop that serves them.

    Attributes:
        settings: of the gateway.
        places: the nodes as the router sees them.
        router: that chooses.
        loop: that serves.
        upstreams: the nodes' connections, by name.
        tiers: of the nodes.
        tenants: who may ask.
        admission: what is under way.
        idempotency: answers kept.
        versions: what aliases stand for.
        metrics: of it all.
        tracing: of requests; None where they are not traced.
        doubted: nodes that may have lost adapters.
        awaited: versions that some node should have.
        audits: small models that are asked as well, to learn from.
        book: the last requests, kept where there is a page to show them.
        draining: answers close their connections, and /ready fails.
    """

    def __init__(self, settings: GatewaySettings, places: Sequence[Place], router: Router) -> None:
        self.settings, self.places, self.router = settings, places, router
        self.loop = asyncio.get_running_loop()
        self.upstreams: Mapping[str, Upstream] = upstreams(settings.nodes, settings.timeouts, settings.breaker)
        self.tiers = {place.name: place.tier for place in places}
        self.tenants = Tenants(settings.keys, self.loop.time())
        self.admission = Admission(settings.limits)
        self.idempotency = Idempotency(settings.idempotency)
        self.versions = Versions(settings.aliases)
        self.metrics = Metrics()
        self.audits = Audits(router, self.upstreams, settings.limits)
        self.book = Book()
        self.draining = False
        self.tracing = None if settings.tracing is None else Tracing("gainnet-gateway", settings.tracing)
        self.doubted: set[str] = set()
        self.awaited: set[str] = set()

    def serves(self, model: str) -> bool:
        """Whether some node serves a model, or what an alias stands for, or should."""
        version = self.versions.aliases.get(model, model)
        return version in self.awaited or any(version in place.models for place in self.places)

    def models(self) -> tuple[str, ...]:
        """Public ids: aliases, then what nodes serve, in order of the settings."""
        served = dict.fromkeys(model for place in self.places for model in place.models)
        return (*(alias for alias, version in self.versions.aliases.items() if version in served), *served)

    def ready(self) -> bool:
        """Whether requests are welcome: not draining, and some node is well by its probes, else by its requests."""
        now, nodes = self.loop.time(), self.upstreams.values()
        if self.settings.probes is not None:
            return not self.draining and any(node.health.up for node in nodes)
        return not self.draining and any(node.breaker.closed(now) for node in nodes)

    def gauges(self) -> dict[tuple[str, Labels], float]:
        """Metrics as they are now."""
        now = self.loop.time()
        running = {node.node.name: node for node in self.upstreams.values()}
        made: dict[tuple[str, Labels], float] = {
            ("vllm:num_requests_running", ()): float(self.admission.in_flight),
            ("vllm:num_requests_waiting", ()): float(self.admission.waiting),
            ("gainnet:queued_prompt_tokens", ()): float(self.admission.queued_prompt_token),
        }
        for name, node in running.items():
            made["gainnet:node_up", (("node", name),)] = float(node.closed(now))
            made["gainnet:node_requests_running", (("node", name),)] = float(node.in_flight)
        for version in dict.fromkeys(self.versions.aliases.values()):
            made["vllm:lora_requests_info", (("version", version),)] = float(self.versions.used(version))
        return made
