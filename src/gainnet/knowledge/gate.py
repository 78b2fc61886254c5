"""The gate: whether a candidate may take the champion's place."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from gainnet.scenario.knowledge import Gate

_LARGEST = 700.0
"""The largest loss whose perplexity is still a number."""


@dataclass(frozen=True, slots=True)
class Scores:
    """How good a model is, on data that it has not learnt from, and what it takes to run.

    Attributes:
        domain: mean loss (nat a token) on the held-out notes of each domain, by the domain's name.
        public: mean loss (nat a token) on held-out public text.
        latency_s: how long an answer takes; None where it was not measured.
        memory_byte: what it holds in memory; None where it was not measured.
    """

    domain: Mapping[str, float]
    public: float
    latency_s: float | None = None
    memory_byte: float | None = None


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the gate says.

    Attributes:
        promoted: whether the candidate takes the champion's place.
        reasons: one line for each condition that it does not hold; none where it is promoted.
    """

    promoted: bool
    reasons: tuple[str, ...]


def judge(candidate: Scores, champion: Scores | None, gate: Gate, origin: Scores | None = None) -> Verdict:
    """Hold a candidate against the gate and the champion.

    A score that is no finite number is a refusal. A domain on which the champion has no finite score is held against
    the floor only, and so is everything where there is no champion yet.

    Args:
        candidate: what would be promoted.
        champion: what it would replace, judged on the same data; None where there is none.
        gate: the floor, the largest losses and the limits.
        origin: the first champion. Public text is held against the better of it and the champion, so that small
            losses do not add up over the rounds. The champion alone where it is not given.
    """
    reasons = [
        *_floor(candidate, gate),
        *_lost(candidate, champion, gate),
        *_public(candidate, champion, origin, gate),
        *_limit("latency", candidate.latency_s, gate.latency_s, "s"),
        *_limit("memory", candidate.memory_byte, gate.memory_byte, "byte"),
    ]
    return Verdict(not reasons, tuple(reasons))


def perplexity(loss: float) -> float:
    """Of a mean loss in nat a token; infinite where it is too large for a number, NaN of NaN."""
    return math.inf if loss > _LARGEST else math.exp(loss)


def _floor(candidate: Scores, gate: Gate) -> Iterator[str]:
    if not candidate.domain:
        yield "no domain was judged"
    for name, loss in sorted(candidate.domain.items()):
        if not math.isfinite(loss):
            yield f"{name}: the loss is {loss}, no finite number"
        elif loss > gate.loss_max:
            yield f"{name}: the loss is {loss:.3f} nat a token, at most {gate.loss_max:g} is allowed"


def _lost(candidate: Scores, champion: Scores | None, gate: Gate) -> Iterator[str]:
    for name, before in sorted(champion.domain.items() if champion else ()):
        if name not in candidate.domain:
            yield f"{name}: was not judged, and the champion was"
        else:
            yield from _dropped(name, candidate.domain[name], before, gate.domain_drop)


def _public(candidate: Scores, champion: Scores | None, origin: Scores | None, gate: Gate) -> Iterator[str]:
    if not math.isfinite(candidate.public):
        yield f"public text: the loss is {candidate.public}, no finite number"
        return
    before = [scores.public for scores in (champion, origin) if scores and math.isfinite(scores.public)]
    if before:
        yield from _dropped("public text", candidate.public, min(before), gate.public_drop)


def _dropped(what: str, loss: float, before: float, drop: float) -> Iterator[str]:
    """A refusal where the perplexity rose by more than ``drop`` of what it was; `_floor` tells of losses like NaN."""
    if math.isfinite(loss) and math.isfinite(before) and loss - before > math.log1p(drop):
        rise = perplexity(loss - before) - 1.0
        yield (
            f"{what}: perplexity {perplexity(loss):.4g} is {100 * rise:.3g} % above {perplexity(before):.4g}, "
            f"at most {100 * drop:g} % is allowed"
        )


def _limit(what: str, value: float | None, limit: float | None, unit: str) -> Iterator[str]:
    if limit is None:
        return
    if value is None or not math.isfinite(value):
        yield f"{what}: is not known, and has a limit of {limit:g} {unit}"
    elif value > limit:
        yield f"{what}: {value:.4g} {unit}, at most {limit:g} {unit} is allowed"
