"""Ends that stay where they may be, and traces that say what is wrong with them."""

from __future__ import annotations

import contextlib
import importlib.util
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from worlds import FRAME_S, config, streets

from gainnet.errors import InputError, TraceError
from gainnet.network import topology
from gainnet.network.mobility import mobility, sumo
from gainnet.network.mobility.trace import read
from gainnet.scenario.network import Manhattan, ManhattanMobility, SumoMobility, TraceMobility, WaypointMobility


def built(given_config, seed=0, frame_s=FRAME_S, duration_s=10.0):
    return mobility.build(
        given_config, topology.build(given_config),
        generator=np.random.default_rng(seed), frame_s=frame_s, duration_s=duration_s,
    )  # fmt: skip


def tracks(moves, frames):
    seen = [moves.step() for _ in range(frames)]
    return np.array([position for position, _ in seen]), np.array([velocity for _, velocity in seen])


@pytest.mark.parametrize("frame_s", [0.1, 1.0, 60.0])
def test_vehicles_stay_on_streets_in_their_lane(frame_s):
    position, velocity = tracks(built(streets(60), frame_s=frame_s), 400)
    away = np.abs(position - 150.0 * np.round(position / 150.0))
    assert (np.abs(away - 1.75) < 1e-6).any(axis=2).all()
    assert position.min() >= -1.75 - 1e-9
    assert position.max() <= 601.75 + 1e-9
    assert (np.count_nonzero(velocity, axis=2) == 1).all()


def test_vehicles_keep_right_and_their_speed():
    position, velocity = tracks(built(streets(60)), 100)
    east = velocity[..., 0] > 0
    lane = position[..., 1] - 150.0 * np.round(position[..., 1] / 150.0)
    assert lane[east] == pytest.approx(-1.75)
    speed = np.abs(velocity).sum(axis=2)
    assert (speed == speed[0]).all()
    straight = (velocity[1:] == velocity[:-1]).all(axis=2)
    moved = np.linalg.norm(position[1:] - position[:-1], axis=2)
    assert moved[straight] == pytest.approx((speed[1:] * FRAME_S)[straight])


@pytest.mark.parametrize(("probability", "expected"), [(0.0, 0.0), (1.0, 1.0), (0.5, 0.5)])
def test_vehicles_turn_as_often_as_they_should(probability, expected):
    layout = Manhattan(blocks_x=40, blocks_y=40, block_x_m=20.0, block_y_m=20.0)
    config_ = config(400, topology=layout, mobility=ManhattanMobility(turn_probability=probability))
    position, velocity = tracks(built(config_, frame_s=1.0), 60)
    inner = (np.abs(position[:-1] - 400.0) < 360.0).all(axis=2)
    corner = np.floor(position / 20.0)
    axis = np.abs(velocity).argmax(axis=2)
    passed = (np.take_along_axis(corner[1:] != corner[:-1], axis[:-1, :, None], axis=2)[..., 0]) & inner
    turned = axis[1:] != axis[:-1]
    assert turned[inner].sum() / max((passed | turned)[inner].sum(), 1) == pytest.approx(expected, abs=0.06)


def test_waypoints_stay_in_the_area_within_their_speeds():
    given_config = config(100, mobility=WaypointMobility(speed_min_m_per_s=1.0, speed_max_m_per_s=3.0, pause_max_s=4.0))
    position, velocity = tracks(built(given_config), 3_000)
    left, low, right, high = topology.build(given_config).area_m
    assert (position[..., 0] >= left).all()
    assert (position[..., 0] <= right).all()
    assert (position[..., 1] >= low).all()
    assert (position[..., 1] <= high).all()
    moved = np.linalg.norm(np.diff(position, axis=0), axis=2)
    assert moved.max() <= 3.0 * FRAME_S + 1e-9
    speed = np.linalg.norm(velocity, axis=2)
    assert (speed == 0.0).any()
    assert ((speed == 0.0) | ((speed > 1.0 - 1e-9) & (speed < 3.0 + 1e-9))).all()


@pytest.mark.parametrize("given_config", [config(30), streets(30)])
@pytest.mark.compiles
def test_the_seed_decides_the_tracks(given_config):
    one, same, other = (tracks(built(given_config, seed), 50)[0] for seed in (1, 1, 2))
    assert (one == same).all()
    assert (one != other).any()


def written(tmp_path, text):
    path = tmp_path / "trace.csv"
    path.write_text(text, encoding="utf-8")
    return path


GOOD = "time_s,end,x_m,y_m\n0,a,0,0\n0,b,5,5\n10,a,20,10\n10,b,5,5\n"


def test_a_trace_is_interpolated(tmp_path):
    path = written(tmp_path, GOOD)
    position, velocity = tracks(built(config(2, mobility=TraceMobility(path=path))), 60)
    assert position[25, 0] == pytest.approx([5.0, 2.5])
    assert velocity[25, 0] == pytest.approx([2.0, 1.0])
    assert (position[:, 1] == 5.0).all()
    assert (velocity[:, 1] == 0.0).all()


def test_a_replay_ends_standing(tmp_path):
    position, velocity = tracks(built(config(2, mobility=TraceMobility(path=written(tmp_path, GOOD)))), 150)
    assert position[149, 0] == pytest.approx([20.0, 10.0])
    assert (velocity[149] == 0.0).all()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"trace\.csv: the trace is empty"),
        ("time_s,end,x_m,y_m\n", r"trace\.csv, line 2: .* no rows"),
        ("t,end,x,y\n0,a,1,1\n", r"trace\.csv, line 1: the header is 't,end,x,y'"),
        (GOOD + "11,a,3\n", r"trace\.csv, line 6: 3 values where"),
        (GOOD + "11,a,three,3\n", r"trace\.csv, line 6: .*must be numbers"),
        (GOOD + "11,a,nan,3\n", r"trace\.csv, line 6: .*must be finite"),
        (GOOD + "9,a,3,3\n", r"trace\.csv, line 6: time_s of end 'a' does not increase"),
        (GOOD.replace("10,", "3,"), r"trace\.csv: the trace lasts 3 s, the run 10 s"),
        (
            "time_s,end,x_m,y_m\n0,a,0,0\n10,a,0,0\n",
            r"trace\.csv: the trace has 1 ends, the scenario network\.ends = 2",
        ),
        ("time_s,end,x_m,y_m\n0,a,0\0,0\n", r"trace\.csv"),
    ],
)
def test_a_bad_trace_says_where(tmp_path, text, message):
    with pytest.raises(TraceError, match=message):
        read(written(tmp_path, text), ends=2, frame_s=FRAME_S, duration_s=10.0)


def test_a_missing_or_binary_trace(tmp_path):
    with pytest.raises(TraceError, match=r"none\.csv: the trace cannot be read"):
        read(tmp_path / "none.csv", ends=1, frame_s=FRAME_S, duration_s=1.0)
    path = tmp_path / "binary.csv"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(TraceError, match=r"binary\.csv: the trace is not CSV text"):
        read(path, ends=1, frame_s=FRAME_S, duration_s=1.0)


@given(text=st.text(max_size=200))
def test_any_text_is_a_trace_or_a_trace_error(text, tmp_path_factory):
    path = tmp_path_factory.mktemp("traces") / "any.csv"
    path.write_bytes(("time_s,end,x_m,y_m\n" + text).encode("utf-8", "surrogatepass"))
    with contextlib.suppress(TraceError):
        assert np.isfinite(read(path, ends=1, frame_s=1.0, duration_s=1.0)).all()


def recorded(tmp_path, monkeypatch, seconds):
    """A SUMO recording in the cache of an otherwise empty configuration."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    path = tmp_path / "town.sumocfg"
    path.write_text("<configuration><input/></configuration>", encoding="utf-8")
    monkeypatch.setattr(sumo, "_key", lambda *_: "town")
    sumo.cache_folder().mkdir(parents=True)
    np.save(sumo.cache_folder() / "town.npy", seconds.astype(np.float32))
    return SumoMobility(path=path)


def test_sumo_keeps_the_vehicles_longest_on_the_road_and_holds_them(tmp_path, monkeypatch):
    seconds = np.full((11, 3, 2), np.nan)
    seconds[:, 0] = np.arange(11)[:, None] * [10.0, 0.0]
    seconds[3:6, 1] = 7.0
    seconds[2:9, 2] = 20.0
    kind = recorded(tmp_path, monkeypatch, seconds)
    found = sumo.record(kind, (0.0, 0.0, 100.0, 100.0), ends=2, frame_s=0.5, duration_s=10.0)
    assert found.shape == (21, 2, 4)
    assert np.diff(found[:, 0, 0]) == pytest.approx(5.0)
    assert found[:20, 0, 2] == pytest.approx(10.0)
    assert np.ptp(found[:, 1], axis=0) == pytest.approx(0.0)
    with pytest.raises(InputError, match=r"network\.ends = 4, but only 3 vehicles"):
        sumo.record(kind, (0.0, 0.0, 1.0, 1.0), ends=4, frame_s=0.5, duration_s=10.0)


def test_sumo_missing_or_broken(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(InputError, match=r"network\.mobility\.path: .*town\.sumocfg cannot be read"):
        built(config(1, mobility=SumoMobility(path=tmp_path / "town.sumocfg")))
    path = tmp_path / "town.sumocfg"
    path.write_text("<configuration>", encoding="utf-8")
    with pytest.raises(InputError, match="is not a SUMO configuration"):
        built(config(1, mobility=SumoMobility(path=path)))
    path.write_text("<configuration/>", encoding="utf-8")
    monkeypatch.setattr(sumo.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(InputError, match=r"pip install gainnet\[sumo\]"):
        built(config(1, mobility=SumoMobility(path=path)))


def test_cologne_is_recorded_once_and_the_same_again(tmp_path, monkeypatch):
    if importlib.util.find_spec("libsumo") is None:
        pytest.skip("SUMO is not installed (pip install gainnet[sumo])")
    path = Path(__file__).resolve().parents[3] / "shared" / "data" / "sumo_cologne8" / "cologne8.sumocfg"
    if not path.is_file():
        pytest.skip("../shared/data/sumo_cologne8 is missing")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    given_config = config(20, mobility=SumoMobility(path=path, warmup_s=120.0))
    one, velocity = tracks(built(given_config, duration_s=30.0), 300)
    assert len(list(sumo.cache_folder().iterdir())) == 1
    same, _ = tracks(built(given_config, seed=5, duration_s=30.0), 300)
    assert (one == same).all()
    assert np.isfinite(one).all()
    assert 1.0 < np.linalg.norm(velocity, axis=2).mean() < 20.0
    assert np.linalg.norm(np.diff(one, axis=0), axis=2).max() < 30.0 * FRAME_S


def test_a_configuration_that_sumo_refuses(tmp_path, monkeypatch):
    if importlib.util.find_spec("libsumo") is None:
        pytest.skip("SUMO is not installed (pip install gainnet[sumo])")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    path = tmp_path / "town.sumocfg"
    path.write_text('<configuration><input><net-file value="none.net.xml"/></input></configuration>', encoding="utf-8")
    with pytest.raises(InputError, match=r"SUMO cannot run .*town\.sumocfg: Error"):
        built(config(1, mobility=SumoMobility(path=path)))
