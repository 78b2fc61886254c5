"""Networks larger than what an end tracks: near links one by one, the others as a mean field."""

from __future__ import annotations

import numpy as np
import pytest
from test_network import arrays
from worlds import FRAME_S, Radio, config, load, network

from gainnet.network import channel, near
from gainnet.network.columns import CLEAR, DOWNLINK, GAIN, HEARD, OWN, SENT, SERVING, SHADOW, TILE
from gainnet.network.link import efficiency_bit_per_s_hz
from gainnet.network.network import Network
from gainnet.scenario.network import Explicit, Hexagonal, Manhattan, ManhattanMobility, Site, WaypointMobility
from gainnet.units import linear_to_db

USERS = 200
FAST = WaypointMobility(speed_min_m_per_s=30.0, speed_max_m_per_s=30.0, pause_max_s=0.0)
SIXTY = {
    "hexagonal": config(USERS, topology=Hexagonal(sites=61), mobility=FAST),
    "streets": config(
        USERS, topology=Manhattan(blocks_x=9, blocks_y=9, cells=60), mobility=ManhattanMobility(speed_mean_m_per_s=30.0)
    ),
    "sectors": config(
        USERS, topology=Hexagonal(sites=20, sectors=3), mobility=FAST, radio=Radio(antenna="sector")
    ),
}  # fmt: skip
LAYOUTS = pytest.mark.parametrize("layout", SIXTY)


def sixty(layout, seed=1, frame_s=FRAME_S, near_cells=None):
    return Network(SIXTY[layout], seed=seed, frame_s=frame_s, duration_s=120.0, near_cells=near_cells)


def busy(net, frame, candidate=None, **changes):
    """Half the users send to their serving cell, cells use a random part of their band, every second frame sounds."""
    generator = np.random.default_rng(frame)
    some = {"sounding": 2.0 * (frame % 2), "downlink": generator.random(len(net.topology.cell_edge))}
    if candidate is not None:
        some |= {"uplink": 0.1, "uplink_cell": np.where(generator.random(USERS) < 0.5, candidate[:, 0], -1)}
    return load(net, USERS, **(some | changes))


def interference_w(net, state, tiles):
    """Interference of each user's serving link and of each cell, from exact gains but far ones by the mean field."""
    users, gain = np.arange(USERS), net._field[:, :, GAIN].copy()
    serving, to, sent = state.candidate[:, 0], state.load.uplink_cell, net._cells[:, SENT]
    if tiles is not None:
        at = tiles.at(state.position_m)
        mean, far = np.zeros_like(gain), np.zeros(gain.shape, dtype=bool)
        np.put_along_axis(mean, tiles.far_cell[at].astype(int), tiles.far_gain[at].astype(float), axis=1)
        np.put_along_axis(far, tiles.far_cell[at].astype(int), True, axis=1)
        far[users, serving] = False
        gain[far] = mean[far]
    own = np.zeros_like(gain)
    own[users[to >= 0], to[to >= 0]] = 1.0
    up = ((1.0 - own) * gain * net._ends[:, OWN, None]).sum(axis=0)
    down = gain @ sent - gain[users, serving] * sent[serving]
    return np.maximum(down, 0.0), up[serving]


@LAYOUTS
@pytest.mark.untraced
def test_mean_field_leaves_sinr_and_efficiency_as_they_are(layout):
    """The same drops with the exact sum over all 60 cells and with the mean field of the far ones."""
    sinr_db = [[[], []], [[], []]]
    for seed in range(4):
        net = sixty(layout, seed, 2.0, near_cells=999)
        tiles = near.build(net._cells, net.topology.area_m, net._table, net._rules)
        assert tiles.near.shape[1] == near.NEAR
        state = net.advance(busy(net, 0))
        for frame in range(1, 40):
            state = net.advance(busy(net, frame, state.candidate))
            if frame % 4 == 0:
                gain = state.truth.gain[:, 0]
                for kind, far in enumerate((None, tiles)):
                    down, up = interference_w(net, state, far)
                    down_db = linear_to_db(net.block_power_w * gain / (down + net._rules["end_noise_w"]))
                    up_db = linear_to_db(state.uplink_power_w[:, 0] * gain / (up + net._rules["cell_noise_w"]))
                    sinr_db[0][kind].append(down_db)
                    sinr_db[1][kind].append(up_db)
    for direction in sinr_db:
        exact, meant = (np.concatenate(part) for part in direction)
        points = [5, 50, 95]
        assert meant.mean() == pytest.approx(exact.mean(), abs=0.1)
        assert np.percentile(meant, points) == pytest.approx(np.percentile(exact, points), abs=0.3)
        one, other = efficiency_bit_per_s_hz(exact), efficiency_bit_per_s_hz(meant)
        assert other.mean() == pytest.approx(one.mean(), rel=0.03)
        assert np.percentile(other, points) == pytest.approx(np.percentile(one, points), rel=0.03)


@LAYOUTS
@pytest.mark.untraced
def test_the_whole_run_agrees_with_the_exact_one(layout):
    """Independent draws of the field, so only within what these scatter."""

    def means(near_cells):
        found = []
        for seed in range(4):
            net = sixty(layout, seed, 1.0, near_cells)
            state = net.advance(busy(net, 0))
            for frame in range(1, 30):
                state = net.advance(busy(net, frame, state.candidate))
                found.append([v.mean() for v in (state.truth.downlink_bit_per_s_hz[:, 0],
                              state.truth.uplink_bit_per_s_hz[:, 0], state.observed.downlink_bit_per_s_hz[:, 0],
                              state.observed.uplink_bit_per_s_hz[:, 0], state.handover)])  # fmt: skip
        return np.mean(found, axis=0)

    assert means(None) == pytest.approx(means(999), rel=0.06)


@LAYOUTS
def test_power_is_the_sum_over_near_cells_and_the_mean_field(layout):
    net = sixty(layout)
    state = net.advance(busy(net, 0))
    state = net.advance(busy(net, 1, state.candidate))
    at, sent, tiles = net._ties[:, TILE], net._cells[:, SENT], net._tiles
    near_w = (net._field[:, :, GAIN] * sent[net._near]).sum(axis=1)
    far_w = (tiles.far_gain[at] * sent[tiles.far_cell[at]]).sum(axis=1)
    assert net._ends[:, DOWNLINK] == pytest.approx(near_w + far_w, rel=1e-6)
    heard, own = np.zeros(len(sent)), net._ends[:, OWN]
    for user in np.flatnonzero(own):
        others = net._near[user] != state.load.uplink_cell[user]
        heard[net._near[user][others]] += own[user] * net._field[user, others, GAIN]
        heard[tiles.far_cell[at[user]]] += own[user] * tiles.far_gain[at[user]]
    assert net._cells[:, HEARD] == pytest.approx(heard, rel=1e-6)


def test_cells_beyond_the_far_ones_count_in_the_mean(monkeypatch):
    net = sixty("hexagonal")
    every = net._tiles
    monkeypatch.setattr(near, "FAR", 16)
    few = near.build(net._cells, net.topology.area_m, net._table, net._rules)
    assert few.far_cell.shape[1] == 16
    sums = [tiles.far_gain.sum(axis=1) + tiles.rest_gain for tiles in (few, every)]
    assert sums[0] == pytest.approx(sums[1], rel=1e-5)
    assert (few.rest_gain > 0.0).all()
    net.advance(busy(net, 0, downlink=0.5))
    exact_w = net._far_w.copy()
    net._tiles, net._far_w = few, np.zeros_like(exact_w)
    net.advance(busy(net, 1, downlink=0.5))
    assert net._far_w == pytest.approx(exact_w, rel=1e-5)


def test_mean_gain_is_that_of_the_field():
    """Over many users that stand in one place the field's gains have the mean that the far cells count with."""
    cells = (Site(x_m=0.0, y_m=0.0), Site(x_m=150.0, y_m=40.0, azimuth_deg=90.0))
    still = WaypointMobility(speed_min_m_per_s=1e-9, speed_max_m_per_s=1e-9, pause_max_s=0.0)
    given = config(40_000, topology=Explicit(cells=cells, margin_m=50.0), mobility=still, radio=Radio(antenna="sector"))
    net = network(given)
    state = net.advance(load(net, 40_000))
    expected = np.empty((40_000, 2))
    near.mean_gains(state.position_m, net._cells, net._table, net._rules, expected)
    assert np.median(net._field[:, :, GAIN] / expected) < 1.0
    ratio = (net._field[:, :, GAIN] / expected).mean(axis=0)
    assert ratio == pytest.approx([1.0, 1.0], abs=0.1)


@LAYOUTS
@pytest.mark.untraced
def test_tracked_cells_are_those_of_the_tile_and_keep_their_field(layout):
    net = sixty(layout)
    state = net.advance(busy(net, 0))
    crossed = kept = came = 0
    for frame in range(1, 60):
        before, shadow, tile = net._near.copy(), net._field[:, :, SHADOW].copy(), net._ties[:, TILE].copy()
        was = state.position_m
        state = net.advance(busy(net, frame, state.candidate))
        assert (np.sort(net._near, axis=1) == np.sort(net._tiles.near[net._ties[:, TILE]], axis=1)).all()
        same = before == net._near
        assert not any(set(new) & set(old) for new, old in zip(
            np.where(same, -1, net._near), np.where(same, -2, before), strict=True))  # fmt: skip
        moved = np.linalg.norm(state.position_m - was, axis=1)
        step = (net._field[:, :, SHADOW] - shadow) / np.sqrt(1.0 - np.exp(-2.0 * np.maximum(moved, 1e-9) / 10.0))[
            :, None
        ]
        rows = tile != net._ties[:, TILE]
        assert np.abs(step[same]).max() < 7.0
        crossed += rows.sum()
        kept, came = kept + same[rows].sum(), came + (~same).sum()
    assert crossed > 300
    assert 0 < came < 0.5 * kept


@pytest.mark.untraced
def test_links_that_come_near_are_drawn_from_the_stationary_field():
    net = sixty("hexagonal", frame_s=0.5)
    state = net.advance(busy(net, 0))
    shadow, expected, clear = [], [], []
    for frame in range(1, 150):
        before = net._near.copy()
        state = net.advance(busy(net, frame, state.candidate))
        fresh = before != net._near
        shadow.append(net._field[fresh][:, SHADOW])
        clear.append(net._field[fresh][:, CLEAR])
        user, slot = np.nonzero(fresh)
        distance = np.linalg.norm(state.position_m[user] - net._cells[net._near[user, slot], :2], axis=1)
        expected.append(channel.los_probability("umi", distance))
    shadow = np.concatenate(shadow)
    assert len(shadow) > 3_000
    assert shadow.mean() == pytest.approx(0.0, abs=0.06)
    assert shadow.std() == pytest.approx(1.0, abs=0.04)
    assert np.concatenate(clear).mean() == pytest.approx(np.concatenate(expected).mean(), abs=0.02)


@LAYOUTS
@pytest.mark.untraced
def test_the_seed_decides_a_large_network(layout):
    def run(seed):
        net = sixty(layout, seed)
        state, found = net.advance(busy(net, 0)), []
        for frame in range(1, 15):
            state = net.advance(busy(net, frame, state.candidate))
            found += [array.copy() for array in arrays(state)]
        return found

    one, same, other = run(1), run(1), run(2)
    assert all(np.isfinite(array).all() for array in one)
    assert all((a == b).all() for a, b in zip(one, same, strict=True))
    assert any((a != b).any() for a, b in zip(one, other, strict=True))


def test_a_network_of_few_cells_is_the_exact_one():
    given = config(50, topology=Hexagonal(sites=near.NEAR_ALL))
    nets = [Network(given, seed=3, frame_s=0.1, duration_s=9.0, near_cells=n) for n in (None, 999)]
    assert nets[0]._near.tolist() == 50 * [list(range(near.NEAR_ALL))]
    for frame in range(5):
        one, other = (net.advance(load(net, 50, sounding=float(frame % 2))) for net in nets)
        assert all((a == b).all() for a, b in zip(arrays(one), arrays(other), strict=True))


@pytest.mark.compiles
def test_a_serving_cell_left_behind_is_replaced():
    """With two cells tracked and no sounding, users leave their cells behind and are handed over."""
    net = sixty("hexagonal", frame_s=1.0, near_cells=2)
    state, lost = net.advance(busy(net, 0)), 0
    for frame in range(1, 40):
        before = state.candidate[:, 0]
        state = net.advance(busy(net, frame, state.candidate, sounding=0.0))
        serving = net._near[np.arange(USERS), net._ties[:, SERVING]]
        assert (state.candidate[:, 0] == serving).all()
        assert (state.candidate[:, 2] == -1).all()
        assert (state.handover == (before != serving)).all()
        lost += (~(net._near == before[:, None]).any(axis=1)).sum()
        assert all(np.isfinite(array).all() for array in arrays(state))
    assert lost > 50


def test_an_outage_in_a_large_network():
    net = sixty("hexagonal")
    state = net.advance(busy(net, 0, downlink=0.5))
    up = np.ones(61, dtype=bool)
    up[:10] = False
    after = net.advance(busy(net, 1, downlink=0.5, up=up))
    assert not np.isin(after.candidate, np.arange(10)).any()
    assert after.handover[np.isin(state.candidate[:, 0], np.arange(10))].all()
    assert (net._cells[:10, SENT] == 0.0).all()
    dark = net.advance(busy(net, 2, up=np.zeros(61, dtype=bool)))
    assert (dark.candidate == -1).all()
    assert (net._ends[:, DOWNLINK] == 0.0).all()
    assert (net.advance(busy(net, 3)).candidate[:, 0] >= 0).all()


def test_users_off_the_area_of_a_large_network(tmp_path):
    path = tmp_path / "far.csv"
    path.write_text("time_s,end,x_m,y_m\n0,a,5e5,0\n5,a,-5e7,0\n0,b,0,0\n5,b,0,9e4\n", encoding="utf-8")
    given = config(2, topology=Hexagonal(sites=61), mobility={"kind": "trace", "path": path})
    net = network(given, duration_s=5.0)
    for frame in range(50):
        to = None if frame == 0 else state.candidate[:, 0]
        state = net.advance(load(net, 2, sounding=2.0, uplink=0.1, uplink_cell=to))
        assert all(np.isfinite(array).all() for array in arrays(state))
        assert (state.truth.downlink_bit_per_s_hz[0] == 0.0).all()
        assert ((net._ties[:, TILE] >= 0) & (net._ties[:, TILE] < len(net._tiles.near))).all()
        if frame == 0:
            assert state.truth.downlink_bit_per_s_hz[1, 0] > 0.0


def test_tiles_cover_the_area_and_follow_the_spacing_of_sites():
    for layout in SIXTY:
        net = sixty(layout)
        tiles, (left, low, right, high) = net._tiles, net.topology.area_m
        assert left + tiles.columns * tiles.side_m >= right
        assert low + tiles.lines * tiles.side_m >= high
        assert 35.0 < tiles.side_m < 60.0
        assert tiles.at(np.array([[left, low], [right, high], [-1e9, 1e9]])).tolist() == [
            0, len(tiles.near) - 1, len(tiles.near) - tiles.columns,
        ]  # fmt: skip
    wide = near.side_m(np.array([[0.0, 0.0], [1.0, 0.0]]), (0.0, 0.0, 8_000.0, 8_000.0))
    assert wide == pytest.approx(np.sqrt(64e6 / 128.0))
