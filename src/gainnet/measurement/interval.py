"""95 % confidence intervals of means, and of paired differences."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

CONFIDENCE = 0.95


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean and what it may be off by.

    Attributes:
        mean: the mean, None without data.
        half_width: half of the interval around it (Student's t); None with fewer than two values.
        number: values it was made of.
    """

    mean: float | None
    half_width: float | None
    number: int

    @property
    def low(self) -> float | None:
        """Lower end, None without an interval."""
        return None if self.mean is None or self.half_width is None else self.mean - self.half_width

    @property
    def high(self) -> float | None:
        """Upper end, None without an interval."""
        return None if self.mean is None or self.half_width is None else self.mean + self.half_width


def interval(values: Sequence[float | None]) -> Interval:
    """Mean of the values that are there, with its 95 % Student-t interval."""
    sample = np.array([value for value in values if value is not None], dtype=np.float64)
    if not len(sample):
        return Interval(None, None, 0)
    if len(sample) == 1:
        return Interval(float(sample[0]), None, 1)
    from scipy.stats import t  # scipy.stats takes a third of a second to import

    error = float(sample.std(ddof=1)) / len(sample) ** 0.5
    return Interval(float(sample.mean()), float(t.ppf(0.5 + CONFIDENCE / 2.0, len(sample) - 1)) * error, len(sample))


def paired(values: Sequence[float | None], reference: Sequence[float | None]) -> Interval:
    """Mean of ``values - reference``, pair by pair (the same seed), with its interval; lone values are left out."""
    pairs = zip(values, reference, strict=True)
    return interval([None if value is None or other is None else value - other for value, other in pairs])
