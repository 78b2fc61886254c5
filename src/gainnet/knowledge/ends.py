"""The ends: which take part in a round, and how each trains on what it holds."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from gainnet.knowledge.privacy import ExamplePrivacy
from gainnet.knowledge.setting import Setting
from gainnet.knowledge.tuning import Tuned
from gainnet.models.low_rank import LowRank


class Ends:
    """All ends of a setting.

    Args:
        setting: models, data and ends.
        private: how examples are protected while an end trains (DP-SGD), by end; empty where they are not.
    """

    def __init__(self, setting: Setting, private: Mapping[int, ExamplePrivacy] | None = None) -> None:
        self._setting, self._private = setting, private or {}

    def participants(self, number: int) -> list[int]:
        """The ends that take part in a round: a part of each edge's ends that have data, drawn anew."""
        setting = self._setting
        rng = setting.stream(f"participants.{number}")
        chosen: list[int] = []
        for domain in range(setting.domains):
            members = np.array([end for end in setting.ends_of(domain).tolist() if setting.held(end, number)], np.int64)
            count = max(1, round(setting.config.participation * len(members)))
            chosen.extend(np.sort(rng.permutation(members)[:count]).tolist())
        return sorted(chosen)

    def tokens(self, end: int, number: int) -> float:
        """Tokens that an end goes over in a round."""
        held = self._setting.held(end, number)
        return float(self._setting.config.local_epochs * sum(len(encoded.token) for encoded in held))

    def tune(self, end: int, number: int, start: LowRank) -> Tuned:
        """Train on what the end holds in that round, from an adapter that stays as it is."""
        setting, config = self._setting, self._setting.config
        return setting.tuner.tune(
            start,
            setting.held(end, number),
            epochs=config.local_epochs,
            batch=config.batch,
            learning_rate=config.learning_rate,
            rng=setting.stream(f"tune.{number}.{end}"),
            factors="b" if config.aggregation == "ffa" and config.arm == "gainnet" else "ab",
            private=self._private.get(end),
        )
