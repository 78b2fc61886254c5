"""What is asked of the engine, and what it answers, piece by piece."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass
from typing import Literal

from gainnet.errors import GainnetError, InputError

Finish = Literal["stop", "length", "cancelled"]
LOGPROBS_MAX = 20
"""The most alternatives that may be asked for at each position (the OpenAI API's limit)."""


class QueueFull(GainnetError):
    """As many requests wait as may: try again later."""


class EngineStopped(GainnetError):
    """The engine was closed, or it failed: the message says which."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """How an answer is drawn, and when it ends.

    Attributes:
        max_tokens: how many at most; an answer also ends where the context does.
        temperature: 0 takes the likeliest token always.
        top_p: the least number of likeliest tokens that have this probability together.
        top_k: so many likeliest tokens; 0 for all.
        seed: the same seed gives the same answer, whatever else runs; None draws one.
        stop: texts that end the answer and are left out of it.
        logprobs: the chosen token's log-probability and so many alternatives; None for neither.
        ignore_eos: go on past the token that ends a text.
    """

    max_tokens: int = 16
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    logprobs: int | None = None
    ignore_eos: bool = False

    def __post_init__(self) -> None:
        _require(self.max_tokens >= 1, f"max_tokens {self.max_tokens}: must be at least 1")
        _require(0.0 <= self.temperature <= 100.0, f"temperature {self.temperature}: must be from 0 to 100")
        _require(0.0 < self.top_p <= 1.0, f"top_p {self.top_p}: must be above 0 and at most 1")
        _require(self.top_k >= 0, f"top_k {self.top_k}: must be at least 0")
        _require(self.seed is None or 0 <= self.seed < 2**64, f"seed {self.seed}: must be from 0 to 2^64 - 1")
        _require(all(self.stop), "stop: an empty text would end every answer before it begins")
        most = f"must be from 0 to {LOGPROBS_MAX}"
        _require(self.logprobs is None or 0 <= self.logprobs <= LOGPROBS_MAX, f"logprobs {self.logprobs}: {most}")


def _require(holds: bool, message: str) -> None:
    if not holds:
        raise InputError(message)


@dataclass(frozen=True, slots=True)
class Piece:
    """One token of an answer, or its end.

    Attributes:
        token: None where an answer ends without one more.
        text: what may be shown now: whole characters, and nothing that may yet turn out to be a stop text.
        logprob: natural logarithm of the token's probability before temperature and cuts, where asked for.
        top: the likeliest tokens there and their log-probabilities, falling.
        finish: why the answer ends here, or None.
        tokens: how many it stands for: more or less than one only where another node told text.
    """

    token: int | None
    text: str
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()
    finish: Finish | None = None
    tokens: int = 1


Waiter = tuple[asyncio.AbstractEventLoop, asyncio.Future[None]]


class Answer:
    """The pieces of one answer, as they come: iterate asynchronously, or `wait` for all of them from a thread.

    One reader only. Pieces never get lost: those that came before reading began are read first.

    Attributes:
        prompt_tokens: how many the prompt has.
        cached_tokens: of them, those whose keys and values were there already; known with the first piece.
        seed: what it is drawn with.
    """

    def __init__(self, prompt_tokens: int, seed: int, cancel: Callable[[], None]) -> None:
        self.prompt_tokens, self.cached_tokens, self.seed = prompt_tokens, 0, seed
        self._cancel = cancel
        self._pieces: deque[Piece] = deque()
        self._ended = False
        self._error: BaseException | None = None
        self._changed = threading.Condition(threading.Lock())
        self._waiter: Waiter | None = None

    def cancel(self) -> None:
        """Give it up: its slot is free before the next step. It ends with "cancelled" unless it ended before."""
        self._cancel()

    def put(self, piece: Piece) -> Waiter | None:
        """For the engine: one more piece. Whoever is to be woken up is returned."""
        with self._changed:
            self._pieces.append(piece)
            self._ended = piece.finish is not None
            return self._take_waiter()

    def fail(self, error: BaseException) -> Waiter | None:
        """For the engine: no more pieces come, for that reason, which readers get."""
        with self._changed:
            self._error, self._ended = error, True
            return self._take_waiter()

    def _take_waiter(self) -> Waiter | None:
        self._changed.notify_all()
        waiter, self._waiter = self._waiter, None
        return waiter

    def __aiter__(self) -> AsyncIterator[Piece]:
        return self

    async def __anext__(self) -> Piece:
        while True:
            with self._changed:
                if self._pieces:
                    return self._pieces.popleft()
                if self._ended:
                    if self._error is not None:
                        raise self._error
                    raise StopAsyncIteration
                loop = asyncio.get_running_loop()
                future: asyncio.Future[None] = loop.create_future()
                self._waiter = (loop, future)
            await future

    def wait(self, timeout_s: float | None = None) -> list[Piece]:
        """All pieces that were not read yet, once the answer has ended; TimeoutError where it does not in time."""
        ends = None if timeout_s is None else time.monotonic() + timeout_s
        with self._changed:
            while not self._ended:
                left = None if ends is None else ends - time.monotonic()
                if left is not None and left <= 0.0:
                    raise TimeoutError("the answer has not ended yet")
                self._changed.wait(left)
            if self._error is not None:
                raise self._error
            found = list(self._pieces)
            self._pieces.clear()
            return found


def wake(waiters: Iterable[Waiter | None]) -> None:
    """Resume readers: one call into each event loop, however many of them wait there."""
    loops: dict[asyncio.AbstractEventLoop, list[asyncio.Future[None]]] = {}
    for waiter in waiters:
        if waiter is not None:
            loops.setdefault(waiter[0], []).append(waiter[1])
    for loop, futures in loops.items():
        with contextlib.suppress(RuntimeError):  # the loop was closed: nobody reads any more
            loop.call_soon_threadsafe(_resume, futures)


def _resume(futures: list[asyncio.Future[None]]) -> None:
    for future in futures:
        if not future.done():
            future.set_result(None)
