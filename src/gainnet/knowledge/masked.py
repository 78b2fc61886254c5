"""An edge's weighted mean of changes that it sees only the sum of (`gainnet.knowledge.secure`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float

from gainnet.errors import InputError
from gainnet.knowledge.secure import Entropy, masked_sum
from gainnet.knowledge.update import Update
from gainnet.models.low_rank import Factors, LowRank

WEIGHT_UNIT = 64.0
"""Examples that weigh one, so that weighted changes stay far inside the fixed-point range."""


@dataclass(frozen=True, slots=True)
class Masks:
    """Who masks what is sent.

    Attributes:
        asked: all ends that exchanged keys when the round began; those without an update dropped out.
        entropy: where secrets come from.
    """

    asked: Sequence[int]
    entropy: Entropy


@dataclass(frozen=True, slots=True)
class Total:
    """A sum, and what it took.

    Attributes:
        vector: the sum.
        uplink_bit: what all members sent, keys and shares included.
    """

    vector: Float[np.ndarray, " number"]
    uplink_bit: float


@dataclass(frozen=True, slots=True)
class Gathered:
    """What an edge makes of a masked sum.

    Attributes:
        adapter: with the mean change.
        uplink_bit: what all members sent, keys and shares included.
    """

    adapter: LowRank
    uplink_bit: float


def gather(start: LowRank, updates: Sequence[Update], masks: Masks) -> Gathered:
    """The mean change of ``b``, by weight, of those who survived, unmasked as a sum only.

    Args:
        start: what all of them began with.
        updates: what survivors have to send.
        masks: who masks it.

    Raises:
        InputError: not more than half of the members survived.
    """
    found = total({update.end: _vector(update) for update in updates}, masks, numbers(start))
    weight, mean, layers = found.vector[0], found.vector[1:], {}
    at = 0
    for name, factors in start.layers.items():
        change = mean[at : at + factors.b.size].reshape(factors.b.shape) / weight
        layers[name] = Factors(factors.a, (factors.b + change).astype(np.float32))
        at += factors.b.size
    return Gathered(replace(start, layers=layers), found.uplink_bit)


def total(vectors: Mapping[int, Float[np.ndarray, " number"]], masks: Masks, size: int) -> Total:
    """The sum of what survivors have to send, by end, of so many numbers each; see `gather` for the rest."""
    members = sorted({*masks.asked, *vectors})
    if len(members) < 2:
        raise InputError("a sum of one update would tell what it is")
    lost = [end for end in members if end not in vectors]
    found = masked_sum(
        {end: vectors[end] if end in vectors else np.zeros(size) for end in members},
        len(members) // 2 + 1,
        masks.entropy,
        lost=lost,
    )
    return Total(found.total, float(sum(found.up_bit.values())))


def numbers(adapter: LowRank) -> int:
    """How many numbers an end masks: its factors ``b``, and its weight."""
    return 1 + sum(factors.b.size for factors in adapter.layers.values())


def _vector(update: Update) -> Float[np.ndarray, " number"]:
    """The weight, and the weighted changes of ``b`` of all layers."""
    weight = update.weight / WEIGHT_UNIT
    changes = [(update.after.layers[name].b - factors.b).ravel() for name, factors in update.before.layers.items()]
    return np.concatenate([[weight], weight * np.concatenate(changes).astype(np.float64)])
