"""Noise, effective SINR, spectral efficiency, power control, and the tables that the kernels climb."""

from __future__ import annotations

import numpy as np
import pytest

from gainnet.network import link
from gainnet.network.channel_kernel import block_power
from gainnet.network.link_kernel import carry, climb
from gainnet.scenario.network import Radio
from gainnet.units import w_to_dbm


def test_noise_floor():
    assert w_to_dbm(link.noise_w(1.0, 0.0)) == pytest.approx(-174.0, abs=0.05)
    assert w_to_dbm(link.noise_w(20e6, 9.0)) == pytest.approx(-174.0 + 73.01 + 9.0, abs=0.05)


def test_measured_points_of_the_efficiency():
    points = {0.0: 0.60, 4.0: 1.42, 10.0: 2.73, 16.0: 4.47, 20.0: 5.55, 26.0: 7.15}
    assert link.efficiency_bit_per_s_hz(np.array(list(points))).tolist() == list(points.values())
    assert link.efficiency_bit_per_s_hz(np.array([-40.0, -5.2])).tolist() == [0.0, 0.0]
    assert link.efficiency_bit_per_s_hz(np.array([60.0])).tolist() == [7.15]
    sinr_db = np.linspace(-30.0, 60.0, 1_000)
    ours = link.efficiency_bit_per_s_hz(sinr_db)
    assert (np.diff(ours) >= 0.0).all()
    assert (ours <= np.log2(1.0 + 10 ** (sinr_db / 10))).all()


def test_effective_sinr_identities():
    beta = np.array([1.6, 20.0])
    flat = np.full((2, 4), 3.7)
    assert link.effective_sinr(flat, beta) == pytest.approx([3.7, 3.7])
    generator = np.random.default_rng(0)
    sinr = generator.exponential(10.0, (500, 4))
    low = link.effective_sinr(sinr, np.full(500, 1.6))
    high = link.effective_sinr(sinr, np.full(500, 20.0))
    least, mean = sinr.min(axis=1), sinr.mean(axis=1)
    assert (low >= least - 1e-12).all()
    assert (high >= low).all()
    assert (high <= mean + 1e-12).all()
    assert link.effective_sinr(sinr, np.full(500, 1e7)) == pytest.approx(mean, rel=1e-4)
    assert np.isfinite(link.effective_sinr(np.array([[1e9, 1e12]]), np.array([1.6]))).all()


def test_kernel_gives_the_efficiency_of_the_effective_sinr():
    table, grid = link.ladder(Radio()), link.ladder_grid()
    generator = np.random.default_rng(1)
    power = generator.exponential(1.0, (300, 2, 4))
    levels = generator.uniform(-6.0, 8.0, (1, 300, 2))
    sinr = np.exp(levels[0])
    beta = link.beta(10 * np.log10(sinr))
    exact = link.efficiency_bit_per_s_hz(10 * np.log10(link.effective_sinr(sinr[..., None] * power, beta)))
    carry(power, table, grid, levels)
    served = exact > 0.0
    assert levels[0][served] == pytest.approx(exact[served], abs=0.06)
    assert np.mean((levels[0] > 0.0) != served) < 0.01


def test_expected_efficiency_lies_below_the_flat_one_and_line_of_sight_fades_less():
    table, grid = link.ladder(Radio()), link.ladder_grid()
    for sinr_db in (5.0, 10.0, 20.0):
        level = sinr_db * np.log(10.0) / 10.0
        flat, nlos, los = (climb(table, grid, column, level) for column in (0, 2, 3))
        assert nlos < los < flat + 1e-9


def test_fading_power_has_unit_mean_and_its_spread():
    radio = Radio()
    normals = np.random.default_rng(2).standard_normal((200_000, 2))
    for k, spread in zip((0.0, 10**0.9), link.fading_spread(radio), strict=True):
        power = link.rician_power(k, normals)
        assert power.mean() == pytest.approx(1.0, rel=0.01)
        assert power.var() == pytest.approx(spread, rel=0.03)


def test_power_control_compensates_the_loss_up_to_its_limit():
    power = link.power_control(Radio())
    sent = [w_to_dbm(block_power(-loss_db * np.log(10) / 10, *power)) for loss_db in (80.0, 90.0, 160.0)]
    assert sent[0] == pytest.approx(-85.0 + 0.8 * 80.0)
    assert sent[1] - sent[0] == pytest.approx(8.0)
    assert sent[2] == pytest.approx(23.0 - 10 * np.log10(link.blocks(Radio())))


def test_blocks_of_the_band():
    assert link.blocks(Radio(bandwidth_hz=12 * 30e3, subcarrier_hz=30e3)) == 1
    assert link.blocks(Radio()) == 111


def test_doppler_correlation_falls_with_speed():
    rows = link.doppler(3.5e9, 1e-3)
    assert rows[1] == 1.0
    assert (rows[1:] >= 0.0).all()
    assert rows[0] * 0.05 == pytest.approx(2 * np.pi * 3.5e9 / 299_792_458.0 * 1e-3)
