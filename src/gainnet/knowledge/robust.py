"""Updates of several senders joined so that some of them may be hostile.

All rules are about products (`LowRank.product`), never factors: ``(b r)(r^-1 a)`` is the update ``b a``. All but the trimmed
mean need no more than the products' inner products, which follow from factors.

- `mean`: the weighted mean, which one sender can turn anywhere.
- `trimmed`: of each number of the product, the weighted mean without its ``hostile_max`` largest and smallest values
  (arXiv 1803.01498). Dense: a layer takes ``senders x output x input`` numbers of memory while it is joined, and the Gram
  matrix of its smaller side is decomposed, ``output^3``.
- `krum`: the sender (or `keep` of them, averaged) with the least sum of squared distances to its ``n - hostile_max - 2``
  nearest (arXiv 1703.02757); of equal ones, that with the least sum to all.
- `fltrust`: each scaled to the length of the joiner's own update and weighed by how far it points the same way, its cosine
  if positive, times its weight (arXiv 2012.13995, where all weigh alike).

What a rule stands is lowered to what the number of senders allows: ``(n - 1) // 2`` hostile ones for `trimmed`, ``n - 3``
for `krum`, whose proof needs ``n >= 2 hostile + 3`` (with fewer it still takes the closest, but two that collude could
be those); `Joined.stands` says what is left of it.

A sender is *suspected* where it points away from the others (cosine below ``-OPPOSED`` to the sum of their directions) or is
longer than `LONG` times their median; at most ``hostile_max`` are, the worst first. Under `mean` nobody is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, Int

from gainnet.errors import InputError
from gainnet.knowledge.aggregate import flora, inner, total
from gainnet.models.low_rank import Factors, LowRank

OPPOSED = 0.05
"""Cosine: honest senders that have nothing in common are near zero."""
LONG = 4.0

Kind = Literal["mean", "trimmed", "krum", "fltrust"]
Weights = Float[np.ndarray, " sender"]


@dataclass(frozen=True, slots=True)
class Joined:
    """Updates made one.

    Attributes:
        adapter: the joint update.
        weight: of each sender in it, parts of one (all zero where none was trusted); under `trimmed` the part of numbers
            that were its own and counted, times its weight.
        suspected: senders that look hostile, worst first.
        stands: how many hostile senders the rule stood.
    """

    adapter: LowRank
    weight: tuple[float, ...]
    suspected: tuple[int, ...]
    stands: int


def join(
    kind: Kind,
    adapters: Sequence[LowRank],
    weights: Sequence[float],
    hostile_max: int = 1,
    trusted: LowRank | None = None,
    *,
    rank: int | None = None,
    keep: int = 1,
) -> Joined:
    """The joint update of senders.

    `trusted` is the joiner's own update, for `fltrust`. The result has at most `rank`; without it, the sum of the ranks that
    count (`trimmed`: of all). `keep` is how many senders `krum` averages.

    Raises:
        InputError: no sender, weights that are not one for each or negative, `fltrust` without `trusted`, NaN or infinity.
    """
    share = _shares(adapters, weights)
    gram = _gram([*adapters, *([] if trusted is None else [trusted])])
    among = gram[: len(share), : len(share)]
    count = len(share)
    if kind == "mean":
        return _weighed(adapters, share, rank, (), 0)
    suspected = _suspected(among, hostile_max)
    if kind == "trimmed":
        stands = min(hostile_max, (count - 1) // 2)
        adapter, used = _trimmed(adapters, share, stands, rank)
        return Joined(adapter, tuple(float(part) for part in used), suspected, stands)
    if kind == "krum":
        stands = max(0, min(hostile_max, count - 3))
        chosen = np.zeros(count)
        best = _krum(among, hostile_max)[: max(1, min(keep, count))]
        chosen[best] = share[best] if share[best].any() else 1.0
        return _weighed(adapters, chosen / chosen.sum(), rank, suspected, stands)
    if trusted is None:
        raise InputError("robust: fltrust needs the joiner's own update as trusted")
    return _fltrust(adapters, share, gram, rank, suspected)


def _shares(adapters: Sequence[LowRank], weights: Sequence[float]) -> Weights:
    weight = np.asarray(weights, np.float64)
    if not adapters or len(weight) != len(adapters) or not np.isfinite(weight).all():
        raise InputError("weights: one for each adapter, at least one")
    if (weight < 0.0).any() or weight.sum() <= 0.0:
        raise InputError("weights: none negative, not all zero")
    return np.asarray(weight / weight.sum())


def _gram(adapters: Sequence[LowRank]) -> Float[np.ndarray, "sender sender"]:
    """Inner products of all pairs."""
    found = np.zeros((len(adapters), len(adapters)))
    for row, one in enumerate(adapters):
        for column in range(row + 1):
            found[row, column] = found[column, row] = inner(one, adapters[column])
        if not np.isfinite(found[row, row]):
            raise InputError(f"update of sender {row} holds NaN or infinity")
    return found


def _weighed(
    adapters: Sequence[LowRank], weight: Weights, rank: int | None, suspected: tuple[int, ...], stands: int
) -> Joined:
    """The weighted sum of those that count."""
    used = np.flatnonzero(weight)
    if len(used) == 0:
        nothing = {name: Factors(f.a, np.zeros_like(f.b)) for name, f in adapters[0].layers.items()}
        adapter = replace(adapters[0], layers=nothing)
    else:
        adapter = flora([adapters[int(at)] for at in used], [float(weight[at]) for at in used])
        scale = np.float32(weight.sum())
        if scale != 1.0:
            adapter = replace(adapter, layers={n: Factors(f.a, f.b * scale) for n, f in adapter.layers.items()})
    if rank is not None:
        adapter = total(adapter, [], rank)
    return Joined(adapter, tuple(float(part) for part in weight), suspected, stands)


def _fltrust(
    adapters: Sequence[LowRank],
    share: Weights,
    gram: Float[np.ndarray, "member member"],
    rank: int | None,
    suspected: tuple[int, ...],
) -> Joined:
    """FLTrust; the last row of `gram` is the trusted update's. Senders of weight zero do not count."""
    length = np.sqrt(np.diag(gram))
    own, others = length[-1], length[:-1]
    size = own * others
    cosine = np.divide(gram[-1, :-1], size, out=np.zeros_like(size), where=size > 0.0)
    trust = np.maximum(cosine, 0.0) * share
    if trust.sum() == 0.0:
        return _weighed(adapters, trust, rank, suspected, len(share))
    trust /= trust.sum()
    scaled = np.divide(trust * own, others, out=np.zeros_like(others), where=others > 0.0)
    joined = _weighed(adapters, scaled, rank, suspected, len(share))
    return replace(joined, weight=tuple(float(part) for part in trust))


def _krum(gram: Float[np.ndarray, "sender sender"], hostile_max: int) -> Int[np.ndarray, " sender"]:
    """Senders by Krum's score, squared distances to their nearest, least first."""
    count = len(gram)
    square = np.diag(gram)[:, None] + np.diag(gram) - 2.0 * gram
    np.fill_diagonal(square, np.inf)
    nearest = max(1, count - hostile_max - 2)
    square = np.sort(square, axis=1)[:, : count - 1]
    return np.lexsort((square.sum(axis=1), square[:, :nearest].sum(axis=1)))


def _suspected(gram: Float[np.ndarray, "sender sender"], hostile_max: int) -> tuple[int, ...]:
    """Senders that point away from the others or are far longer; two senders cannot tell who of them is hostile."""
    length = np.sqrt(np.diag(gram))
    size = np.where(length > 0.0, length, 1.0)
    cosines = gram / np.outer(size, size)
    left = np.ones(len(gram), bool)
    found: list[int] = []
    while len(found) < hostile_max and left.sum() > 2:
        badness = np.where(left, [_badness(cosines, length, left, one) for one in range(len(gram))], 0.0)
        worst = int(badness.argmax())
        if badness[worst] <= 1.0:
            break
        found.append(worst)
        left[worst] = False
    return tuple(found)


def _badness(
    cosines: Float[np.ndarray, "sender sender"], length: Weights, left: Bool[np.ndarray, " sender"], one: int
) -> float:
    """How far beyond what is allowed a sender is, against the others that are left: more than 1 is."""
    others = np.flatnonzero(left & (np.arange(len(left)) != one))
    joint = np.sqrt(max(cosines[np.ix_(others, others)].sum(), 1e-12))
    away = -cosines[one, others].sum() / joint / OPPOSED
    typical = float(np.median(length[others]))
    longer = length[one] / (LONG * typical) if typical > 0.0 else 0.0
    return float(max(away, longer))


def _trimmed(adapters: Sequence[LowRank], share: Weights, stands: int, rank: int | None) -> tuple[LowRank, Weights]:
    """The trimmed mean of products, cut to a rank, and what part of it is each sender's."""
    rank = sum(adapter.rank for adapter in adapters) if rank is None else rank
    layers, used, numbers = {}, np.zeros(len(adapters)), 0
    for name in adapters[0].layers:
        value = np.stack([adapter.product(name) for adapter in adapters])
        if not np.isfinite(value).all():
            raise InputError(f"update: layer {name} holds NaN or infinity")
        place = _places(value)
        weight = np.where((place >= stands) & (place < len(adapters) - stands), share[:, None, None], 0.0)
        every = weight.sum(axis=0)
        np.divide(weight, every, out=weight, where=every > 0.0)
        used += weight.sum(axis=(1, 2))
        numbers += every.size
        layers[name] = _factored((weight * value).sum(axis=0) / adapters[0].scale, rank)
    return replace(adapters[0], layers=layers), used / numbers


def _places(value: Float[np.ndarray, "sender output input"]) -> Int[np.ndarray, "sender output input"]:
    """The place of each sender's number among all senders', the least first; of equal ones, the earlier sender's."""
    place = np.zeros(value.shape, np.int16)
    for late in range(1, len(value)):
        for early in range(late):
            below = value[early] <= value[late]
            place[late] += below
            place[early] += ~below
    return place


def _factored(product: Float[np.ndarray, "output input"], rank: int) -> Factors:
    """The nearest factors of a rank to a dense product, balanced."""
    wide = product.shape[0] > product.shape[1]
    flat = product.T if wide else product
    rank = min(rank, len(flat))
    square, vector = np.linalg.eigh(flat @ flat.T)
    root = np.maximum(square[: -rank - 1 : -1], 0.0) ** 0.25
    left = vector[:, : -rank - 1 : -1]
    over = np.divide(1.0, root, out=np.zeros_like(root), where=root > 1e-4 * max(float(root[0]), 1e-30))
    near, far = (left * root).astype(np.float32), ((left.T @ flat) * over[:, None]).astype(np.float32)
    return Factors(np.ascontiguousarray(near.T), np.ascontiguousarray(far.T)) if wide else Factors(far, near)
