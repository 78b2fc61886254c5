"""The last requests of each tenant, kept for the live page."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

KEPT = 1_000
"""Requests of a tenant that are kept."""


@dataclass(frozen=True, slots=True)
class Done:
    """A request that is over.

    Attributes:
        at_s: when it ended, Unix time.
        model: public id that it named.
        end: number of the end that asked, None where it was asked at the gateway.
        node: that answered, empty where none did.
        tier: of that node.
        ok: a whole answer was passed on.
        satisfied: and within its deadline.
        latency_s: from its arrival to the last byte.
        why: there, or why not at all; one phrase for people.
    """

    at_s: float
    model: str
    end: int | None
    node: str
    tier: str
    ok: bool
    satisfied: bool
    latency_s: float
    why: str


@dataclass(frozen=True, slots=True)
class Quality:
    """How well requests for a model were served.

    Attributes:
        name: public id of the model.
        asked: requests.
        satisfied: those answered without failure and within their deadline.
        p50_s: median latency of those answered, None where none was.
        p95_s: 95th percentile of the same.
    """

    name: str
    asked: int
    satisfied: int
    p50_s: float | None
    p95_s: float | None


class Book:
    """What became of the last `KEPT` requests of each tenant."""

    def __init__(self) -> None:
        self._done: dict[str, deque[Done]] = {}

    def add(self, tenant: str, done: Done) -> None:
        """A tenant's request is over."""
        self._done.setdefault(tenant, deque(maxlen=KEPT)).append(done)

    def recent(self, tenant: str, most: int) -> list[Done]:
        """A tenant's last requests, the last first."""
        kept = self._done.get(tenant, ())
        return [done for done, _ in zip(reversed(kept), range(most), strict=False)]

    def services(self, tenant: str) -> list[Quality]:
        """How well a tenant was served, by model in the order of their names."""
        by_model: dict[str, list[Done]] = {}
        for done in self._done.get(tenant, ()):
            by_model.setdefault(done.model, []).append(done)
        return [_quality(model, by_model[model]) for model in sorted(by_model)]


def _quality(model: str, kept: list[Done]) -> Quality:
    latencies = sorted(done.latency_s for done in kept if done.ok)
    satisfied = sum(done.satisfied for done in kept)
    return Quality(model, len(kept), satisfied, _nearest(latencies, 0.5), _nearest(latencies, 0.95))


def _nearest(ordered: list[float], part: float) -> float | None:
    """The percentile by nearest rank."""
    return ordered[min(int(part * len(ordered)), len(ordered) - 1)] if ordered else None
