"""How sure a small model is of an answer, and how often it is right when it is so sure.

Confidence is a quantile of the probabilities of an answer's tokens (arXiv 2404.10136), and an isotonic regression turns
it into the probability that the answer is good enough. That holds for one version of the small model (and its adapter)
only, so it is kept by version, and refused for any other.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy.optimize import isotonic_regression

from gainnet.errors import GainnetError, InputError

QUANTILES = (0.0, 0.1, 0.25, 0.5, 0.75)
LEAST = 40
"""Answers that a calibration needs."""
KEPT = 1_000
"""Answers of a version that are kept: the last ones."""


class Stale(GainnetError):
    """There is no calibration of that version, or it is too old, or of too few answers."""


def pays(deferred: float, small: float, large: float) -> bool:
    """Whether a cascade costs less than the larger model alone: iff P(defer) < 1 - c_small / c_large.

    Args:
        deferred: probability that an answer is deferred.
        small: cost of an answer of the small model, in any unit; seconds of latency too.
        large: of the larger one, in the same.

    Raises:
        InputError: the probability is none, or a cost is no positive number.
    """
    if not 0.0 <= deferred <= 1.0:
        raise InputError(f"deferred {deferred:g}: must be from 0 to 1")
    for name, cost in (("small", small), ("large", large)):
        if not 0.0 < cost < float("inf"):
            raise InputError(f"{name} {cost:g}: must be above 0, and finite")
    return deferred < 1.0 - small / large


def confidences(logprobs: Sequence[float]) -> Float[np.ndarray, " quantile"]:
    """QUANTILES of the probabilities of an answer's tokens, from their natural logarithms. InputError without any."""
    if not logprobs:
        raise InputError("logprobs: there are none")
    return np.quantile(np.exp(np.asarray(logprobs, np.float64)), QUANTILES)


@dataclass(frozen=True, slots=True)
class Plan:
    """What a cascade would do.

    Attributes:
        least: answers that are good with less probability are deferred.
        deferred: how many answers that are, of all.
        quality: how many answers are then good, of all, where those of the larger model always are.
    """

    least: float
    deferred: float
    quality: float


class Calibration:
    """The probability that an answer is good, by how sure the model was of it.

    Attributes:
        quantile: of the tokens' probabilities, that told most.
        probability: of each of the answers that this was learned from, rising.
    """

    def __init__(self, confidence: Float[np.ndarray, "answer quantile"], good: Float[np.ndarray, " answer"]) -> None:
        """Learn it from answers that were judged.

        Args:
            confidence: `confidences` of each.
            good: 1 where it was good enough, 0 where not.

        Raises:
            InputError: there are none.
        """
        if not len(good):
            raise InputError("calibration: there are no answers")
        column = min(range(len(QUANTILES)), key=lambda one: _error(confidence[:, one], good))
        self.quantile = QUANTILES[column]
        self._column = column
        self._at, self._good = _isotonic(confidence[:, column], good)
        self.probability = self._of(np.sort(confidence[:, column]))

    def of(self, confidence: Float[np.ndarray, " quantile"]) -> float:
        """The probability that an answer is good."""
        return float(self._of(confidence[self._column : self._column + 1])[0])

    def plan(self, quality: float) -> Plan:
        """What defers the fewest answers so that at least so many of all are good, where the larger model's are."""
        level, count = np.unique(self.probability, return_counts=True)
        # Thresholds: each level, which defers those below it, and one above all.
        deferred = np.append(0, np.cumsum(count))
        kept_good = np.append(0.0, np.cumsum((level * count)[::-1]))[::-1]
        expected = (deferred + kept_good) / deferred[-1]
        place = int(np.argmax(expected >= min(quality, 1.0) - 1e-9))
        least = float(level[place]) if place < len(level) else float("inf")
        return Plan(least, float(deferred[place] / deferred[-1]), float(expected[place]))

    def _of(self, confidence: Float[np.ndarray, " answer"]) -> Float[np.ndarray, " answer"]:
        found: Float[np.ndarray, " answer"] = np.interp(confidence, self._at, self._good)
        return found


def _isotonic(
    confidence: Float[np.ndarray, " answer"], good: Float[np.ndarray, " answer"]
) -> tuple[Float[np.ndarray, " knot"], Float[np.ndarray, " knot"]]:
    """The rising function of confidence that is nearest to ``good`` in mean square, at its knots."""
    at, where, count = np.unique(confidence, return_inverse=True, return_counts=True)
    mean = np.bincount(where, weights=good) / count
    fitted: Float[np.ndarray, " knot"] = isotonic_regression(mean, weights=count.astype(np.float64)).x
    return at, fitted


def _error(confidence: Float[np.ndarray, " answer"], good: Float[np.ndarray, " answer"]) -> float:
    """Mean square error of predicting one half of the answers from the other, and the other way round (Brier's score)."""
    if len(good) < 4:
        return float(-confidence.std())
    squares = 0.0
    for half in (slice(0, None, 2), slice(1, None, 2)):
        rest = np.ones(len(good), np.bool_)
        rest[half] = False
        at, fitted = _isotonic(confidence[rest], good[rest])
        squares += float(np.sum((np.interp(confidence[half], at, fitted) - good[half]) ** 2))
    return squares / len(good)


class _Judged:
    """Answers of one version that were judged."""

    def __init__(self) -> None:
        self.confidence: deque[Float[np.ndarray, " quantile"]] = deque(maxlen=KEPT)
        self.good: deque[float] = deque(maxlen=KEPT)
        self.last_s = 0.0
        self.made: Calibration | None = None


class Calibrations:
    """The calibration of each version of a small model."""

    def __init__(self, least: int = LEAST, age_s: float = float("inf"), versions: int = 8) -> None:
        """Know none.

        Args:
            least: answers that a calibration needs.
            age_s: how long it holds after the last answer that was judged.
            versions: that are kept: the last ones judged.

        Raises:
            InputError: a number is too small.
        """
        if least < 1 or versions < 1 or not age_s > 0.0:
            raise InputError(f"least {least}, versions {versions} must be at least 1, and age_s {age_s:g} above 0")
        self._least, self._age_s, self._versions = least, age_s, versions
        self._of: dict[str, _Judged] = {}

    def judged(self, version: str, confidence: Float[np.ndarray, " quantile"], good: bool, now_s: float) -> None:
        """An answer of a version was judged, at a time of any clock that rises."""
        found = self._of.pop(version, None) or _Judged()
        self._of[version] = found
        found.confidence.append(confidence)
        found.good.append(float(good))
        found.last_s, found.made = now_s, None
        while len(self._of) > self._versions:
            del self._of[next(iter(self._of))]

    def answers(self, version: str) -> int:
        """Of a version, how many were judged and are kept."""
        found = self._of.get(version)
        return 0 if found is None else len(found.good)

    def of(self, version: str, now_s: float) -> Calibration:
        """The calibration of a version. Stale where there is none that holds."""
        found = self._of.get(version)
        if found is None:
            raise Stale(f"version {version!r}: no answer of it was judged")
        if len(found.good) < self._least:
            raise Stale(f"version {version!r}: {len(found.good)} answers were judged, of {self._least} that are needed")
        if now_s - found.last_s > self._age_s:
            raise Stale(f"version {version!r}: the last answer was judged {now_s - found.last_s:g} s ago")
        if found.made is None:
            found.made = Calibration(np.stack(list(found.confidence)), np.asarray(found.good, np.float64))
        return found.made
