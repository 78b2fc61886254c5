"""What every arm of the case study does in a round: ask ends to learn, take what arrives, and close.

``gainnet`` learns over ends, edges and cloud; ``flat``, ``local`` and ``central`` are what it is compared with.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from gainnet.knowledge import appraise
from gainnet.knowledge.gate import Scores
from gainnet.knowledge.setting import Setting
from gainnet.models.low_rank import LowRank

NOTES_OF_QUALITY = 4
"""Validation notes of each domain that are written to tell how good a tier's answers are."""


@dataclass(frozen=True, slots=True)
class Ask:
    """What one end is asked to do in a round, as the network sees it.

    Attributes:
        end: who.
        place: ``local``, or ``split`` where the edge trains the middle layers.
        cut: first layer of the edge and first layer back on the end, (0, 0) for ``local``.
        train_token: tokens that the end's own layers go over (of a split, as many of the whole model as cost the same).
        edge_token: the same for the edge's layers.
        uplink_bit: what goes up: its update, and the activations and gradients of a split.
        downlink_bit: what comes down first: the adapter, and the activations and gradients of a split.
        examples: how many of its examples it goes over; 0 for all.
    """

    end: int
    place: str
    cut: tuple[int, int]
    train_token: float
    edge_token: float
    uplink_bit: float
    downlink_bit: float
    examples: int = 0

    def as_tree(self) -> dict[str, Any]:
        """As plain data."""
        return asdict(self) | {"cut": list(self.cut)}

    @classmethod
    def of(cls, tree: Mapping[str, Any]) -> Ask:
        """From plain data."""
        return cls(**{**tree, "cut": tuple(tree["cut"])})


@dataclass(frozen=True, slots=True)
class Links:
    """The links and machines of ends when a round starts.

    Attributes:
        uplink_bit_per_s, downlink_bit_per_s: of each end, at the full band of its cell.
        end_flop_per_s, edge_flop_per_s: what the machine of each end, and its edge, reach.
        end_memory_byte: memory of each end.
        end_token_per_s: what the machine of each end trains of the model that the network counts with.
    """

    uplink_bit_per_s: Float[np.ndarray, " end"]
    downlink_bit_per_s: Float[np.ndarray, " end"]
    end_flop_per_s: Float[np.ndarray, " end"]
    edge_flop_per_s: Float[np.ndarray, " end"]
    end_memory_byte: Float[np.ndarray, " end"]
    end_token_per_s: Float[np.ndarray, " end"]


@dataclass(frozen=True, slots=True)
class Closed:
    """What a round did.

    Attributes:
        figures: plain data for the report.
        lines: what went wrong and how it was survived, a line each.
        quality: of the models that answer requests, by tier (end, edge, cloud), in [0, 1].
        uplink_bit: sent by ends, counted to the byte.
        backhaul_bit: sent between edges and cloud, up and down.
    """

    figures: dict[str, Any]
    lines: tuple[str, ...]
    quality: Mapping[str, float]
    uplink_bit: float
    backhaul_bit: float


class Arm(ABC):
    """One way to learn from what lies on the ends.

    Args:
        setting: models, data and ends.

    Attributes:
        alone: whether a round goes on though no end is asked anything.
    """

    alone = False

    def __init__(self, setting: Setting) -> None:
        self.setting = setting
        self._lines: list[str] = []

    def said(self) -> tuple[str, ...]:
        """What went wrong since this was last asked, a line each."""
        lines, self._lines = self._lines, []
        return tuple(lines)

    @abstractmethod
    def ask(self, number: int, links: Links) -> tuple[Ask, ...]:
        """Who takes part in this round, and with what; nobody where it need not start."""

    @abstractmethod
    def arrived(self, number: int, ask: Ask, late_by: int) -> None:
        """The network delivered what an end was asked for in round ``number``, ``late_by`` rounds late."""

    @abstractmethod
    def close(self, number: int) -> Closed:
        """End the round with what arrived."""

    @abstractmethod
    def answering(self, domain: int) -> Sequence[LowRank | None]:
        """What answers the notes of a domain, in turn: adapters of the foundation model, None for the plain one."""

    def answers(self) -> Mapping[str, LowRank | None]:
        """What answers, by whose it is (``cloud``, ``edge-DOMAIN``, ``end-NUMBER``): adapters of the foundation model."""
        return {"cloud": self.answering(0)[0]}

    def taught(self) -> Mapping[str, LowRank | None]:
        """The adapters of the ends' small model, by whose they are (``end-DOMAIN``); None for the plain one."""
        return {}

    @abstractmethod
    def weights(self) -> dict[str, np.ndarray]:
        """Everything that the next rounds depend on."""

    @abstractmethod
    def restore(self, weights: Mapping[str, np.ndarray]) -> None:
        """Go on from there."""

    def start(self) -> dict[str, Any]:
        """How good the models are before anything is learnt: perplexities, and the quality of each tier."""
        plain = appraise.appraise(self.setting.tuner, None, self.setting)
        edges = {domain.name: appraise.own(plain, domain.name) for domain in self.setting.corpus.domains}
        return {"cloud": appraise.overall(plain), "edges": edges, "quality": self.quality()}

    def quality(self) -> dict[str, float]:
        """Mean ROUGE-1 of the notes of each tier: ends by their small model, edges and cloud by the foundation model."""
        setting = self.setting
        above = [self.answering(domain)[0] for domain in range(setting.domains)]
        answered = appraise.quality(setting.tuner, above, setting, NOTES_OF_QUALITY)
        plain = appraise.quality(setting.small, [None] * setting.domains, setting, NOTES_OF_QUALITY)
        return {"end": plain, "edge": answered, "cloud": answered}

    def final(self, progress: Callable[[int, int], None]) -> dict[str, Any]:
        """Scores on the test notes, each written by what answers its domain."""
        answering = [self.answering(domain) for domain in range(self.setting.domains)]
        return appraise.final(self.setting, answering, self.setting.config.test, progress)

    def scores(self, adapter: LowRank | None) -> Scores:
        """Of an adapter of the foundation model, on held-out data."""
        return appraise.appraise(self.setting.tuner, adapter, self.setting)
