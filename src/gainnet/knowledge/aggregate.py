"""Low-rank adapters averaged, added and compared, through their factors alone.

Weighted sums of products are cut to a rank by `gainnet.knowledge.stack`; the dense product is never formed.

| rule | what is averaged | exact? |
|---|---|---|
| `fedit` | a and b apart (arXiv 2305.05644) | no: mean(b) mean(a) is not mean(b a) |
| `ffa` | b, where all have one a (arXiv 2403.12313) | yes |
| `flexlora` | products, cut to a rank (arXiv 2402.11505) | best at that rank |
| `flora` | stacks (arXiv 2409.05976) | yes; the rank is the sum of ranks |
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from jaxtyping import Float

from gainnet.errors import InputError
from gainnet.knowledge.stack import Stack, agree, alike
from gainnet.models.low_rank import Factors, LowRank

BALANCED = 3e-4
"""Cosine between columns up to which factors count as orthogonal; what it costs is second order."""

Term = tuple[float, LowRank]


def truncate(adapter: LowRank, rank: int) -> LowRank:
    """The adapter of at most this rank whose product is nearest to an adapter's (Frobenius norm).

    Returned as it is where its rank is no larger. Where its product is zero the first rows of a are kept, so that it
    can still be trained.
    """
    _positive(rank)
    if adapter.rank <= rank:
        return adapter
    return first(adapter, rank) if _is_balanced(adapter) else _join([(1.0, adapter)], rank)


def first(adapter: LowRank, rank: int) -> LowRank:
    """Its first rows of a and columns of b: views, where these lie in one piece."""
    cut = {
        name: Factors(np.ascontiguousarray(layer.a[:rank]), np.ascontiguousarray(layer.b.T[:rank]).T)
        for name, layer in adapter.layers.items()
    }
    return replace(adapter, layers=cut)


def total(base: LowRank, parts: Sequence[Term], rank: int, *, nearly: bool = False) -> LowRank:
    """``base + sum_i w_i part_i`` of products, as the nearest adapter of at most this rank.

    Its factors are balanced: columns of b and rows of a are orthogonal, of norm the root of the singular value, largest
    first. Where about the nearest will do (``nearly``) it is found faster, in factors that are not (see `Stack.near`). Equal
    factors are counted once, so that ends which began at one adapter cost the stack no more than one.

    Raises:
        InputError: adapters of other bases, layers or shapes; NaN or infinity in any that does not cancel.
    """
    _positive(rank)
    return _join([(1.0, base), *parts], rank, nearly=nearly)


def difference(a: LowRank, b: LowRank) -> LowRank:
    """``a - b`` of products, nothing cut, at the sum of their ranks or, where layers are narrower, at their narrowest side.

    Rows of its ``a`` are orthonormal or zero.
    """
    terms = [(1.0, a), (-1.0, b)]
    rank, side = a.rank + b.rank, min(min(outward, inward) for outward, _, inward in a.shapes.values())
    return Stack([a, b]).exact([1.0, -1.0]) if rank <= side else _join(terms, rank)


def mix(a: LowRank, b: LowRank, weight: float, *, nearly: bool = False) -> LowRank:
    """``(1 - weight) a + weight b`` of products, at the larger of their ranks; `weight` is from 0 to 1.

    ``nearly`` as of `total`.
    """
    if not 0.0 <= weight <= 1.0:
        raise InputError(f"weight of a mix is {weight}: it must be from 0 to 1")
    return _join([(1.0 - weight, a), (weight, b)], max(a.rank, b.rank), nearly=nearly)


def fedit(adapters: Sequence[LowRank], weights: Sequence[float]) -> LowRank:
    """Factors averaged apart (FedIT): not the mean of products. Lower ranks are padded with zeros to the largest."""
    share = _shares(adapters, weights)
    _one_scale(adapters)
    rank = max(adapter.rank for adapter in adapters)
    layers = {}
    for name, first in adapters[0].layers.items():
        a = np.zeros((rank, first.a.shape[1]))
        b = np.zeros((len(first.b), rank))
        for part, adapter in zip(share, adapters, strict=True):
            factors = adapter.layers[name]
            a[: factors.rank] += part * factors.a
            b[:, : factors.rank] += part * factors.b
        layers[name] = Factors(a.astype(np.float32), b.astype(np.float32))
    return _finite(replace(adapters[0], layers=layers))


def ffa(adapters: Sequence[LowRank], weights: Sequence[float]) -> LowRank:
    """The exact mean of products of adapters which share a (FFA-LoRA); one of a lower rank has its first rows.

    Raises:
        InputError: an a which is not the widest one's, or its first rows.
    """
    _shares(adapters, weights)
    widest = max(adapters, key=lambda adapter: adapter.rank)
    for number, adapter in enumerate(adapters):
        for name, factors in adapter.layers.items():
            if not np.array_equal(factors.a, widest.layers[name].a[: factors.rank]):
                raise InputError(f"adapter {number}: a of {name} was changed; ffa averages b and needs one a for all")
    mean = fedit(adapters, weights)
    layers = {name: Factors(widest.layers[name].a, factors.b) for name, factors in mean.layers.items()}
    return replace(mean, layers=layers)


def flexlora(
    start: LowRank, changes: Sequence[tuple[float, LowRank, LowRank]], rank: int, *, nearly: bool = False
) -> LowRank:
    """``start + sum_k p_k (after_k - before_k)`` of products, cut to a rank: FlexLoRA on changes.

    Each change is (weight, before, after); weights count in proportion. An end that trained at a lower rank than the
    start's changes nothing of what it never had. Where every `before` is the start, this is FlexLoRA itself. ``nearly`` as of
    `total`.
    """
    if not changes:
        raise InputError("changes: there must be at least one")
    share = _shares([after for _, _, after in changes], [weight for weight, _, _ in changes])
    parts = [(-part, before) for part, (_, before, _) in zip(share, changes, strict=True)]
    parts += [(part, after) for part, (_, _, after) in zip(share, changes, strict=True)]
    return total(start, parts, rank, nearly=nearly)


def flora(adapters: Sequence[LowRank], weights: Sequence[float]) -> LowRank:
    """The exact mean of products as stacked factors (FLoRA); its rank is the sum of ranks."""
    share = _shares(adapters, weights)
    scale = adapters[0].scale
    layers = {}
    for name in adapters[0].layers:
        a = np.concatenate([adapter.layers[name].a for adapter in adapters])
        scaled = [
            np.float32(part * adapter.scale / scale) * adapter.layers[name].b
            for part, adapter in zip(share, adapters, strict=True)
        ]
        layers[name] = Factors(a, np.concatenate(scaled, axis=1))
    return _finite(replace(adapters[0], layers=layers))


def inner(a: LowRank, b: LowRank) -> float:
    """Frobenius inner product of products, over all layers."""
    agree([a, b])
    found = 0.0
    for name, one in a.layers.items():
        two = b.layers[name]
        left = one.b.T.astype(np.float64) @ two.b.astype(np.float64)
        right = one.a.astype(np.float64) @ two.a.T.astype(np.float64)
        found += float((left * right).sum())
    return found * a.scale * b.scale


def norm(adapter: LowRank) -> float:
    """Frobenius norm of the product, over all layers; from QR factors of the stacks, so differences do not cancel."""
    return _norm([(1.0, adapter)])


def distance(a: LowRank, b: LowRank) -> float:
    """Frobenius norm of the difference of products, over all layers."""
    return 0.0 if a is b else _norm([(1.0, a), (-1.0, b)])


def _norm(terms: Sequence[Term]) -> float:
    agree([adapter for _, adapter in terms])
    found = 0.0
    for name in terms[0][1].layers:
        b = np.concatenate(
            [weight * adapter.scale * adapter.layers[name].b.astype(np.float64) for weight, adapter in terms], 1
        )
        a = np.concatenate([adapter.layers[name].a.astype(np.float64) for _, adapter in terms])
        core = np.asarray(np.linalg.qr(b, mode="r")) @ np.asarray(np.linalg.qr(a.T, mode="r")).T
        found += float((core**2).sum())
    return float(np.sqrt(found))


def _join(terms: Sequence[Term], rank: int, *, nearly: bool = False) -> LowRank:
    """The weighted sum of products, cut to a rank."""
    weights = [weight for weight, _ in terms]
    stack = Stack([adapter for _, adapter in terms], weights)
    return stack.near(weights, rank) if nearly else stack.sum(weights, rank)


def _is_balanced(adapter: LowRank) -> bool:
    """Whether columns of b and rows of a are orthogonal and ordered, so that the first ones are the best ones."""
    for _, [parts] in alike([adapter]):
        grams = [(part @ part.transpose(0, 2, 1)).astype(np.float64) for part in parts]
        length = [np.sqrt(np.einsum("lii->li", gram)) for gram in grams]
        size = length[0] * length[1]
        if (np.diff(size, axis=1) > BALANCED * size[:, :-1]).any():
            return False
        for gram, long in zip(grams, length, strict=True):
            bound = np.where(size > 0.0, long, np.inf)
            np.einsum("lii->li", gram)[...] = 0.0
            if (np.abs(gram) > BALANCED * bound[:, None] * bound[:, :, None]).any():
                return False
    return True


def _shares(adapters: Sequence[LowRank], weights: Sequence[float]) -> Float[np.ndarray, " adapter"]:
    """Weights as parts of one."""
    agree(adapters)
    weight = np.asarray(weights, np.float64)
    if len(weight) != len(adapters) or not np.isfinite(weight).all() or (weight < 0.0).any() or weight.sum() <= 0.0:
        raise InputError("weights: one for each adapter, none negative, not all zero")
    return np.asarray(weight / weight.sum())


def _one_scale(adapters: Sequence[LowRank]) -> None:
    if len({adapter.scale for adapter in adapters}) > 1:
        raise InputError("adapters: their scales must be one number where factors are averaged apart")


def _finite(adapter: LowRank) -> LowRank:
    for name, factors in adapter.layers.items():
        if not (np.isfinite(factors.a).all() and np.isfinite(factors.b).all()):
            raise InputError(f"adapter: layer {name} holds NaN or infinity")
    return adapter


def _positive(rank: int) -> None:
    if rank < 1:
        raise InputError(f"rank is {rank}: it must be at least 1")
