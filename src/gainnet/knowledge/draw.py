"""Choices from one generator, as texts are made up from them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np

Item = TypeVar("Item")


class Draw:
    """Draws from sequences; the same state of the generator gives the same choices."""

    def __init__(self, rng: np.random.Generator) -> None:
        self._rng = rng

    def one(self, items: Sequence[Item]) -> Item:
        """One of the items, each as likely as any."""
        return items[int(self._rng.integers(len(items)))]

    def some(self, items: Sequence[Item], number: int) -> list[Item]:
        """That many different items (at most all), in an order that is drawn too."""
        return [items[int(index)] for index in self._rng.permutation(len(items))[:number]]

    def chance(self, likely: float) -> bool:
        """True with that probability."""
        return bool(self._rng.random() < likely)

    def whole(self, low: int, high: int) -> int:
        """A whole number from ``low`` to ``high``, both included."""
        return int(self._rng.integers(low, high + 1))
