"""What each edge contributed, and what it is paid for it.

A player's Shapley value is its marginal value to those before it, averaged over all orders of players: values sum to what all
are worth together, equal players get equal ones, and one who adds nothing to anybody gets nothing. Sampled as in
GTG-Shapley (arXiv 2109.02053): a round that changed little is not looked into (between rounds), an order is not
followed once what is left of the total is little (within a round), and each player leads equally many orders.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations
from math import factorial

import numpy as np
from jaxtyping import Float

from gainnet.errors import InputError

Value = Callable[[frozenset[int]], float]
"""The value of a coalition of players, larger is better: less loss on validation data of the model joined from them."""


@dataclass(frozen=True, slots=True)
class Shares:
    """Shapley values.

    Attributes:
        value: of each player, in the order of players.
        evaluated: coalitions whose value was asked for.
    """

    value: tuple[float, ...]
    evaluated: int


@dataclass(frozen=True, slots=True)
class Payment:
    """What is paid in a round.

    Attributes:
        paid: to each player, 0 where it takes no part.
        included: who takes part.
    """

    paid: tuple[float, ...]
    included: tuple[bool, ...]


class _Cached:
    """A value that is asked for each coalition once."""

    def __init__(self, value: Value) -> None:
        self._value = value
        self.known: dict[frozenset[int], float] = {}

    def __call__(self, coalition: frozenset[int]) -> float:
        if coalition not in self.known:
            found = float(self._value(coalition))
            if not np.isfinite(found):
                raise InputError(
                    f"contribution: the value of players {sorted(coalition)} is {found}; it must be finite"
                )
            self.known[coalition] = found
        return self.known[coalition]


def exact(players: Sequence[int], value: Value) -> Shares:
    """Shapley values from all ``2^n`` coalitions: for few players."""
    held = _Cached(value)
    count = len(players)
    found = []
    for player in players:
        others = [other for other in players if other != player]
        sum_ = 0.0
        for size in range(count):
            part = factorial(size) * factorial(count - size - 1) / factorial(count)
            for chosen in combinations(others, size):
                coalition = frozenset(chosen)
                sum_ += part * (held(coalition | {player}) - held(coalition))
        found.append(sum_)
    return Shares(tuple(found), len(held.known))


def shapley(
    players: Sequence[int], value: Value, permutations: int, tolerance: float, rng: np.random.Generator
) -> Shares:
    """Shapley values from sampled orders of players.

    Args:
        players: distinct.
        value: of a coalition; asked once of each that is met.
        permutations: orders to sample, rounded up to a multiple of the players, each of whom leads equally many.
        tolerance: what counts as little, in units of the value.
        rng: draws the orders.

    Returns:
        Values that sum to that of all less that of none, to within `tolerance`.
    """
    if len(set(players)) != len(players):
        raise InputError("contribution: players must be distinct")
    held = _Cached(value)
    count = len(players)
    total = np.zeros(count)
    whole, none = held(frozenset(players)), held(frozenset())
    if count == 0 or abs(whole - none) <= tolerance:
        return Shares((0.0,) * count, len(held.known))
    turns = -(-max(permutations, 1) // count)
    for leader in range(count):
        for _ in range(turns):
            rest = rng.permutation([other for other in range(count) if other != leader])
            total += _marginals(players, [leader, *(int(one) for one in rest)], held, whole, tolerance)
    return Shares(tuple(float(one) for one in total / (turns * count)), len(held.known))


def _marginals(
    players: Sequence[int], order: Sequence[int], held: _Cached, whole: float, tolerance: float
) -> Float[np.ndarray, " player"]:
    """What each player adds to those before it in an order; nothing once all but `tolerance` is reached."""
    found = np.zeros(len(players))
    coalition: frozenset[int] = frozenset()
    before = held(coalition)
    for at in order:
        if abs(whole - before) <= tolerance:
            break
        coalition |= {players[at]}
        after = held(coalition)
        found[at] = after - before
        before = after
    return found


def pay(shares: Sequence[float], budget: float, cost: float | Sequence[float]) -> Payment:
    """The budget in proportion to shares, among those for whom it covers the cost of taking part.

    A negative share counts as none. While anybody would be paid less than its cost, the one whose pay is the least part of
    its cost is left out, and the rest divide the budget anew. So no payment is negative, they sum to the budget or (where
    nobody is included) to nothing, none who takes part loses by it, and of two with equal costs the one with the larger
    share is paid no less. Who shares nothing is left out, unless taking part costs nothing: then it is included, unpaid.

    Raises:
        InputError: a budget or cost that is negative or not finite, shares that are not finite, or costs not one for each.
    """
    share = np.maximum(np.asarray(shares, np.float64), 0.0)
    costs = (
        np.broadcast_to(np.asarray(cost, np.float64), share.shape)
        if np.ndim(cost) == 0
        else np.asarray(cost, np.float64)
    )
    if costs.shape != share.shape:
        raise InputError(f"incentive.cost: {costs.size} costs for {share.size} shares")
    if not np.isfinite(share).all() or not np.isfinite(costs).all() or (costs < 0.0).any():
        raise InputError("incentive: shares and costs must be finite, and costs not negative")
    if not 0.0 <= budget < np.inf:
        raise InputError(f"incentive.budget is {budget}; it must be at least 0")
    included = np.ones(len(share), bool)
    while included.any():
        paid = _divided(np.where(included, share, 0.0), budget)
        if (paid >= costs)[included].all():
            return Payment(tuple(float(one) for one in paid), tuple(bool(one) for one in included))
        part = np.divide(
            paid, np.maximum(costs, 1e-200), out=np.full(len(share), np.inf), where=included & (costs > 0.0)
        )
        # All that are equally far from their cost go together, so that equals are treated alike.
        included &= part > part.min()
    return Payment((0.0,) * len(share), (False,) * len(share))


def _divided(share: Float[np.ndarray, " player"], budget: float) -> Float[np.ndarray, " player"]:
    """The budget in proportion to shares, never a rounding more."""
    largest = share.max(initial=0.0)
    if largest == 0.0:
        return np.zeros(len(share))
    part = share / largest
    paid = budget * (part / part.sum())
    over = paid.sum()
    return np.asarray(paid * (budget / over * (1.0 - 1e-12)) if over > budget else paid)
