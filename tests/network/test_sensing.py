"""Sensing formulas against Monte Carlo, and the monotonicity that the orchestrator counts on."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gainnet.errors import ScenarioError
from gainnet.network import sensing
from gainnet.network.sensing_kernel import (
    detection_probability,
    integrated_snr,
    perception_accuracy,
    radar_snr,
    range_std_m,
    velocity_std_m_per_s,
)
from gainnet.scenario.network import Hexagonal, Machine, Network, Radio, Sensing, WaypointMobility
from gainnet.units import SPEED_OF_LIGHT_M_PER_S

SUBCARRIER_HZ = 30e3
SYMBOL_S = 0.5e-3 / 14
WAVELENGTH_M = SPEED_OF_LIGHT_M_PER_S / 3.5e9

snrs = st.floats(1e-3, 1e9)


def _network(**change) -> Network:
    machine = Machine(hardware="phone-soc")
    fields = {"topology": Hexagonal(), "mobility": WaypointMobility(), "ends": 1}
    return Network(**(fields | {"end": machine, "edge": machine, "cloud": machine} | change))


def _peak(signal, rng, trials: int, snr: float, positions: int) -> np.ndarray:
    """Most likely fraction of a turn a sample in noise: a zero-padded FFT, refined by a parabola in log magnitude."""
    count = signal.size
    noise = (rng.standard_normal((trials, count)) + 1j * rng.standard_normal((trials, count))) / np.sqrt(2 * snr)
    spectrum = np.abs(np.fft.fft(signal + noise, positions, axis=1)) ** 2
    top = spectrum.argmax(axis=1)
    rows = np.arange(trials)
    left, here, right = (spectrum[rows, (top + shift) % positions] for shift in (-1, 0, 1))
    return (top + 0.5 * (left - right) / (left - 2 * here + right)) / positions


@pytest.mark.untraced
def test_range_bound_is_reached_by_a_monte_carlo_estimator():
    """One symbol of 4 blocks: the delay turns the phase by -2 pi df 2 R / c from one subcarrier to the next."""
    blocks, snr, range_m = 4, 1.0, 400.0
    turn = SUBCARRIER_HZ * 2 * range_m / SPEED_OF_LIGHT_M_PER_S
    signal = np.exp(2j * np.pi * turn * np.arange(12 * blocks))
    found = _peak(signal, np.random.default_rng(1), 4000, snr, 4096)
    error_m = (found - turn) * SPEED_OF_LIGHT_M_PER_S / (2 * SUBCARRIER_HZ)
    bound = range_std_m(snr * 12 * blocks, blocks, SUBCARRIER_HZ)
    assert np.var(error_m) / bound**2 == pytest.approx(1.0, abs=0.2)


def test_velocity_bound_is_reached_by_a_monte_carlo_estimator():
    """One subcarrier over 56 symbols: Doppler 2 v / lambda turns the phase from one symbol to the next."""
    symbols, snr, speed = 56, 1.0, 20.0
    turn = 2 * speed / WAVELENGTH_M * SYMBOL_S
    signal = np.exp(2j * np.pi * turn * np.arange(symbols))
    found = _peak(signal, np.random.default_rng(2), 4000, snr, 4096)
    error = (found - turn) * WAVELENGTH_M / (2 * SYMBOL_S)
    bound = velocity_std_m_per_s(snr * symbols, symbols, SYMBOL_S, WAVELENGTH_M)
    assert np.var(error) / bound**2 == pytest.approx(1.0, abs=0.2)


@pytest.mark.parametrize("snr", [1.0, 5.0, 10.0])
def test_detection_agrees_with_monte_carlo(snr):
    """The statistic is the power of a unit-noise matched filter, the threshold -ln P_fa."""
    rng, trials, false_alarm = np.random.default_rng(3), 200_000, 1e-3
    noise = (rng.standard_normal(trials) + 1j * rng.standard_normal(trials)) / np.sqrt(2)
    swerling = np.sqrt(snr / 2) * (rng.standard_normal(trials) + 1j * rng.standard_normal(trials))
    threshold = -np.log(false_alarm)
    steady = np.mean(np.abs(np.sqrt(snr) + noise) ** 2 > threshold)
    fluctuating = np.mean(np.abs(swerling + noise) ** 2 > threshold)
    assert sensing.marcum_detection_probability(np.array([snr]), false_alarm)[0] == pytest.approx(steady, abs=5e-3)
    assert detection_probability(snr, false_alarm) == pytest.approx(fluctuating, abs=5e-3)


def test_detection_limits():
    assert detection_probability(0.0, 1e-6) == pytest.approx(1e-6)
    assert sensing.marcum_detection_probability(np.array([0.0, 1e6]), 1e-6) == pytest.approx([1e-6, 1.0], rel=1e-3)


def test_radar_equation_by_hand():
    """0.12 W a block, gain 16, sigma 10 m2, 100 m, NF 8, 30 kHz."""
    echo = 0.01 * 16 * WAVELENGTH_M**2 * 10 / ((4 * np.pi) ** 3 * 1e8)
    noise = 1.380649e-23 * 290 * 8 * 30e3
    assert radar_snr(0.12, 16.0, WAVELENGTH_M, 10.0, 100.0, 8.0, 30e3) == pytest.approx(echo / noise)
    assert radar_snr(0.12, 16.0, WAVELENGTH_M, 10.0, 200.0, 8.0, 30e3) == pytest.approx(echo / noise / 16)


@given(snr=snrs, more=st.floats(1.0, 100.0), block=st.integers(1, 100))
def test_accuracy_rises_with_snr_and_bandwidth_and_stays_in_the_unit_interval(snr, more, block):
    low = perception_accuracy(snr, float(block), SUBCARRIER_HZ, 1e-6, 1.0)
    assert 0.0 <= low <= 1.0
    assert perception_accuracy(snr * more, float(block), SUBCARRIER_HZ, 1e-6, 1.0) >= low
    assert perception_accuracy(snr, block + 1.0, SUBCARRIER_HZ, 1e-6, 1.0) >= low


def test_accuracy_limits():
    assert perception_accuracy(0.0, 4.0, SUBCARRIER_HZ, 1e-6, 1.0) == 0.0
    assert perception_accuracy(1e12, 40.0, SUBCARRIER_HZ, 1e-6, 1.0) == pytest.approx(1.0)


@given(block=st.integers(1, 50), symbol=st.integers(1, 50), rho=st.floats(1e-6, 1e3))
def test_a_larger_level_knows_more(block, symbol, rho):
    small = integrated_snr(rho, float(block), float(symbol))
    large = integrated_snr(rho, block + 1.0, symbol + 1.0)
    assert range_std_m(large, block + 1.0, SUBCARRIER_HZ) < range_std_m(small, float(block), SUBCARRIER_HZ)


def test_scenario_radar_is_linear_and_its_levels_cost_block_seconds():
    radar = sensing.build(_network())
    assert radar.symbol_s == pytest.approx(SYMBOL_S)
    assert radar.cost_block_s == pytest.approx([4 * 14 * SYMBOL_S, 12 * 28 * SYMBOL_S, 40 * 56 * SYMBOL_S])
    assert radar.cost_block_s[0] == pytest.approx(4 * 0.5e-3)
    assert radar.end_gain == pytest.approx(10**1.2)
    assert radar.cell_gain == pytest.approx(10**2.4)
    assert radar.cross_section_m2 == pytest.approx(13.335, rel=1e-3)


def test_a_level_wider_than_the_band_is_an_error():
    with pytest.raises(ScenarioError, match=r"network\.sensing\.blocks: a level takes 40 .* has 13"):
        sensing.build(_network(radio=Radio(bandwidth_hz=5e6), sensing=Sensing()))


def test_resolutions_and_unambiguous_range():
    assert sensing.range_resolution_m(np.array([100e6])) == pytest.approx([1.499], rel=1e-3)
    assert sensing.velocity_resolution_m_per_s(0.1, np.array([50.0]), 1e-3) == pytest.approx([1.0])
    prefix_s = 144 / 2048 / 30e3
    assert sensing.unambiguous_range_m(np.array([30e3])) == pytest.approx([SPEED_OF_LIGHT_M_PER_S * prefix_s / 2])


def test_mutual_information_of_a_flat_target_is_the_sum_over_subcarriers():
    rho = np.full((2, 48), 0.25)
    assert sensing.mutual_information_bit(rho, 12.0) == pytest.approx([96.0, 96.0])


def test_mutual_information_prefers_a_flat_spectrum():
    """log is concave: the same mean SNR spread unevenly says less."""
    uneven = np.concatenate([np.full(24, 0.4), np.full(24, 0.1)])
    assert sensing.mutual_information_bit(uneven, 12.0) < 96.0


@pytest.mark.parametrize("information", [0.5, 4.0, 100.0])
def test_gain_variance_agrees_with_monte_carlo(information):
    rng, trials = np.random.default_rng(4), 400_000
    noise = (rng.standard_normal(trials) + 1j * rng.standard_normal(trials)) / np.sqrt(2 * information)
    measured = np.abs(1.0 + noise) ** 2 - 1.0 / information
    expected = sensing.gain_variance(np.array([information / 24]), np.array([24.0]))[0]
    assert np.mean(measured) == pytest.approx(1.0, abs=0.02)
    assert np.var(measured) / expected == pytest.approx(1.0, abs=0.03)


@given(snr=st.floats(1e-3, 1e4), pilot=st.floats(1, 1e4))
def test_more_pilots_leave_less_error(snr, pilot):
    error = sensing.gain_error_db(np.array([snr, snr]), np.array([pilot, 4 * pilot]))
    assert error[1] < error[0]


def test_gain_error_is_first_order_in_db():
    """At x = 400 the relative standard deviation is 0.0708, which is 0.307 dB."""
    assert sensing.gain_error_db(np.array([10.0]), np.array([40.0])) == pytest.approx([0.3073], rel=1e-3)
