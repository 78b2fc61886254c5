"""Weighted sums of low-rank products, each cut to a rank, through the factors alone.

A weighted sum of products ``sum_i w_i s_i b_i a_i`` is the product of two stacks, ``[w_i s_i b_i] [a_i]``. Its singular
vectors follow from the stacks' Gram matrices, which are as small as the sum of the ranks: with ``b^T b = l l^T``
(Cholesky) and ``l^T (a a^T) l = z diag(sigma^2) z^T``, the right singular vectors are ``a^T l z / sigma``. The dense product is
never formed. Gram matrices do not depend on the weights but by a factor for each row
and column, so many sums of the same adapters (who takes part, at what share) share them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import numpy as np
from jaxtyping import Bool, Float, Int

from gainnet.errors import InputError
from gainnet.knowledge import stack_kernel as kernel
from gainnet.knowledge.stack_group import NOTHING, Group, Part, leading
from gainnet.models.low_rank import Factors, LowRank

RIDGE, FINE_RIDGE = 2e-6, 1e-14
"""Added to a Gram matrix, since a stack may have dependent columns: as a part of its diagonal where its sums are float32
(wide stacks), of its trace where they are float64."""
NEGLIGIBLE = 1e-7
"""Of the largest singular value: what is below is rounding of float32 factors."""

WIDE = 40
"""Columns of a stack beyond which its singular vectors are found by iteration."""
SPARE = 8
"""Vectors that the iteration carries beyond those wanted, where these are wanted one by one."""
SWEEPS, SWEEPS_MAX = 4, 40
"""Of the iteration: as many as sums in the loop need as a rule, and the most."""
SETTLED = 1e-5
"""Part of the energy that more sweeps may still find."""

Layers = tuple[Float[np.ndarray, "layer rank input"], Float[np.ndarray, "layer rank output"]]
Core = tuple[
    Float[np.ndarray, "layer rank"], Float[np.ndarray, "layer stack rank"], Float[np.ndarray, "layer stack rank"]
]
_Cut = Callable[[Group, Float[np.ndarray, " stack"]], dict[str, Factors]]


class Stack:
    """Adapters whose weighted sums are wanted.

    Equal factors are held once, and those that are the first columns of others' with them, so that ends which began at
    one adapter cost no more than one.

    Args:
        adapters: at least one; sums have the scale of the first.
        weights: of the only sum that is wanted: columns that cancel in it are left out; None for any sums.

    Attributes:
        adapters: these.
        place: the first column of each, and how many it has.
        groups: layers of the same ranks.

    Raises:
        InputError: adapters of other bases, layers or shapes; from their sums, NaN or infinity in any column that is stacked.
    """

    def __init__(self, adapters: Sequence[LowRank], weights: Sequence[float] | None = None) -> None:
        agree(adapters)
        self.adapters = tuple(adapters)
        self._blocks: list[LowRank] = []
        self._begin: list[int] = []
        self.place = [(0, 0)] * len(adapters)
        width = 0
        ranked = sorted(((adapter.rank, index) for index, adapter in enumerate(adapters)), key=lambda pair: -pair[0])
        known: dict[int, int] = {}
        for rank, index in ranked:
            at = known.get(id(adapters[index]))
            if at is None:
                at = next((at for at, held in enumerate(self._blocks) if _begins(held, adapters[index], rank)), None)
            if at is None:
                at = len(self._blocks)
                self._blocks.append(adapters[index])
                self._begin.append(width)
                width += rank
            known[id(adapters[index])] = at
            self.place[index] = (self._begin[at], rank)
        self._width = width
        self._counts = np.ones(width, bool) if weights is None else np.abs(self._columns(weights)) > NOTHING
        self.groups = self._grouped()

    def sum(self, weights: Sequence[float], rank: int) -> LowRank:
        """The weighted sum of products, as the nearest adapter of at most this rank (Frobenius norm).

        Its factors are balanced: columns of b and rows of a are orthogonal, of norm the root of the singular value, largest
        first. Where a product is zero the first rows of the first adapter's a are kept, so that it can still be trained.
        """
        return self._summed(weights, lambda group, weight: self._cut(group, weight, rank))

    def near(self, weights: Sequence[float], rank: int) -> LowRank:
        """The weighted sum of products as an adapter of that rank that is about the nearest.

        It misses 1e-4 more of the energy than `sum` (in rounds of the medical scenario, where the best cut misses 1e-3), at a
        third of its cost. Rows of a are orthonormal, in no order, and kept as there where a product is zero.
        """
        return self._summed(weights, lambda group, weight: self._rough(group, weight, rank))

    def exact(self, weights: Sequence[float]) -> LowRank:
        """The weighted sum of products as it is, of the rank of the stack, which must be no larger than layers are wide.

        Rows of a are orthonormal, in no order, so that what is lost of either factor on the way costs as much as it would
        of balanced ones; what cancels is not in them. A row that depends on others is zero.
        """
        return self._summed(weights, self._whole)

    def _summed(self, weights: Sequence[float], cut: _Cut) -> LowRank:
        """A sum whose layers, group by group, are what ``cut`` makes of it."""
        column = self._columns(weights)
        found: dict[str, Factors] = {}
        for group in self.groups:
            found |= cut(group, column[group.column])
        first = self.adapters[0]
        return replace(first, layers={name: found[name] for name in first.layers})

    def _columns(self, weights: Sequence[float]) -> Float[np.ndarray, " stack"]:
        """What each column weighs in a sum."""
        column, scale = np.zeros(self._width), self.adapters[0].scale
        for weight, adapter, (begin, held) in zip(weights, self.adapters, self.place, strict=True):
            column[begin : begin + held] += weight * adapter.scale / scale
        return column

    def _grouped(self) -> list[Group]:
        shapes: dict[tuple[int, ...], dict[tuple[int, int], list[str]]] = defaultdict(lambda: defaultdict(list))
        blocks = [block.shapes for block in self._blocks]
        for name, (outward, _, inward) in self.adapters[0].shapes.items():
            ranks = tuple([block[name][1] for block in blocks])
            shapes[ranks][outward, inward].append(name)
        return [self._group(list(found.values()), ranks) for ranks, found in shapes.items()]

    def _group(self, layers: list[list[str]], ranks: tuple[int, ...]) -> Group:
        begun = list(zip(self._begin, ranks, strict=True))
        column = np.concatenate([np.arange(begin, begin + rank) for begin, rank in begun])
        counts = self._counts if self._counts[column].any() else np.ones_like(self._counts)
        kept = [np.flatnonzero(counts[begin : begin + rank]) for begin, rank in begun]
        return Group([self._stacked(names, kept) for names in layers], column[counts[column]])

    def _stacked(self, names: list[str], kept: list[Int[np.ndarray, " _"]]) -> Part:
        """Layers of one shape, side by side: the columns of each block that are kept."""
        first = self.adapters[0].layers[names[0]]
        width = sum(map(len, kept))
        a, b = (np.empty((len(names), width, size), np.float32) for size in (first.a.shape[1], len(first.b)))
        taken = [(block, _run(columns)) for block, columns in zip(self._blocks, kept, strict=True) if len(columns)]
        ends = np.cumsum([len(columns) for columns in kept if len(columns)]).tolist()
        for number, name in enumerate(names):
            begin = 0
            for (block, rows), end in zip(taken, ends, strict=True):
                factors = block.layers[name]
                a[number, begin:end], b[number, begin:end] = factors.a[rows], factors.b.T[rows]
                begin = end
        return Part(names, a, b)

    def _cut(self, group: Group, weight: Float[np.ndarray, " stack"], rank: int) -> dict[str, Factors]:
        """The layers of a group, summed and cut."""
        rank, fine = min(rank, group.rank), len(weight) <= WIDE
        part_of, along, across, weight = group.used(weight, rank, fine=fine)
        rank = min(rank, len(weight))
        if len(weight) > WIDE:
            sigma, right, left = _iterated(along, across, weight, rank)
        else:
            sigma, right, left = _singular(along, across, weight, rank, fine)
        good = sigma > NEGLIGIBLE * sigma.max(axis=1, keepdims=True)
        root = np.sqrt(np.where(good, sigma, 1.0))[:, None]
        right, left = np.where(good[:, None], right * root, 0.0), np.where(good[:, None], left / root, 0.0)
        found: dict[str, Factors] = {}
        for part, here, down, up in group.factors(part_of, right, left):
            most = min(rank, part.a.shape[2], part.b.shape[2])
            self._revived(part.names, down[:, :most], good[here, :most])
            found |= part.named(down[:, :most], up[:, :most])
        return found

    def _rough(self, group: Group, weight: Float[np.ndarray, " stack"], rank: int) -> dict[str, Factors]:
        """The layers of a group, summed and about cut."""
        rank = min(rank, group.rank)
        part_of, along, across, weight = group.used(weight, rank, fine=False)
        across = weight[:, None] * across * weight
        taken = np.random.default_rng(0).standard_normal((len(weight), min(rank, len(weight))))
        right, image = leading(along, across, taken, SWEEPS)
        found: dict[str, Factors] = {}
        good = np.asarray(right.any(axis=1))
        for part, here, down, up in group.factors(part_of, right, weight[:, None] * image):
            self._revived(part.names, down, good[here])
            found |= part.named(down, up)
        return found

    def _whole(self, group: Group, weight: Float[np.ndarray, " stack"]) -> dict[str, Factors]:
        """The layers of a group, summed."""
        along = group.along(fine=True)
        right = np.empty_like(along)
        kernel.whiten(along, right)
        found: dict[str, Factors] = {}
        for part, _, down, up in group.factors(slice(None), right, weight[:, None] * (along @ right)):
            if not np.isfinite(up.sum()):
                raise InputError(f"adapter: a layer of {', '.join(part.names)} holds NaN or infinity")
            found |= part.named(down, up)
        return found

    def _revived(
        self, names: list[str], down: Float[np.ndarray, "layer rank input"], good: Bool[np.ndarray, "layer rank"]
    ) -> None:
        """Where a product is zero, put the first rows of the first adapter's a."""
        for number in np.flatnonzero(~good.all(axis=1)).tolist():
            spare = self.adapters[0].layers[names[number]].a[: good.shape[1]]
            dead = np.flatnonzero(~good[number, : len(spare)])
            down[number, dead] = spare[dead]


def _run(columns: Int[np.ndarray, " _"]) -> slice | Int[np.ndarray, " _"]:
    """The same as a slice, which copies nothing, where they follow each other."""
    first, last = int(columns[0]), int(columns[-1])
    return slice(first, last + 1) if last - first == len(columns) - 1 else columns


def _begins(longer: LowRank, shorter: LowRank, rank: int) -> bool:
    """Whether every layer of one has the first columns of another's, which has this rank in all layers."""
    return longer is shorter or all(
        factors.rank == rank
        and longer.layers[name].rank >= rank
        and _equal(factors.b, longer.layers[name].b[:, :rank])
        and _equal(factors.a, longer.layers[name].a[:rank])
        for name, factors in shorter.layers.items()
    )


def _equal(one: Float[np.ndarray, "row column"], other: Float[np.ndarray, "row column"]) -> bool:
    """Whether numbers are equal; those of one memory are."""
    here, there = one.__array_interface__, other.__array_interface__
    return (here["data"] == there["data"] and one.strides == other.strides) or np.array_equal(one, other)


def _singular(
    along: Float[np.ndarray, "layer stack stack"],
    across: Float[np.ndarray, "layer stack stack"],
    weight: Float[np.ndarray, " stack"],
    rank: int,
    fine: bool,
) -> Core:
    """Leading singular values of ``b^T diag(weight) a``; its right vectors, and its left ones times the values.

    Vectors are given as what is taken of each row of ``a``, and of ``b``.
    """
    across = weight[:, None] * across * weight
    own = np.einsum("lii->li", across)
    if fine:
        ridge = np.maximum(FINE_RIDGE * own.sum(axis=1, keepdims=True), 1e-200) + np.zeros_like(own)
    else:
        ridge = np.where(own > 0.0, RIDGE * own, np.maximum(RIDGE * own.max(axis=1, keepdims=True), 1e-200))
    lower = np.linalg.cholesky(across + ridge[:, None] * np.eye(across.shape[1]))
    square, vector = np.linalg.eigh(lower.transpose(0, 2, 1) @ along @ lower)
    sigma = np.sqrt(np.maximum(square[:, : -rank - 1 : -1], 0.0)) * (own.max(axis=1, keepdims=True) > 0.0)
    over = np.divide(1.0, sigma, out=np.zeros_like(sigma), where=sigma > 0.0)
    right = (lower @ vector[:, :, : -rank - 1 : -1]) * over[:, None]
    return sigma, right, weight[:, None] * (along @ right)


def _iterated(
    along: Float[np.ndarray, "layer stack stack"],
    across: Float[np.ndarray, "layer stack stack"],
    weight: Float[np.ndarray, " stack"],
    rank: int,
) -> Core:
    """What `_singular` finds, by block power iteration: for stacks whose Gram matrices would cost more to decompose."""
    across = weight[:, None] * across * weight
    taken = np.random.default_rng(0).standard_normal((len(weight), min(rank + SPARE, len(weight))))
    for _ in range(0, SWEEPS_MAX, SWEEPS):
        right, image = leading(along, across, taken, SWEEPS)
        taken = across @ image
        square, turn = np.linalg.eigh(image.transpose(0, 2, 1) @ taken)
        wanted = turn[:, :, : -rank - 1 : -1]
        if _settled(along, taken @ wanted, square, rank):
            break
    sigma = np.sqrt(np.maximum(square[:, : -rank - 1 : -1], 0.0))
    return sigma, right @ wanted, weight[:, None] * (image @ wanted)


def _settled(
    along: Float[np.ndarray, "layer stack stack"],
    back: Float[np.ndarray, "layer stack rank"],
    square: Float[np.ndarray, "layer width"],
    rank: int,
) -> bool:
    """Whether little energy is missing: of each vector at most its residual, squared, over the gap to those beyond.

    ``back``: what the sum's square makes of each wanted vector. ``square``: energies, rising.
    """
    energy = square[:, : -rank - 1 : -1]
    residual = np.einsum("lsr,lsr->lr", back, along @ back) - energy**2
    gap = np.maximum(energy - square[:, :1], 1e-3 * energy)
    missing = np.divide(residual, gap, out=np.zeros_like(gap), where=gap > 0.0).sum(axis=1)
    return bool((missing <= SETTLED * energy.sum(axis=1)).all())


def alike(adapters: Sequence[LowRank]) -> Iterator[tuple[list[str], list[Layers]]]:
    """Layers of one shape: their names, and ``a`` and the transposed ``b`` of each adapter, layers side by side."""
    names = defaultdict(list)
    for name, factors in adapters[0].layers.items():
        ranks = tuple(adapter.layers[name].rank for adapter in adapters)
        names[len(factors.b), factors.a.shape[1], ranks].append(name)
    for found in names.values():
        held = [[adapter.layers[name] for name in found] for adapter in adapters]
        yield found, [(np.stack([f.a for f in row]), np.stack([f.b.T for f in row])) for row in held]


def agree(adapters: Sequence[LowRank]) -> None:
    """Refuses adapters that do not change the same weights of the same model."""
    if not adapters:
        raise InputError("adapters: there must be at least one")
    first = adapters[0]
    for number, adapter in enumerate(adapters[1:], 1):
        if adapter.base != first.base:
            raise InputError(f"adapter {number}: made for base {adapter.base[:12]}, the first for {first.base[:12]}")
        if adapter.layers.keys() != first.layers.keys():
            raise InputError(f"adapter {number}: its layers are not those of the first")
        if adapter.shapes == first.shapes:
            continue
        for name, (outward, _, inward) in adapter.shapes.items():
            if (outward, inward) != first.shapes[name][::2]:
                raise InputError(f"adapter {number}: layer {name} has another shape than the first's")
