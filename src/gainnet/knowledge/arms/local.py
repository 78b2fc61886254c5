"""``local``: no exchange; every end trains an adapter of its own on its own data.

What answers is the best of its rounds on the held-out notes of its domain.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from typing_extensions import override

from gainnet.knowledge import appraise
from gainnet.knowledge.arm import Arm, Ask, Closed, Links
from gainnet.knowledge.best import Best
from gainnet.knowledge.ends import Ends
from gainnet.knowledge.protection import of_examples
from gainnet.knowledge.setting import Setting
from gainnet.knowledge.tuning import Diverged
from gainnet.models.low_rank import LowRank


class Local(Arm):
    """An adapter for each end that has data."""

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        fresh = setting.tuner.adapters.fresh(setting.config.edge_rank, setting.stream("fresh"))
        self._ends = Ends(setting, of_examples(setting))
        self._own = {end: Best(fresh) for end, shard in enumerate(setting.shards) if shard}
        self._loss: list[float] = []

    @override
    def ask(self, number: int, links: Links) -> tuple[Ask, ...]:
        """Everybody trains; nothing is sent."""
        asks = []
        for end in sorted(end for end in self._own if self.setting.held(end, number)):
            examples = self._ends.fitting(end, number, links, 0.0, 0.0)
            asks.append(Ask(end, "local", (0, 0), self._ends.tokens(end, number, examples), 0.0, 0.0, 0.0, examples))
        return tuple(asks)

    @override
    def arrived(self, number: int, ask: Ask, late_by: int) -> None:
        """The end has trained."""
        own, held = self._own[ask.end], self.setting.validation[int(self.setting.edge_of[ask.end])]
        try:
            tuned = self._ends.tune(ask.end, number, own.last, ask.examples)
        except Diverged as error:
            self._lines.append(f"end {ask.end}: what it learnt was left out: {error}")
            return
        own.offer(tuned.adapter, appraise.mean_loss(self.setting.tuner, tuned.adapter, held))
        self._loss.append(tuned.loss)

    @override
    def close(self, number: int) -> Closed:
        """Nothing is joined."""
        losses, self._loss = self._loss, []
        spent = self._ends.spent()
        figures = {
            "train_loss": float(np.mean(losses)) if losses else None,
            "epsilon": spent.epsilon if spent is not None else None,
            "edges": {
                domain.name: appraise.own(self.scores(self.answering(index)[0]), domain.name)
                for index, domain in enumerate(self.setting.corpus.domains)
            },
        }
        return Closed(figures, self.said(), self.quality(), 0.0, 0.0)

    @override
    def answering(self, domain: int) -> Sequence[LowRank | None]:
        """The ends of the domain answer its notes in turn, each with its own adapter."""
        return tuple(self._own[end].best for end in self.setting.ends_of(domain).tolist()) or (None,)

    @override
    def answers(self) -> Mapping[str, LowRank | None]:
        """Each end's."""
        return {f"end-{end}": own.best for end, own in self._own.items()}

    @override
    def weights(self) -> dict[str, np.ndarray]:
        """All adapters."""
        found: dict[str, np.ndarray] = {}
        for end, own in self._own.items():
            found |= own.weights(f"end{end}")
        return found | self._ends.weights()

    @override
    def restore(self, weights: Mapping[str, np.ndarray]) -> None:
        """Go on from there."""
        for end, own in self._own.items():
            own.restore(f"end{end}", weights, self.setting.base)
        self._ends.restore(weights)
