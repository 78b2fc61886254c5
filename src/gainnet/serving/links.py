"""The links of a lab: what each is like, and what a lab asks of them, whoever shapes them.

`gainnet.serving.proxy` shapes them in user space, everywhere; `gainnet.serving.netem` has the kernel do it, where it may.
"""

from __future__ import annotations

import asyncio
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from gainnet.errors import InputError

SEGMENT_BYTE = 1_460
"""What TCP puts into a packet of 1,500 byte."""
BUFFER_BYTE = 262_144
"""What a direction holds beyond what is on its way before its sender is made to wait, or to send again."""


@dataclass(frozen=True, slots=True)
class Shape:
    """What a link is like, either way.

    Attributes:
        latency_s: one way.
        jitter_s: added to it, drawn evenly from 0 to this; never reorders.
        rate_bit_per_s: of all its connections together, to the node; inf where that is no limit.
        back_bit_per_s: from the node; None: the same.
        loss: probability that a segment is lost, and has to be sent again.
        up: while it is not, nothing arrives, and nobody new gets a connection.
    """

    latency_s: float = 0.0
    jitter_s: float = 0.0
    rate_bit_per_s: float = math.inf
    back_bit_per_s: float | None = None
    loss: float = 0.0
    up: bool = True

    def __post_init__(self) -> None:
        for name, value, most in (
            ("latency_s", self.latency_s, 60.0),
            ("jitter_s", self.jitter_s, 60.0),
            ("loss", self.loss, 0.99),
        ):
            if not 0.0 <= value <= most:
                raise InputError(f"{name} {value:g}: must be from 0 to {most:g}")
        for name, rate in (("rate_bit_per_s", self.rate_bit_per_s), ("back_bit_per_s", self.back_bit_per_s)):
            if rate is not None and not rate > 0.0:
                raise InputError(f"{name} {rate:g}: must be above 0; an outage is up: false")

    def rate(self, direction: int) -> float:
        """Of direction 0, to the node, or 1, from it, bit/s."""
        return self.back_bit_per_s if direction and self.back_bit_per_s is not None else self.rate_bit_per_s


@dataclass(frozen=True, slots=True)
class Site:
    """Where a node is to be.

    Attributes:
        host: to listen on.
        port: of it; 0: a free one.
        namespace: of the network that its process is to be in, None for that of the lab.
    """

    host: str
    port: int
    namespace: str | None = None


class Links(ABC):
    """All links of a lab, one to each node, by the nodes' names."""

    def __init__(self, shapes: Mapping[str, Shape]) -> None:
        """Links that are so at the start."""
        self._shapes = dict(shapes)
        self._changing = asyncio.Lock()

    @abstractmethod
    async def start(self) -> None:
        """Start all of them. InputError where this machine cannot have such links."""

    @abstractmethod
    async def close(self) -> None:
        """Close all of them, and leave nothing, also where the start failed or was given up."""

    @abstractmethod
    def site(self, name: str) -> Site:
        """Where the node is to be."""

    @abstractmethod
    def joined(self, name: str, url: str) -> None:
        """The node has begun to listen there."""

    @abstractmethod
    def url(self, name: str) -> str:
        """Where others find the node, over its link, once started."""

    @abstractmethod
    async def _apply(self, name: str, shape: Shape) -> None:
        """Let what comes from now on find a link like that."""

    @abstractmethod
    async def _carried(self) -> dict[str, dict[str, Any]]:
        """What each link carried, by name."""

    async def change(self, name: str, **fields: Any) -> Shape:
        """Change some fields of a link's shape. InputError for a link or a value that cannot be."""
        if name not in self._shapes:
            raise InputError(f"there is no link {name!r}: one of {', '.join(self._shapes)}")
        async with self._changing:
            shape = replace(self._shapes[name], **fields)
            await self._apply(name, shape)
            self._shapes[name] = shape
        return shape

    async def seen(self) -> dict[str, dict[str, Any]]:
        """What each link is like, and what it carried."""
        carried = await self._carried()
        return {
            name: asdict(shape)
            | {"rate_bit_per_s": _finite(shape.rate(0)), "back_bit_per_s": _finite(shape.rate(1))}
            | carried[name]
            for name, shape in self._shapes.items()
        }


def _finite(rate_bit_per_s: float) -> float | None:
    """For JSON, which has no infinity."""
    return None if rate_bit_per_s == math.inf else rate_bit_per_s
