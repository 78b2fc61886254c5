"""``central``: all data in one place, the upper bound; every byte of every dialogue leaves its end once.

What answers is the best of its rounds on held-out notes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from typing_extensions import override

from gainnet.knowledge import appraise
from gainnet.knowledge.arm import Arm, Ask, Closed, Links
from gainnet.knowledge.best import Best
from gainnet.knowledge.setting import Setting
from gainnet.knowledge.tuning import Diverged
from gainnet.models.low_rank import LowRank

BIT_PER_CHARACTER = 8.0


class Central(Arm):
    """One adapter, trained in the cloud on what the ends sent there."""

    alone = True

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        self._adapter = Best(setting.tuner.adapters.fresh(setting.config.edge_rank, setting.stream("fresh")))
        self._sent = np.zeros(len(setting.shards), dtype=np.int64)
        self._uplink_bit = 0.0

    @override
    def ask(self, number: int, links: Links) -> tuple[Ask, ...]:
        """Every end sends the examples that the cloud does not have yet; the cloud trains with or without them."""
        asks = []
        for end in range(len(self.setting.shards)):
            bit = self._text_bit(end, int(self._sent[end]), len(self.setting.held(end, number)))
            if bit:
                asks.append(Ask(end, "central", (0, 0), 0.0, 0.0, bit, 0.0))
        return tuple(asks)

    @override
    def arrived(self, number: int, ask: Ask, late_by: int) -> None:
        """The cloud has these examples from now on."""
        self._sent[ask.end] = max(int(self._sent[ask.end]), len(self.setting.held(ask.end, number)))
        self._uplink_bit += ask.uplink_bit

    @override
    def close(self, number: int) -> Closed:
        """Go over everything that is there, as often as ends would."""
        setting, config = self.setting, self.setting.config
        texts = [
            encoded for end, sent in enumerate(self._sent.tolist()) for encoded in setting.lesson(end, number)[:sent]
        ]
        figures: dict[str, Any] = {"examples": len(texts)}
        if texts:
            try:
                tuned = setting.tuner.tune(
                    self._adapter.last,
                    texts,
                    epochs=config.local_epochs,
                    batch=config.batch,
                    learning_rate=config.learning_rate,
                    rng=setting.stream(f"tune.{number}"),
                    prompt_weight=config.prompt_weight,
                )
            except Diverged as error:
                self._lines.append(f"cloud: what it learnt was left out: {error}")
            else:
                self._adapter.offer(tuned.adapter, appraise.mean_of_domains(self.scores(tuned.adapter)))
                figures["train_loss"] = tuned.loss
        figures["cloud"] = appraise.overall(self.scores(self._adapter.best))
        bit, self._uplink_bit = self._uplink_bit, 0.0
        return Closed(figures, self.said(), self.quality(), bit, bit)

    @override
    def answering(self, domain: int) -> Sequence[LowRank | None]:
        """One adapter for all domains."""
        return (self._adapter.best,)

    @override
    def weights(self) -> dict[str, np.ndarray]:
        """The adapters, and what was sent."""
        return self._adapter.weights("cloud") | {"sent": self._sent}

    @override
    def restore(self, weights: Mapping[str, np.ndarray]) -> None:
        """Go on from there."""
        self._adapter.restore("cloud", weights, self.setting.base)
        self._sent = weights["sent"].copy()

    def _text_bit(self, end: int, first: int, last: int) -> float:
        """What examples ``first`` to ``last`` of an end take as text."""
        edge = int(self.setting.edge_of[end])
        member = int(np.flatnonzero(np.flatnonzero(self.setting.edge_of == edge) == end)[0])
        examples = self.setting.corpus.domains[edge].shards[member][first:last]
        return BIT_PER_CHARACTER * sum(len((e.section + e.dialogue + e.note).encode()) for e in examples)
