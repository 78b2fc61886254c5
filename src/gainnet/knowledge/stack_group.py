"""Layers of one kind of a stack of adapters, side by side, and the Gram matrices that all their sums share."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float, Int

from gainnet.errors import InputError
from gainnet.knowledge import stack_kernel as kernel
from gainnet.models.low_rank import Factors

NOTHING = 1e-12
"""Sums of shares that should cancel leave 1e-16."""


@dataclass(frozen=True, slots=True)
class Part:
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
class Group:
    """Layers of the same ranks, and what their sums have in common.

    Attributes:
        parts: the layers, those of one shape together.
        column: of the whole stack, which of its columns these layers have.
    """

    parts: list[Part]
    column: Int[np.ndarray, " stack"]
    _grams: dict[tuple[str, bool], Float[np.ndarray, "layer stack stack"]] = field(default_factory=dict, init=False)

    def along(self, *, fine: bool) -> Float[np.ndarray, "layer stack stack"]:
        """Gram matrices of the rows of ``a``, part by part, summed in float64 where ``fine``; computed once."""
        return self._gram("a", fine)

    def across(self, *, fine: bool) -> Float[np.ndarray, "layer stack stack"]:
        """The same of the columns of ``b``."""
        return self._gram("b", fine)

    def _gram(self, side: str, fine: bool) -> Float[np.ndarray, "layer stack stack"]:
        found = self._grams.get((side, fine))
        if found is None:
            found = np.concatenate([_gram(part.a if side == "a" else part.b, fine=fine) for part in self.parts])
            broken = ~np.isfinite(found.trace(axis1=1, axis2=2))
            if broken.any():
                name = [name for part in self.parts for name in part.names][int(broken.argmax())]
                raise InputError(f"adapter: layer {name} holds NaN or infinity")
            self._grams[side, fine] = found
        return found

    @property
    def rank(self) -> int:
        """That of no layer can be larger."""
        return max(min(int(part.a.shape[2]), int(part.b.shape[2])) for part in self.parts)

    def used(
        self, weight: Float[np.ndarray, " stack"], rank: int, *, fine: bool
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
        grams = self.along(fine=fine), self.across(fine=fine)
        if len(used) == len(weight):
            return slice(None), *grams, weight
        close = used[-1] - used[0] == len(used) - 1
        part_of = slice(int(used[0]), int(used[-1]) + 1) if close else used  # a slice copies nothing
        along, across = (gram[:, part_of][:, :, part_of] for gram in grams)
        return part_of, along, across, weight[used]

    def factors(
        self,
        part_of: slice | Int[np.ndarray, " used"],
        right: Float[np.ndarray, "layer used rank"],
        left: Float[np.ndarray, "layer used rank"],
    ) -> Iterator[tuple[Part, slice, Float[np.ndarray, "layer rank input"], Float[np.ndarray, "layer rank output"]]]:
        """``a`` and the transposed ``b`` of each part's layers, and which these are of all, made of the stacks' columns."""
        right, left = (made.astype(np.float32).transpose(0, 2, 1) for made in (right, left))
        at = 0
        for part in self.parts:
            here, at = slice(at, at + len(part.names)), at + len(part.names)
            yield part, here, right[here] @ part.a[:, part_of], left[here] @ part.b[:, part_of]


def _gram(stacks: Float[np.ndarray, "layer stack side"], *, fine: bool) -> Float[np.ndarray, "layer stack stack"]:
    """Inner products of a stack's rows, float64, summed so only where it is ``fine``."""
    summed = stacks.astype(np.float64) if fine else stacks
    return np.asarray(np.matmul(summed, summed.transpose(0, 2, 1)), np.float64)


def leading(
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
