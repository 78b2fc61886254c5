"""Answers kept for a repeated Idempotency-Key: bound to the tenant and to what was asked."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from dataclasses import dataclass

from gainnet.serving.router import Refused
from gainnet.serving.settings import IdempotencySetting

OVERHEAD_BYTE = 1_024


@dataclass(frozen=True, slots=True)
class Kept:
    """An answer as it was given: status, headers of its own, and all its bytes."""

    status: int
    headers: dict[str, str]
    body: bytes


class Keeping:
    """Gathers an answer for repeated requests.

    Attributes:
        kept: the whole answer, None where there is none worth keeping.
    """

    def __init__(self, byte_max: int) -> None:
        self._byte_max = byte_max
        self._parts: list[bytes] | None = []
        self._byte = 0
        self.kept: Kept | None = None

    def whole(self, status: int, headers: dict[str, str], body: bytes) -> None:
        """An answer that is not streamed."""
        self.kept = Kept(status, headers, body)

    def more(self, data: bytes) -> None:
        """A part of a stream."""
        self._byte += len(data)
        if self._byte > self._byte_max:
            self._parts = None
        if self._parts is not None:
            self._parts.append(data)

    def finish(self, status: int, headers: dict[str, str]) -> None:
        """The stream has come to its end."""
        if self._parts is not None:
            self.kept = Kept(status, headers, b"".join(self._parts))


class Entry:
    """A request under a key.

    Attributes:
        digest: of what was asked.
        answer: None where it did not come to an answer worth keeping.
        until: when it is forgotten; of no meaning while it is under way.
    """

    __slots__ = ("answer", "digest", "until")

    def __init__(self, digest: bytes) -> None:
        self.digest = digest
        self.answer: asyncio.Future[Kept | None] = asyncio.get_running_loop().create_future()
        self.until = 0.0

    @property
    def byte(self) -> int:
        """What keeping it takes."""
        kept = self.answer.result() if self.answer.done() else None
        return OVERHEAD_BYTE + (0 if kept is None else len(kept.body))


class Idempotency:
    """The answers kept, the oldest forgotten first."""

    def __init__(self, setting: IdempotencySetting) -> None:
        self._setting = setting
        self._entries: OrderedDict[tuple[str, str], Entry] = OrderedDict()
        self._byte = 0

    @property
    def byte_max(self) -> int:
        """Answers above this size are not kept."""
        return self._setting.byte // 8

    async def begin(self, tenant: str, key: str, digest: bytes) -> Kept | Entry:
        """The kept answer to a repeated request, waiting for it where it is under way, or an entry to be ended.

        Raises:
            Refused: 422 where the key came with another request before.
        """
        loop = asyncio.get_running_loop()
        while True:
            self._forget(loop.time())
            entry = self._entries.get((tenant, key))
            if entry is None:
                entry = self._entries[tenant, key] = Entry(digest)
                return entry
            if entry.digest != digest:
                raise Refused(
                    422, "this Idempotency-Key came with another request before", code="idempotency_key_reused"
                )
            kept = await asyncio.shield(entry.answer)
            if kept is not None:
                return kept

    def end(self, tenant: str, key: str, entry: Entry, kept: Kept | None) -> None:
        """The request under this entry is over; None frees the key."""
        if entry.answer.done():
            return
        if kept is not None and len(kept.body) > self.byte_max:
            kept = None
        entry.answer.set_result(kept)
        if kept is None:
            del self._entries[tenant, key]
            return
        entry.until = asyncio.get_running_loop().time() + self._setting.keep_s
        self._entries.move_to_end((tenant, key))
        self._byte += entry.byte

    def _forget(self, now: float) -> None:
        for key, entry in list(self._entries.items()) if self._due(now) else ():
            if not entry.answer.done():
                continue
            if entry.until > now and self._byte <= self._setting.byte:
                break
            del self._entries[key]
            self._byte -= entry.byte

    def _due(self, now: float) -> bool:
        if self._byte > self._setting.byte:
            return True
        oldest = next(iter(self._entries.values()), None)
        return oldest is not None and (not oldest.answer.done() or oldest.until <= now)
