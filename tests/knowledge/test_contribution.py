"""Shapley values against enumeration and their axioms; payments that keep the budget and leave nobody worse off."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gainnet.errors import InputError
from gainnet.knowledge.contribution import Value, exact, pay, shapley


def game(count: int, seed: int) -> Value:
    """Any game: each coalition has a value of its own."""
    drawn = np.random.default_rng(seed).standard_normal(2**count)
    return lambda coalition: float(drawn[sum(1 << player for player in coalition)])


def saturating(coalition: frozenset[int]) -> float:
    """Players 0 to 3 with falling returns; player 3 adds nothing, 1 and 2 are alike."""
    return float(1.0 - np.exp(-sum({0: 2.0, 1: 1.0, 2: 1.0, 3: 0.0}[player] for player in coalition)))


@given(st.integers(0, 5), st.integers(0, 99))
@settings(max_examples=30, deadline=None)
def test_exact_values_are_the_mean_over_all_orders(count: int, seed: int) -> None:
    value = game(count, seed)
    players = list(range(count))
    wanted = np.zeros(count)
    orders = list(permutations(players))
    for order in orders:
        for at, player in enumerate(order):
            wanted[player] += value(frozenset(order[: at + 1])) - value(frozenset(order[:at]))
    found = exact(players, value)
    np.testing.assert_allclose(found.value, wanted / len(orders), atol=1e-12)
    assert sum(found.value) == pytest.approx(value(frozenset(players)) - value(frozenset()), abs=1e-12)
    assert found.evaluated == (2**count if count else 0)


@pytest.mark.untraced
def test_axioms() -> None:
    for found in (exact(range(4), saturating), shapley(range(4), saturating, 2000, 0.0, np.random.default_rng(0))):
        assert sum(found.value) == pytest.approx(saturating(frozenset(range(4))))
        assert found.value[1] == pytest.approx(found.value[2], abs=0.02)
        assert found.value[3] == pytest.approx(0.0, abs=1e-12)
        assert found.value[0] > found.value[1] > 0.0


@given(st.integers(1, 5), st.integers(0, 99))
@settings(max_examples=8, deadline=None)
@pytest.mark.untraced
def test_sampled_values_are_near_and_sum_to_the_whole(count: int, seed: int) -> None:
    value = game(count, seed)
    found = shapley(range(count), value, 300, 0.0, np.random.default_rng(seed))
    assert sum(found.value) == pytest.approx(value(frozenset(range(count))) - value(frozenset()), abs=1e-9)
    np.testing.assert_allclose(found.value, exact(range(count), value).value, atol=0.5)
    assert found.evaluated <= 2**count


def test_what_is_little_is_not_looked_into() -> None:
    asked: list[frozenset[int]] = []

    def value(coalition: frozenset[int]) -> float:
        asked.append(coalition)
        return saturating(coalition)

    between = shapley(range(4), value, 8, 1.0, np.random.default_rng(0))
    assert between.value == (0.0, 0.0, 0.0, 0.0)
    assert between.evaluated == len(asked) == 2
    asked.clear()
    within = shapley(range(4), value, 40, 0.2, np.random.default_rng(0))
    full = shapley(range(4), saturating, 40, 0.0, np.random.default_rng(0))
    assert within.evaluated == len(asked) == len(set(asked)) < full.evaluated
    assert sum(within.value) == pytest.approx(saturating(frozenset(range(4))), abs=0.2)
    assert max(np.abs(np.subtract(within.value, full.value))) <= 0.2


def test_players_have_any_numbers_and_the_generator_decides() -> None:
    def value(coalition: frozenset[int]) -> float:
        return float(sum(coalition) ** 2)

    one, two = (shapley([7, 2, 9], value, 3, 0.0, np.random.default_rng(5)) for _ in range(2))
    assert one == two
    assert len(one.value) == 3
    assert shapley([], value, 3, 0.0, np.random.default_rng(5)).value == ()
    np.testing.assert_allclose(exact([7, 2, 9], value).value, [7 * 18, 2 * 18, 9 * 18])


shares = st.lists(st.floats(-2.0, 5.0), min_size=1, max_size=7)


@given(shares, st.floats(0.0, 10.0), st.floats(0.0, 3.0))
@settings(max_examples=100, deadline=None)
def test_payments_keep_the_budget_and_leave_nobody_worse_off(share: list[float], budget: float, cost: float) -> None:
    found = pay(share, budget, cost)
    assert all(paid >= 0.0 for paid in found.paid)
    assert sum(found.paid) <= budget * (1.0 + 1e-15)
    for paid, included in zip(found.paid, found.included, strict=True):
        assert paid >= cost if included else paid == 0.0
    for one in range(len(share)):
        for two in range(len(share)):
            if share[one] >= share[two]:
                assert found.paid[one] >= found.paid[two]
            if share[one] == share[two]:
                assert found.included[one] == found.included[two]
    if any(found.paid):
        assert sum(found.paid) == pytest.approx(budget)


@given(shares, st.floats(0.1, 10.0), st.floats(0.0, 3.0), st.integers(0, 6), st.floats(0.0, 3.0))
@settings(max_examples=100, deadline=None)
@pytest.mark.untraced
def test_a_larger_share_is_never_paid_less(
    share: list[float], budget: float, cost: float, who: int, more: float
) -> None:
    who %= len(share)
    before = pay(share, budget, cost).paid[who]
    share[who] += more
    assert pay(share, budget, cost).paid[who] >= before * (1.0 - 1e-9)


@given(st.lists(st.tuples(st.floats(0.0, 5.0), st.floats(0.0, 2.0)), min_size=1, max_size=6), st.floats(0.0, 5.0))
@settings(max_examples=100, deadline=None)
def test_costs_may_differ(players: list[tuple[float, float]], budget: float) -> None:
    share, cost = [one for one, _ in players], [one for _, one in players]
    found = pay(share, budget, cost)
    assert sum(found.paid) <= budget * (1.0 + 1e-15)
    for paid, included, least in zip(found.paid, found.included, cost, strict=True):
        assert paid >= least if included else paid == 0.0


def test_payments_by_example() -> None:
    assert pay([3.0, 1.0, -1.0], 8.0, 1.0).paid == pytest.approx((6.0, 2.0, 0.0))
    assert pay([3.0, 1.0, -1.0], 8.0, 1.0).included == (True, True, False)
    assert pay([3.0, 1.0], 2.0, 1.0).paid == pytest.approx((2.0, 0.0))
    assert pay([1.0, 1.0], 1.0, 0.6).included == (False, False)
    assert pay([0.0, 0.0], 1.0, 0.0).paid == (0.0, 0.0)
    assert pay([], 1.0, 0.1).paid == ()


def test_what_is_wrong_is_refused() -> None:
    def broken(coalition: frozenset[int]) -> float:
        return float("nan") if len(coalition) == 1 else float(len(coalition))

    with pytest.raises(InputError, match=r"players \[\d\] is nan"):
        shapley([0, 1], broken, 2, 0.0, np.random.default_rng(0))
    with pytest.raises(InputError, match="distinct"):
        shapley([0, 0], saturating, 2, 0.0, np.random.default_rng(0))
    for share, budget, cost, words in (
        ([1.0], -1.0, 0.0, "budget"),
        ([1.0], float("nan"), 0.0, "budget"),
        ([1.0], 1.0, -0.1, "costs"),
        ([float("inf")], 1.0, 0.1, "finite"),
        ([1.0, 2.0], 1.0, [0.1], "1 costs for 2"),
    ):
        with pytest.raises(InputError, match=words):
            pay(share, budget, cost)
