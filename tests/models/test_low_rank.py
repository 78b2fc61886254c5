"""Adapters as arrays: products, sizes and digests."""

from __future__ import annotations

import pickle
from dataclasses import replace

import numpy as np
import pytest
from jaxtyping import TypeCheckError

from gainnet.models import low_rank_kernel as kernel
from gainnet.models.low_rank import Factors, LowRank


def adapter(scale: float = 2.0) -> LowRank:
    rng = np.random.default_rng(0)
    layers = {
        name: Factors(
            rng.standard_normal((rank, 5)).astype(np.float32), rng.standard_normal((7, rank)).astype(np.float32)
        )
        for name, rank in (("q", 2), ("k", 3))
    }
    return LowRank(layers, scale, "base")


def test_product_has_the_scale_and_rank_is_the_largest() -> None:
    held = adapter()
    assert held.rank == 3
    assert held.layers["q"].rank == 2
    assert held.numbers == 2 * (5 + 7) + 3 * (5 + 7)
    np.testing.assert_allclose(held.product("k"), 2.0 * held.layers["k"].b @ held.layers["k"].a, rtol=1e-6)


def test_digest_tells_adapters_apart_and_orders_of_layers_not() -> None:
    held = adapter()
    turned = replace(held, layers=dict(reversed(held.layers.items())))
    assert held.digest() == turned.digest() == adapter().digest()
    strided = replace(
        held, layers={n: Factors(np.asfortranarray(f.a), np.asfortranarray(f.b)) for n, f in held.layers.items()}
    )
    assert strided.digest() == held.digest()
    nudged = {n: Factors(f.a, np.nextafter(f.b, np.float32(9.0), dtype=np.float32)) for n, f in held.layers.items()}
    others = [
        adapter(1.0),
        replace(held, base="another"),
        replace(held, layers=nudged),
        replace(held, layers={"q": held.layers["q"]}),
    ]
    assert len({one.digest() for one in (held, *others)}) == 5


def test_an_adapter_made_from_another_has_a_digest_of_its_own() -> None:
    held = adapter()
    first = held.digest()
    assert held.digest() == first
    assert replace(held, base="another").digest() != first
    assert replace(held, base="another", scale=held.scale).digest() == replace(held, base="another").digest()
    assert pickle.loads(pickle.dumps(held)).digest() == first


def test_shapes_are_held_to() -> None:
    with pytest.raises(TypeCheckError):
        Factors(np.zeros((2, 5), np.float32), np.zeros((7, 3), np.float32))


def test_all_numbers_in_one_piece_layers_by_name() -> None:
    held = adapter()
    turned = replace(held, layers=dict(reversed(held.layers.items())))
    wanted = np.concatenate([part.ravel() for _, f in sorted(held.layers.items()) for part in (f.a, f.b.T)])
    for each in (held, turned):
        np.testing.assert_array_equal(each.flat(), wanted)
        assert each.flat() is each.flat()
        assert each.flattened() is not each.flat()
        assert len(each.flattened()) == each.numbers
    assert replace(held, layers=adapter(1.0).layers).flat() is not held.flat()


def test_half_precision_is_that_of_numpy_for_every_number_where_it_turns() -> None:
    halves = np.arange(2**16, dtype=np.uint16).view(np.float16).astype(np.float32).view(np.uint32).astype(np.int64)
    beside = np.concatenate([halves + step for step in (-4097, -4096, -4095, -1, 0, 1, 4095, 4096, 4097)])
    tiny = np.arange(-3000, 3000, dtype=np.float32) * np.float32(2.0**-26)  # between the smallest numbers it has
    numbers = np.concatenate([beside.astype(np.uint32).view(np.float32), tiny, [np.float32(0.0), np.float32(-0.0)]])
    with np.errstate(over="ignore", invalid="ignore"):
        wanted = numbers.astype(np.float16).astype(np.float32)
    found = numbers.copy()
    kernel.halve(found, found.view(np.uint32))
    good = ~np.isnan(wanted)
    assert np.isnan(found[~good]).all()
    np.testing.assert_array_equal(found[good].view(np.uint32), wanted[good].view(np.uint32))


def test_halves_are_of_both_factors_or_of_one_and_in_one_piece() -> None:
    held = adapter()
    both, one = held.halved(), held.halved("b")
    for name, factors in held.layers.items():
        half = factors.b.astype(np.float16).astype(np.float32)
        np.testing.assert_array_equal(both.layers[name].a, factors.a.astype(np.float16).astype(np.float32))
        np.testing.assert_array_equal(both.layers[name].b, half)
        np.testing.assert_array_equal(one.layers[name].b, half)
        assert one.layers[name].a is factors.a
    assert list(both.layers) == list(held.layers)
    assert np.shares_memory(both.flat(), both.layers["k"].a)
    np.testing.assert_array_equal(both.flat(), both.flattened())
    assert (both.scale, both.base) == (held.scale, held.base)
