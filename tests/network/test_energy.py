"""Energy: EARTH totals, conservation, and what a failed machine draws."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gainnet.network.compute import build
from gainnet.network.energy import compute_energy_j, end_radio_energy_j, radio_energy_j
from gainnet.scenario.hardware import BASE_STATIONS
from gainnet.scenario.network import Hexagonal, Machine, Network, WaypointMobility

NODES = build(
    Network(
        topology=Hexagonal(),
        mobility=WaypointMobility(),
        ends=2,
        end=Machine(hardware="phone-soc"),
        edge=Machine(hardware="edge-accelerator"),
        cloud=Machine(hardware="cloud-accelerator", count=4),
    ),
    clouds=1,
    edges=1,
)
UP = np.ones(4, dtype=bool)


@pytest.mark.parametrize(
    ("station", "full_w", "idle_w", "sleep_w"),
    [("macro", 1344.0 / 3, 780.0 / 3, 450.0 / 3), ("micro", 144.76, 112.0, 78.0), ("pico", 14.64, 13.6, 8.6)],
)
def test_earth_totals(station, full_w, idle_w, sleep_w):
    """Auer et al. 2011: a macro station of three sectors draws 780 W without and 1344 W with full load."""
    power = radio_energy_j(
        np.array([1.0, 0.0, 0.0, 1.0]),
        np.array([True, True, False, True]),
        np.array([True, True, True, False]),
        BASE_STATIONS[station],
        1.0,
    )
    assert power == pytest.approx([full_w, idle_w, sleep_w, 0.0])


@given(fraction=st.floats(0.0, 1.0), duration=st.floats(1e-3, 10.0), station=st.sampled_from(list(BASE_STATIONS)))
def test_sleep_draws_less_than_idle_and_load_adds(fraction, duration, station):
    awake = np.array([True, True, False])
    energy = radio_energy_j(np.array([fraction, 0.0, 0.0]), awake, UP[:3], BASE_STATIONS[station], duration)
    assert energy[0] >= energy[1] > energy[2] > 0.0


@given(split=st.floats(0.0, 1.0), busy=st.floats(0.0, 1.0))
def test_compute_energy_does_not_depend_on_how_a_frame_is_cut(split, busy):
    busy_s = busy * NODES.count
    whole = compute_energy_j(busy_s, UP, NODES, 1.0)
    parts = compute_energy_j(split * busy_s, UP, NODES, split)
    parts = parts + compute_energy_j((1 - split) * busy_s, UP, NODES, 1 - split)
    assert parts == pytest.approx(whole)


def test_compute_energy_lies_between_idle_and_peak():
    assert compute_energy_j(np.zeros(4), UP, NODES, 2.0) == pytest.approx(2.0 * NODES.count * NODES.idle_w)
    assert compute_energy_j(2.0 * NODES.count, UP, NODES, 2.0) == pytest.approx(2.0 * NODES.count * NODES.peak_w)
    assert compute_energy_j(np.zeros(4), ~UP, NODES, 2.0).tolist() == [0.0] * 4


def test_end_radio_energy_is_radiated_over_efficiency_plus_circuits():
    """23 dBm over 10 blocks for a second: 0.2 W / 0.3 + 0.1 W."""
    energy = end_radio_energy_j(np.array([0.02, 0.0]), np.array([10.0, 0.0]), np.array([1.0, 0.0]))
    assert energy == pytest.approx([0.2 / 0.3 + 0.1, 0.0])
