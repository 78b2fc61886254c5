"""Robust joins: one of four edges flipped and scaled is survived and named, honest ones never are, and only products count."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jaxtyping import Float

from gainnet.errors import InputError
from gainnet.knowledge import aggregate
from gainnet.knowledge.robust import Kind, join
from gainnet.models.low_rank import Factors, LowRank

SHAPES = {"q": (20, 20), "up": (32, 20), "down": (20, 32)}
KINDS: tuple[Kind, ...] = ("trimmed", "krum", "fltrust")


def drawn(rng: np.random.Generator, rank: int = 4) -> LowRank:
    layers = {
        name: Factors(
            rng.standard_normal((rank, inputs)).astype(np.float32),
            rng.standard_normal((outputs, rank)).astype(np.float32),
        )
        for name, (outputs, inputs) in SHAPES.items()
    }
    return LowRank(layers, 2.0, "base")


def scaled(adapter: LowRank, factor: float) -> LowRank:
    return replace(adapter, layers={n: Factors(f.a, f.b * np.float32(factor)) for n, f in adapter.layers.items()})


def dense(adapter: LowRank) -> Float[np.ndarray, " number"]:
    return np.concatenate([adapter.product(name).astype(np.float64).ravel() for name in sorted(adapter.layers)])


def cosine(a: LowRank, b: LowRank) -> float:
    return aggregate.inner(a, b) / aggregate.norm(a) / aggregate.norm(b)


def honest(count: int, alike: float, seed: int) -> list[LowRank]:
    """Updates whose pairwise cosines are about `alike`, of lengths between 0.5 and 2."""
    rng = np.random.default_rng(seed)
    common = drawn(rng)
    common = scaled(common, 1.0 / aggregate.norm(common))
    found = []
    for _ in range(count):
        own = drawn(rng)
        own = scaled(own, 1.0 / aggregate.norm(own))
        both = aggregate.total(scaled(common, np.sqrt(alike)), [(np.sqrt(1.0 - alike), own)], 2 * own.rank)
        found.append(scaled(both, rng.uniform(0.5, 2.0)))
    return found


def turned(adapter: LowRank, rng: np.random.Generator) -> LowRank:
    """The same product of other factors."""
    layers = {}
    for name, factors in adapter.layers.items():
        turn = rng.standard_normal((factors.rank, factors.rank)) + 3.0 * np.eye(factors.rank)
        a, b = np.linalg.solve(turn, factors.a), factors.b @ turn
        layers[name] = Factors(a.astype(np.float32), b.astype(np.float32))
    return replace(adapter, layers=layers)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("alike", [0.1, 0.3, 0.5])
@pytest.mark.parametrize("hostile", [0, 3])
@pytest.mark.untraced
def test_one_of_four_flipped_and_scaled_is_survived_and_named(kind: Kind, alike: float, hostile: int) -> None:
    for seed in range(4):
        good = honest(5, alike, seed)
        edges, trusted = list(good[:4]), good[4]
        edges[hostile] = scaled(edges[hostile], -5.0)
        rest = [edge for at, edge in enumerate(good[:4]) if at != hostile]
        clean = aggregate.flora(rest, [1.0] * 3)
        found = join(kind, edges, [1.0] * 4, 1, trusted)
        assert found.suspected == (hostile,)
        assert cosine(found.adapter, clean) > (0.25 if kind == "krum" else 0.6)
        assert found.weight[hostile] == 0.0 or kind == "trimmed"
        assert sum(found.weight) == pytest.approx(1.0)
        broken = join("mean", edges, [1.0] * 4, 1, trusted)
        assert broken.suspected == ()
        assert kind == "krum" or cosine(broken.adapter, clean) < cosine(found.adapter, clean)


@given(st.sampled_from(KINDS), st.integers(1, 6), st.floats(0.0, 0.6), st.integers(0, 999))
@settings(max_examples=40, deadline=None)
@pytest.mark.untraced
def test_nobody_honest_is_named(kind: Kind, count: int, alike: float, seed: int) -> None:
    edges = honest(count + 1, alike, seed)
    found = join(kind, edges[:-1], [1.0 + at for at in range(count)], 1, edges[-1])
    if alike >= 0.1:
        assert found.suspected == ()
    assert len(found.suspected) <= 1


@pytest.mark.parametrize("kind", ["mean", *KINDS])
def test_only_products_count(kind: Kind) -> None:
    rng = np.random.default_rng(0)
    edges = honest(5, 0.3, 1)
    one = join(kind, edges[:4], [1.0, 2.0, 3.0, 4.0], 1, edges[4], rank=6)
    two = join(kind, [turned(edge, rng) for edge in edges[:4]], [1.0, 2.0, 3.0, 4.0], 1, turned(edges[4], rng), rank=6)
    assert aggregate.distance(one.adapter, two.adapter) <= 1e-3 * aggregate.norm(one.adapter)
    np.testing.assert_allclose(one.weight, two.weight, atol=1e-3)
    assert one.adapter.rank == 6


@pytest.mark.parametrize("kind", ["mean", *KINDS])
def test_order_does_not_matter(kind: Kind) -> None:
    edges = honest(5, 0.3, 2)
    edges[1] = scaled(edges[1], -5.0)
    weights = [1.0, 2.0, 3.0, 4.0]
    one = join(kind, edges[:4], weights, 1, edges[4])
    two = join(kind, edges[3::-1], weights[::-1], 1, edges[4])
    assert aggregate.distance(one.adapter, two.adapter) <= 1e-4 * aggregate.norm(one.adapter)
    assert two.suspected == tuple(3 - at for at in one.suspected)
    np.testing.assert_allclose(one.weight, two.weight[::-1], atol=1e-9)


def test_mean_is_the_exact_mean() -> None:
    edges = honest(3, 0.2, 0)
    found = join("mean", edges, [1.0, 1.0, 2.0])
    exact = (dense(edges[0]) + dense(edges[1]) + 2.0 * dense(edges[2])) / 4.0
    np.testing.assert_allclose(dense(found.adapter), exact, atol=1e-6)
    assert found.weight == (0.25, 0.25, 0.5)
    assert found.stands == 0


@pytest.mark.parametrize(("count", "stands"), [(1, 0), (2, 0), (3, 1), (4, 1), (7, 2)])
def test_trimmed_is_the_trimmed_mean_of_each_number(count: int, stands: int) -> None:
    edges = honest(count, 0.2, 3)
    found = join("trimmed", edges, [1.0] * count, 2 if count == 7 else 1, rank=40)
    ordered = np.sort(np.stack([dense(edge) for edge in edges]), axis=0)
    exact = ordered[stands : count - stands].mean(axis=0)
    assert found.stands == stands
    assert np.linalg.norm(dense(found.adapter) - exact) <= 1e-5 * np.linalg.norm(exact)


def test_krum_takes_the_closest_and_multi_krum_averages() -> None:
    edges = honest(5, 0.5, 4)
    edges[2] = scaled(edges[2], -5.0)
    square = np.array([[aggregate.distance(a, b) ** 2 for b in edges] for a in edges])
    score = [np.sort(row)[1:3].sum() for row in square]
    one = join("krum", edges, [1.0] * 5, 1)
    assert int(np.argmax(one.weight)) == int(np.argmin(score))
    assert one.stands == 1
    assert aggregate.distance(one.adapter, edges[int(np.argmin(score))]) <= 1e-5
    many = join("krum", edges, [1.0] * 5, 1, keep=4)
    np.testing.assert_allclose(many.weight, [0.25, 0.25, 0.0, 0.25, 0.25])
    assert aggregate.distance(many.adapter, aggregate.flora([edges[at] for at in (0, 1, 3, 4)], [1.0] * 4)) <= 1e-5
    assert [join("krum", edges[:n], [1.0] * n, 1).stands for n in (1, 2, 3, 4)] == [0, 0, 0, 1]


def test_fltrust_scales_to_its_own_length_and_weighs_by_cosine() -> None:
    edges = honest(4, 0.4, 5)
    own = edges.pop()
    edges[0] = scaled(edges[0], 100.0)
    found = join("fltrust", edges, [1.0] * 3, 1, own)
    trust = np.maximum([cosine(edge, own) for edge in edges], 0.0)
    unit = np.stack([dense(edge) / np.linalg.norm(dense(edge)) for edge in edges])
    exact = np.linalg.norm(dense(own)) * (trust / trust.sum()) @ unit
    np.testing.assert_allclose(dense(found.adapter), exact, atol=1e-5)
    assert found.suspected == (0,)
    against = join("fltrust", edges, [1.0] * 3, 1, scaled(own, -1.0))
    assert against.weight == (0.0, 0.0, 0.0)
    assert aggregate.norm(against.adapter) == 0.0


@pytest.mark.parametrize("kind", ["mean", *KINDS])
def test_idle_senders_are_no_trouble(kind: Kind) -> None:
    edges = honest(4, 0.4, 6)
    idle = scaled(edges[0], 0.0)
    found = join(kind, [idle, *edges[1:3]], [1.0] * 3, 1, edges[3])
    assert found.suspected == ()
    nothing = join(kind, [idle, idle, idle], [1.0] * 3, 1, idle)
    assert aggregate.norm(nothing.adapter) == 0.0


def test_two_of_seven_are_named() -> None:
    edges = honest(7, 0.3, 8)
    edges[2], edges[5] = scaled(edges[2], -5.0), scaled(edges[5], 50.0)
    assert set(join("krum", edges, [1.0] * 7, 2).suspected) == {2, 5}


def test_bad_input_is_refused() -> None:
    edges = honest(2, 0.3, 0)
    for weights in ([1.0], [-1.0, 2.0], [0.0, 0.0], [np.inf, 1.0]):
        with pytest.raises(InputError, match="weights"):
            join("mean", edges, weights)
    with pytest.raises(InputError, match="weights"):
        join("mean", [], [])
    with pytest.raises(InputError, match="trusted"):
        join("fltrust", edges, [1.0, 1.0])
    for kind in ("mean", *KINDS):
        with pytest.raises(InputError, match="NaN"):
            join(kind, [edges[0], scaled(edges[1], float("nan"))], [1.0, 1.0], 1, edges[0])  # type: ignore[arg-type]
