"""Intervals against SciPy."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from gainnet.measurement.drawing import figure_text, interval_text
from gainnet.measurement.interval import interval, paired


def test_interval_is_students() -> None:
    sample = [0.81, 0.84, 0.79, 0.9, 0.86]
    found = interval(sample)
    low, high = stats.t.interval(0.95, 4, loc=np.mean(sample), scale=stats.sem(sample))
    assert (found.low, found.high) == pytest.approx((low, high))
    assert found.number == 5


def test_paired_differences_leave_out_what_has_no_partner() -> None:
    one, two = [0.9, 0.8, None, 0.7], [0.7, 0.75, 0.5, None]
    found = paired(one, two)
    result = stats.ttest_rel([0.9, 0.8], [0.7, 0.75]).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((result.low, result.high))


def test_pairing_is_narrower_than_two_means() -> None:
    random = np.random.default_rng(0)
    common = random.normal(0.0, 1.0, 10)
    one, two = list(common + 0.1 + random.normal(0, 0.01, 10)), list(common)
    assert paired(one, two).half_width < 0.05 * interval(one).half_width  # type: ignore[operator]


def test_few_values() -> None:
    assert (interval([]).mean, interval([None]).half_width) == (None, None)
    assert (interval([2.0]).mean, interval([2.0]).half_width, interval([2.0]).low) == (2.0, None, None)


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ((0.8766, 0.012, "%"), "87.7 ± 1.2"),
        ((1.063, 0.86, "s"), "1.06 ± 0.86 s"),
        ((0.935, 0.3, "s"), "935 ± 300 ms"),
        ((0.49, 1e-17, ""), "0.4900 ± 0.0000"),
        ((300.0, 0.0, ""), "300 ± 0"),
        ((2.5, None, "J"), "2.50 J"),
        ((None, None, "s"), "–"),
        ((0.0, 0.0, "s"), "0 ± 0 s"),
    ],
)
def test_intervals_for_people(given: tuple[float | None, float | None, str], text: str) -> None:
    assert interval_text(*given) == text


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [(None, "s", "–"), (0.00152, "s", "1.52 ms"), (1234.0, "J", "1.23 kJ"), (0.5, "%", "50.0 %"), (300.0, "", "300"),
     (0.0, "s", "0 s"), (0.66, "", "0.66"), (999.9, "", "1000"), (5e-9, "s", "0.000000005 s"), (-0.02, "s", "-20 ms")],
)  # fmt: skip
def test_figures_for_people(value: float | None, unit: str, text: str) -> None:
    assert figure_text(value, unit) == text
