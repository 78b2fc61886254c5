"""How adapters of one setting are joined: through their products, or, where all share a frozen ``a``, through ``b`` alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from typing import Literal

import numpy as np
from jaxtyping import Float

from gainnet.knowledge import aggregate
from gainnet.knowledge.aggregate import Term
from gainnet.knowledge.span import Span
from gainnet.knowledge.stack import Layers, Stack, alike
from gainnet.knowledge.update import Update
from gainnet.models.low_rank import Factors, LowRank

Rule = Literal["fedit", "ffa", "flexlora", "flora"]

WIDER = 2
"""Times the rank of edges and cloud, that of means which are only looked at: pairs of edges lie there as well as in a cut."""
RIDGE = 1e-7
"""Added to a Gram matrix of float32 rows, as a part of its trace: some may depend on others."""


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

    def handed(self, adapter: LowRank) -> LowRank:
        """An adapter as those get it who learn from it: at 16 bits a number, in factors that `cut` finds the best cut of.

        Joining what they made of it begins with the same numbers, so that these cancel.
        """
        if self.linear:
            return adapter.halved("b")
        return (adapter if self.rule == "fedit" else self.balanced(adapter)).halved()

    def cut(self, handed: LowRank, rank: int) -> LowRank:
        """What an end of that rank has of what is handed out: the first rows and columns, as they are."""
        return handed if handed.rank <= rank else aggregate.first(handed, rank)

    def gather(self, start: LowRank, updates: Sequence[Update]) -> LowRank:
        """An edge's adapter with what its ends learnt, each counted by its weight; its factors need not be balanced."""
        weights = [update.weight for update in updates]
        if self.rule == "fedit":
            return aggregate.fedit([onto(start, update) for update in updates], weights)
        if self.linear:
            return aggregate.ffa([onto(start, update) for update in updates], weights)
        if self.rule == "flora":
            mean = aggregate.flora([update.after for update in updates], weights)
            whole = sum(weights)
            missing = [(-weight / whole, update.before) for weight, update in zip(weights, updates, strict=True)]
            return aggregate.total(mean, [(1.0, start), *missing], start.rank + mean.rank)
        changes = [(update.weight, update.before, update.after) for update in updates]
        return aggregate.flexlora(start, changes, self.rank, nearly=True)

    def change(self, before: LowRank, after: LowRank) -> LowRank:
        """What was learnt between two adapters, as an adapter of its own."""
        if self.linear:
            return shifted(after, [(-1.0, before)])
        return aggregate.difference(after, before)

    def add(self, adapter: LowRank, changes: Sequence[Term]) -> LowRank:
        """An adapter with weighted changes added; its factors need not be balanced."""
        if self.linear:
            return shifted(adapter, [(weight, _folded(change, adapter.rank)) for weight, change in changes])
        return aggregate.total(adapter, changes, self.rank, nearly=True)

    def mix(self, cloud: LowRank, own: LowRank, kept: float) -> LowRank:
        """The cloud's adapter, with ``kept`` of an edge's own in its place."""
        if kept in (0.0, 1.0):
            return self.kept(own if kept else cloud)
        if self.linear:
            return shifted(cloud, [(kept, own), (-kept, cloud)])
        return self.kept(aggregate.mix(cloud, own, kept, nearly=True))

    def kept(self, adapter: LowRank) -> LowRank:
        """An adapter as edges and the cloud keep it: cut to their rank where it has more."""
        return aggregate.truncate(adapter, self.rank)

    def balanced(self, adapter: LowRank) -> LowRank:
        """The same product, of factors whose first rows and columns are its best cut to any lower rank."""
        return adapter if self.linear else aggregate.total(adapter, [], adapter.rank)

    def means(self, adapters: Sequence[LowRank]) -> Means:
        """Weighted means of some adapters, to be had at different weights."""
        return Means(adapters, self.rank, linear=self.linear)

    def line(self, before: LowRank, after: LowRank) -> Line:
        """The way from one adapter to another, and beyond."""
        return Line(before, after, linear=self.linear)


class Means:
    """Weighted means of the same adapters, each cut to a rank: what they have in common is computed once.

    Args:
        adapters: at least one, of at most that rank.
        rank: of the means.
        linear: whether their factors ``b`` add.
    """

    def __init__(self, adapters: Sequence[LowRank], rank: int, *, linear: bool) -> None:
        self._adapters, self._rank, self._is_linear = tuple(adapters), rank, linear
        self._known: dict[tuple[float, ...], LowRank] = {}

    def of(self, weights: Sequence[float]) -> LowRank:
        """The mean at these weights, one for each adapter, not all zero; that of one alone is that one itself."""
        share = _shares(weights)
        found = self._at_hand(share)
        if found is None:
            found = self._known[share] = self._linear(share) if self._is_linear else self._stack.sum(share, self._rank)
        return found

    def near(self, weights: Sequence[float]) -> LowRank:
        """About that mean, at a fraction of its cost, for what is only looked at (see `gainnet.knowledge.span`).

        Where it is not at hand it has up to `WIDER` times the rank, and lies about as near to the mean as the cut does.
        """
        share = _shares(weights)
        found = self._at_hand(share)
        if found is not None:
            return found
        return self._linear(share) if self._is_linear else self._span.at(share)

    @cached_property
    def _stack(self) -> Stack:
        return Stack(self._adapters)

    @cached_property
    def _span(self) -> Span:
        return Span(self._stack, WIDER * self._rank)

    def _at_hand(self, share: tuple[float, ...]) -> LowRank | None:
        return self._adapters[share.index(1.0)] if 1.0 in share else self._known.get(share)

    def _linear(self, share: tuple[float, ...]) -> LowRank:
        first = self._adapters[0]
        return shifted(first, [(-1.0, first), *zip(share, self._adapters, strict=True)])


class Line:
    """The way from one adapter to another, and beyond, at the rank of the latter.

    A product ``x + r (y - x)`` has twice the rank. Here ``x`` is first projected to the rows of ``y``'s ``a``, which all
    points of the line then share: so they need no cut, the point 1 is ``y`` itself, and going beyond it does not take out
    once more what ``y`` has left of ``x``.

    Args:
        before, after: the points 0 (as far as it lies in the rows of the other) and 1.
        linear: whether both have the same ``a``.
    """

    def __init__(self, before: LowRank, after: LowRank, *, linear: bool) -> None:
        self._after = after
        self._parts = []
        for names, [begin, end] in alike([before, after]):
            start = begin[1] if linear else _projected(begin, end[0])
            self._parts.append((names, start * np.float32(before.scale / after.scale), end[1]))

    def at(self, reach: float) -> LowRank:
        """The point so far along it."""
        if reach == 1.0:
            return self._after
        go, stay = np.float32(reach), np.float32(1.0 - reach)
        found: dict[str, Float[np.ndarray, "rank output"]] = {}
        for names, start, end in self._parts:
            found |= dict(zip(names, go * end + stay * start, strict=True))
        layers = {name: Factors(factors.a, found[name].T) for name, factors in self._after.layers.items()}
        return replace(self._after, layers=layers)


def _shares(weights: Sequence[float]) -> tuple[float, ...]:
    whole = sum(weights)
    return tuple(weight / whole for weight in weights)


def _projected(layers: Layers, rows: Float[np.ndarray, "layer row input"]) -> Float[np.ndarray, "layer row output"]:
    """What takes the place of ``b``, transposed, where products are projected to the span of rows."""
    a, b = layers
    gram = (rows @ rows.transpose(0, 2, 1)).astype(np.float64)
    ridge = RIDGE * np.maximum(gram.trace(axis1=1, axis2=2), RIDGE)
    gram += ridge[:, None, None] * np.eye(gram.shape[1])
    return np.linalg.solve(gram, rows @ a.transpose(0, 2, 1)).astype(np.float32) @ b


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


def onto(start: LowRank, update: Update) -> LowRank:
    """What an end made, of ``start``: the change of its factors moved there where it began with another adapter, an older
    one or the same as it came over the link.
    """
    if update.before is start:
        return update.after
    layers = {}
    for name, factors in start.layers.items():
        after, before = update.after.layers[name], update.before.layers[name]
        layers[name] = Factors(factors.a + (after.a - before.a), factors.b + (after.b - before.b))
    return replace(update.after, layers=layers)


def scaled(adapter: LowRank, factor: float) -> LowRank:
    """An adapter whose products are ``factor`` times as large."""
    layers = {
        name: Factors(factors.a, (factor * factors.b.astype(np.float64)).astype(np.float32))
        for name, factors in adapter.layers.items()
    }
    return replace(adapter, layers=layers)


def blank(adapter: LowRank) -> LowRank:
    """What a receiver has of an adapter's factors before they are sent: zeros of these shapes."""
    layers = {name: Factors(np.zeros_like(f.a), np.zeros_like(f.b)) for name, f in adapter.layers.items()}
    return replace(adapter, layers=layers)
