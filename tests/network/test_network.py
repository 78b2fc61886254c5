"""The radio network in motion: its fields, interference, soundings and hand-overs."""

from __future__ import annotations

import numpy as np
import pytest
from worlds import Radio, Sensing, config, load, network, streets

from gainnet.network import channel, link
from gainnet.network.columns import CLEAR, GAIN, HEARD, LATENT, LOST, NONE, RULES, SERVING, SHADOW, SLOPE
from gainnet.network.observe_kernel import rank, serve
from gainnet.scenario.network import Explicit, Hexagonal, Site, WaypointMobility
from gainnet.units import w_to_dbm

DB = 1.0 / channel.NEPER_PER_DB
STILL = WaypointMobility(speed_min_m_per_s=1e-9, speed_max_m_per_s=1e-9, pause_max_s=0.0)


def arrays(state):
    return [
        state.position_m, state.velocity_m_per_s, state.candidate, state.handover, state.observed_error_db,
        state.uplink_power_w, state.cell_distance_m,
        *(getattr(view, name) for view in (state.truth, state.observed)
          for name in ("gain", "downlink_bit_per_s_hz", "uplink_bit_per_s_hz")),
    ]  # fmt: skip


@pytest.mark.parametrize("given_config", [config(50), streets(50), config(50, topology=Hexagonal(sites=1))])
def test_the_state_is_finite_and_in_range(given_config):
    net = network(given_config)
    for frame in range(30):
        state = net.advance(load(net, 50, sounding=float(frame % 3), uplink=0.05, uplink_cell=np.zeros(50, dtype=int)))
        assert state.frame == frame
        assert state.time_s == pytest.approx(frame * 0.1)
        for array in arrays(state):
            assert np.isfinite(array).all()
        for view in (state.truth, state.observed):
            for efficiency in (view.downlink_bit_per_s_hz, view.uplink_bit_per_s_hz):
                assert efficiency.min() >= 0.0
                assert efficiency.max() <= 7.15
        assert (state.uplink_power_w <= 10**-0.7 / net.blocks + 1e-12).all()
        assert (state.candidate[:, 0] >= 0).all()


def test_the_seed_decides_everything():
    def run(seed):
        net = network(streets(30), seed)
        states = [net.advance(load(net, 30, sounding=1.0)) for _ in range(5)]
        return [array.copy() for state in states for array in arrays(state)]

    one, same, other = run(1), run(1), run(2)
    assert all((a == b).all() for a, b in zip(one, same, strict=True))
    assert any((a != b).any() for a, b in zip(one, other, strict=True))


def test_a_state_is_not_changed_by_the_next_frame():
    net = network(streets(30))
    state = net.advance(load(net, 30))
    kept = [array.copy() for array in arrays(state)]
    for _ in range(3):
        net.advance(load(net, 30, sounding=2.0, downlink=0.9))
    assert all((a == b).all() for a, b in zip(kept, arrays(state), strict=True))


def one_cell(ends, **changes):
    return config(ends, topology=Explicit(cells=(Site(x_m=0.0, y_m=0.0),), margin_m=150.0), **changes)


def test_line_of_sight_is_as_likely_as_the_standard_says():
    net = network(one_cell(20_000))
    state = net.advance(load(net, 20_000))
    distance = np.sqrt(np.maximum(state.cell_distance_m[:, 0] ** 2 - 8.5**2, 0.0))
    for low, high in ((0.0, 18.0), (20.0, 30.0), (50.0, 60.0), (100.0, 120.0)):
        some = (distance >= low) & (distance < high)
        expected = channel.los_probability("umi", distance[some]).mean()
        assert net._field[some, 0, CLEAR].mean() == pytest.approx(expected, abs=4.0 * np.sqrt(0.25 / some.sum()))


def test_shadowing_has_its_spread_and_decorrelates_over_the_way():
    net = network(one_cell(8_000, mobility=WaypointMobility(speed_min_m_per_s=20, speed_max_m_per_s=20, pause_max_s=0)))
    state = net.advance(load(net, 8_000))
    start, was_los = net._field[:, 0, SHADOW].copy(), net._field[:, 0, CLEAR] > 0.5
    radio = Radio()
    ground = np.sqrt(np.maximum(state.cell_distance_m[:, 0] ** 2 - 8.5**2, 0.0))
    for clear, std in ((True, 4.0), (False, 7.82)):
        function = channel.los_loss_db if clear else channel.nlos_loss_db
        loss = function("umi", ground, radio.carrier_hz, 10.0, 1.5)
        residual = 10 * np.log10(state.truth.gain[:, 0]) - radio.antenna_gain_dbi + loss
        assert residual[was_los == clear].std() == pytest.approx(std, rel=0.06)
    for _ in range(5):
        net.advance(load(net, 8_000))
    stayed = was_los == (net._field[:, 0, CLEAR] > 0.5)
    way_m = 10.0
    for clear, length in ((True, 10.0), (False, 13.0)):
        some = stayed & (was_los == clear)
        found = np.corrcoef(start[some], net._field[some, 0, SHADOW])[0, 1]
        assert found == pytest.approx(np.exp(-way_m / length), abs=0.05)


def test_the_line_of_sight_field_is_smooth_with_its_correlation():
    net = network(one_cell(8_000, mobility=WaypointMobility(speed_min_m_per_s=50, speed_max_m_per_s=50, pause_max_s=0)))
    net.advance(load(net, 8_000))
    start = net._field[:, 0, LATENT].copy()
    state = net.advance(load(net, 8_000))
    assert state.frame == 1
    after_one = np.corrcoef(start, net._field[:, 0, LATENT])[0, 1]
    for _ in range(9):
        net.advance(load(net, 8_000))
    after_ten = np.corrcoef(start, net._field[:, 0, LATENT])[0, 1]
    length = 50.0 / channel.SMOOTH_LENGTHS
    assert after_one == pytest.approx((1 + 5 / length) * np.exp(-5 / length), abs=0.01)
    assert after_ten == pytest.approx(np.exp(-1.0), abs=0.05)
    assert net._field[:, 0, LATENT : SLOPE + 1].std() == pytest.approx(1.0, abs=0.03)


@pytest.mark.parametrize(("station", "power_dbm"), [("macro", 46.0), ("micro", 41.0), ("pico", 24.1)])
def test_a_cell_radiates_the_power_of_all_its_transceivers(station, power_dbm):
    """EARTH D2.3 gives 43, 38 and 21 dBm for each of two transceivers."""
    net = network(config(1, radio=Radio(base_station=station)))
    assert w_to_dbm(net.block_power_w * net.blocks) == pytest.approx(power_dbm, abs=0.1)


def test_without_others_the_link_is_limited_by_noise_alone():
    given_config = one_cell(500, radio=Radio(rician_k_db=60.0, fading_samples=1), mobility=STILL)
    net = network(given_config)
    state = net.advance(load(net, 500, downlink=1.0))
    noise = link.noise_w(net.block_hz, 9.0)
    clear = net._field[:, 0, CLEAR] > 0.5
    sinr_db = 10 * np.log10(net.block_power_w * state.truth.gain[clear, 0] / noise)
    exact = link.efficiency_bit_per_s_hz(sinr_db)
    assert state.truth.downlink_bit_per_s_hz[clear, 0] == pytest.approx(exact, abs=0.05)
    received_w = (state.uplink_power_w * state.truth.gain)[clear, 0]
    uplink_db = 10 * np.log10(received_w / link.noise_w(net.block_hz, 5.0))
    exact = link.efficiency_bit_per_s_hz(uplink_db)
    assert state.truth.uplink_bit_per_s_hz[clear, 0] == pytest.approx(exact, abs=0.05)


def test_interference_grows_with_the_load_of_others():
    def mean(**used):
        net = network(config(300, mobility=STILL))
        state = net.advance(load(net, 300))
        used.setdefault("uplink_cell", state.candidate[:, 0])
        state = net.advance(load(net, 300, **used))
        return state.truth.downlink_bit_per_s_hz[:, 0].mean(), state.truth.uplink_bit_per_s_hz[:, 0].mean()

    down = [mean(downlink=use)[0] for use in (0.0, 0.2, 1.0)]
    assert down[0] > down[1] > down[2] > 0.5
    up = [mean(uplink=use)[1] for use in (0.0, 0.005, 0.05)]
    assert up[0] > up[1] > up[2]


def test_own_cell_and_own_transmission_do_not_interfere():
    net = network(one_cell(1, mobility=STILL, radio=Radio(fading_samples=1, rician_k_db=60.0)))
    quiet = net.advance(load(net, 1, downlink=0.0))
    busy = net.advance(load(net, 1, downlink=1.0, uplink=1.0, uplink_cell=[0]))
    assert net._cells[:, HEARD].tolist() == [0.0]
    assert busy.observed.uplink_bit_per_s_hz == pytest.approx(quiet.observed.uplink_bit_per_s_hz, rel=1e-6)


def test_an_outage_moves_its_users_at_once():
    net = network(config(200, mobility=STILL))
    before = net.advance(load(net, 200))
    up = np.ones(7, dtype=bool)
    up[0] = False
    state = net.advance(load(net, 200, up=up))
    lost = before.candidate[:, 0] == 0
    assert lost.any()
    assert (state.candidate != 0).all()
    assert (state.handover == lost).all()
    nothing = net.advance(load(net, 200, up=np.zeros(7, dtype=bool)))
    assert (nothing.candidate == -1).all()
    for array in arrays(nothing)[4:]:
        assert (array == 0.0).all()
    assert (net.advance(load(net, 200)).candidate[:, 0] >= 0).all()


def test_a_cell_that_is_down_makes_no_interference():
    def downlink(up):
        net = network(config(200, mobility=STILL))
        net.advance(load(net, 200))
        return net.advance(load(net, 200, downlink=1.0, up=up))

    every, few = np.ones(7, dtype=bool), np.ones(7, dtype=bool)
    few[3] = False
    one, other = downlink(every), downlink(few)
    same = (one.candidate[:, 0] == other.candidate[:, 0]) & (one.candidate[:, 0] != 3)
    gained = other.truth.downlink_bit_per_s_hz[same, 0] - one.truth.downlink_bit_per_s_hz[same, 0]
    assert gained.min() > -1e-9
    assert gained.max() > 0.1


def error_db(state):
    return 10 * np.log10(state.truth.gain[:, 0] / state.observed.gain[:, 0])


def test_a_sounding_is_right_but_for_its_stated_error():
    for blocks, most in ((1, 3.5), (2, 2.6), (32, 1.0)):
        state = network(config(3_000, sensing=Sensing(sounding_blocks=blocks))).advance(
            load(network(config(3_000)), 3_000)
        )
        error = error_db(state)
        assert error.std() < most
        assert np.sqrt(np.mean((error / state.observed_error_db) ** 2)) == pytest.approx(1.0, abs=0.12)


@pytest.mark.untraced
def test_the_stated_error_grows_with_the_way_and_sounding_ends_it():
    net = network(config(2_000))
    stated, found = [], []
    for frame in range(101):
        state = net.advance(load(net, 2_000))
        if frame in (0, 5, 20, 100):
            stated.append(np.sqrt(np.mean(state.observed_error_db**2)))
            found.append(np.sqrt(np.mean(error_db(state) ** 2)))
    assert (np.diff(stated) > 0.0).all()
    assert (np.diff(found) > 0.0).all()
    assert np.array(stated) == pytest.approx(np.array(found), rel=0.3)
    down = net.advance(load(net, 2_000, sounding=2.0, sensing_up=False))
    assert down.observed_error_db.mean() > 5.0
    state = net.advance(load(net, 2_000, sounding=2.0))
    assert state.observed_error_db.mean() < 2.5
    assert error_db(state).std() < 2.6


def test_the_margin_holds_rate_back():
    def observed(margin):
        net = network(config(300, sensing=Sensing(margin_sigma=margin)))
        for _ in range(5):
            state = net.advance(load(net, 300))
        return state.observed

    bold, shy = observed(0.0), observed(1.0)
    assert (bold.gain == shy.gain).all()
    assert (shy.downlink_bit_per_s_hz <= bold.downlink_bit_per_s_hz + 1e-12).all()
    assert shy.downlink_bit_per_s_hz.mean() < bold.downlink_bit_per_s_hz.mean()


def test_fresh_observation_predicts_the_mean_rate():
    net = network(config(2_000, sensing=Sensing(margin_sigma=0.0, sounding_blocks=64)))
    state = net.advance(load(net, 2_000))
    truth, seen = state.truth.downlink_bit_per_s_hz[:, 0].mean(), state.observed.downlink_bit_per_s_hz[:, 0].mean()
    assert seen == pytest.approx(truth, rel=0.03)


def test_candidates_are_the_strongest_observed_behind_the_serving_cell():
    net = network(config(500))
    for _ in range(20):
        state = net.advance(load(net, 500, sounding=1.0))
        others = state.observed.gain[:, 1:]
        assert (np.diff(others, axis=1) <= 0.0).all()
        assert all(len(set(row)) == 3 for row in state.candidate)
    assert (state.observed.gain[:, 0] * 10**0.31 > others.max(axis=1)).mean() > 0.8


def test_rank_puts_the_serving_cell_first():
    level = np.array([-3.0, -np.inf, -1.0, -2.0, -9.0])
    for places, expected in ((3, [0, 2, 3]), (6, [0, 2, 3, 4, -1, -1]), (1, [0])):
        candidate = np.empty(places, dtype=np.int64)
        rank(level, 0, candidate)
        assert candidate.tolist() == expected


def handovers(levels, hysteresis=1.0, trigger_s=0.16):
    rules = np.zeros(1, dtype=RULES)
    rules["hysteresis"], rules["trigger_s"], rules["frame_s"] = hysteresis, trigger_s, 0.1
    ties, ends = np.array([[0, NONE, 0]]), np.zeros((1, 5))
    served = []
    for level in levels:
        level = np.array(level)
        best = int(level.argmax()) if np.isfinite(level).any() else -1
        changed = serve(0, level, best, ties, ends, rules)
        served.append((int(ties[0, SERVING]), bool(changed)))
    return served


def test_a_handover_needs_hysteresis_and_time():
    assert handovers([(0.0, 0.9)] * 9)[-1] == (0, False)
    better = handovers([(0.0, 1.1)] * 4)
    assert better == [(0, False), (0, False), (1, True), (1, False)]
    assert handovers([(0.0, 1.1)], trigger_s=0.0) == [(1, True)]
    broken = handovers([(0.0, 1.1), (0.0, 1.1), (0.0, 0.0), (0.0, 1.1), (0.0, 1.1)])
    assert all(served == (0, False) for served in broken)
    lost = handovers([(-np.inf, -9.0), (-np.inf, -np.inf), (-3.0, -np.inf)])
    assert lost == [(1, True), (-1, True), (0, False)]


def test_a_cell_that_is_no_longer_near_loses_its_user():
    for first, changed in ((LOST, True), (NONE, False)):
        ties = np.array([[first, NONE, 0]])
        assert serve(0, np.array([-3.0, -1.0]), 1, ties, np.zeros((1, 5)), np.zeros(1, dtype=RULES)) == changed
        assert ties[0].tolist() == [1, NONE, 0]


@pytest.mark.untraced
def test_more_hysteresis_means_fewer_handovers():
    def count(hysteresis_db):
        given_config = streets(100, radio=Radio(handover_hysteresis_db=hysteresis_db))
        net = network(given_config)
        return sum(net.advance(load(net, 100, sounding=4.0)).handover.sum() for _ in range(150))

    few, many = count(6.0), count(0.0)
    assert 0 < few < many


def test_a_sector_serves_what_lies_ahead():
    cells = (Site(x_m=0.0, y_m=0.0, azimuth_deg=0.0), Site(x_m=0.0, y_m=0.0, azimuth_deg=180.0))
    given_config = config(2_000, topology=Explicit(cells=cells, margin_m=100.0), radio=Radio(antenna="sector"))
    net = network(given_config)
    state = net.advance(load(net, 2_000))
    east = state.position_m[:, 0] > 30.0
    assert (state.candidate[east, 0] == 0).mean() > 0.8
    gain, los = net._field[:, :, GAIN], net._field[:, :, CLEAR] > 0.5
    ratio_db = 10 * np.log10(gain[:, 0] / gain[:, 1])
    shadow_db = np.where(los, 4.0, 7.82) * net._field[:, :, SHADOW]
    both = los[:, 0] == los[:, 1]
    angle = np.arctan2(state.position_m[:, 1], state.position_m[:, 0])
    zenith = np.pi / 2 + np.arctan2(8.5, np.hypot(*state.position_m.T))
    pattern = channel.element_gain_db(zenith, angle) - channel.element_gain_db(zenith, angle - np.pi)
    expected = pattern + shadow_db[:, 0] - shadow_db[:, 1]
    assert ratio_db[both] == pytest.approx(expected[both], abs=0.05)


def test_ends_out_of_coverage_have_no_rate(tmp_path):
    path = tmp_path / "far.csv"
    path.write_text("time_s,end,x_m,y_m\n0,a,5e5,0\n5,a,5e7,0\n0,b,0,0\n5,b,0,0\n", encoding="utf-8")
    net = network(config(2, mobility={"kind": "trace", "path": path}), duration_s=5.0)
    for _ in range(50):
        state = net.advance(load(net, 2, sounding=2.0))
        assert all(np.isfinite(array).all() for array in arrays(state))
        assert (state.truth.downlink_bit_per_s_hz[0] == 0.0).all()
        assert (state.truth.uplink_bit_per_s_hz[0] == 0.0).all()
        assert state.truth.downlink_bit_per_s_hz[1, 0] > 0.0
