"""Texts that someone else drafts: which there are, and which of their drafts wait to be judged."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from concurrent.futures import Future

import numpy as np
from jaxtyping import Float

from gainnet.errors import InputError
from gainnet.inference.bounds import Bounds
from gainnet.inference.lora import Resident
from gainnet.inference.request import QueueFull, Sampling
from gainnet.inference.work import Judged, Session, Verified


class Sessions:
    """Open sessions. Not thread-safe: the engine has a lock.

    Attributes:
        judging: those with a draft to judge, in order.
        closing: those that were closed, whose rows are still to be freed.
    """

    def __init__(self, bounds: Bounds, waiting_max: int, judging: list[Session]) -> None:
        self._bounds, self._waiting_max, self.judging = bounds, waiting_max, judging
        self.closing: list[Session] = []
        self._open: dict[str, Session] = {}
        self._asked = 0

    def __len__(self) -> int:
        return len(self._open)

    def open(
        self, text: list[int], adapter: Resident | None, tenant: str, sampling: Sampling, ends: frozenset[int]
    ) -> str:
        """Begin one; the adapter is pinned by the caller. Its name, which cannot be guessed."""
        name = secrets.token_hex(16)
        seed = secrets.randbits(63) if sampling.seed is None else sampling.seed
        room = min(sampling.max_tokens, self._bounds.context - len(text))
        self._open[name] = Session(text, adapter, tenant, name, sampling, seed, len(text), room, ends)
        return name

    def judge(
        self, name: str, draft: list[int], probability: Float[np.ndarray, "draft vocabulary"] | None
    ) -> Future[Verified]:
        """Have a draft judged. InputError and QueueFull as of `gainnet.inference.engine.Engine.verify`."""
        session = self.find(name)
        if session.finish is not None:
            raise InputError(f"session {name}: has ended ({session.finish})")
        if session.judged is not None:
            raise InputError(f"session {name}: a draft of it is being judged")
        length, context = len(session.token), self._bounds.context
        if length + len(draft) > context:
            raise InputError(f"draft: {len(draft)} tokens after {length}: the context is {context}")
        if len(self.judging) >= self._waiting_max:
            raise QueueFull(f"{self._waiting_max} drafts wait already")
        self._asked += 1
        session.used = self._asked
        future: Future[Verified] = Future()
        session.judged = Judged(draft, probability, future)
        self.judging.append(session)
        return future

    def text(self, name: str) -> Sequence[int]:
        """Its tokens so far."""
        return self.find(name).token

    def close(self, name: str) -> None:
        """End one. InputError where there is none."""
        self.closing.append(self.find(name))
        del self._open[name]

    def find(self, name: str) -> Session:
        """The session of a name. InputError where there is none."""
        found = self._open.get(name)
        if found is None:
            raise InputError(f"session {name}: there is none")
        return found
