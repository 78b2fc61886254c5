"""Closed forms for shares against a general convex method and against their KKT conditions."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize

from gainnet.orchestrator import share
from gainnet.orchestrator.share_kernel import square_root_with_floors

positive = st.floats(1e-3, 1e3)


@pytest.mark.untraced
def test_rates_agree_with_a_convex_method() -> None:
    rng = np.random.default_rng(1)
    for _ in range(5):
        weight, work, floor = rng.uniform(0.5, 2.0, 5), rng.uniform(0.5, 4.0, 5), rng.uniform(0.0, 0.25, 5)
        found = share.rate_share(weight, work, 1.0, floor)
        answer = minimize(
            lambda f, w=weight, c=work: (w * c / f).sum(),
            floor + (1.0 - floor.sum()) / 5,
            jac=lambda f, w=weight, c=work: -w * c / f**2,
            method="SLSQP",
            bounds=[(max(low, 1e-6), None) for low in floor],
            constraints=[{"type": "ineq", "fun": lambda f: 1.0 - f.sum(), "jac": lambda f: -np.ones(5)}],
            options={"ftol": 1e-12, "maxiter": 500},
        )
        assert (weight * work / found).sum() <= answer.fun * (1.0 + 1e-7)
        np.testing.assert_allclose(found, answer.x, rtol=1e-3)


@given(st.lists(st.tuples(positive, st.floats(0.0, 10.0)), min_size=1, max_size=12), positive)
@pytest.mark.untraced
def test_rates_satisfy_kkt(items: list[tuple[float, float]], extra: float) -> None:
    load, floor = np.array([item[0] for item in items]), np.array([item[1] for item in items])
    capacity = float(floor.sum()) + extra
    rate = share.rate_share(np.ones(len(load)), load, capacity, floor)
    assert rate.sum() == pytest.approx(capacity)
    assert (rate >= floor).all()
    multiplier = load / rate**2
    above = rate > floor * (1.0 + 1e-9)
    # Stationarity above the floors; at a floor more would be worth no more than elsewhere.
    assert multiplier[above].max() == pytest.approx(multiplier[above].min(), rel=1e-6)
    assert (multiplier[~above] <= multiplier[above].max() * (1.0 + 1e-6)).all()


def test_floors_beyond_the_capacity_shrink_to_it() -> None:
    rate = share.rate_share(np.ones(2), np.ones(2), 3.0, np.array([2.0, 4.0]))
    np.testing.assert_allclose(rate, [1.0, 2.0])


def test_items_without_work_get_their_floor() -> None:
    rate = share.rate_share(np.ones(3), np.array([0.0, 1.0, 4.0]), 4.0, np.array([1.0, 0.0, 0.0]))
    np.testing.assert_allclose(rate, [1.0, 1.0, 2.0])
    np.testing.assert_allclose(share.rate_share(np.ones(2), np.zeros(2), 4.0), 0.0)
    assert len(share.rate_share(np.ones(0), np.ones(0), 4.0)) == 0


def test_the_kernel_writes_into_a_slice() -> None:
    out = np.full(5, -1.0)
    square_root_with_floors(np.array([1.0, 4.0]), np.zeros(2), 3.0, out[1:3])
    np.testing.assert_allclose(out, [-1.0, 1.0, 2.0, -1.0, -1.0])


def test_bandwidth_is_the_same_law_on_seconds_per_hz() -> None:
    found = share.bandwidth_share_hz(np.ones(2), np.array([1e6, 8e6]), np.array([1.0, 2.0]), 9e6)
    np.testing.assert_allclose(found, [3e6, 6e6])


@given(st.lists(positive, min_size=1, max_size=12), positive)
def test_water_filling_satisfies_kkt(noise: list[float], power: float) -> None:
    floor = np.array(noise)
    found = share.water_filling_w(floor, power)
    assert found.sum() == pytest.approx(power)
    level = floor + found
    wet = found > 0.0
    assert level[wet].max() == pytest.approx(level[wet].min())
    assert (floor[~wet] >= level[wet].min() * (1.0 - 1e-9)).all()


def test_water_filling_agrees_with_a_convex_method() -> None:
    noise = np.array([0.2, 0.5, 1.0, 3.0])
    answer = minimize(
        lambda p: -np.log1p(p / noise).sum(),
        np.full(4, 0.25),
        jac=lambda p: -1.0 / (noise + p),
        method="SLSQP",
        bounds=[(0.0, None)] * 4,
        constraints=[{"type": "eq", "fun": lambda p: p.sum() - 1.0, "jac": lambda p: np.ones(4)}],
        options={"ftol": 1e-12},
    )
    np.testing.assert_allclose(share.water_filling_w(noise, 1.0), answer.x, atol=1e-4)
    assert len(share.water_filling_w(np.zeros(0), 1.0)) == 0


@given(st.lists(st.tuples(st.floats(0.0, 100.0), st.floats(0.0, 10.0)), min_size=1, max_size=10), positive)
def test_min_max_delay_ends_all_together(items: list[tuple[float, float]], capacity: float) -> None:
    work, fixed = np.array([item[0] for item in items]), np.array([item[1] for item in items])
    work[work < 1e-3] = 0.0
    rate, delay = share.min_max_delay(work, fixed, capacity)
    busy = work > 0.0
    assert rate.sum() <= capacity * (1.0 + 1e-9)
    assert (rate[~busy] == 0.0).all()
    ends = fixed[busy] + work[busy] / rate[busy]
    assert delay == pytest.approx(max([*ends, *fixed]), rel=1e-9)
    if busy.any():
        # Optimal: all the capacity is used and nobody who shares it ends before another.
        assert rate.sum() == pytest.approx(capacity, rel=1e-6)
        assert ends.min() == pytest.approx(ends.max(), rel=1e-9)


def test_clock_is_stationary_or_clipped() -> None:
    weight, kappa = np.array([1.0, 1.0, 1.0]), np.array([1e-3, 1e3, 1e-27])
    clock = share.energy_delay_clock(weight, kappa, np.array([0.0, 0.5, 1e8]), np.array([np.inf, 2.0, 3e8]))
    assert -1.0 / clock[0] ** 2 + 2.0 * 1e-3 * clock[0] == pytest.approx(0.0, abs=1e-12)
    assert clock[1] == 0.5
    assert clock[2] == 3e8


@given(st.lists(st.tuples(positive, positive), min_size=1, max_size=8), positive)
@pytest.mark.untraced
def test_chain_windows_satisfy_kkt(stages: list[tuple[float, float]], budget: float) -> None:
    work, price = np.array([stage[0] for stage in stages]), np.array([stage[1] for stage in stages])
    window, cost = share.chain_windows_s(work, price, budget)
    assert window.sum() == pytest.approx(budget)
    assert cost == pytest.approx(float((price * work / window).sum()))
    # The last second is worth the same in every stage.
    marginal = price * work / window**2
    assert marginal.max() == pytest.approx(marginal.min())


def test_free_stages_need_no_window() -> None:
    window, cost = share.chain_windows_s(np.array([1.0, 4.0]), np.array([0.0, 1.0]), 2.0)
    np.testing.assert_allclose(window, [0.0, 2.0])
    assert cost == 2.0
    assert share.chain_windows_s(np.ones(2), np.zeros(2), 2.0)[1] == 0.0
