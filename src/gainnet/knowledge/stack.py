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
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float, Int

from gainnet.errors import InputError
from gainnet.knowledge import stack_kernel as kernel
from gainnet.models.low_rank import Factors, LowRank

RIDGE, FINE_RIDGE = 2e-6, 1e-14
"""Added to a Gram matrix, since a stack may have dependent columns: as a part of its diagonal where its sums are float32
(wide stacks), of its trace where they are float64."""
NEGLIGIBLE = 1e-7
"""Of the largest singular value: what is below is rounding of float32 factors."""
NOTHING = 1e-12
"""Sums of shares that should cancel leave 1e-16."""

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


@dataclass(frozen=True, slots=True)
class _Part:
    """Layers of one shape.

    Attributes:
        names: of the layers.
        a, b: the stacks, ``b`` transposed.
    """

    names: list[str]
    a: Float[np.ndarray, "layer stack input"]
    b: Float[np.ndarray, "layer stack output"]

    def named(
        self, down: Float[np.ndarray, "layer rank input"], up: Float[np.ndarray, "layer rank output"]
    ) -> dict[str, Factors]:
        """Its layers, of these factors."""
        return {name: Factors(down[number], up[number].T) for number, name in enumerate(self.names)}


@dataclass(frozen=True, slots=True)
class _Group:
    """Layers of the same ranks, and what their sums have in common.

    Attributes:
        parts: the layers, those of one shape together.
        column: of the whole stack, which of its columns these layers have.
        along, across: Gram matrices of their stacks, part by part.
        fine: whether these were summed in float64.
    """

    parts: list[_Part]
    column: Int[np.ndarray, " stack"]
    along: Float[np.ndarray, "layer stack stack"]
    across: Float[np.ndarray, "layer stack stack"]
    fine: bool

    @property
    def rank(self) -> int:
        """That of no layer can be larger."""
        return max(min(int(part.a.shape[2]), int(part.b.shape[2])) for part in self.parts)

    def used(
        self, weight: Float[np.ndarray, " stack"], rank: int
    ) -> tuple[
        slice | Int[np.ndarray, " used"],
        Float[np.ndarray, "layer used used"],
        Float[np.ndarray, "layer used used"],
        Float[np.ndarray, " used"],
    ]:
        """The columns that weigh something (some, where none does): which, their Gram matrices, their weights."""
        used = np.flatnonzero(np.abs(weight) > NOTHING)
        if not len(used):
            used = np.arange(min(rank, len(weight)))
        if len(used) == len(weight):
            return slice(None), self.along, self.across, weight
        close = used[-1] - used[0] == len(used) - 1
        part_of = slice(int(used[0]), int(used[-1]) + 1) if close else used  # a slice copies nothing
        along, across = (gram[:, part_of][:, :, part_of] for gram in (self.along, self.across))
        return part_of, along, across, weight[used]

    def factors(
        self,
        part_of: slice | Int[np.ndarray, " used"],
        right: Float[np.ndarray, "layer used rank"],
        left: Float[np.ndarray, "layer used rank"],
    ) -> Iterator[tuple[_Part, slice, Float[np.ndarray, "layer rank input"], Float[np.ndarray, "layer rank output"]]]:
        """``a`` and the transposed ``b`` of each part's layers, and which these are of all, made of the stacks' columns."""
        right, left = (made.astype(np.float32).transpose(0, 2, 1) for made in (right, left))
        at = 0
        for part in self.parts:
            here, at = slice(at, at + len(part.names)), at + len(part.names)
            yield part, here, right[here] @ part.a[:, part_of], left[here] @ part.b[:, part_of]


_Cut = Callable[[_Group, Float[np.ndarray, " stack"]], dict[str, Factors]]


class Stack:
    """Adapters whose weighted sums are wanted.

    Equal factors are held once, and those that are the first columns of others' with them, so that ends which began at
    one adapter cost no more than one.

    Args:
        adapters: at least one; sums have the scale of the first.

    Raises:
        InputError: adapters of other bases, layers or shapes; NaN or infinity in any.
    """

    def __init__(self, adapters: Sequence[LowRank]) -> None:
        agree(adapters)
        self._adapters = tuple(adapters)
        self._blocks: list[LowRank] = []
        self._begin: list[int] = []
        self._place = [(0, 0)] * len(adapters)
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
            self._place[index] = (self._begin[at], rank)
        self._width = width
        self._groups = self._grouped()

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

    def _summed(self, weights: Sequence[float], cut: _Cut) -> LowRank:
        """A sum whose layers, group by group, are what ``cut`` makes of it."""
        column = np.zeros(self._width)
        scale = self._adapters[0].scale
        for weight, adapter, (begin, held) in zip(weights, self._adapters, self._place, strict=True):
            column[begin : begin + held] += weight * adapter.scale / scale
        found: dict[str, Factors] = {}
        for group in self._groups:
            found |= cut(group, column[group.column])
        first = self._adapters[0]
        return replace(first, layers={name: found[name] for name in first.layers})

    def _grouped(self) -> list[_Group]:
        shapes: dict[tuple[int, ...], dict[tuple[int, int], list[str]]] = defaultdict(lambda: defaultdict(list))
        blocks = [block.shapes for block in self._blocks]
        for name, (outward, _, inward) in self._adapters[0].shapes.items():
            ranks = tuple([block[name][1] for block in blocks])
            shapes[ranks][outward, inward].append(name)
        return [self._group(list(found.values()), ranks) for ranks, found in shapes.items()]

    def _group(self, layers: list[list[str]], ranks: tuple[int, ...]) -> _Group:
        parts = [self._stacked(names, ranks) for names in layers]
        fine = sum(ranks) <= WIDE
        along, across = (
            np.concatenate([_gram(part, fine=fine) for part in stacks])
            for stacks in ([part.a for part in parts], [part.b for part in parts])
        )
        broken = ~np.isfinite(along.trace(axis1=1, axis2=2) + across.trace(axis1=1, axis2=2))
        if broken.any():
            name = [name for names in layers for name in names][int(broken.argmax())]
            raise InputError(f"adapter: layer {name} holds NaN or infinity")
        column = np.concatenate([np.arange(begin, begin + r) for begin, r in zip(self._begin, ranks, strict=True)])
        return _Group(parts, column, along, across, fine)

    def _stacked(self, names: list[str], ranks: tuple[int, ...]) -> _Part:
        """Layers of one shape, side by side."""
        first = self._adapters[0].layers[names[0]]
        a, b = (np.empty((len(names), sum(ranks), size), np.float32) for size in (first.a.shape[1], len(first.b)))
        ends = np.cumsum(ranks).tolist()
        for number, name in enumerate(names):
            for block, rank, end in zip(self._blocks, ranks, ends, strict=True):
                factors = block.layers[name]
                a[number, end - rank : end], b[number, end - rank : end] = factors.a, factors.b.T
        return _Part(names, a, b)

    def _cut(self, group: _Group, weight: Float[np.ndarray, " stack"], rank: int) -> dict[str, Factors]:
        """The layers of a group, summed and cut."""
        rank = min(rank, group.rank)
        part_of, along, across, weight = group.used(weight, rank)
        rank = min(rank, len(weight))
        if len(weight) > WIDE:
            sigma, right, left = _iterated(along, across, weight, rank)
        else:
            sigma, right, left = _singular(along, across, weight, rank, group.fine)
        good = sigma > NEGLIGIBLE * sigma.max(axis=1, keepdims=True)
        root = np.sqrt(np.where(good, sigma, 1.0))[:, None]
        right, left = np.where(good[:, None], right * root, 0.0), np.where(good[:, None], left / root, 0.0)
        found: dict[str, Factors] = {}
        for part, here, down, up in group.factors(part_of, right, left):
            most = min(rank, part.a.shape[2], part.b.shape[2])
            self._revived(part.names, down[:, :most], good[here, :most])
            found |= part.named(down[:, :most], up[:, :most])
        return found

    def _rough(self, group: _Group, weight: Float[np.ndarray, " stack"], rank: int) -> dict[str, Factors]:
        """The layers of a group, summed and about cut."""
        rank = min(rank, group.rank)
        part_of, along, across, weight = group.used(weight, rank)
        across = weight[:, None] * across * weight
        taken = np.random.default_rng(0).standard_normal((len(weight), min(rank, len(weight))))
        right, image = _leading(along, across, taken, SWEEPS)
        found: dict[str, Factors] = {}
        good = np.asarray(right.any(axis=1))
        for part, here, down, up in group.factors(part_of, right, weight[:, None] * image):
            self._revived(part.names, down, good[here])
            found |= part.named(down, up)
        return found

    def _revived(
        self, names: list[str], down: Float[np.ndarray, "layer rank input"], good: Bool[np.ndarray, "layer rank"]
    ) -> None:
        """Where a product is zero, put the first rows of the first adapter's a."""
        for number in np.flatnonzero(~good.all(axis=1)).tolist():
            spare = self._adapters[0].layers[names[number]].a[: good.shape[1]]
            dead = np.flatnonzero(~good[number, : len(spare)])
            down[number, dead] = spare[dead]


def _gram(stacks: Float[np.ndarray, "layer stack side"], *, fine: bool) -> Float[np.ndarray, "layer stack stack"]:
    """Inner products of a stack's rows, float64, summed so only where it is ``fine``."""
    summed = stacks.astype(np.float64) if fine else stacks
    return np.asarray(np.matmul(summed, summed.transpose(0, 2, 1)), np.float64)


def _begins(longer: LowRank, shorter: LowRank, rank: int) -> bool:
    """Whether every layer of one has the first columns of another's, which has this rank in all layers."""
    return longer is shorter or all(
        factors.rank == rank
        and longer.layers[name].rank >= rank
        and np.array_equal(factors.b, longer.layers[name].b[:, :rank])
        and np.array_equal(factors.a, longer.layers[name].a[:rank])
        for name, factors in shorter.layers.items()
    )


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
        right, image = _leading(along, across, taken, SWEEPS)
        taken = across @ image
        square, turn = np.linalg.eigh(image.transpose(0, 2, 1) @ taken)
        wanted = turn[:, :, : -rank - 1 : -1]
        if _settled(along, taken @ wanted, square, rank):
            break
    sigma = np.sqrt(np.maximum(square[:, : -rank - 1 : -1], 0.0))
    return sigma, right @ wanted, weight[:, None] * (image @ wanted)


def _leading(
    along: Float[np.ndarray, "layer stack stack"],
    across: Float[np.ndarray, "layer stack stack"],
    taken: Float[np.ndarray, "*layer stack width"],
    sweeps: int,
) -> tuple[Float[np.ndarray, "layer stack width"], Float[np.ndarray, "layer stack width"]]:
    """Orthonormal rows that have about the most of a sum's energy, by so many sweeps of block power iteration.

    They are given as what is taken of each row of ``a``, with their inner products with these rows; ``taken`` is where it
    starts, and ``across`` has the weights in it.
    """
    over = np.empty((len(along), taken.shape[-1], taken.shape[-1]))
    while True:
        image = along @ taken
        kernel.whiten(np.swapaxes(taken, -1, -2) @ image, over)
        image, sweeps = image @ over, sweeps - 1
        if not sweeps:
            return taken @ over, image
        taken = across @ image


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
