"""Drift: whether the losses on recent data have risen, so that a round is due.

A one-sided CUSUM (E. S. Page, Continuous Inspection Schemes, Biometrika 41, 1954; in use for concept drift as the
Page-Hinkley test: Gama et al., A Survey on Concept Drift Adaptation, ACM Computing Surveys 46, 2014).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float

from gainnet.errors import InputError

REFERENCE_MIN = 8
"""Losses that a reference takes at least."""
OUTLIER = 3.0
"""A single loss counts as at most so many standard deviations: one odd example is no drift."""
_OVERSHOOT = 2 * 0.583
"""What discrete steps add to the threshold of the continuous process (D. Siegmund, Sequential Analysis, 1985)."""


@dataclass(frozen=True, slots=True)
class Drift:
    """Watches the losses of one model on the data that comes in. All of its state is in these plain numbers.

    Attributes:
        mean, deviation: of the losses to compare with (nat a token, one for each example).
        allowance: standard deviations above the mean that are no drift.
        threshold: the sum at which there is drift.
        level: the sum: of standard deviations above mean and allowance, never below zero.
        count: losses seen.
        alarm: how many losses had been seen when drift was found; None while there is none. Losses that fall again
            do not take it back: a new reference does.
    """

    mean: float
    deviation: float
    allowance: float
    threshold: float
    level: float = 0.0
    count: int = 0
    alarm: int | None = None

    @classmethod
    def of(cls, reference: Float[np.ndarray, " example"], rise: float = 0.5, alarm_every: float = 3_000.0) -> Drift:
        """Watch for losses above those of the same model on data that it is known to be good at.

        Args:
            reference: mean loss (nat a token) of each held-out example.
            rise: of the mean, in standard deviations, that is to be found soonest. The allowance is half of it, and
                half a standard error more, since the reference is a sample.
            alarm_every: examples without drift after which, on average, there is a false alarm.

        InputError where there are too few finite losses, or all are equal.
        """
        finite = reference[np.isfinite(reference)].astype(np.float64)
        if len(finite) < REFERENCE_MIN:
            raise InputError(f"drift: {len(finite)} finite losses to compare with: at least {REFERENCE_MIN} are needed")
        deviation = float(finite.std(ddof=1))
        if deviation == 0.0:
            raise InputError("drift: all losses to compare with are equal: they must differ")
        allowance = rise / 2 + 0.5 / math.sqrt(len(finite))
        return cls(float(finite.mean()), deviation, allowance, threshold(rise / 2, alarm_every))

    def seen(self, losses: Float[np.ndarray, " example"]) -> Drift:
        """Having seen more losses (nat a token), in this order; one that is no finite number counts as an outlier."""
        level, alarm = self.level, self.alarm
        above = (losses.astype(np.float64) - self.mean) / self.deviation
        above = np.minimum(np.where(np.isfinite(above), above, OUTLIER), OUTLIER)
        for number, value in enumerate(above.tolist(), start=self.count + 1):
            level = max(0.0, level + value - self.allowance)
            if alarm is None and level > self.threshold:
                alarm = number
        return replace(self, level=level, count=self.count + len(losses), alarm=alarm)

    @property
    def drifted(self) -> bool:
        """Whether drift was found."""
        return self.alarm is not None


def run_length(excess: float, threshold: float) -> float:
    """Examples until the alarm, on average (Siegmund's approximation).

    Args:
        excess: mean of a loss above mean and allowance, in standard deviations; negative where there is no drift.
        threshold: at which there is an alarm.
    """
    height = threshold + _OVERSHOOT
    if abs(excess) * height < 1e-4:
        return height * height
    return (math.exp(-2 * excess * height) + 2 * excess * height - 1) / (2 * excess * excess)


def threshold(allowance: float, alarm_every: float) -> float:
    """The threshold at which false alarms are ``alarm_every`` examples apart on average; at least 0."""
    low, high = 0.0, 1.0
    while run_length(-allowance, high) < alarm_every:
        high *= 2
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if run_length(-allowance, middle) < alarm_every else (low, middle)
    return high
