"""Drift: run lengths against theory and by simulation."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gainnet.errors import InputError
from gainnet.knowledge.drift import OUTLIER, Drift, run_length, threshold


def _watch(excess: float, height: float) -> Drift:
    """Knows mean and deviation exactly; ``excess`` is what the allowance leaves of a mean of zero."""
    return Drift(mean=0.0, deviation=1.0, allowance=-excess, threshold=height)


@pytest.mark.parametrize(("excess", "height"), [(-0.25, 5.0), (0.0, 6.0), (0.25, 8.0), (0.5, 8.0)])
def test_run_lengths_are_those_of_theory(excess: float, height: float) -> None:
    rng = np.random.default_rng(1)
    found = []
    for _ in range(300):
        watch = _watch(excess, height)
        while not watch.drifted:
            watch = watch.seen(rng.normal(size=64))
        found.append(watch.alarm)
    error = np.std(found) / math.sqrt(len(found))
    assert abs(np.mean(found) - run_length(excess, height)) < 3.5 * error + 0.03 * run_length(excess, height)


@given(st.floats(0.05, 1.0), st.floats(20.0, 1e6))
@pytest.mark.untraced
def test_the_threshold_is_that_of_the_false_alarms(allowance: float, every: float) -> None:
    assert run_length(-allowance, threshold(allowance, every)) == pytest.approx(every, rel=1e-6)


@pytest.mark.parametrize("skewed", [False, True])
@pytest.mark.untraced
def test_false_alarms_are_rare_and_a_rise_is_found_in_tens_of_examples(skewed: bool) -> None:
    rng = np.random.default_rng(2)

    def losses(count: int) -> np.ndarray:
        return 3.0 + 0.4 * ((rng.gamma(9.0, size=count) - 9.0) / 3.0 if skewed else rng.normal(size=count))

    false, needed = 0, []
    for _ in range(120):
        watch = Drift.of(losses(128))
        quiet = watch.seen(losses(200))
        false += quiet.drifted
        needed.append(watch.seen(losses(600) + 0.5 * 0.4).alarm or 600)
    assert false / 120 < 0.15
    assert np.median(needed) < 60
    assert np.quantile(needed, 0.9) < 200


def test_seen_in_parts_or_at_once_is_the_same_and_state_is_plain() -> None:
    rng = np.random.default_rng(3)
    start, losses = Drift.of(rng.normal(size=64)), rng.normal(0.6, size=100)
    parts = start
    for part in np.split(losses, [7, 7, 50]):
        parts = Drift(**json.loads(json.dumps(asdict(parts.seen(part)))))
    assert parts == start.seen(losses)
    assert parts.count == 100
    assert parts.drifted


def test_an_alarm_stays_until_there_is_a_new_reference() -> None:
    watch = _watch(0.0, 5.0).seen(np.full(10, 2.0)).seen(np.full(100, -2.0))
    assert watch.alarm == 3
    assert watch.level == 0.0


def test_one_odd_example_is_no_drift_and_no_number_counts_as_one() -> None:
    watch = Drift.of(np.random.default_rng(4).normal(size=200))
    assert not watch.seen(np.array([1e9])).drifted
    for odd in (math.nan, math.inf):
        assert watch.seen(np.array([odd])).level == pytest.approx(OUTLIER - watch.allowance)
    assert watch.seen(np.full(30, math.nan)).drifted
    assert watch.seen(np.array([])) == watch


def test_single_precision_is_seen_as_double() -> None:
    watch = replace(_watch(-0.25, 5.0), mean=3.0)
    losses = np.array([3.5, 4.0], np.float32)
    assert watch.seen(losses) == watch.seen(losses.astype(np.float64))


def test_a_reference_that_says_nothing_is_refused() -> None:
    with pytest.raises(InputError, match="3 finite losses"):
        Drift.of(np.array([1.0, 2.0, 3.0, *[math.nan] * 9]))
    with pytest.raises(InputError, match="equal"):
        Drift.of(np.full(10, 2.0))
