"""Adapters as arrays: products, sizes and digests."""

from __future__ import annotations

import pickle
from dataclasses import replace

import numpy as np
import pytest
from jaxtyping import TypeCheckError

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
