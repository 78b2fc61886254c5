"""``local``: no exchange; every end trains an adapter of its own on its own data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from typing_extensions import override

from gainnet.knowledge import appraise, journal
from gainnet.knowledge.arm import Arm, Ask, Closed, Links
from gainnet.knowledge.ends import Ends
from gainnet.knowledge.setting import Setting
from gainnet.models.low_rank import LowRank


class Local(Arm):
    """An adapter for each end that has data."""

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        fresh = setting.tuner.adapters.fresh(setting.config.edge_rank, setting.stream("fresh"))
        self._ends = Ends(setting)
        self._own: dict[int, LowRank] = {end: fresh for end, shard in enumerate(setting.shards) if shard}
        self._loss: list[float] = []

    @override
    def ask(self, number: int, links: Links) -> tuple[Ask, ...]:
        """Everybody trains; nothing is sent."""
        return tuple(
            Ask(end, "local", (0, 0), self._ends.tokens(end, number), 0.0, 0.0, 0.0) for end in sorted(self._own)
        )

    @override
    def arrived(self, number: int, ask: Ask, late_by: int) -> None:
        """The end has trained."""
        tuned = self._ends.tune(ask.end, number, self._own[ask.end])
        self._own[ask.end] = tuned.adapter
        self._loss.append(tuned.loss)

    @override
    def close(self, number: int) -> Closed:
        """Nothing is joined."""
        losses, self._loss = self._loss, []
        figures = {
            "train_loss": float(np.mean(losses)) if losses else None,
            "edges": {
                domain.name: appraise.own(self.scores(self.answering(index)[0]), domain.name)
                for index, domain in enumerate(self.setting.corpus.domains)
            },
        }
        return Closed(figures, (), self.quality(), 0.0, 0.0)

    @override
    def answering(self, domain: int) -> Sequence[LowRank | None]:
        """The ends of the domain answer its notes in turn, each with its own adapter."""
        return tuple(self._own[end] for end in self.setting.ends_of(domain).tolist()) or (None,)

    @override
    def weights(self) -> dict[str, np.ndarray]:
        """All adapters."""
        found: dict[str, np.ndarray] = {}
        for end, adapter in self._own.items():
            found |= journal.packed(f"end{end}", adapter)
        return found

    @override
    def restore(self, weights: Mapping[str, np.ndarray]) -> None:
        """Go on from there."""
        self._own = {end: journal.unpacked(f"end{end}", weights, self.setting.base) for end in self._own}
