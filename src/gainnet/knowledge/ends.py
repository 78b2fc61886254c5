"""The ends: which take part in a round, and how each trains on what it holds."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from gainnet.knowledge.arm import Links
from gainnet.knowledge.privacy import ExamplePrivacy
from gainnet.knowledge.setting import Setting
from gainnet.knowledge.tuning import Tuned
from gainnet.models.low_rank import LowRank

PLANNED = 0.7
"""Part of the time to a round's deadline that an end plans with."""


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

    def fitting(self, end: int, number: int, links: Links, bit: float) -> int:
        """How many of its examples an end can go over by the deadline of a round; 0 where that is all.

        Who is slow or has much does a part, drawn anew in each round, rather than all in vain (arXiv 1812.06127). Services
        share links and machines with it, so it plans with a part of the time. Per-example privacy counts on all.

        Args:
            end, number: who, and of which round.
            links: as the network knows them.
            bit: that go down, and as many up.
        """
        setting, config = self._setting, self._setting.config
        held = setting.held(end, number)
        rates = (float(links.downlink_bit_per_s[end]), float(links.uplink_bit_per_s[end]))
        sending_s = sum(bit / rate if rate > 0.0 else math.inf for rate in rates) if bit else 0.0
        left_s = max(PLANNED * config.deadline_s - sending_s, 0.0)
        token = left_s * float(links.end_token_per_s[end]) / config.local_epochs
        whole = sum(len(encoded.token) for encoded in held)
        if token >= whole or self._private:
            return 0
        return max(1, int(len(held) * token / whole))

    def tokens(self, end: int, number: int, examples: int = 0) -> float:
        """Tokens that an end goes over in a round, with so many examples (see `Setting.drawn`)."""
        setting = self._setting
        chosen = (setting.shards[end][index] for index in setting.drawn(end, number, examples))
        return float(setting.config.local_epochs * sum(len(encoded.token) for encoded in chosen))

    def tune(self, end: int, number: int, start: LowRank, examples: int = 0) -> Tuned:
        """Train on what the end holds in that round, or so many examples of it, from an adapter that stays as it is."""
        setting, config = self._setting, self._setting.config
        return setting.tuner.tune(
            start,
            setting.lesson(end, number, examples),
            epochs=config.local_epochs,
            batch=config.batch,
            learning_rate=config.learning_rate,
            rng=setting.stream(f"tune.{number}.{end}"),
            factors="b" if config.aggregation == "ffa" and config.arm == "gainnet" else "ab",
            private=self._private.get(end),
            prompt_weight=config.prompt_weight,
        )
