import math

import numpy as np
import pytest
from asked import constant, dispersion

from gainnet.demand.arrivals import Bursts, Day, Steady, arrivals
from gainnet.demand.learning import Rounds
from gainnet.rng import stream
from gainnet.scenario import demand as scenario


def bursty(**changes: float) -> scenario.Bursty:
    given = {"rate_per_end_per_s": 2.0, "burst_factor": 4.0, "burst_mean_s": 2.0, "calm_mean_s": 10.0} | changes
    return scenario.Bursty.model_validate(given)


def test_poisson_has_its_rate_dispersion_and_memory() -> None:
    drawn = Steady(scenario.Poisson(rate_per_end_per_s=0.5), ends=20).draw(stream(0, "a"), 100.0, 5100.0)
    assert len(drawn.time_s) == pytest.approx(50_000, rel=4 / math.sqrt(50_000))
    assert dispersion(drawn.time_s - 100.0, 5000.0, 1.0) == pytest.approx(1.0, abs=0.08)
    gap_s = np.diff(drawn.time_s)
    assert gap_s.std() / gap_s.mean() == pytest.approx(1.0, abs=0.03)
    assert np.bincount(drawn.user, minlength=20).min() > 2500 - 5 * 50
    assert (drawn.row == -1).all()


def test_bursts_keep_the_mean_and_have_the_dispersion_of_theory() -> None:
    config, span_s, window_s = bursty(), 200_000.0, 5.0
    process = Bursts(config, 1, stream(0, "path"))
    drawn = process.draw(stream(0, "draw"), 0.0, span_s)
    p, r = 2.0 / 12.0, 1.0 / 2.0 + 1.0 / 10.0
    calm = 2.0 * (1.0 - p * 4.0) / (1.0 - p)
    variance = p * (1.0 - p) * (8.0 - calm) ** 2
    theory = 1.0 + 2.0 * variance / (2.0 * r) * (1.0 - (1.0 - math.exp(-r * window_s)) / (r * window_s))
    assert process.rate_per_s == 2.0
    assert len(drawn.time_s) / span_s == pytest.approx(2.0, rel=0.03)
    assert dispersion(drawn.time_s, span_s, window_s) == pytest.approx(theory, rel=0.05)
    assert theory > 5.0


def test_bursts_of_factor_one_are_a_poisson_process() -> None:
    drawn = Bursts(bursty(burst_factor=1.0), 1, stream(0, "path")).draw(stream(0, "draw"), 0.0, 20_000.0)
    assert dispersion(drawn.time_s, 20_000.0, 5.0) == pytest.approx(1.0, abs=0.08)


def test_bursts_can_be_silent_when_calm() -> None:
    config = bursty(burst_factor=6.0)
    drawn = Bursts(config, 1, stream(0, "path")).draw(stream(0, "draw"), 0.0, 50_000.0)
    assert len(drawn.time_s) / 50_000.0 == pytest.approx(2.0, rel=0.06)
    assert (np.diff(drawn.time_s) >= 0.0).all()


def test_layers_of_a_bursty_process_share_its_bursts() -> None:
    process = Bursts(bursty(), 1, stream(0, "path"))
    first, second = (process.draw(stream(0, name), 0.0, 20_000.0).time_s for name in ("one", "two"))
    counted = [np.histogram(time_s, bins=4000, range=(0.0, 20_000.0))[0] for time_s in (first, second)]
    assert np.corrcoef(counted)[0, 1] > 0.6


@pytest.mark.parametrize("phase", [0.0, 0.25])
def test_a_day_integrates_to_its_sinusoid(phase: float) -> None:
    config = scenario.Diurnal(rate_per_end_per_s=10.0, amplitude=0.8, period_s=4000.0, phase=phase)
    time_s = Day(config, ends=5).draw(stream(0, "a"), 0.0, 4000.0).time_s
    edge_s = np.linspace(0.0, 4000.0, 9)
    angle = 2.0 * math.pi * (edge_s / 4000.0 + phase)
    expected = 50.0 * (np.diff(edge_s) - 0.8 * 4000.0 / (2.0 * math.pi) * np.diff(np.cos(angle)))
    counted = np.histogram(time_s, bins=edge_s)[0]
    assert np.abs(counted - expected).max() < 5.0 * np.sqrt(expected.max())
    assert expected.sum() == pytest.approx(200_000.0)


def test_rounds_take_distinct_ends_at_their_period() -> None:
    config = scenario.Learning.model_validate(
        {"models": ["m"], "deadline_s": 1, "period_s": 0.7, "participation": 0.25, "update_bit": 1}
        | {"train_token": constant(9)}
    )
    process = Rounds(config, ends=10)
    stretches = [process.draw(stream(0, str(k)), 10.0 * k, 10.0 * (k + 1)) for k in range(200)]
    time_s = np.concatenate([drawn.time_s for drawn in stretches])
    assert np.unique(time_s) == pytest.approx(0.7 * np.arange(math.ceil(2000.0 / 0.7)))
    _, participants = np.unique(time_s, return_counts=True)
    assert set(participants) == {2, 3}
    assert participants.mean() == pytest.approx(2.5, abs=0.05)
    for drawn in stretches:
        assert len(np.unique(np.stack([drawn.time_s, drawn.user]), axis=1).T) == len(drawn.time_s)
    assert process.rate_per_s == pytest.approx(2.5 / 0.7)


def test_a_rate_of_zero_draws_nothing() -> None:
    for config in (scenario.Poisson(rate_per_end_per_s=0.0), bursty(rate_per_end_per_s=0.0)):
        assert len(arrivals(config, 5, stream(0, "a"), 60.0).draw(stream(0, "b"), 0.0, 1e3).time_s) == 0
