"""The layout of the pool rows, what each holds, and what faults and ablations leave of it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tiny
from gainnet.network.state import Health
from gainnet.orchestrator.pool import POOL_KINDS, Pool, slot_edges_s
from gainnet.run import Run
from gainnet.scenario.orchestrator import Silos

TWO_CELLS = ((0.0, 0.0), (200.0, 0.0))
CELLS, FIXED, USERS, LINKS, BLOCKS = 2, 3, 3, 3, 55


def _run(**orchestrator: Any) -> Run:
    network = {"cloud": {"hardware": "cloud-accelerator", "count": 2}}
    return Run(tiny.scenario(cells=TWO_CELLS, ends=USERS, network=network, orchestrator=orchestrator))


def _pool(**orchestrator: Any) -> Pool:
    return _run(**orchestrator).orchestrator.pool


def _health(pool: Pool, **changes: Any) -> Health:
    everything = {"cell_up": np.ones(pool.cells, bool), "node_up": np.ones(pool.fixed, bool)}
    everything |= {"link_factor": np.ones(pool.links), "end_up": np.ones(pool.users, bool)}
    return Health(**{**everything, **changes})


@settings(max_examples=50, deadline=None)
@given(st.floats(1e-3, 1.0), st.floats(1.5, 8.0), st.floats(1e-3, 100.0))
def test_slots_grow_geometrically_and_reach_the_horizon(frame_s: float, growth: float, horizon_s: float) -> None:
    edges = slot_edges_s(frame_s, growth, horizon_s)
    assert (edges[0], edges[1]) == (0.0, frame_s)
    np.testing.assert_allclose(edges[2:] / edges[1:-1], growth)
    assert edges[-1] >= horizon_s
    assert len(edges) == 2 or edges[-2] < horizon_s


def test_resources_stand_in_their_order_and_give_what_the_network_has() -> None:
    pool = _pool()
    assert (pool.cells, pool.fixed, pool.users, pool.links) == (CELLS, FIXED, USERS, LINKS)
    assert (pool.compute_start, pool.end_start, pool.link_start) == (2, 5, 8)
    expected = [BLOCKS] * CELLS + [2.0, 1.0, 1.0] + [1.0] * USERS + [1e9] * LINKS
    np.testing.assert_allclose(pool.capacity_per_s, expected)
    np.testing.assert_allclose(pool.memory_byte, [160e9, 24e9, 24e9] + [8e9] * USERS)
    assert pool.power_block_s == pytest.approx(BLOCKS * tiny.FRAME_S)


@pytest.mark.parametrize("pools", [{"kind": "universal"}, {"kind": "siloed"}])
def test_every_row_has_the_kind_of_its_resource(pools: dict[str, str]) -> None:
    run = _run(pools=pools)
    pool = run.orchestrator.pool
    kind = np.array(POOL_KINDS)[pool.kind(run.orchestrator.tables.node["tier"])]
    radio, compute = (3, 4) if pools["kind"] == "siloed" else (1, 1)
    names = ["radio"] * CELLS * radio + ["cloud_compute"] * compute + ["edge_compute"] * 2 * compute
    names += ["end_compute"] * USERS + ["backhaul"] * LINKS
    expected = [*np.repeat(names, pool.slots), *["memory"] * (FIXED + USERS), *["power"] * CELLS]
    assert kind.tolist() == expected
    assert len(kind) == pool.rows
    assert pool.memory_start == len(names) * pool.slots


def test_a_row_holds_what_its_resource_gives_until_the_end_of_its_slot() -> None:
    run = _run(reserve=0.25, foresight=0.0)
    state = run.network.advance(run.execution.load)
    pool = run.orchestrator.pool
    free = run.orchestrator._free(state, None)
    rows = free[: pool.memory_start].reshape(pool.resources, pool.slots)
    np.testing.assert_allclose(rows, np.outer(pool.capacity_per_s, pool.slot_edge_s[1:]) * 0.75)
    np.testing.assert_allclose(free[pool.memory_start : pool.power_start], pool.memory_byte)


def test_what_was_sounded_and_committed_is_no_longer_free() -> None:
    run = _run(reserve=0.0)
    state = run.network.advance(run.execution.load)
    run.orchestrator._sound(state)
    before = run.orchestrator._free(state, None)
    pool, serving = run.orchestrator.pool, state.candidate[:, 0]
    pilot_block_s = 2 * 0.5e-3  # two resource blocks for a slot of 0.5 ms at 30 kHz
    first = before[: CELLS * pool.slots : pool.slots]
    np.testing.assert_allclose(first, BLOCKS * 0.1 - np.bincount(serving, minlength=CELLS) * pilot_block_s)
    state.load.committed[:] = 1e-3
    after = run.orchestrator._free(state, None)
    np.testing.assert_allclose((before - after)[: pool.memory_start], 1e-3, atol=1e-5)


def test_silos_part_the_band_and_the_machines_without_loss() -> None:
    silos, whole = Silos(), _pool()
    pool = _pool(pools={"kind": "siloed"})
    band = pool.capacity_per_s[: pool.compute_start].reshape(CELLS, 3)
    np.testing.assert_allclose(band, BLOCKS * np.array([[silos.sensing_share, silos.uplink_share, 0.5]] * CELLS))
    machine = pool.capacity_per_s[pool.compute_start : pool.end_start].reshape(FIXED, 4)
    np.testing.assert_allclose(machine.sum(axis=1), [2.0, 1.0, 1.0])
    shares = [0.25, silos.image_share, silos.perception_share, silos.learning_share]
    np.testing.assert_allclose(machine[1], shares)
    np.testing.assert_array_equal(pool.capacity_per_s[pool.end_start :], whole.capacity_per_s[whole.end_start :])


def test_a_serial_frame_parts_the_time() -> None:
    whole, pool = _pool(), _pool(frame={"kind": "serial", "radio_share": 0.3})
    share = np.concatenate([np.full(CELLS, 0.3), np.full(FIXED + USERS, 0.7), np.ones(LINKS)])
    np.testing.assert_allclose(pool.capacity_per_s, whole.capacity_per_s * share)


@pytest.mark.parametrize("pools", [{"kind": "universal"}, {"kind": "siloed"}])
def test_faults_take_what_they_take_and_no_more(pools: dict[str, str]) -> None:
    pool = _pool(pools=pools)
    factor = np.array([1.0, 0.0, 0.5])
    up = np.array([True, False, True])
    broken = _health(pool, cell_up=np.array([False, True]), node_up=up, link_factor=factor)
    left = pool.capacity_now(broken) / pool.capacity_per_s
    expected = [np.repeat([0.0, 1.0], pool.radio_parts), np.repeat([1.0, 0.0, 1.0], pool.compute_parts), np.ones(USERS)]
    np.testing.assert_allclose(left, np.concatenate([*expected, factor]))
    np.testing.assert_array_equal(pool.capacity_now(_health(pool)), pool.capacity_per_s)


def test_no_pattern_has_more_stages_than_the_buffers_hold() -> None:
    run = Run(tiny.scenario(cells=[(60.0 * i, 0.0) for i in range(8)], network={"backhaul": {"cloud_latency_s": 1.0}}))
    hops = np.diff(run.network.topology.path_ptr).max()
    assert hops == 4
    assert run.orchestrator.pool.stages_max == 6 + 2 * hops
