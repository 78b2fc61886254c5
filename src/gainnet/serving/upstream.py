"""Nodes as the gateway sees them: their connections, their breakers, and one try of a request at one of them."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Mapping
from dataclasses import dataclass

from gainnet.errors import InputError
from gainnet.serving.connection import Connection, Lost, Malformed, Pool
from gainnet.serving.settings import BreakerSetting, NodePlace, PeerTls, ProbeSetting, Timeouts

PAGE_BYTE = 1_000_000
"""Of a page that the gateway itself reads."""


class Failed(Exception):
    """A try at a node failed before anything was passed on: another may be made elsewhere.

    Attributes:
        reason: one phrase.
        unreachable: nothing was heard of the node at all.
        missing: it says that it lacks the model.
    """

    def __init__(self, reason: str, *, unreachable: bool = False, missing: bool = False) -> None:
        super().__init__(reason)
        self.reason, self.unreachable, self.missing = reason, unreachable, missing


class Expired(Exception):
    """The request's own deadline passed."""


class Breaker:
    """Keeps requests from a node that fails: open after some failures in a row, then one request tries it."""

    def __init__(self, setting: BreakerSetting) -> None:
        self._setting = setting
        self._failures = 0
        self._rests_until = 0.0
        self._trying = False

    def allows(self, now: float) -> bool:
        """Whether a request may go there; a probe that is allowed must end in `succeeded`, `failed` or `undecided`."""
        if self._failures < self._setting.failures:
            return True
        if now < self._rests_until or self._trying:
            return False
        self._trying = True
        return True

    def succeeded(self) -> None:
        """It answered."""
        self._failures = 0
        self._trying = False

    def failed(self, now: float) -> None:
        """It did not."""
        self._failures += 1
        self._trying = False
        if self._failures >= self._setting.failures:
            self._rests_until = now + self._setting.rest_s

    def undecided(self) -> None:
        """The request ended for another reason."""
        self._trying = False

    def closed(self, now: float) -> bool:
        """Whether requests may go there, without asking to."""
        return self._failures < self._setting.failures or (now >= self._rests_until and not self._trying)


class Health:
    """What probes say of a node.

    Attributes:
        up: whether it is well; taken to be until the first probe.
    """

    def __init__(self) -> None:
        self.up = True
        self._heard = False
        self._row = 0

    def heard(self, well: bool, setting: ProbeSetting) -> bool:
        """One more probe; whether it changes anything."""
        self._row = 0 if well is self.up else self._row + 1
        enough = self._row >= (setting.rise if well else setting.fall)
        first, self._heard = not self._heard, True
        if well is self.up or not (enough or first):
            return False
        self.up, self._row = well, 0
        return True


@dataclass(frozen=True, slots=True)
class Posted:
    """What is sent to a node.

    Attributes:
        path: with `/v1`.
        headers: lines, each ended.
        body: JSON.
        deadline: of the request on the loop's clock, None without.
    """

    path: str
    headers: bytes
    body: bytes
    deadline: float | None


class Upstream:
    """One node.

    Attributes:
        node: as set.
        breaker: what requests say of it.
        health: what probes say of it.
        in_flight: requests that it has now.
        served: requests that it answered.
        failed: requests that it failed.
    """

    def __init__(self, node: NodePlace, timeouts: Timeouts, breaker: BreakerSetting) -> None:
        self.node = node
        self.breaker, self.health = Breaker(breaker), Health()
        self.in_flight = self.served = self.failed = 0
        self._timeouts = timeouts
        secure = context(node.tls) if node.url.startswith("https:") else None
        self._pool, self._pages = Pool(node.url, secure), Pool(node.url, secure)
        lines = [f"host: {self._pool.host}", "content-type: application/json", "accept-encoding: identity"]
        lines += [f"{name}: {value}" for name, value in node.headers.items()]
        self._fixed = "".join(f"{line}\r\n" for line in lines).encode("latin-1")

    def allows(self, now: float) -> bool:
        """Whether a request may go there; see `Breaker.allows`."""
        return self.health.up and self.breaker.allows(now)

    def closed(self, now: float) -> bool:
        """Whether requests may go there, without asking to."""
        return self.health.up and self.breaker.closed(now)

    async def get(self, path: str, timeout_s: float) -> tuple[int, bytes]:
        """Status and body of a page of the node. Failed where there is none in time."""
        head = b"GET %b%b HTTP/1.1\r\n%b\r\n" % (self._pool.prefix.encode(), path.encode(), self._fixed)
        until = asyncio.get_running_loop().time() + timeout_s
        try:
            connection = await self._sent(self._pages, head, b"", until)
            try:
                return connection.status, await self.whole(connection, until, PAGE_BYTE)
            finally:
                self._pages.give(connection)
        except Expired:
            raise Failed("no answer came in time", unreachable=True) from None

    async def open(self, posted: Posted) -> Connection:
        """Send a request and wait for status and headers; the caller gives the connection back with `close`.

        A kept connection that the node closed meanwhile is no failure: a new one is tried.

        Raises:
            Failed: there was no answer.
            Expired: the deadline passed.
        """
        head = b"POST %b%b HTTP/1.1\r\n%b%bcontent-length: %d\r\n\r\n" % (
            self._pool.prefix.encode(), posted.path.encode(), self._fixed, posted.headers, len(posted.body),
        )  # fmt: skip
        return await self._sent(self._pool, head, posted.body, posted.deadline)

    async def _sent(self, pool: Pool, head: bytes, body: bytes, deadline: float | None) -> Connection:
        connection = pool.take() or await self._connected(pool, deadline)
        while True:
            used = connection.used
            try:
                connection.send(head, body)
                await connection.answer(self._until(self._timeouts.first_byte_s, deadline))
                return connection
            except Lost as error:
                connection.close()
                if not (used and error.before_answer):
                    raise Failed(str(error), unreachable=True) from None
            except Malformed as error:
                connection.close()
                raise Failed(str(error)) from None
            except TimeoutError:
                connection.close()
                raise self._late(deadline, "no answer began") from None
            except BaseException:
                connection.close()
                raise
            connection = await self._connected(pool, deadline)

    async def chunk(self, connection: Connection, deadline: float | None, first: bool = False) -> bytes:
        """What comes next of a body; empty at its end.

        Raises:
            Failed: it was cut, or stalled.
            Expired: the deadline passed.
        """
        wait_s = self._timeouts.first_byte_s if first else self._timeouts.between_chunks_s
        try:
            return await connection.chunk(self._until(wait_s, deadline))
        except TimeoutError:
            raise self._late(deadline, "the answer stalled") from None
        except (Lost, Malformed) as error:
            raise Failed(str(error)) from None

    async def whole(self, connection: Connection, deadline: float | None, byte_max: int) -> bytes:
        """A whole body. Failed where it is cut, stalls or is too long; Expired where the deadline passes."""
        body = await self.chunk(connection, deadline, first=True)
        if not body:
            return body
        parts, size = [body], len(body)
        while part := await self.chunk(connection, deadline):
            parts.append(part)
            size += len(part)
            if size > byte_max:
                raise Failed(f"an answer of more than {byte_max} byte")
        return body if len(parts) == 1 else b"".join(parts)

    def close(self, connection: Connection) -> None:
        """Give a connection back; where the answer was not taken whole, the node's work is cancelled."""
        self._pool.give(connection)

    def shut(self) -> None:
        """Close what is kept."""
        self._pool.close()
        self._pages.close()

    async def _connected(self, pool: Pool, deadline: float | None) -> Connection:
        try:
            async with asyncio.timeout_at(self._until(self._timeouts.connect_s, deadline)):
                return await pool.connect()
        except Lost as error:
            raise Failed(str(error), unreachable=True) from None
        except TimeoutError:
            late = self._late(deadline, "cannot connect: no answer")
            if isinstance(late, Failed):
                late.unreachable = True
            raise late from None

    def _until(self, wait_s: float, deadline: float | None) -> float:
        until = asyncio.get_running_loop().time() + wait_s
        return until if deadline is None else min(until, deadline)

    def _late(self, deadline: float | None, reason: str) -> Failed | Expired:
        expired = deadline is not None and asyncio.get_running_loop().time() >= deadline - 1e-3
        return Expired() if expired else Failed(reason)


def context(tls: PeerTls) -> ssl.SSLContext:
    """How a node is recognised. InputError where a file is missing or wrong."""
    try:
        made = ssl.create_default_context(cafile=None if tls.ca is None else str(tls.ca))
        if tls.cert is not None:
            made.load_cert_chain(tls.cert, tls.key)
    except (OSError, ssl.SSLError) as error:
        raise InputError(f"nodes.tls: a certificate cannot be used: {error}") from None
    return made


def upstreams(nodes: tuple[NodePlace, ...], timeouts: Timeouts, breaker: BreakerSetting) -> Mapping[str, Upstream]:
    """All nodes, by name."""
    return {node.name: Upstream(node, timeouts, breaker) for node in nodes}
