"""What occupies a row of the engine: a text that is continued, embedded, or held for a session whose drafts are judged."""

from __future__ import annotations

import time
from abc import ABC
from collections.abc import Callable, Sequence
from concurrent.futures import Future, InvalidStateError
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Float
from torch import Tensor

from gainnet.inference.lora import Resident
from gainnet.inference.prefix import Owner
from gainnet.inference.request import Answer, Finish, Piece, Sampling, Waiter
from gainnet.inference.sampling import Chosen, Draw
from gainnet.inference.stops import Decoder, Stops


@dataclass(slots=True, eq=False)
class Work(ABC):
    """A text, of which the first tokens' keys and values are in a row.

    Attributes:
        token: the text so far.
        adapter: that it goes through, pinned.
        tenant: whose it is.
        row: where it is; -1 while it waits.
        done: how many tokens have their keys and values there.
        cancelled: whether it was given up.
        begun: when it was asked for, by time.monotonic.
    """

    token: list[int]
    adapter: Resident | None
    tenant: str
    row: int = field(default=-1, init=False)
    done: int = field(default=0, init=False)
    cancelled: bool = field(default=False, init=False)
    begun: float = field(default_factory=time.monotonic, init=False)

    @property
    def owner(self) -> Owner:
        """With whom its keys and values may be shared."""
        return "" if self.adapter is None else self.adapter.digest, self.tenant


@dataclass(slots=True, eq=False)
class Generation(Work):
    """A text that is continued."""

    sampling: Sampling
    seed: int
    prompt: int
    room: int
    answer: Answer
    decoder: Decoder
    stops: Stops
    ends: frozenset[int]
    last: float = field(default=0.0, init=False)

    @property
    def draw(self) -> Draw:
        """How its next token is drawn."""
        return Draw(self.sampling, self.seed, len(self.token))

    def take(self, chosen: Chosen) -> Piece:
        """One more token; the piece says what may be shown, and whether the text ends."""
        self.token.append(chosen.token)
        finish: Finish | None
        if chosen.token in self.ends:
            text, finish = self._rest(), "stop"
        else:
            text, stopped = self.stops.add(self.decoder.add(chosen.token))
            finish = "stop" if stopped else None
            if finish is None and len(self.token) - self.prompt >= self.room:
                # The rest may complete a stop text too, and then ends the text as any other.
                more, stopped = self.stops.add(self.decoder.rest())
                text, finish = text + more + self.stops.rest(), "stop" if stopped else "length"
        return Piece(chosen.token, text, chosen.logprob, chosen.top, finish)

    def give_up(self) -> Waiter | None:
        """The last piece of a text that was cancelled."""
        return self.answer.put(Piece(None, "", finish="cancelled", tokens=0))

    def _rest(self) -> str:
        text, _ = self.stops.add(self.decoder.rest())
        return text + self.stops.rest()


@dataclass(slots=True, eq=False)
class Embedding(Work):
    """A text whose mean hidden state is wanted."""

    future: Future[Float[np.ndarray, " width"]]
    total: Tensor | None = field(default=None, init=False)

    def take(self, hidden: Float[Tensor, "token width"]) -> None:
        """Hidden states of some more of its tokens."""
        part = hidden.double().sum(0)
        self.total = part if self.total is None else self.total + part

    def vector(self) -> Float[np.ndarray, " width"]:
        """The mean, of length 1."""
        assert self.total is not None
        mean = self.total / self.total.norm().clamp_min(1e-12)
        return np.asarray(mean.float().numpy())


@dataclass(frozen=True, slots=True)
class Verified:
    """What became of a draft.

    Attributes:
        accepted: how many of its tokens stay.
        token: what follows them; None where the text ended before, with the last token that stays.
        logprob: of the token that follows, where asked for.
        top: the likeliest tokens there, where asked for.
        finish: why the text ended, or None.
    """

    accepted: int
    token: int | None
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()
    finish: Finish | None = None


@dataclass(slots=True, eq=False)
class Judged:
    """A draft of a session."""

    draft: Sequence[int]
    probability: Float[np.ndarray, "draft vocabulary"] | None
    future: Future[Verified]


@dataclass(slots=True, eq=False)
class Session(Work):
    """A text that someone else continues by drafts, which are judged here.

    Attributes:
        name: by which it is asked for.
        sampling: how tokens would be drawn here.
        seed: of the draws.
        prompt: how many tokens it began with.
        used: when it was last asked, in questions to all sessions: the longest unused gives up its row first.
        judged: what is being judged now.
        finish: why it ended.
    """

    name: str
    sampling: Sampling
    seed: int
    prompt: int
    room: int
    ends: frozenset[int]
    used: int = field(default=0, init=False)
    judged: Judged | None = field(default=None, init=False)
    finish: Finish | None = field(default=None, init=False)

    @property
    def draw(self) -> Draw:
        """How its next token would be drawn here."""
        return Draw(self.sampling, self.seed, len(self.token))


def settle(session: Session, draft: Sequence[int], accepted: int, chosen: Chosen) -> Verified:
    """Take over what stays of a draft and what follows it, up to where the text ends; the rest is rolled back."""
    kept: list[int] = [*draft[:accepted], chosen.token]
    left = session.room - (len(session.token) - session.prompt)
    end = next((index for index, token in enumerate(kept) if token in session.ends), None)
    if end is not None and end < left:
        session.finish, kept = "stop", kept[: end + 1]
    elif len(kept) >= left:
        session.finish, kept = "length", kept[:left]
    session.token += kept
    session.done = len(session.token) - 1
    if len(kept) > accepted:
        return Verified(accepted, chosen.token, chosen.logprob, chosen.top, session.finish)
    return Verified(len(kept), None, finish=session.finish)


def resolve(future: Future[Any], result: Any) -> None:
    """Set a result, unless whoever asked has given up."""
    try:
        future.set_result(result)
    except InvalidStateError:
        if not future.cancelled():
            raise


def joined(
    parts: Sequence[Future[Float[np.ndarray, " width"]]], give_up: Callable[[], None]
) -> Future[Float[np.ndarray, "text width"]]:
    """One future of several: ready when all are, or when one failed; giving it up gives up what is left."""
    whole: Future[Float[np.ndarray, "text width"]] = Future()

    def ready(_: Future[Float[np.ndarray, " width"]]) -> None:
        if whole.done() or not all(part.done() for part in parts) or any(part.cancelled() for part in parts):
            return
        error = next((found for part in parts if (found := part.exception()) is not None), None)
        if error is None:
            resolve(whole, np.stack([part.result() for part in parts]))
        else:
            whole.set_exception(error)

    for part in parts:
        part.add_done_callback(ready)
    whole.add_done_callback(lambda done: give_up() if done.cancelled() else None)
    return whole
