"""Links shaped in user space: a TCP proxy between a gateway and a node with latency, jitter, rate, loss, and outages.

What a link's two directions carry is delayed as a wire would: each segment leaves when those before it have (its rate is
shared by all connections), and arrives a latency later, in order. Loss is what it is to TCP's users: a stall until the
segment, which is lost once at most, has been sent again: `RESEND_S` or a round trip, whichever is longer. New connections
are refused while the link is not up. Shapes may be changed at any time and hold for what comes after.
"""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections import deque
from collections.abc import Coroutine, Mapping
from typing import Any

from gainnet.serving.links import BUFFER_BYTE, SEGMENT_BYTE, Links, Shape, Site

SEGMENT_S = 2e-3
"""Segments are so long at most where a rate is set, and at least `SEGMENT_BYTE`."""
RESEND_S = 0.2
"""The least that TCP waits before it sends a lost segment again (Linux's RTO_MIN)."""
EARLY_S = 3e-4
"""What is due so soon is delivered now: loops wake up by the millisecond."""
_END, _CUT = b"", None


class Link:
    """A link to one node: connections to `port` come out at the node.

    Attributes:
        name: of the link.
        shape: that it has now; set it to change it.
        port: of the loopback interface, once started.
        carried_byte: to the node, and from it.
        to: host and port of the node, for new connections.
        ways: directions of open connections.
    """

    def __init__(self, name: str, host: str, port: int, shape: Shape | None = None, seed: int = 0) -> None:
        self.name, self.port, self.carried_byte = name, 0, [0, 0]
        self.to = host, port
        self._shape = shape or Shape()
        self._free_at = [0.0, 0.0]
        self._rng = random.Random(f"{seed} {name}")  # noqa: S311  jitter is no secret
        self.ways: set[_Way] = set()
        self._connecting: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    @property
    def shape(self) -> Shape:
        """See the class."""
        return self._shape

    @shape.setter
    def shape(self, shape: Shape) -> None:
        came_up = shape.up and not self._shape.up
        self._shape = shape
        if came_up:
            for way in list(self.ways):
                way.deliver()

    @property
    def connections(self) -> int:
        """Open connections."""
        return len(self.ways) // 2

    async def start(self) -> None:
        """Listen on a free port of the loopback interface."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: _Near(self), "127.0.0.1", 0)
        self.port = int(self._server.sockets[0].getsockname()[1])

    def cut(self) -> None:
        """Break all connections, as when a radio link is lost for good."""
        for way in list(self.ways):
            way.abort()

    async def close(self) -> None:
        """Stop listening and break what is open."""
        if self._server is not None:
            self._server.close()
        self.cut()
        for task in self._connecting:
            task.cancel()
        await asyncio.gather(*self._connecting, return_exceptions=True)
        if self._server is not None:
            await self._server.wait_closed()

    def connecting(self, work: Coroutine[Any, Any, None]) -> None:
        """For a connection's near side: connect the far side."""
        task = asyncio.create_task(work)
        self._connecting.add(task)
        task.add_done_callback(self._connecting.discard)

    def due(self, direction: int, byte: int, now: float) -> float:
        """When a segment that is sent now arrives; the link is busy with it until it has left."""
        shape = self._shape
        self._free_at[direction] = max(self._free_at[direction], now) + 8.0 * byte / shape.rate(direction)
        stall_s = 0.0
        if shape.loss and self._rng.random() < shape.loss:
            stall_s = max(RESEND_S, 2.0 * shape.latency_s)
        jitter_s = shape.jitter_s * self._rng.random() if shape.jitter_s else 0.0
        self.carried_byte[direction] += byte
        return self._free_at[direction] + shape.latency_s + jitter_s + stall_s

    def segment_byte(self, direction: int) -> int:
        """How long segments are."""
        rate = self._shape.rate(direction)
        if rate == math.inf:
            return SEGMENT_BYTE if self._shape.loss else BUFFER_BYTE
        return max(SEGMENT_BYTE, int(rate / 8.0 * SEGMENT_S))


class _Way:
    """One direction of one connection: what is on its way, and the sides that it comes from and goes to."""

    def __init__(self, link: Link, direction: int, ready_s: float) -> None:
        """Nothing is sent before ``ready_s``: connecting takes a round trip."""
        self._link, self._direction, self._ready_s = link, direction, ready_s
        self._loop = asyncio.get_running_loop()
        self._on_way: deque[tuple[float, bytes | None]] = deque()
        self._byte = 0
        self._last_s = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._blocked = self._over = self._gone = False
        self.source: _Side | None = None
        self.sink: _Side | None = None
        link.ways.add(self)

    @property
    def over_before(self) -> bool:
        """Whether it was given up before its sink was there."""
        return self._gone

    def send(self, data: bytes) -> None:
        """The source sent something."""
        if self._gone or self._over:
            return
        size, now = self._link.segment_byte(self._direction), max(time.monotonic(), self._ready_s)
        for begin in range(0, len(data), size):
            self._put(data[begin : begin + size], now)
        self._byte += len(data)
        if self._byte > BUFFER_BYTE and self.source is not None:
            self.source.read(False)
        self._wake()

    def end(self, clean: bool) -> None:
        """The source sends no more."""
        if not self._over:
            self._over = True
            self._put(_END if clean else _CUT, max(time.monotonic(), self._ready_s))
            self._wake()

    def blocked(self, blocked: bool) -> None:
        """The sink takes no more, or takes more again."""
        self._blocked = blocked
        if not blocked:
            self.deliver()

    def gone(self) -> None:
        """The sink is closed: what is on its way has nowhere to go."""
        self._gone = True
        self._on_way.clear()
        self._link.ways.discard(self)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def abort(self) -> None:
        """Break it at both sides."""
        self.gone()
        for side in (self.source, self.sink):
            if side is not None:
                side.finish(clean=False)

    def deliver(self) -> None:
        """Hand over what is due."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self.sink is None or self._blocked or not self._link.shape.up:
            return
        due: list[bytes] = []
        now = time.monotonic() + EARLY_S
        while self._on_way and self._on_way[0][0] <= now:
            data = self._on_way.popleft()[1]
            if not data:
                self._write(due)
                self.gone()
                self.sink.finish(clean=data is not _CUT)
                return
            due.append(data)
        self._write(due)
        self._wake()

    def _put(self, data: bytes | None, now: float) -> None:
        self._last_s = max(self._link.due(self._direction, len(data or b""), now), self._last_s)
        self._on_way.append((self._last_s, data))

    def _wake(self) -> None:
        if self._timer is None and self._on_way:
            wait_s = self._on_way[0][0] - time.monotonic()
            if wait_s > EARLY_S:
                self._timer = self._loop.call_later(wait_s, self.deliver)
            elif not self._blocked and self._link.shape.up and self.sink is not None:
                self.deliver()

    def _write(self, due: list[bytes]) -> None:
        if due and self.sink is not None:
            joined = b"".join(due)
            was, self._byte = self._byte, self._byte - len(joined)
            self.sink.write(joined)
            if was > BUFFER_BYTE >= self._byte and self.source is not None:
                self.source.read(True)


class _Side(asyncio.Protocol):
    """One of the two sockets of a connection through a link."""

    def __init__(self, inward: _Way, outward: _Way) -> None:
        """What comes goes ``outward``; what goes here comes by ``inward``."""
        self._inward, self._outward = inward, outward
        self._transport: Any = None
        self._got_end = self._sent_end = False

    def write(self, data: bytes) -> None:
        """Send it to who is connected here."""
        if not self._transport.is_closing():
            self._transport.write(data)

    def read(self, on: bool) -> None:
        """Take more, or let who is connected here wait."""
        if not self._transport.is_closing() and not self._got_end:
            (self._transport.resume_reading if on else self._transport.pause_reading)()

    def finish(self, clean: bool) -> None:
        """The other side sends no more, or broke."""
        self._sent_end = True
        if not clean:
            self._transport.abort()
        elif self._got_end:
            self._transport.close()
        elif not self._transport.is_closing():
            self._transport.write_eof()

    def connection_made(self, transport: Any) -> None:
        """See asyncio.Protocol; uvloop's transports are no asyncio.Transport."""
        self._transport = transport
        self._outward.source = self._inward.sink = self
        if self._inward.over_before:
            transport.abort()
        self._inward.deliver()

    def data_received(self, data: bytes) -> None:
        """See asyncio.Protocol."""
        self._outward.send(data)

    def eof_received(self) -> bool:
        """See asyncio.Protocol; the other direction goes on."""
        self._got_end = True
        self._outward.end(clean=True)
        return not self._sent_end

    def pause_writing(self) -> None:
        """See asyncio.Protocol."""
        self._inward.blocked(True)

    def resume_writing(self) -> None:
        """See asyncio.Protocol."""
        self._inward.blocked(False)

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio.Protocol."""
        self._outward.end(clean=exc is None)
        self._inward.gone()


class _Near(_Side):
    """The side of who connects; the far side is connected when it has."""

    def __init__(self, link: Link) -> None:
        forth = _Way(link, 0, time.monotonic() + 2.0 * link.shape.latency_s)
        back = _Way(link, 1, 0.0)
        super().__init__(inward=back, outward=forth)
        self._link, self._far = link, lambda: _Side(inward=forth, outward=back)

    def connection_made(self, transport: Any) -> None:
        """See asyncio.Protocol."""
        super().connection_made(transport)
        if self._link.shape.up:
            self._link.connecting(self._connect())
        else:
            transport.abort()

    async def _connect(self) -> None:
        try:
            await asyncio.get_running_loop().create_connection(self._far, *self._link.to)
        except OSError:
            self._outward.gone()
            self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio.Protocol."""
        super().connection_lost(exc)
        if self._outward.sink is None:
            self._outward.gone()


class Proxies(Links):
    """A proxy to each node, on a port of the loopback interface."""

    def __init__(self, shapes: Mapping[str, Shape]) -> None:
        """See `Links`."""
        super().__init__(shapes)
        self._links = {name: Link(name, "127.0.0.1", 1, shape) for name, shape in shapes.items()}

    async def start(self) -> None:
        """See `Links.start`."""
        for link in self._links.values():
            await link.start()

    async def close(self) -> None:
        """See `Links.close`."""
        for link in self._links.values():
            await link.close()

    def site(self, name: str) -> Site:
        """See `Links.site`."""
        return Site(self._links[name].to[0], 0)

    def joined(self, name: str, url: str) -> None:
        """See `Links.joined`."""
        host, _, port = url.removeprefix("http://").rpartition(":")
        self._links[name].to = host, int(port)

    def url(self, name: str) -> str:
        """See `Links.url`."""
        return f"http://127.0.0.1:{self._links[name].port}"

    async def _apply(self, name: str, shape: Shape) -> None:
        self._links[name].shape = shape

    async def _carried(self) -> dict[str, dict[str, Any]]:
        return {
            name: {
                "connections": link.connections, "to_node_byte": link.carried_byte[0],
                "from_node_byte": link.carried_byte[1],
            }
            for name, link in self._links.items()
        }  # fmt: skip
