"""How adapters of one setting are joined: through their products, or, where all share a frozen ``a``, through ``b`` alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import numpy as np

from gainnet.knowledge import aggregate
from gainnet.knowledge.aggregate import Term
from gainnet.knowledge.update import Update
from gainnet.models.low_rank import Factors, LowRank

Rule = Literal["fedit", "ffa", "flexlora", "flora"]


class Algebra:
    """One rule of aggregation, at an edge and at the cloud.

    Args:
        rule: which.
        rank: what edges and cloud keep.

    Attributes:
        linear: whether factors ``b`` add (FFA-LoRA), so that sums may be masked and noised.
    """

    def __init__(self, rule: Rule, rank: int) -> None:
        self.rule, self.rank = rule, rank
        self.linear = rule == "ffa"

    def cut(self, adapter: LowRank, rank: int) -> LowRank:
        """What an end of that rank begins with."""
        return aggregate.truncate(adapter, rank)

    def gather(self, start: LowRank, updates: Sequence[Update]) -> LowRank:
        """An edge's adapter with what its ends learnt, each counted by its weight."""
        weights = [update.weight for update in updates]
        if self.rule == "fedit":
            return aggregate.fedit([update.after for update in updates], weights)
        if self.linear:
            return aggregate.ffa([update.after for update in updates], weights)
        if self.rule == "flora":
            mean = aggregate.flora([update.after for update in updates], weights)
            whole = sum(weights)
            missing = [(-weight / whole, update.before) for weight, update in zip(weights, updates, strict=True)]
            return aggregate.total(mean, [(1.0, start), *missing], mean.rank)
        changes = [(update.weight, update.before, update.after) for update in updates]
        return aggregate.flexlora(start, changes, self.rank)

    def change(self, before: LowRank, after: LowRank) -> LowRank:
        """What was learnt between two adapters, as an adapter of its own."""
        if self.linear:
            return shifted(after, [(-1.0, before)])
        return aggregate.total(after, [(-1.0, before)], before.rank + after.rank)

    def add(self, adapter: LowRank, changes: Sequence[Term]) -> LowRank:
        """An adapter with weighted changes added."""
        if self.linear:
            return shifted(adapter, [(weight, _folded(change, adapter.rank)) for weight, change in changes])
        return aggregate.total(adapter, changes, self.rank)

    def mix(self, cloud: LowRank, own: LowRank, kept: float) -> LowRank:
        """The cloud's adapter, with ``kept`` of an edge's own in its place."""
        if kept in (0.0, 1.0):
            return aggregate.truncate(own if kept else cloud, self.rank)
        if self.linear:
            return shifted(cloud, [(kept, own), (-kept, cloud)])
        return aggregate.truncate(aggregate.mix(cloud, own, kept), self.rank)


def shifted(adapter: LowRank, changes: Sequence[Term]) -> LowRank:
    """An adapter whose ``b`` is moved by weighted ``b`` of others that have the same ``a``."""
    layers = {}
    for name, factors in adapter.layers.items():
        b = factors.b.astype(np.float64)
        for weight, change in changes:
            b += weight * change.layers[name].b
        layers[name] = Factors(factors.a, b.astype(np.float32))
    return replace(adapter, layers=layers)


def _folded(stack: LowRank, rank: int) -> LowRank:
    """A stack of adapters that share ``a``, as one of their rank."""
    layers = {
        name: Factors(factors.a[:rank], factors.b.reshape(len(factors.b), -1, rank).sum(axis=1))
        for name, factors in stack.layers.items()
    }
    return replace(stack, layers=layers)


def scaled(adapter: LowRank, factor: float) -> LowRank:
    """An adapter whose products are ``factor`` times as large."""
    layers = {
        name: Factors(factors.a, (factor * factors.b.astype(np.float64)).astype(np.float32))
        for name, factors in adapter.layers.items()
    }
    return replace(adapter, layers=layers)


def blank(adapter: LowRank, *, linear: bool) -> LowRank:
    """What a receiver has before an adapter of these shapes is sent: zeros, but ``a`` where all share it."""
    layers = {
        name: Factors(factors.a if linear else np.zeros_like(factors.a), np.zeros_like(factors.b))
        for name, factors in adapter.layers.items()
    }
    return replace(adapter, layers=layers)
