"""``flat``: two tiers, FedIT (arXiv 2305.05644): the cloud averages the factors A and B of all ends apart.

Updates go up at 16 bits a number, as such systems send them. What answers is the best of its rounds on held-out notes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from typing_extensions import override

from gainnet.errors import InputError
from gainnet.knowledge import aggregate, appraise
from gainnet.knowledge.arm import Arm, Ask, Closed, Links
from gainnet.knowledge.best import Best
from gainnet.knowledge.compress import Encoder, decode
from gainnet.knowledge.ends import Ends
from gainnet.knowledge.protection import of_examples
from gainnet.knowledge.setting import Setting
from gainnet.knowledge.tuning import Diverged
from gainnet.models.low_rank import LowRank

UPDATE_BIT: Final = 16


class Flat(Arm):
    """One adapter, the mean of what ends made of it."""

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        self._rank = min(setting.config.ranks)
        self._adapter = Best(setting.tuner.adapters.fresh(self._rank, setting.stream("fresh")))
        self._fetched = self._adapter.last.halved()
        self._ends = Ends(setting, of_examples(setting))
        self._updates: list[tuple[float, LowRank]] = []
        self._loss: list[float] = []

    @override
    def ask(self, number: int, links: Links) -> tuple[Ask, ...]:
        """The ends that take part fetch the adapter and send what they made of it, at one rank: the smallest."""
        bit = float(UPDATE_BIT * self._adapter.last.numbers)
        asks = []
        for end in self._ends.participants(number):
            examples = self._ends.fitting(end, number, links, bit, bit)
            asks.append(Ask(end, "local", (0, 0), self._ends.tokens(end, number, examples), 0.0, bit, bit, examples))
        return tuple(asks)

    @override
    def arrived(self, number: int, ask: Ask, late_by: int) -> None:
        """An end's adapter arrived; one that is late was made of an older adapter and is left out, as FedIT does."""
        if late_by:
            self._lines.append(f"end {ask.end}: its update for round {number} came late and does not count")
            return
        start, rng = self._fetched, self.setting.stream(f"compress.{number}.{ask.end}")
        try:
            tuned = self._ends.tune(ask.end, number, start, ask.examples)
            sent = Encoder(UPDATE_BIT).encode(start, tuned.adapter, rng)
        except (Diverged, InputError) as error:
            self._lines.append(f"end {ask.end}: update refused: {error}")
            return
        received = decode(sent.data, start)
        self._updates.append((float(len(self.setting.held(ask.end, number))), received))
        self._loss.append(tuned.loss)

    @override
    def close(self, number: int) -> Closed:
        """Average what arrived."""
        updates, self._updates = self._updates, []
        losses, self._loss = self._loss, []
        bit = float(UPDATE_BIT * self._adapter.last.numbers * len(updates))
        if updates:
            joined = aggregate.fedit([adapter for _, adapter in updates], [weight for weight, _ in updates])
            self._adapter.offer(joined, appraise.mean_of_domains(self.scores(joined)))
            self._fetched = self._adapter.last.halved()
        spent = self._ends.spent()
        figures: dict[str, Any] = {
            "train_loss": float(np.mean(losses)) if losses else None,
            "epsilon": spent.epsilon if spent is not None else None,
            "cloud": appraise.overall(self.scores(self._adapter.best)),
        }
        return Closed(figures, self.said(), self.quality(), bit, bit)

    @override
    def answering(self, domain: int) -> Sequence[LowRank | None]:
        """One adapter for all domains."""
        return (self._adapter.best,)

    @override
    def weights(self) -> dict[str, np.ndarray]:
        """The adapters."""
        return self._adapter.weights("cloud") | self._ends.weights()

    @override
    def restore(self, weights: Mapping[str, np.ndarray]) -> None:
        """Go on from there."""
        self._adapter.restore("cloud", weights, self.setting.base)
        self._fetched = self._adapter.last.halved()
        self._ends.restore(weights)
