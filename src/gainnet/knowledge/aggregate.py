"""Low-rank adapters averaged, added and compared, through their factors alone.

A weighted sum of products ``sum_i w_i s_i b_i a_i`` is the product of two stacks, ``[w_i s_i b_i] [a_i]``. Its singular
vectors follow from the stacks' Gram matrices, which are as small as the sum of the ranks: with ``b^T b = l l^T``
(Cholesky) and ``l^T (a a^T) l = z diag(sigma^2) z^T``, the right singular vectors are ``a^T l z / sigma``. The dense product is
never formed. Gram matrices are float64, so singular values down to 1e-7 of the largest are told from zero, which is
the precision of the float32 factors themselves.

| rule | what is averaged | exact? |
|---|---|---|
| `fedit` | a and b apart (arXiv 2305.05644) | no: mean(b) mean(a) is not mean(b a) |
| `ffa` | b, where all have one a (arXiv 2403.12313) | yes |
| `flexlora` | products, cut to a rank (arXiv 2402.11505) | best at that rank |
| `flora` | stacks (arXiv 2409.05976) | yes; the rank is the sum of ranks |
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float

from gainnet.errors import InputError
from gainnet.models.low_rank import Factors, LowRank

RIDGE = 1e-14
"""Added to a Gram matrix, as a part of its trace: a stack may have dependent columns."""
NEGLIGIBLE = 1e-7
"""Of the largest singular value: what is below is rounding of float32 factors."""
BALANCED = 1e-5
"""Cosine between columns up to which factors count as orthogonal; what it costs is second order."""

WIDE = 128
"""Columns of a stack beyond which its singular vectors are found by iteration."""
SPARE = 8
"""Vectors that the iteration carries beyond those wanted."""
SWEEPS = 24
SETTLED = 1e-7

Term = tuple[float, LowRank]
Singular = tuple[
    Float[np.ndarray, "layer rank"], Float[np.ndarray, "layer output rank"], Float[np.ndarray, "layer rank input"]
]


@dataclass(slots=True)
class _Block:
    """Factors in a stack, and the weight of each of their columns, scale included."""

    adapter: LowRank
    weight: Float[np.ndarray, " rank"]


def truncate(adapter: LowRank, rank: int) -> LowRank:
    """The adapter of at most this rank whose product is nearest to an adapter's (Frobenius norm).

    Returned as it is where its rank is no larger. Where its product is zero the first rows of a are kept, so that it
    can still be trained.
    """
    _positive(rank)
    if adapter.rank <= rank:
        return adapter
    if all(_is_balanced(factors) for factors in adapter.layers.values()):
        cut = {
            name: Factors(np.ascontiguousarray(layer.a[:rank]), np.ascontiguousarray(layer.b[:, :rank]))
            for name, layer in adapter.layers.items()
        }
        return replace(adapter, layers=cut)
    return _join([(1.0, adapter)], rank)


def total(base: LowRank, parts: Sequence[Term], rank: int) -> LowRank:
    """``base + sum_i w_i part_i`` of products, as the nearest adapter of at most this rank.

    Its factors are balanced: columns of b and rows of a are orthogonal, of norm the root of the singular value, largest
    first. Equal factors are counted once, so that ends which began at one adapter cost the stack no more than one.

    Raises:
        InputError: adapters of other bases, layers or shapes; NaN or infinity in any.
    """
    _positive(rank)
    return _join([(1.0, base), *parts], rank)


def mix(a: LowRank, b: LowRank, weight: float) -> LowRank:
    """``(1 - weight) a + weight b`` of products, at the larger of their ranks; `weight` is from 0 to 1."""
    if not 0.0 <= weight <= 1.0:
        raise InputError(f"weight of a mix is {weight}: it must be from 0 to 1")
    return _join([(1.0 - weight, a), (weight, b)], max(a.rank, b.rank))


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


def flexlora(start: LowRank, changes: Sequence[tuple[float, LowRank, LowRank]], rank: int) -> LowRank:
    """``start + sum_k p_k (after_k - before_k)`` of products, cut to a rank: FlexLoRA on changes.

    Each change is (weight, before, after); weights count in proportion. An end that trained at a lower rank than the
    start's changes nothing of what it never had. Where every `before` is the start, this is FlexLoRA itself.
    """
    if not changes:
        raise InputError("changes: there must be at least one")
    share = _shares([after for _, _, after in changes], [weight for weight, _, _ in changes])
    parts = [(-part, before) for part, (_, before, _) in zip(share, changes, strict=True)]
    parts += [(part, after) for part, (_, _, after) in zip(share, changes, strict=True)]
    return total(start, parts, rank)


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
    _agree([a, b])
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
    _agree([adapter for _, adapter in terms])
    found = 0.0
    for name in terms[0][1].layers:
        b = np.concatenate(
            [weight * adapter.scale * adapter.layers[name].b.astype(np.float64) for weight, adapter in terms], 1
        )
        a = np.concatenate([adapter.layers[name].a.astype(np.float64) for _, adapter in terms])
        core = np.asarray(np.linalg.qr(b, mode="r")) @ np.asarray(np.linalg.qr(a.T, mode="r")).T
        found += float((core**2).sum())
    return float(np.sqrt(found))


def _join(terms: Sequence[Term], rank: int) -> LowRank:
    """The weighted sum of products, cut to a rank."""
    _agree([adapter for _, adapter in terms])
    blocks = _blocks(terms)
    first = terms[0][1]
    groups = defaultdict(list)
    for name in first.layers:
        held = [block.adapter.layers[name] for block in blocks]
        groups[len(held[0].b), held[0].a.shape[1], tuple(factors.rank for factors in held)].append(name)
    found: dict[str, Factors] = {}
    for names in groups.values():
        found.update(zip(names, _join_layers(names, blocks, first, rank), strict=True))
    return replace(first, layers={name: found[name] for name in first.layers})


def _blocks(terms: Sequence[Term]) -> list[_Block]:
    """The distinct factors among terms; factors that are the first columns of others are weighed with them."""
    scale = terms[0][1].scale
    blocks: list[_Block] = []
    ranked = [(adapter.rank, weight * adapter.scale / scale, adapter) for weight, adapter in terms]
    for rank, value, adapter in sorted(ranked, key=lambda term: -term[0]):
        held = next((block for block in blocks if _begins(block.adapter, adapter, rank)), None)
        if held is None:
            blocks.append(_Block(adapter, np.full(rank, value)))
        else:
            held.weight[:rank] += value
    # Sums of shares that should cancel leave 1e-16.
    kept = [block for block in blocks if np.abs(block.weight).max() > 1e-12]
    return kept or blocks[:1]


def _begins(longer: LowRank, shorter: LowRank, rank: int) -> bool:
    """Whether every layer of one has the first columns of another's, which has this rank in all layers."""
    return longer is shorter or all(
        factors.rank == rank
        and longer.layers[name].rank >= rank
        and np.array_equal(factors.b, longer.layers[name].b[:, :rank])
        and np.array_equal(factors.a, longer.layers[name].a[:rank])
        for name, factors in shorter.layers.items()
    )


def _join_layers(names: Sequence[str], blocks: Sequence[_Block], first: LowRank, rank: int) -> Iterator[Factors]:
    """Layers of one shape, together."""
    held = [[block.adapter.layers[name] for block in blocks] for name in names]
    a = np.stack([np.concatenate([factors.a for factors in row]) for row in held])
    b = np.stack([np.concatenate([factors.b.T for factors in row]) for row in held])
    weight = np.concatenate([block.weight[: factors.rank] for block, factors in zip(blocks, held[0], strict=True)])
    b *= weight.astype(np.float32)[:, None]
    for number, name in enumerate(names):
        if not (np.isfinite(a[number]).all() and np.isfinite(b[number]).all()):
            raise InputError(f"adapter: layer {name} holds NaN or infinity")
    rank = min(rank, *a.shape[1:], b.shape[2])
    sigma, up, down = (_leading if len(weight) > WIDE else _singular)(a, b, rank)
    for number, name in enumerate(names):
        good = sigma[number] > NEGLIGIBLE * sigma[number].max()
        root = np.sqrt(np.where(good, sigma[number], 1.0))
        left = np.where(good, up[number] / root, 0.0)
        right = np.where(good[:, None], down[number] * root[:, None], 0.0)
        spare = first.layers[name].a[:rank]
        dead = np.flatnonzero(~good[: len(spare)])
        right[dead] = spare[dead]
        yield Factors(right.astype(np.float32), left.astype(np.float32))


def _singular(
    a: Float[np.ndarray, "layer stack input"], b: Float[np.ndarray, "layer stack output"], rank: int
) -> Singular:
    """Leading singular values of ``b^T a``, left vectors times them, and right vectors, by way of Gram matrices."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    across, along = b @ b.transpose(0, 2, 1), a @ a.transpose(0, 2, 1)
    trace = np.trace(across, axis1=1, axis2=2)
    ridge = np.where(trace > 0.0, RIDGE * trace, 1.0)
    lower = np.linalg.cholesky(across + ridge[:, None, None] * np.eye(across.shape[1]))
    square, vector = np.linalg.eigh(lower.transpose(0, 2, 1) @ along @ lower)
    sigma = np.sqrt(np.maximum(square[:, : -rank - 1 : -1], 0.0)) * (trace > 0.0)[:, None]
    over = np.divide(1.0, sigma, out=np.zeros_like(sigma), where=sigma > 0.0)
    weight = (lower @ vector[:, :, : -rank - 1 : -1]) * over[:, None]
    return sigma, b.transpose(0, 2, 1) @ (along @ weight), weight.transpose(0, 2, 1) @ a


def _leading(
    a: Float[np.ndarray, "layer stack input"], b: Float[np.ndarray, "layer stack output"], rank: int
) -> Singular:
    """What `_singular` finds, by block power iteration: for stacks whose Gram matrices would cost more.

    It goes on until the energy that is captured grows by less than `SETTLED` of all.
    """
    width = min(rank + SPARE, a.shape[2], b.shape[2])
    mixed = np.random.default_rng(0).standard_normal((width, a.shape[1])).astype(np.float32)
    span, energy = mixed @ a, np.zeros(len(a))
    for _ in range(SWEEPS):
        basis = _orthonormal(span)
        image = (basis @ a.transpose(0, 2, 1)) @ b
        gram = image.astype(np.float64) @ image.transpose(0, 2, 1)
        square, turn = np.linalg.eigh(gram)
        captured = square[:, -rank:].sum(axis=1)
        if (captured - energy <= SETTLED * captured).all():
            break
        energy = captured
        span = (image @ b.transpose(0, 2, 1)) @ a
    turn = turn[:, :, : -rank - 1 : -1].transpose(0, 2, 1)
    return np.sqrt(np.maximum(square[:, : -rank - 1 : -1], 0.0)), (turn @ image).transpose(0, 2, 1), turn @ basis


def _orthonormal(span: Float[np.ndarray, "layer row input"]) -> Float[np.ndarray, "layer row input"]:
    """Orthonormal rows that span the same, by Cholesky factors of the Gram matrix, twice."""
    for _ in range(2):
        span = span / np.maximum(np.linalg.norm(span, axis=2, keepdims=True), np.float32(1e-30))
        gram = span.astype(np.float64) @ span.transpose(0, 2, 1)
        lower = np.linalg.cholesky(gram + 1e-9 * np.eye(gram.shape[1]))
        span = np.linalg.inv(lower).astype(np.float32) @ span
    return span


def _is_balanced(factors: Factors) -> bool:
    """Whether columns of b and rows of a are orthogonal and ordered, so that the first ones are the best ones."""
    grams = [factors.a.astype(np.float64) @ factors.a.T, factors.b.T.astype(np.float64) @ factors.b]
    size = np.sqrt(np.prod([np.diag(gram) for gram in grams], axis=0))
    if (np.diff(size) > BALANCED * size[:-1]).any() or size[0] == 0.0:
        return bool(not size.any())
    for gram in grams:
        length = np.sqrt(np.diag(gram))
        if (np.abs(gram - np.diag(np.diag(gram))) > BALANCED * np.outer(length, length))[:, size > 0.0][
            size > 0.0
        ].any():
            return False
    return True


def _shares(adapters: Sequence[LowRank], weights: Sequence[float]) -> Float[np.ndarray, " adapter"]:
    """Weights as parts of one."""
    _agree(adapters)
    weight = np.asarray(weights, np.float64)
    if len(weight) != len(adapters) or not np.isfinite(weight).all() or (weight < 0.0).any() or weight.sum() <= 0.0:
        raise InputError("weights: one for each adapter, none negative, not all zero")
    return np.asarray(weight / weight.sum())


def _agree(adapters: Sequence[LowRank]) -> None:
    """Refuses adapters that do not change the same weights of the same model."""
    if not adapters:
        raise InputError("adapters: there must be at least one")
    first = adapters[0]
    for number, adapter in enumerate(adapters[1:], 1):
        if adapter.base != first.base:
            raise InputError(f"adapter {number}: made for base {adapter.base[:12]}, the first for {first.base[:12]}")
        if adapter.layers.keys() != first.layers.keys():
            raise InputError(f"adapter {number}: its layers are not those of the first")
        for name, factors in adapter.layers.items():
            held = first.layers[name]
            if factors.a.shape[1] != held.a.shape[1] or len(factors.b) != len(held.b):
                raise InputError(f"adapter {number}: layer {name} has another shape than the first's")


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
