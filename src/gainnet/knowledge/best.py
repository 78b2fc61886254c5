"""What is learnt, and what answers: the best of it on held-out notes, as gainnet's gate keeps a champion (early stopping)."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from gainnet.knowledge import journal
from gainnet.models.low_rank import LowRank


class Best:
    """An adapter in training.

    Args:
        adapter: what it begins with; it answers until something was learnt.

    Attributes:
        last: what learning goes on from.
        best: what answers: of all that were offered, the one of the lowest loss.
        loss: its loss on held-out notes (nat a token); infinite until something was learnt.
    """

    def __init__(self, adapter: LowRank) -> None:
        self.last = self.best = adapter
        self.loss = math.inf

    def offer(self, adapter: LowRank, loss: float) -> None:
        """Learning came to this; without a finite loss (no held-out notes) the last one answers."""
        self.last = adapter
        if not math.isfinite(loss) or loss < self.loss:
            self.best, self.loss = adapter, loss if math.isfinite(loss) else math.inf

    def weights(self, name: str) -> dict[str, np.ndarray]:
        """Everything that the next rounds depend on."""
        packed = journal.packed(name, self.last) | journal.packed(f"{name}.best", self.best)
        return packed | {f"{name}.loss": np.array(self.loss)}

    def restore(self, name: str, weights: Mapping[str, np.ndarray], base: str) -> None:
        """Go on from there."""
        self.last = journal.unpacked(name, weights, base)
        self.best = journal.unpacked(f"{name}.best", weights, base)
        self.loss = weights[f"{name}.loss"].item()  # a journal gives a number back as an array of one
