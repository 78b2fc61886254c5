"""Propagation against the standard's own statements, against theory, and against Sionna where it is installed."""

from __future__ import annotations

import numpy as np
import pytest

from gainnet.network import channel
from gainnet.scenario.network import Radio

PLACES = [("umi", 10.0), ("uma", 25.0), ("rma", 35.0)]


@pytest.mark.parametrize(
    ("place", "height", "near", "nlos"),
    [("umi", 10.0, 21.0, 35.3), ("uma", 25.0, 22.0, 39.08), ("rma", 35.0, None, None)],
)
def test_slopes_per_decade(place, height, near, nlos):
    turn = float(channel.breakpoint_m(place, 6e9, height, 1.5))
    far = turn * np.array([2.0, 20.0])
    slant = np.hypot(far, height - 1.5)
    rise = np.diff(channel.los_loss_db(place, far, 6e9, height, 1.5))[0] / np.diff(np.log10(slant))[0]
    assert rise == pytest.approx(40.0, abs=1e-9)
    if near is not None:
        close = np.array([20.0, 100.0])
        decades = np.diff(np.log10(np.hypot(close, height - 1.5)))[0]
        assert np.diff(channel.los_loss_db(place, close, 6e9, height, 1.5))[0] / decades == pytest.approx(near)
        assert np.diff(channel.nlos_loss_db(place, close, 6e9, height, 1.5))[0] / decades == pytest.approx(nlos)


@pytest.mark.parametrize(("place", "height"), PLACES)
def test_loss_is_continuous_at_the_breakpoint_and_grows(place, height):
    turn = float(channel.breakpoint_m(place, 3.5e9, height, 1.5))
    below, above = channel.los_loss_db(place, turn * np.array([1 - 1e-9, 1 + 1e-9]), 3.5e9, height, 1.5)
    assert above == pytest.approx(below, abs=0.02)
    distance = np.linspace(0.0, 5_000.0, 5_001)
    los = channel.los_loss_db(place, distance, 3.5e9, height, 1.5)
    nlos = channel.nlos_loss_db(place, distance, 3.5e9, height, 1.5)
    assert (np.diff(los) > -0.02).all()
    assert (nlos >= los).all()
    assert np.isfinite(nlos).all()


def test_umi_at_one_hundred_metres_by_hand():
    slant = np.hypot(100.0, 8.5)
    assert channel.los_loss_db("umi", 100.0, 6e9, 10.0, 1.5) == pytest.approx(
        32.4 + 21 * np.log10(slant) + 20 * np.log10(6.0)
    )
    assert channel.nlos_loss_db("umi", 100.0, 6e9, 10.0, 1.5) == pytest.approx(
        35.3 * np.log10(slant) + 22.4 + 21.3 * np.log10(6.0)
    )


def test_line_of_sight_probability():
    assert channel.los_probability("umi", np.array([0.0, 18.0])).tolist() == [1.0, 1.0]
    assert channel.los_probability("umi", 100.0) == pytest.approx(0.18 + np.exp(-100 / 36) * 0.82)
    assert channel.los_probability("rma", 1010.0) == pytest.approx(np.exp(-1.0))
    low, high = channel.los_probability("uma", 200.0, np.array([1.5, 22.5]))
    assert high > low
    for place, _ in PLACES:
        drawn = channel.los_probability(place, np.linspace(0.0, 5e3, 999), 22.5)
        assert ((drawn >= 0.0) & (drawn <= 1.0)).all()


def test_building_loss_has_its_mean_and_spread():
    generator = np.random.default_rng(0)
    high = np.array([False, True]).repeat(40_000)
    loss = channel.building_loss_db(6e9, high, np.full(80_000, 10.0), generator).reshape(2, -1)
    assert loss.mean(axis=1) == pytest.approx(channel.wall_loss_db(6e9, np.array([False, True])) + 5.0, abs=0.15)
    assert loss.std(axis=1) == pytest.approx([4.4, 6.5], rel=0.02)


def test_antenna_element():
    boresight = np.pi / 2.0
    assert channel.element_gain_db(boresight, 0.0) == pytest.approx(8.0)
    half = np.deg2rad(32.5)
    for zenith, azimuth in ((boresight, half), (boresight, -half), (boresight + half, 0.0), (boresight - half, 0.0)):
        assert channel.element_gain_db(zenith, azimuth) == pytest.approx(5.0)
    around = np.linspace(-np.pi, np.pi, 721)
    gain = channel.element_gain_db(boresight, around)
    assert gain == pytest.approx(gain[::-1])
    assert gain.min() == pytest.approx(8.0 - 30.0)
    assert channel.element_gain_db(boresight, around + 2 * np.pi) == pytest.approx(gain)


def test_column_gains_most_where_it_is_steered():
    tilt = np.deg2rad(102.0)
    assert channel.column_gain_db(np.array([tilt]), 10, tilt)[0] == pytest.approx(10.0)
    zenith = np.linspace(0.0, np.pi, 1801)
    gain = channel.column_gain_db(zenith, 10, tilt)
    assert zenith[gain.argmax()] == pytest.approx(tilt, abs=2e-3)
    power = 10 ** (gain / 10)
    radiated = 0.5 * np.sum((power * np.sin(zenith))[:-1] * np.diff(zenith))
    assert radiated == pytest.approx(1.0, rel=0.01)


def test_table_interpolates_the_functions():
    radio = Radio()
    table = channel.tabulate(radio, 500.0)
    distance = np.linspace(3.0, 499.0, 2_000)
    row, part = np.divmod(distance, 1.0)
    below, above = table[row.astype(int)], table[row.astype(int) + 1]
    loss_db = -(below + part[:, None] * (above - below))[:, 1] / channel.NEPER_PER_DB + radio.antenna_gain_dbi
    exact = channel.nlos_loss_db("umi", distance, radio.carrier_hz, radio.cell_height_m, radio.end_height_m)
    assert np.abs(loss_db - exact).max() < 0.02


@pytest.mark.untraced
def test_basic_path_loss_is_sionnas():
    torch = pytest.importorskip("torch", reason="sionna-no-rt is not installed")
    tr38901 = pytest.importorskip("sionna.phy.channel.tr38901", reason="sionna-no-rt is not installed")
    panel = tr38901.PanelArray(
        num_rows_per_panel=1, num_cols_per_panel=1, polarization="single", polarization_type="V",
        antenna_pattern="omni", carrier_frequency=6e9,
    )  # fmt: skip
    generator = np.random.default_rng(1)
    ends = np.stack([*generator.uniform(-400, 400, (2, 500)), np.full(500, 1.5)], axis=-1)
    for place, scenario, height in (("umi", tr38901.UMiScenario, 10.0), ("uma", tr38901.UMaScenario, 25.0)):
        model = scenario(6e9, "low", panel, panel, "downlink")
        column = lambda value: torch.tensor(value, dtype=torch.float32)[None]  # noqa: E731
        zeros = column(np.zeros((500, 3)))
        model.set_topology(
            column(ends), column(np.array([[0.0, 0.0, height]])), zeros, column(np.zeros((1, 3))), zeros,
            torch.zeros((1, 500), dtype=torch.bool),
        )  # fmt: skip
        theirs = model.basic_pathloss.cpu().numpy().ravel()
        los = model.los.cpu().numpy().ravel()
        distance = np.hypot(ends[:, 0], ends[:, 1])
        ours = np.where(
            los,
            channel.los_loss_db(place, distance, 6e9, height, 1.5),
            channel.nlos_loss_db(place, distance, 6e9, height, 1.5),
        )
        assert np.abs(ours - theirs).max() < 0.01
