"""Differential privacy in a loop: each edge's noise and clip, what was spent, and what an end needs to train privately."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from gainnet.knowledge import masked
from gainnet.knowledge.algebra import onto
from gainnet.knowledge.masked import Gathered, Masks
from gainnet.knowledge.privacy import (
    Accountant,
    ExamplePrivacy,
    UpdatePrivacy,
    Vector,
    noise_multiplier,
    private_mean,
)
from gainnet.knowledge.registry import Spent
from gainnet.knowledge.secure import FixedPoint
from gainnet.knowledge.setting import Setting
from gainnet.knowledge.update import Update
from gainnet.models.low_rank import LowRank


class Protection:
    """Privacy of updates over a whole run: every edge adds noise, so that epsilon is spent by the last round.

    Args:
        setting: models, data and ends.
    """

    def __init__(self, setting: Setting) -> None:
        config = setting.config
        self._config, self._rate = config.privacy, config.participation
        self._noise = noise_multiplier(config.privacy.epsilon, config.privacy.delta, {self._rate: config.rounds})
        self._edges = [
            UpdatePrivacy(
                noise=self._noise,
                clip=config.privacy.clip,
                quantile=config.privacy.clip_quantile,
                senders=max(1, round(self._rate * len(setting.ends_of(domain)))),
            )
            for domain in range(setting.domains)
        ]
        self._accountant = Accountant(config.privacy.delta)

    def gather(
        self,
        edge: int,
        start: LowRank,
        updates: Sequence[Update],
        rng: np.random.Generator,
        masks: Masks | None = None,
    ) -> Gathered:
        """An edge's adapter with the private mean of what arrived; its clip follows the norms.

        Args:
            edge: which.
            start: what its ends began with.
            updates: what arrived.
            rng: noise.
            masks: where the edge may only see the sum of updates.

        Raises:
            InputError: no masked sum can be had (see `masked.total`).
        """
        afters = {update.end: onto(start, update) for update in updates}
        bit = sum((update.uplink_bit for update in updates), 0.0)
        if masks is None:
            adapter, self._edges[edge] = private_mean(start, afters, self._edges[edge], rng)
            return Gathered(adapter, bit)

        def summed(vectors: Mapping[int, Vector], size: int) -> Vector:
            nonlocal bit
            found = masked.total(vectors, masks, size)
            bit = found.uplink_bit
            return found.vector

        adapter, self._edges[edge] = private_mean(
            start, afters, self._edges[edge], rng, summed=summed, grain=FixedPoint().grain
        )
        return Gathered(adapter, bit)

    def spend(self) -> Spent:
        """Account for a round; what was spent by then. Ends of different edges are different, so edges do not add up."""
        return Spent(self._accountant.step(self._noise, self._rate), self._config.delta)

    def weights(self) -> dict[str, np.ndarray]:
        """Clips, and what was spent."""
        return {"clips": np.array([edge.clip for edge in self._edges]), "spent": self._accountant.renyi}

    def restore(self, weights: Mapping[str, np.ndarray]) -> None:
        """Go on from there."""
        clips = weights["clips"].tolist()
        self._edges = [
            UpdatePrivacy(edge.noise, clip, edge.quantile, edge.senders)
            for edge, clip in zip(self._edges, clips, strict=True)
        ]
        self._accountant.renyi = weights["spent"].copy()


def protection(setting: Setting) -> Protection | None:
    """Privacy of updates, None where the scenario asks for none."""
    return Protection(setting) if setting.config.privacy.kind == "update" else None


def of_examples(setting: Setting) -> dict[int, ExamplePrivacy]:
    """What each end needs so that its examples spend epsilon over the whole run; empty where that is not asked for."""
    config = setting.config
    if config.privacy.kind != "example":
        return {}
    limits, found = config.privacy, {}
    for end in range(len(setting.shards)):
        held = [sum(text.counted > 0 for text in setting.held(end, number)) for number in range(config.rounds)]
        if any(held):
            found[end] = ExamplePrivacy.of(
                limits.epsilon, limits.delta, limits.clip, held, config.batch, config.local_epochs
            )
    return found
