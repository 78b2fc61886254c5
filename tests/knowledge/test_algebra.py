"""Means of the same adapters at different weights, and how far to go from one adapter to another."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from jaxtyping import Float

from gainnet.errors import InputError
from gainnet.knowledge import aggregate
from gainnet.knowledge.algebra import Algebra, Rule
from gainnet.knowledge.stack import Stack
from gainnet.knowledge.update import Update
from gainnet.models.low_rank import Factors, LowRank

SHAPES = {"q": (40, 30), "k": (20, 30)}


def adapter(seed: int, rank: int = 4) -> LowRank:
    rng = np.random.default_rng(seed)
    layers = {
        name: Factors(
            rng.standard_normal((rank, i)).astype(np.float32), rng.standard_normal((o, rank)).astype(np.float32)
        )
        for name, (o, i) in SHAPES.items()
    }
    return LowRank(layers, 2.0, "base")


def near(start: LowRank, seed: int, size: float) -> LowRank:
    drawn = adapter(seed, start.rank)
    step = np.float32(size)
    layers = {
        n: Factors(f.a + step * drawn.layers[n].a, f.b + step * drawn.layers[n].b) for n, f in start.layers.items()
    }
    return replace(start, layers=layers)


def falling(adapter: LowRank) -> LowRank:
    """Each column of b is small beside the one before."""
    fall = (0.3 ** np.arange(adapter.rank)).astype(np.float32)
    return replace(adapter, layers={n: Factors(f.a, f.b * fall) for n, f in adapter.layers.items()})


def with_a_of(start: LowRank, seed: int) -> LowRank:
    drawn = adapter(seed, start.rank)
    return replace(start, layers={n: Factors(f.a, drawn.layers[n].b) for n, f in start.layers.items()})


def product(adapter: LowRank, layer: str = "q") -> Float[np.ndarray, "output input"]:
    factors = adapter.layers[layer]
    return adapter.scale * (factors.b.astype(np.float64) @ factors.a.astype(np.float64))


def test_means_are_the_best_cuts_of_dense_means() -> None:
    parts = [adapter(0), replace(adapter(1), scale=0.5), adapter(2)]
    means = Algebra("flexlora", 4).means(parts)
    for weights in ([1.0, 1.0, 1.0], [2.0, 0.0, 6.0], [0.5, 3.0, 0.0]):
        found = means.of(weights)
        for layer in SHAPES:
            exact = sum(w / sum(weights) * product(part, layer) for w, part in zip(weights, parts, strict=True))
            u, s, v = np.linalg.svd(exact, full_matrices=False)
            least = np.linalg.norm(exact - (u[:, :4] * s[:4]) @ v[:4])
            assert np.linalg.norm(exact - product(found, layer)) <= least + 1e-5 * np.linalg.norm(exact)
        assert means.of(weights) is found
    assert means.of([0.0, 7.0, 0.0]) is parts[1]


def test_means_that_are_only_looked_at_are_nearly_the_best() -> None:
    parts = [falling(adapter(seed)) for seed in range(3)]
    means = Algebra("flexlora", 4).means(parts)
    for weights in ([1.0, 1.0, 1.0], [2.0, 0.0, 6.0], [0.0, 3.0, 1.0]):
        found = means.near(weights)
        assert found.rank <= 8
        for layer in SHAPES:
            exact = sum(w / sum(weights) * product(part, layer) for w, part in zip(weights, parts, strict=True))
            least = np.linalg.norm(exact - product(means.of(weights), layer))
            assert np.linalg.norm(exact - product(found, layer)) <= 1.1 * least
        assert means.near(weights) is means.of(weights)
    assert means.near([0.0, 0.0, 2.0]) is parts[2]


def test_rows_in_common_hold_every_adapter_however_large_another_is() -> None:
    parts = [falling(adapter(seed)) for seed in range(3)]
    loud = replace(parts[0], layers={n: Factors(f.a, -1000.0 * f.b) for n, f in parts[0].layers.items()})
    means = Algebra("flexlora", 4).means([loud, *parts[1:]])
    found = means.near([0.0, 1.0, 1.0])
    assert found.rank == 8
    for layer in SHAPES:
        exact = 0.5 * (product(parts[1], layer) + product(parts[2], layer))
        assert np.linalg.norm(exact - product(found, layer)) <= 0.05 * np.linalg.norm(exact)


@pytest.mark.parametrize("size", [1.0, 1e-4, 0.0])
def test_a_change_is_the_whole_difference_though_most_of_it_cancels(size: float) -> None:
    before = adapter(0)
    after = near(before, 1, size)
    found = Algebra("flexlora", 4).change(before, after)
    assert found.rank == (8 if size else 4)
    for layer in SHAPES:
        exact = product(after, layer) - product(before, layer)
        assert np.linalg.norm(exact - product(found, layer)) <= 2e-7 * np.linalg.norm(product(after, layer))
        rows = found.layers[layer].a.astype(np.float64)
        gram = rows @ rows.T
        np.testing.assert_allclose(gram, np.diag(np.diag(gram).round()), atol=1e-3)


def test_a_change_of_layers_narrower_than_both_ranks_is_as_wide_as_they_are() -> None:
    before, after = adapter(0, 12), adapter(1, 12)
    found = Algebra("flexlora", 12).change(before, after)
    assert [found.layers[layer].rank for layer in SHAPES] == [24, 20]
    for layer in SHAPES:
        exact = product(after, layer) - product(before, layer)
        assert np.linalg.norm(exact - product(found, layer)) <= 1e-4 * np.linalg.norm(exact)


def test_a_change_to_no_number_is_refused() -> None:
    broken = replace(
        adapter(1), layers={n: Factors(f.a, f.b * np.float32("nan")) for n, f in adapter(1).layers.items()}
    )
    with pytest.raises(InputError, match="NaN"):
        Algebra("flexlora", 4).change(adapter(0), broken)


def test_means_of_adapters_with_one_a_add_up() -> None:
    first = adapter(0)
    parts = [first, with_a_of(first, 1), with_a_of(first, 2)]
    found = Algebra("ffa", 4).means(parts).of([1.0, 0.0, 3.0])
    np.testing.assert_allclose(product(found), 0.25 * product(parts[0]) + 0.75 * product(parts[2]), atol=1e-5)


def test_what_is_nearly_the_best_can_be_trained() -> None:
    before = replace(adapter(0), layers={n: Factors(f.a, 0.0 * f.b) for n, f in adapter(0).layers.items()})
    found = Algebra("flexlora", 4).mix(before, replace(before, layers=dict(before.layers)), 0.5)
    assert aggregate.norm(found) == 0.0
    assert all(np.abs(factors.a).sum(axis=1).min() > 0.0 for factors in found.layers.values())


def test_a_line_begins_at_one_adapter_and_goes_through_the_other() -> None:
    algebra = Algebra("flexlora", 4)
    before = algebra.balanced(adapter(0))
    after = algebra.balanced(near(before, 1, 0.1))
    line = algebra.line(before, after)
    assert line.at(1.0) is after
    # What of the first lies in the rows of the other: the nearest such product.
    rows = np.linalg.qr(after.layers["q"].a.T.astype(np.float64))[0]
    within = product(before) @ rows @ rows.T
    size = np.linalg.norm(within)
    for reach in (0.25, 2.0, 4.0):
        exact = within + reach * (product(after) - within)
        np.testing.assert_allclose(product(line.at(reach)), exact, atol=1e-4 * size)
        assert line.at(reach).rank == 4
    # Along a change of b alone there is nothing else.
    other = with_a_of(after, 3)
    exact = product(other) + 2.0 * (product(after) - product(other))
    np.testing.assert_allclose(product(algebra.line(other, after).at(2.0)), exact, atol=1e-4 * np.linalg.norm(exact))


def test_a_line_of_adapters_with_one_a_is_straight() -> None:
    algebra, before = Algebra("ffa", 4), adapter(0)
    after = with_a_of(before, 1)
    exact = product(before) + 0.5 * (product(after) - product(before))
    np.testing.assert_allclose(product(algebra.line(before, after).at(0.5)), exact, atol=1e-5)
    assert algebra.balanced(after) is after


def test_a_line_from_nothing_scales() -> None:
    after = Algebra("flexlora", 4).balanced(adapter(1))
    nothing = replace(after, layers={n: Factors(f.a, np.zeros_like(f.b)) for n, f in adapter(0).layers.items()})
    found = Algebra("flexlora", 4).line(nothing, after).at(2.0)
    np.testing.assert_allclose(product(found), 2.0 * product(after), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("rank", [1, 3])
def test_what_is_balanced_is_cut_at_its_beginning(rank: int) -> None:
    whole = adapter(5)
    found = Algebra("flexlora", 4).balanced(whole)
    assert aggregate.distance(found, whole) <= 1e-5 * aggregate.norm(whole)
    cut = aggregate.truncate(found, rank)
    np.testing.assert_array_equal(cut.layers["q"].a, found.layers["q"].a[:rank])


@pytest.mark.parametrize("rule", ["fedit", "ffa", "flexlora", "flora"])
def test_what_is_handed_out_is_what_sixteen_bits_carry_of_it(rule: Rule) -> None:
    held = adapter(0)
    found = Algebra(rule, 4).handed(held)
    for name, factors in found.layers.items():
        parts = [factors.b] if rule == "ffa" else [factors.a, factors.b]
        assert all(np.array_equal(part, part.astype(np.float16)) for part in parts)
        if rule == "ffa":
            assert factors.a is held.layers[name].a
    assert 0.0 < aggregate.distance(found, held) <= 1e-3 * aggregate.norm(held)
    if rule in ("flexlora", "flora"):  # the others' ends have the rank of their edge
        cut = Algebra(rule, 4).cut(found, 2)
        best = aggregate.total(held, [], 2)
        assert aggregate.distance(cut, best) <= 2e-3 * aggregate.norm(best)


def test_columns_that_cancel_in_a_sum_are_not_stacked() -> None:
    algebra = Algebra("flexlora", 4)
    start = algebra.handed(adapter(0))
    before = algebra.cut(start, 3)
    after = [near(before, seed, 0.1) for seed in (1, 2)]
    terms, weights = [start, before, before, *after], [1.0, -0.25, -0.75, 0.25, 0.75]
    found = Stack(terms, weights)
    assert [part.a.shape[1] for group in found.groups for part in group.parts] == [7, 7]
    assert [part.a.shape[1] for group in Stack(terms).groups for part in group.parts] == [10, 10]
    for layer in SHAPES:
        exact = sum(w * product(one, layer) for w, one in zip(weights, terms, strict=True))
        assert np.linalg.norm(product(found.exact(weights), layer) - exact) <= 1e-5 * np.linalg.norm(exact)
    nothing = Stack([start, start], [1.0, -1.0])
    assert aggregate.norm(nothing.sum([1.0, -1.0], 4)) == 0.0


@pytest.mark.parametrize("rule", ["fedit", "ffa", "flexlora", "flora"])
def test_a_late_update_that_learnt_nothing_moves_nothing(rule: Rule) -> None:
    old = adapter(0)
    start = with_a_of(old, 1) if rule == "ffa" else near(old, 1, 0.5)
    late = Update(0, 0, "late", 1.0, old, old, 0.0, 0.0)
    prompt = Update(1, 1, "prompt", 1.0, start, start, 0.0, 0.0)
    found = Algebra(rule, 4).gather(start, [late, prompt])
    for layer in SHAPES:
        np.testing.assert_allclose(product(found, layer), product(start, layer), atol=1e-3)


@pytest.mark.parametrize("rule", ["flexlora", "flora"])
@pytest.mark.parametrize("ranks", [(4,), (2, 2), (2, 4, 8), (8, 8)])
def test_what_an_edge_gathers_is_its_own_and_the_exact_mean_of_changes(rule: Rule, ranks: tuple[int, ...]) -> None:
    start = aggregate.total(falling(adapter(0, 8)), [], 8)
    befores = [aggregate.truncate(start, rank) for rank in ranks]
    updates = [
        Update(end, 0, str(end), 1.0 + end, before, near(before, 1 + end, 0.02), 0.0, 0.0)
        for end, before in enumerate(befores)
    ]
    found = Algebra(rule, 8).gather(start, updates)
    whole = sum(update.weight for update in updates)
    for layer in SHAPES:
        exact = product(start, layer) + sum(
            (update.weight / whole) * (product(update.after, layer) - product(update.before, layer))
            for update in updates
        )
        missed = np.linalg.norm(product(found, layer) - exact)
        sigma = np.linalg.svd(exact, compute_uv=False)
        best = np.linalg.norm(sigma[8:])
        assert missed <= (
            1e-5 * np.linalg.norm(exact) if rule == "flora" else 1.2 * best + 1e-4 * np.linalg.norm(exact)
        )
