"""A small model answers, and defers to a larger one where it is not sure enough.

How sure is enough follows from the quality that is asked for (`gainnet.inference.calibration`), and the small model is
asked only where that costs less than the larger one alone. Some answers are given by both, of which the larger one's is
shown, so that calibrations are of all answers, and follow each new version of the small model.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace

from gainnet.errors import GainnetError, InputError
from gainnet.inference.calibration import Calibration, Calibrations, Plan, Stale, confidences, pays
from gainnet.inference.engine import Engine
from gainnet.inference.request import Piece, Sampling
from gainnet.inference.speculate import Larger

AUDIT_EVERY = 16
Good = Callable[[str, str], bool]
"""Whether a small model's answer, the first, is good enough beside the larger one's."""


def same(small: str, large: str) -> bool:
    """Whether answers are the same text."""
    return small == large


@dataclass(slots=True)
class Costs:
    """What an answer costs, both in one unit: seconds of latency, of a processor, joules or money.

    Attributes:
        small: of the small model.
        large: of the larger one, all that is needed to get it included.
    """

    small: float
    large: float


@dataclass(slots=True)
class Counters:
    """What was done.

    Attributes:
        answers: that were begun.
        kept: answers of the small model that were shown.
        deferred: that it was not sure enough of.
        whole: that only the larger one was asked for, since the cascade does not pay.
        stale: that were asked for while there was no calibration that holds.
        audits: that both gave.
    """

    answers: int = 0
    kept: int = 0
    deferred: int = 0
    whole: int = 0
    stale: int = 0
    audits: int = 0


class Cascade:
    """Answers by a small model where it is sure, and by a larger one where not.

    Attributes:
        costs: of answers; set them as they change.
        calibrations: of the small model's versions.
        counters: what was done.
    """

    def __init__(
        self,
        small: Engine,
        larger: Larger,
        costs: Costs,
        *,
        quality: float = 0.95,
        good: Good = same,
        calibrations: Calibrations | None = None,
        audit_every: int = AUDIT_EVERY,
        learn_every: int = 1,
        tenant: str = "",
    ) -> None:
        """Begin.

        Args:
            small: engine of the small model.
            larger: model that is deferred to.
            costs: of answers.
            quality: how many of all answers are to be good.
            good: what that means.
            calibrations: what is known already.
            audit_every: of so many answers one is given by both; 0 for none.
            learn_every: the same while there is no calibration that holds.
            tenant: whose the texts are.

        Raises:
            InputError: the quality is not from 0 to 1.
        """
        if not 0.0 <= quality <= 1.0:
            raise InputError(f"quality {quality:g}: must be from 0 to 1")
        self.costs, self.counters = costs, Counters()
        self.calibrations = calibrations or Calibrations()
        self._small, self._larger, self._quality, self._good = small, larger, quality, good
        self._audit_every, self._learn_every, self._tenant = audit_every, learn_every, tenant
        self._known, self._unknown = 0, 0

    def plan(self, adapter: str | None = None) -> Plan | None:
        """What would be done with an answer; None where the larger model alone costs less.

        Stale where there is no calibration of that version of the small model.
        """
        return self._plan(self._calibration(adapter))

    async def answer(
        self, prompt: Sequence[int], sampling: Sampling, *, adapter: str | None = None
    ) -> AsyncGenerator[Piece, None]:
        """Continue a text. The small model's answer comes all at once, since nobody is sure of it before its end.

        Answers that both give teach something only where they are read to the end of the iteration.

        Args:
            prompt: its tokens.
            sampling: how it goes on.
            adapter: of the small model, named by what never changes: a version, not an alias.

        Raises:
            GainnetError: what the models raise.
        """
        self.counters.answers += 1
        calibration, plan = None, None
        try:
            calibration = self._calibration(adapter)
        except Stale:
            self.counters.stale += 1
            self._unknown += 1
            audit = _due(self._unknown, self._learn_every)
        else:
            plan = self._plan(calibration)
            self._known += 1
            audit = _due(self._known, self._audit_every)
        if audit:
            self.counters.audits += 1
            pieces = self._both(prompt, sampling, adapter)
        elif calibration is None or plan is None:
            self.counters.whole += 1
            pieces = self._larger.whole(prompt, sampling)
        else:
            pieces = self._unsure(prompt, sampling, adapter, calibration, plan)
        async with aclosing(pieces):
            async for piece in pieces:
                yield piece

    async def _unsure(
        self, prompt: Sequence[int], sampling: Sampling, adapter: str | None, calibration: Calibration, plan: Plan
    ) -> AsyncGenerator[Piece, None]:
        """The small model's answer where it is good likely enough, else the larger one's."""
        said = await self._said(prompt, sampling, adapter)
        if calibration.of(confidences(_logprobs(said))) >= plan.least:
            self.counters.kept += 1
            for piece in said:
                yield piece if sampling.logprobs is not None else replace(piece, logprob=None, top=())
            return
        self.counters.deferred += 1
        async with aclosing(self._larger.whole(prompt, sampling)) as pieces:
            async for piece in pieces:
                yield piece

    async def _both(
        self, prompt: Sequence[int], sampling: Sampling, adapter: str | None
    ) -> AsyncGenerator[Piece, None]:
        """The larger model's answer, by which that of the small one is judged, if that comes."""
        asking = asyncio.create_task(self._said(prompt, sampling, adapter))
        shown = []
        try:
            async with aclosing(self._larger.whole(prompt, sampling)) as pieces:
                async for piece in pieces:
                    shown.append(piece.text)
                    yield piece
            try:
                said = await asking
            except GainnetError:
                return  # the answer was shown; this was to learn from it
        finally:
            asking.cancel()
            await asyncio.gather(asking, return_exceptions=True)
        good = self._good("".join(piece.text for piece in said), "".join(shown))
        self.calibrations.judged(self._version(adapter), confidences(_logprobs(said)), good, time.monotonic())

    async def _said(self, prompt: Sequence[int], sampling: Sampling, adapter: str | None) -> list[Piece]:
        """The small model's whole answer."""
        how = replace(sampling, logprobs=sampling.logprobs or 0)
        answer = self._small.submit(prompt, how, adapter=adapter, tenant=self._tenant)
        try:
            return [piece async for piece in answer]
        finally:
            answer.cancel()

    def _plan(self, calibration: Calibration) -> Plan | None:
        plan = calibration.plan(self._quality)
        return plan if pays(plan.deferred, self.costs.small, self.costs.large) else None

    def _calibration(self, adapter: str | None) -> Calibration:
        return self.calibrations.of(self._version(adapter), time.monotonic())

    def _version(self, adapter: str | None) -> str:
        return f"{self._small.language.digest} {adapter or ''}"


def _due(number: int, every: int) -> bool:
    return every > 0 and number % every == 0


def _logprobs(said: Sequence[Piece]) -> list[float]:
    return [piece.logprob for piece in said if piece.logprob is not None]
