"""Weighted means of some adapters in rows that they share: for many that are only looked at.

All means of adapters ``b_k a_k`` lie in the rows of all ``a_k``, and most of each in the few rows ``r`` (orthonormal) that have
the most of ``sum_k |b_k a_k r^T|^2 / |b_k a_k|^2``: each adapter counts equally, and what would cancel in a sum does not. There
adapters are ``b_k a_k r^T``, which add.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from jaxtyping import Float, Int

from gainnet.knowledge.stack import Stack
from gainnet.knowledge.stack_group import Group, leading
from gainnet.models.low_rank import Factors, LowRank

SWEEPS = 3
"""Of block power iteration, for the rows."""

Held = tuple[list[str], Float[np.ndarray, "layer rank input"], Float[np.ndarray, "adapter layer rank output"]]


class Span:
    """The adapters of a stack, as far as they lie in some rows.

    Args:
        stack: of the adapters.
        rank: how many rows, at most.
    """

    def __init__(self, stack: Stack, rank: int) -> None:
        self._first = stack.adapters[0]
        self._scale = np.array([adapter.scale / self._first.scale for adapter in stack.adapters])
        self._held: list[Held] = []
        for group in stack.groups:
            self._held.extend(_held(group, stack.place, rank))

    def at(self, weights: Sequence[float]) -> LowRank:
        """The weighted sum of products there."""
        weight = (np.asarray(weights, np.float64) * self._scale).astype(np.float32)
        found: dict[str, Factors] = {}
        for names, rows, apart in self._held:
            joined = np.tensordot(weight, apart, 1)
            found |= {name: Factors(rows[number], joined[number].T) for number, name in enumerate(names)}
        return replace(self._first, layers={name: found[name] for name in self._first.layers})


def _held(group: Group, place: Sequence[tuple[int, int]], rank: int) -> list[Held]:
    """The layers of a group: their rows, and each adapter's part there."""
    along, across = group.along(fine=False), group.across(fine=False)
    columns = [np.flatnonzero((group.column >= begin) & (group.column < begin + held)) for begin, held in place]
    drawn = np.random.default_rng(0).standard_normal((len(group.column), min(rank, group.rank, len(group.column))))
    right, image = leading(along, _apart(along, across, columns), drawn, SWEEPS)
    down = right.astype(np.float32).transpose(0, 2, 1)
    up = image.astype(np.float32).transpose(0, 2, 1)
    found, at = [], 0
    for part in group.parts:
        here, at = slice(at, at + len(part.names)), at + len(part.names)
        apart = np.stack([up[here][:, :, mine] @ part.b[:, mine] for mine in columns])
        found.append((part.names, down[here] @ part.a, apart))
    return found


def _apart(
    along: Float[np.ndarray, "layer stack stack"],
    across: Float[np.ndarray, "layer stack stack"],
    columns: Sequence[Int[np.ndarray, " _"]],
) -> Float[np.ndarray, "layer stack stack"]:
    """The sum of the adapters' own Gram matrices of ``b``, each divided by the energy of its product."""
    found = np.zeros_like(across)
    for mine in columns:
        pick = np.ix_(np.arange(len(along)), mine, mine)
        own = across[pick]
        energy = np.einsum("lij,lij->l", along[pick], own)
        found[pick] += np.divide(own, energy[:, None, None], out=np.zeros_like(own), where=energy[:, None, None] > 0.0)
    return found
