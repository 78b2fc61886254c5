"""Speculative decoding between two models: a small one drafts, a larger one, perhaps far away, verifies.

The text is the very one that the verifying model alone gives, greedy or with a seed: a token of a draft stays where it
is the one that would have been chosen (`gainnet.inference.sampling.judge`). Drafts are as long as what was measured
says (`gainnet.inference.pace`); where none pays, the rest is asked of the verifying model at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

from tokenizers import decoders
from transformers import PreTrainedTokenizerFast

from gainnet.errors import GainnetError, InputError
from gainnet.inference.engine import Engine
from gainnet.inference.pace import Pace
from gainnet.inference.request import Finish, Piece, Sampling
from gainnet.inference.stops import Stops, Texts
from gainnet.inference.work import Verified
from gainnet.models.collaboration import TOKEN_BIT

PROBE_EVERY = 16
PROBE_ROUNDS = 4
"""Of so many answers that would be whole requests one begins with so many rounds, so that change is noticed."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of a draft, and what asking took.

    Attributes:
        verified: what became of it.
        bit: sent to and fro for it.
    """

    verified: Verified
    bit: float


@runtime_checkable
class Larger(Protocol):
    """A model, here or elsewhere, that can answer by itself.

    Attributes:
        context: how many positions it has.
    """

    context: int

    def whole(self, prompt: Sequence[int], sampling: Sampling) -> AsyncGenerator[Piece, None]:
        """Its answer to a prompt. Pieces without a token are text that was told without saying of which tokens."""


@runtime_checkable
class Verifier(Larger, Protocol):
    """A model that also judges drafts."""

    async def open(self, prompt: Sequence[int], sampling: Sampling) -> str:
        """Begin a text whose drafts are to be judged; its name."""

    async def judge(self, session: str, draft: Sequence[int]) -> Verdict:
        """Judge a draft of how it goes on."""

    async def close(self, session: str) -> None:
        """End it."""


@runtime_checkable
class Drafter(Protocol):
    """What guesses how texts go on."""

    async def draft(self, text: Sequence[int], length: int, sampling: Sampling) -> list[int]:
        """At most so many tokens that may follow; none where it cannot tell."""


class EngineDrafter:
    """Drafts by an engine of this process."""

    def __init__(self, engine: Engine, adapter: str | None = None, tenant: str = "") -> None:
        self._engine, self._adapter, self._tenant = engine, adapter, tenant

    async def draft(self, text: Sequence[int], length: int, sampling: Sampling) -> list[int]:
        """See `Drafter`; with a seed, the race's numbers are those of the verifying model, which makes agreement likelier."""
        most = min(length, self._engine.language.context - len(text))
        if most < 1:
            return []
        how = replace(sampling, max_tokens=most, stop=(), logprobs=None)
        answer = self._engine.submit(text, how, adapter=self._adapter, tenant=self._tenant)
        try:
            return [piece.token async for piece in answer if piece.token is not None]
        finally:
            answer.cancel()


class EngineVerifier:
    """Verifies by an engine of this process.

    Attributes:
        context: of its model.
    """

    def __init__(self, engine: Engine, adapter: str | None = None, tenant: str = "") -> None:
        self.context = engine.language.context
        self._engine, self._adapter, self._tenant = engine, adapter, tenant

    async def open(self, prompt: Sequence[int], sampling: Sampling) -> str:
        """See `Verifier`."""
        return self._engine.open_session(prompt, sampling, adapter=self._adapter, tenant=self._tenant)

    async def judge(self, session: str, draft: Sequence[int]) -> Verdict:
        """See `Verifier`; bits are those of the tokens."""
        found = await asyncio.wrap_future(self._engine.verify(session, draft))
        return Verdict(found, TOKEN_BIT * (len(draft) + 1))

    async def close(self, session: str) -> None:
        """See `Verifier`."""
        self._engine.close_session(session)

    async def whole(self, prompt: Sequence[int], sampling: Sampling) -> AsyncGenerator[Piece, None]:
        """See `Larger`."""
        answer = self._engine.submit(prompt, sampling, adapter=self._adapter, tenant=self._tenant)
        try:
            async for piece in answer:
                yield piece
        finally:
            answer.cancel()


@dataclass(slots=True)
class Counters:
    """What was done.

    Attributes:
        answers: that were begun.
        rounds: drafts that were judged, empty ones too.
        drafts: those of them that were not empty.
        drafted: tokens of drafts.
        accepted: tokens of drafts that stayed.
        tokens: that rounds gave.
        whole: answers that were asked for at once.
        switched: answers whose rest was, after some rounds.
        probes: answers that made rounds only to see how they do.
        bits: that rounds sent to and fro.
    """

    answers: int = 0
    rounds: int = 0
    drafts: int = 0
    drafted: int = 0
    accepted: int = 0
    tokens: int = 0
    whole: int = 0
    switched: int = 0
    probes: int = 0
    bits: float = 0.0


class Speculation:
    """Answers by drafts of one model that another verifies. The two must have the same tokenizer.

    Attributes:
        pace: what was measured.
        counters: what was done.
    """

    def __init__(
        self,
        drafter: Drafter,
        verifier: Verifier,
        tokenizer: PreTrainedTokenizerFast,
        pace: Pace | None = None,
        probe_every: int = PROBE_EVERY,
    ) -> None:
        """Begin.

        Args:
            drafter: that guesses.
            verifier: that decides.
            tokenizer: of both.
            pace: what is known already.
            probe_every: of so many answers that would be whole requests, one begins with rounds; 0 for none.
        """
        self.pace, self.counters = pace or Pace(), Counters()
        self._drafter, self._verifier = drafter, verifier
        self._texts = Texts(tokenizer)
        backend: Any = tokenizer.backend_tokenizer
        self._bytewise = isinstance(backend.decoder, decoders.ByteLevel)
        self._probe_every, self._refused = probe_every, 0
        self._closing: set[asyncio.Task[None]] = set()

    async def answer(self, prompt: Sequence[int], sampling: Sampling) -> AsyncGenerator[Piece, None]:
        """Continue a text.

        Pieces are those that the verifying model alone gives; where it told text only (see `Larger`), the same text.
        Log-probabilities are known to the verifying model only: who asks for them gets a whole request. So do top_k's.

        Raises:
            InputError: the prompt is empty or leaves no room.
            GainnetError: what the models raise.
        """
        room = min(sampling.max_tokens, self._verifier.context - len(prompt))
        if not prompt or room < 1:
            raise InputError(f"prompt: {len(prompt)} tokens: must be from 1 to {self._verifier.context - 1}")
        seed = secrets.randbits(63) if sampling.seed is None else sampling.seed
        how = replace(sampling, max_tokens=room, seed=seed)
        self.counters.answers += 1
        rounds = self._rounds_first(how)
        text, told = list(prompt), _Told(self._texts, how.stop)
        if rounds:
            async with aclosing(self._rounds(text, how, told, rounds)) as pieces:
                async for piece in pieces:
                    yield piece
        if not told.ended:
            self.counters.switched += len(text) > len(prompt)
            self.counters.whole += len(text) == len(prompt)
            left = replace(how, max_tokens=room - len(text) + len(prompt))
            async with aclosing(self._rest(text, left, told)) as pieces:
                async for piece in pieces:
                    yield piece

    async def close(self) -> None:
        """Wait until all sessions are closed."""
        while self._closing:
            await asyncio.gather(*self._closing, return_exceptions=True)

    def _rounds_first(self, how: Sampling) -> int:
        """With how many rounds an answer begins before there is any thought of a whole request; 0: with none."""
        if how.logprobs is not None or how.top_k:
            return 0
        if self.pace.choose(how.max_tokens).length:
            return 1
        self._refused += 1
        if self._probe_every and self._refused % self._probe_every == 0:
            self.counters.probes += 1
            return PROBE_ROUNDS
        return 0

    async def _rounds(self, text: list[int], how: Sampling, told: _Told, least: int) -> AsyncGenerator[Piece, None]:
        """Rounds, until the text ends, or its rest had better be asked for at once; at least ``least`` of them."""
        plain, prompt = replace(how, stop=()), len(text)
        opening = asyncio.create_task(self._open(tuple(text), plain))
        try:
            for number in range(how.max_tokens):
                left = how.max_tokens - len(text) + prompt
                length = self.pace.choose(left).length
                if length == 0 and number < least:
                    length = min(self.pace.longest, PROBE_ROUNDS, left - 1)
                draft = await self._draft(text, length, plain, number == 0)
                if not draft and left > 1 and self._may_switch(told):
                    return
                verified = await self._judge(await asyncio.shield(opening), draft, number == 0)
                for token, finish in _tokens(draft, verified):
                    text.append(token)
                    piece = told.take(token, finish)
                    yield piece
                    if told.ended:
                        return
        finally:
            self._close_soon(opening)

    async def _rest(self, text: Sequence[int], how: Sampling, told: _Told) -> AsyncGenerator[Piece, None]:
        """The rest of an answer, or the whole of it, as the verifying model alone gives it."""
        asked_s = time.monotonic()
        first_s = last_s = asked_s
        count = 0
        async with aclosing(self._verifier.whole(text, replace(how, stop=()))) as pieces:
            async for piece in pieces:
                last_s = time.monotonic()
                first_s = last_s if count == 0 else first_s
                count += piece.tokens
                yield told.of(piece)
                if told.ended:
                    break
        self.pace.streamed(count - 1, last_s - first_s)

    def _may_switch(self, told: _Told) -> bool:
        """Whether the rest can be told as text: no character is half said, and none depends on those before."""
        return self._bytewise and told.clean

    async def _open(self, text: Sequence[int], how: Sampling) -> str:
        asked_s = time.monotonic()
        session = await self._verifier.open(text, how)
        self.pace.crossed(time.monotonic() - asked_s)
        return session

    async def _draft(self, text: Sequence[int], length: int, how: Sampling, first: bool) -> list[int]:
        if length == 0:
            return []
        asked_s = time.monotonic()
        draft = await self._drafter.draft(text, length, how)
        if draft and not first:  # the first reads the prompt, too
            self.pace.drafted(len(draft), time.monotonic() - asked_s)
        return draft

    async def _judge(self, session: str, draft: Sequence[int], first: bool) -> Verified:
        asked_s = time.monotonic()
        verdict = await self._verifier.judge(session, draft)
        found, counters = verdict.verified, self.counters
        if not first:
            self.pace.verified(len(draft), time.monotonic() - asked_s)
        self.pace.judged(found.accepted, found.token is not None and found.accepted < len(draft))
        counters.rounds += 1
        counters.drafts += bool(draft)
        counters.drafted += len(draft)
        counters.accepted += found.accepted
        counters.tokens += found.accepted + (found.token is not None)
        counters.bits += verdict.bit
        return found

    def _close_soon(self, opening: asyncio.Task[str]) -> None:
        """Close a session without waiting for that."""
        if not opening.done():
            opening.cancel()
        task = asyncio.create_task(self._close(opening))
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    async def _close(self, opening: asyncio.Task[str]) -> None:
        with contextlib.suppress(GainnetError, asyncio.CancelledError):
            await self._verifier.close(await opening)


def _tokens(draft: Sequence[int], verified: Verified) -> list[tuple[int, Finish | None]]:
    """What a draft that was judged adds to a text; the last of it may end it."""
    added = [*draft[: verified.accepted], *([] if verified.token is None else [verified.token])]
    finishes: list[Finish | None] = [None] * len(added)
    finishes[-1] = verified.finish
    return list(zip(added, finishes, strict=True))


class _Told:
    """An answer as pieces, made of tokens as the engine makes them.

    Attributes:
        ended: whether its last piece was made.
    """

    def __init__(self, texts: Texts, stop: Sequence[str]) -> None:
        self._texts, self._decoder, self._stops = texts, texts.decoder(), Stops(stop)
        self._token: list[int] = []
        self._size = 0
        self.ended = False

    @property
    def clean(self) -> bool:
        """Whether no character is half said."""
        return len(self._texts.text(self._token)) == self._size

    def take(self, token: int, finish: Finish | None) -> Piece:
        """One more token; ``finish``: why the model ends the text with it."""
        self._token.append(token)
        if finish == "stop":  # the token that ends texts: it has no text itself
            return self._piece(token, self._rest(), "stop")
        decoded = self._decoder.add(token)
        self._size += len(decoded)
        text, stopped = self._stops.add(decoded)
        if stopped:
            return self._piece(token, text, "stop")
        if finish is not None:
            more, stopped = self._stops.add(self._decoder.rest())
            return self._piece(token, text + more + self._stops.rest(), "stop" if stopped else finish)
        return self._piece(token, text, None)

    def of(self, piece: Piece) -> Piece:
        """A piece of the verifying model's own answer, of which stop texts were not asked."""
        if piece.token is not None:
            return replace(self.take(piece.token, piece.finish), logprob=piece.logprob, top=piece.top)
        text, stopped = self._stops.add(piece.text)
        if stopped:
            return replace(self._piece(None, text, "stop"), tokens=piece.tokens)
        text += "" if piece.finish is None else self._stops.rest()
        return replace(self._piece(None, text, piece.finish), tokens=piece.tokens)

    def _rest(self) -> str:
        text, _ = self._stops.add(self._decoder.rest())
        return text + self._stops.rest()

    def _piece(self, token: int | None, text: str, finish: Finish | None) -> Piece:
        self.ended = finish is not None
        return Piece(token, text, finish=finish)
