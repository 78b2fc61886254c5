"""Aggregation against the exact dense product: mixed ranks, unequal weights, single and idle participants."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jaxtyping import Float

from gainnet.errors import InputError
from gainnet.knowledge import aggregate
from gainnet.models.low_rank import Factors, LowRank

SHAPES = {"q": (24, 24), "k": (10, 24), "up": (40, 24), "down": (24, 40), "other_q": (24, 24)}


def adapter(rank: int, seed: int, scale: float = 2.0) -> LowRank:
    rng = np.random.default_rng(seed)
    layers = {
        name: Factors(
            rng.standard_normal((rank, inputs)).astype(np.float32),
            rng.standard_normal((outputs, rank)).astype(np.float32),
        )
        for name, (outputs, inputs) in SHAPES.items()
    }
    return LowRank(layers, scale, "base")


def fresh(rank: int, seed: int) -> LowRank:
    drawn = adapter(rank, seed)
    return replace(drawn, layers={name: Factors(f.a, np.zeros_like(f.b)) for name, f in drawn.layers.items()})


def dense(adapter: LowRank) -> dict[str, Float[np.ndarray, "output input"]]:
    return {
        name: adapter.scale * (f.b.astype(np.float64) @ f.a.astype(np.float64)) for name, f in adapter.layers.items()
    }


def weighed(terms: list[tuple[float, LowRank]]) -> dict[str, Float[np.ndarray, "output input"]]:
    parts = [(weight, dense(one)) for weight, one in terms]
    return {name: np.asarray(sum(weight * part[name] for weight, part in parts)) for name in SHAPES}


def best(product: Float[np.ndarray, "output input"], rank: int) -> Float[np.ndarray, "output input"]:
    u, s, v = np.linalg.svd(product, full_matrices=False)
    return np.asarray((u[:, :rank] * s[:rank]) @ v[:rank])


def assert_best(found: LowRank, exact: dict[str, Float[np.ndarray, "output input"]], rank: int) -> None:
    for name, product in dense(found).items():
        assert found.layers[name].a.dtype == found.layers[name].b.dtype == np.float32
        size = np.linalg.norm(exact[name])
        wanted = best(exact[name], rank)
        np.testing.assert_allclose(product, wanted, atol=3e-6 * max(size, 1e-9))


@pytest.mark.parametrize("rank", [1, 4, 8, 16])
def test_total_is_the_best_approximation_of_the_dense_sum(rank: int) -> None:
    base = adapter(16, 0)
    parts = [(0.5, adapter(4, 1)), (0.3, adapter(8, 2)), (-0.7, adapter(16, 3, scale=1.0))]
    exact = weighed([(1.0, base), *parts])
    found = aggregate.total(base, parts, rank)
    assert found.scale == base.scale
    assert list(found.layers) == list(base.layers)
    for name, product in dense(found).items():
        # Optimal in error, which is all that is defined where singular values are close.
        least = np.linalg.norm(exact[name] - best(exact[name], rank))
        assert np.linalg.norm(exact[name] - product) <= least + 1e-5 * np.linalg.norm(exact[name])
        assert found.layers[name].rank == min(rank, *exact[name].shape)


def test_total_is_exact_where_the_rank_suffices() -> None:
    base, part = adapter(2, 0), adapter(4, 1)
    assert_best(aggregate.total(base, [(0.25, part)], 16), weighed([(1.0, base), (0.25, part)]), 6)


def test_what_is_found_is_balanced() -> None:
    found = aggregate.total(adapter(16, 0), [(0.5, adapter(8, 2))], 6)
    for name, product in dense(found).items():
        factors = found.layers[name]
        sigma = np.linalg.svd(product)[1][:6] / found.scale
        np.testing.assert_allclose(factors.a @ factors.a.T, np.diag(sigma), atol=1e-4 * sigma[0])
        np.testing.assert_allclose(factors.b.T @ factors.b, np.diag(sigma), atol=1e-4 * sigma[0])


def test_truncating_twice_is_truncating_once_and_what_is_cut_is_a_beginning() -> None:
    whole = adapter(16, 0)
    eight = aggregate.truncate(whole, 8)
    assert aggregate.truncate(eight, 8) is eight
    assert aggregate.truncate(eight, 12) is eight
    four = aggregate.truncate(eight, 4)
    assert_best(four, dense(whole), 4)
    for name, factors in four.layers.items():
        np.testing.assert_array_equal(factors.a, eight.layers[name].a[:4])
    assert four.digest() == aggregate.truncate(aggregate.truncate(eight, 6), 4).digest()


def test_a_fresh_adapter_stays_one_that_can_be_trained() -> None:
    start = fresh(16, 0)
    cut = aggregate.truncate(start, 4)
    again = aggregate.total(start, [(1.0, fresh(4, 1))], 8)
    for found, rank in ((cut, 4), (again, 8)):
        for name, factors in found.layers.items():
            np.testing.assert_array_equal(factors.a, start.layers[name].a[:rank])
            assert not factors.b.any()


@given(st.lists(st.tuples(st.sampled_from([4, 8, 16]), st.floats(0.1, 9.0)), min_size=1, max_size=5), st.randoms())
@settings(max_examples=20, deadline=None)
@pytest.mark.untraced
def test_order_and_scale_of_weights_do_not_matter(drawn: list[tuple[int, float]], random: st.DataObject) -> None:
    start = aggregate.truncate(adapter(16, 99), 12)
    changes = [
        (weight, aggregate.truncate(start, rank), adapter(rank, seed)) for seed, (rank, weight) in enumerate(drawn)
    ]
    found = aggregate.flexlora(start, changes, 16)
    shuffled = [(3.0 * weight, before, after) for weight, before, after in changes]
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    other = aggregate.flexlora(start, shuffled, 16)
    least = aggregate.norm(found)
    assert aggregate.distance(found, other) <= 1e-4 * least
    afters, weights = [after for _, _, after in changes], [weight for weight, _, _ in changes]
    stacked = aggregate.flora(afters, weights)
    flipped = aggregate.flora(afters[::-1], [2.0 * weight for weight in weights[::-1]])
    assert aggregate.distance(stacked, flipped) <= 1e-5 * aggregate.norm(stacked)


def test_flexlora_on_changes_is_flexlora_where_all_begin_at_the_start() -> None:
    start = adapter(8, 0)
    afters = [adapter(8, seed) for seed in (1, 2, 3)]
    weights = [1.0, 2.0, 5.0]
    found = aggregate.flexlora(start, [(w, start, after) for w, after in zip(weights, afters, strict=True)], 16)
    mean = weighed([(w / 8.0, after) for w, after in zip(weights, afters, strict=True)])
    for name, product in dense(found).items():
        least = np.linalg.norm(mean[name] - best(mean[name], 16))
        assert np.linalg.norm(mean[name] - product) <= least + 1e-5 * np.linalg.norm(mean[name])


def test_flexlora_at_mixed_ranks_adds_the_mean_change() -> None:
    start = aggregate.truncate(adapter(16, 0), 10)
    befores = [aggregate.truncate(start, rank) for rank in (4, 8, 10)]
    afters = [
        replace(b, layers={n: Factors(f.a * 1.1, f.b + np.float32(0.1)) for n, f in b.layers.items()}) for b in befores
    ]
    weights = [0.5, 0.2, 0.3]
    found = aggregate.flexlora(start, list(zip(weights, befores, afters, strict=True)), 40)
    terms = [
        (1.0, start),
        *zip(weights, afters, strict=True),
        *((-w, b) for w, b in zip(weights, befores, strict=True)),
    ]
    assert_best(found, weighed(terms), 40)


def test_those_who_did_not_train_change_nothing() -> None:
    start = aggregate.truncate(adapter(16, 0), 8)
    before = aggregate.truncate(start, 4)
    idle = aggregate.flexlora(start, [(1.0, before, before), (2.0, start, start)], 8)
    assert aggregate.distance(idle, start) <= 1e-6 * aggregate.norm(start)
    one = aggregate.flexlora(start, [(7.0, start, adapter(8, 3))], 8)
    assert aggregate.distance(one, adapter(8, 3)) <= 1e-6 * aggregate.norm(one)


def test_ffa_is_exact_and_fedit_is_not() -> None:
    shared = adapter(8, 0)
    adapters = [
        replace(
            shared,
            layers={n: Factors(f.a[:rank], adapter(rank, rank).layers[n].b) for n, f in shared.layers.items()},
        )
        for rank in (8, 4, 8)
    ]
    weights = [1.0, 2.0, 1.0]
    exact = weighed([(w / 4.0, one) for w, one in zip(weights, adapters, strict=True)])
    for rule in (aggregate.ffa, aggregate.flora):
        for name, product in dense(rule(adapters, weights)).items():
            np.testing.assert_allclose(product, exact[name], atol=1e-5 * np.linalg.norm(exact[name]))
    apart = [adapter(8, 1), adapter(4, 2)]
    exact = weighed([(0.5, one) for one in apart])
    averaged, stacked = aggregate.fedit(apart, [1.0, 1.0]), aggregate.flora(apart, [1.0, 1.0])
    assert stacked.rank == 12
    assert averaged.rank == 8
    for name, product in dense(stacked).items():
        np.testing.assert_allclose(product, exact[name], atol=1e-5 * np.linalg.norm(exact[name]))
        assert np.linalg.norm(dense(averaged)[name] - exact[name]) > 0.1 * np.linalg.norm(exact[name])
    np.testing.assert_allclose(averaged.layers["q"].a[4:], 0.5 * apart[0].layers["q"].a[4:], rtol=1e-6)


def test_flora_absorbs_scales() -> None:
    apart = [adapter(4, 1, scale=2.0), adapter(4, 2, scale=0.5)]
    exact = weighed([(0.25, apart[0]), (0.75, apart[1])])
    for name, product in dense(aggregate.flora(apart, [1.0, 3.0])).items():
        np.testing.assert_allclose(product, exact[name], atol=1e-5 * np.linalg.norm(exact[name]))


@given(st.integers(1, 9), st.integers(1, 9), st.floats(0.0, 1.0))
@settings(max_examples=25, deadline=None)
def test_inner_norm_distance_and_mix_are_those_of_dense_products(left: int, right: int, weight: float) -> None:
    one, two = adapter(left, 1), adapter(right, 2, scale=0.7)
    flat = [np.concatenate([product.ravel() for product in dense(each).values()]) for each in (one, two)]
    size = np.linalg.norm(flat[0]) * np.linalg.norm(flat[1])
    assert aggregate.inner(one, two) == pytest.approx(flat[0] @ flat[1], abs=1e-9 * size)
    assert aggregate.norm(one) == pytest.approx(np.linalg.norm(flat[0]), rel=1e-9)
    assert aggregate.distance(one, two) == pytest.approx(np.linalg.norm(flat[0] - flat[1]), rel=1e-9)
    mixed = aggregate.mix(one, two, weight)
    exact = weighed([(1.0 - weight, one), (weight, two)])
    for name, product in dense(mixed).items():
        least = np.linalg.norm(exact[name] - best(exact[name], max(left, right)))
        assert np.linalg.norm(exact[name] - product) <= least + 1e-5 * np.linalg.norm(exact[name])


def test_distance_of_near_ones_does_not_cancel() -> None:
    one = adapter(8, 1)
    near = replace(one, layers={n: Factors(f.a, f.b * np.float32(1.0 + 2.0**-20)) for n, f in one.layers.items()})
    flat = [np.concatenate([product.ravel() for product in dense(each).values()]) for each in (one, near)]
    assert aggregate.distance(one, near) == pytest.approx(np.linalg.norm(flat[0] - flat[1]), rel=1e-6)
    assert aggregate.distance(one, one) == 0.0
    assert aggregate.mix(one, near, 0.0).rank == 8


def test_small_singular_values_survive() -> None:
    rng = np.random.default_rng(3)
    u, v = np.linalg.qr(rng.standard_normal((24, 8)))[0], np.linalg.qr(rng.standard_normal((24, 8)))[0]
    sigma = 10.0 ** -np.arange(8.0) * 1.0
    whole = LowRank({"q": Factors(v.T.astype(np.float32), (u * sigma).astype(np.float32))}, 1.0, "base")
    found = aggregate.total(whole, [], 6).product("q")
    got = np.linalg.svd(found.astype(np.float64))[1][:6]
    np.testing.assert_allclose(got, sigma[:6], rtol=0.05)


def test_more_columns_than_the_layer_has() -> None:
    parts = [(0.1 * seed, adapter(16, seed)) for seed in range(1, 5)]
    exact = weighed([(1.0, adapter(16, 0)), *parts])
    found = aggregate.total(adapter(16, 0), parts, 16)
    for name, product in dense(found).items():
        least = np.linalg.norm(exact[name] - best(exact[name], 16))
        assert np.linalg.norm(exact[name] - product) <= least + 1e-5 * np.linalg.norm(exact[name])


def test_wide_stacks_are_cut_as_well_as_narrow_ones() -> None:
    shapes = {"q": (96, 80), "k": (32, 80)}
    rng = np.random.default_rng(0)

    def drawn(rank: int) -> LowRank:
        fall = (0.8 ** np.arange(rank)).astype(np.float32)
        layers = {
            n: Factors(
                rng.standard_normal((rank, i), dtype=np.float32),
                rng.standard_normal((o, rank), dtype=np.float32) * fall,
            )
            for n, (o, i) in shapes.items()
        }
        return LowRank(layers, 2.0, "base")

    base, parts = drawn(16), [(0.1, drawn(16)) for _ in range(12)]
    found = aggregate.total(base, parts, 16)
    for name, product in dense(found).items():
        exact = dense(base)[name] + sum(weight * dense(part)[name] for weight, part in parts)
        least = np.linalg.norm(exact - best(exact, 16))
        assert np.linalg.norm(exact - product) <= least * (1.0 + 1e-4)
    nothing = [(1.0, replace(p, layers={n: Factors(f.a, f.b * 0) for n, f in p.layers.items()})) for _, p in parts]
    none = aggregate.total(nothing[0][1], nothing, 16)
    assert aggregate.norm(none) == 0.0
    np.testing.assert_array_equal(none.layers["q"].a, nothing[0][1].layers["q"].a)


def test_ranks_may_differ_from_layer_to_layer() -> None:
    one, two = adapter(8, 0), adapter(4, 1)
    uneven = replace(one, layers={**one.layers, "k": two.layers["k"]})
    exact = weighed([(1.0, uneven), (0.5, two)])
    assert_best(aggregate.total(uneven, [(0.5, two)], 12), exact, 12)


def test_what_does_not_fit_is_refused() -> None:
    one = adapter(4, 0)
    few = replace(one, layers={name: one.layers[name] for name in ("q", "k")})
    narrow = replace(one, layers={**one.layers, "q": Factors(one.layers["q"].a[:, :-1], one.layers["q"].b)})
    broken = replace(
        one, layers={**one.layers, "q": Factors(one.layers["q"].a * np.float32(np.nan), one.layers["q"].b)}
    )
    for other, words in ((replace(one, base="another"), "base"), (few, "layers"), (narrow, "shape")):
        with pytest.raises(InputError, match=words):
            aggregate.total(one, [(1.0, other)], 4)
    with pytest.raises(InputError, match="layer q holds NaN"):
        aggregate.total(one, [(1.0, broken)], 4)
    for rule in (aggregate.fedit, aggregate.flora):
        with pytest.raises(InputError, match="layer q holds NaN"):
            rule([one, broken], [1.0, 1.0])
    for bad in ([1.0], [1.0, -1.0], [0.0, 0.0], [1.0, float("nan")]):
        with pytest.raises(InputError, match="weights"):
            aggregate.flora([one, one], bad)
    with pytest.raises(InputError, match="ffa"):
        aggregate.ffa([one, adapter(4, 1)], [1.0, 1.0])
    with pytest.raises(InputError, match="scales"):
        aggregate.fedit([one, adapter(4, 1, scale=1.0)], [1.0, 1.0])
    with pytest.raises(InputError, match="at least 1"):
        aggregate.truncate(one, 0)
    with pytest.raises(InputError, match="from 0 to 1"):
        aggregate.mix(one, one, 1.5)
    with pytest.raises(InputError, match="at least one"):
        aggregate.flexlora(one, [], 4)
