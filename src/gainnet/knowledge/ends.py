"""The ends: which take part in a round, and how each trains on what it holds."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from gainnet.knowledge.arm import Links
from gainnet.knowledge.privacy import Accountant, ExamplePrivacy, sampled
from gainnet.knowledge.registry import Spent
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
        self._spent = {end: Accountant(setting.config.privacy.delta) for end in self._private}

    def participants(self, number: int) -> list[int]:
        """The ends that take part in a round: a part of each edge's ends that have data, drawn anew."""
        setting = self._setting
        rng = setting.stream(f"participants.{number}")
        chosen: list[int] = []
        for domain in range(setting.domains):
            members = np.array([end for end in setting.ends_of(domain).tolist() if setting.held(end, number)], np.int64)
            if setting.config.privacy.kind == "update":  # each by itself, as it is accounted for
                chosen.extend(members[rng.random(len(members)) < setting.config.participation].tolist())
                continue
            count = max(1, round(setting.config.participation * len(members)))
            chosen.extend(np.sort(rng.permutation(members)[:count]).tolist())
        return sorted(chosen)

    def fitting(self, end: int, number: int, links: Links, down_bit: float, up_bit: float) -> int:
        """How many of its examples an end can go over by the deadline of a round; 0 where that is all.

        Who is slow or has much does a part, drawn anew in each round, rather than all in vain (arXiv 1812.06127). Services
        share links and machines with it, so it plans with a part of the time. Per-example privacy counts on all.

        Args:
            end, number: who, and of which round.
            links: as the network knows them.
            down_bit, up_bit: what it fetches and what it sends.
        """
        setting, config = self._setting, self._setting.config
        held = setting.held(end, number)
        ways = ((down_bit, links.downlink_bit_per_s), (up_bit, links.uplink_bit_per_s))
        sending_s = sum(bit / float(rate[end]) if rate[end] > 0.0 else math.inf for bit, rate in ways if bit)
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
        lesson, private = setting.lesson(end, number, examples), self._private.get(end)
        tuned = setting.tuner.tune(
            start,
            lesson,
            epochs=config.local_epochs,
            batch=config.batch,
            learning_rate=config.learning_rate,
            rng=setting.stream(f"tune.{number}.{end}"),
            factors="b" if config.aggregation == "ffa" and config.arm == "gainnet" else "ab",
            private=private,
            prompt_weight=config.prompt_weight,
        )
        if private is not None:
            rate, _ = sampled(sum(text.counted > 0 for text in lesson), config.batch, config.local_epochs)
            self._spent[end].step(private.noise_multiplier, rate, tuned.steps)
        return tuned

    def spent(self) -> Spent | None:
        """What the end that spent most has spent of its examples' privacy; None where they have none."""
        if not self._spent:
            return None
        return Spent(max(account.epsilon for account in self._spent.values()), self._setting.config.privacy.delta)

    def weights(self) -> dict[str, np.ndarray]:
        """What each end has spent."""
        return {f"spent{end}": account.renyi for end, account in self._spent.items()}

    def restore(self, weights: Mapping[str, np.ndarray]) -> None:
        """Go on from there."""
        for end, account in self._spent.items():
            account.renyi = weights[f"spent{end}"].copy()
