"""How two models or two nodes of a pattern share a task, where it has two; and what is known of how they agree."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from enum import IntEnum

import numpy as np
from jaxtyping import Bool, Float, Int

from gainnet.scenario.collaboration import Collaboration


class Way(IntEnum):
    """How a pattern answers."""

    WHOLE = 0
    CASCADE = 1
    SPECULATION = 2
    SHARING = 3


@dataclass(frozen=True, slots=True)
class Ways:
    """How each pattern of a problem answers; what a way does not use is -1 or 0.

    A cascade's description (`gainnet.orchestrator.pattern.Posed.ints`) is that of the smaller model's whole request, that
    of a speculation is the larger one's, that of a sharing (`gainnet.orchestrator.sharing`) the drawing node's.

    Attributes:
        way: a `Way`.
        upper: the pattern that asks the larger model for the whole answer, or the drawing node for all steps.
        node: where the smaller model is, or the node that takes the first steps.
        model: the smaller model, or the one that draws.
        deferred: probability that a cascade asks the larger one; or the part of a drawing that is done elsewhere.
        length: tokens of a draft, or first steps.
        tokens: that a round gives, or all steps.
        draft_s: the drafting machine's time, its prefill included, or what the first steps take of the other's for
            this request, in node-seconds.
        drafted_s: how long that takes.
        wait_s: crossings of the link, all rounds together.
    """

    way: Int[np.ndarray, " pattern"]
    upper: Int[np.ndarray, " pattern"]
    node: Int[np.ndarray, " pattern"]
    model: Int[np.ndarray, " pattern"]
    deferred: Float[np.ndarray, " pattern"]
    length: Int[np.ndarray, " pattern"]
    tokens: Float[np.ndarray, " pattern"]
    draft_s: Float[np.ndarray, " pattern"]
    drafted_s: Float[np.ndarray, " pattern"]
    wait_s: Float[np.ndarray, " pattern"]

    @classmethod
    def whole(cls, patterns: int) -> Ways:
        """All of them ask one model."""
        none, zero = np.full(patterns, -1), np.zeros(patterns)
        return cls(none + 1, none, none, none, zero, none + 1, zero, zero, zero, zero)

    def joined(self, other: Ways) -> Ways:
        """These patterns, then the other ones."""
        return Ways(*(np.concatenate([getattr(self, f.name), getattr(other, f.name)]) for f in fields(Ways)))

    def taken(self, rows: Int[np.ndarray, " row"]) -> Ways:
        """Those of some patterns, with places of ``upper`` as they are in ``rows``; all of them must be there."""
        place = np.full(len(self.way) + 1, -1)
        place[rows] = np.arange(len(rows))
        kept = {f.name: getattr(self, f.name)[rows] for f in fields(Ways)}
        return Ways(**(kept | {"upper": place[kept["upper"]]}))  # -1 is the appended none


@dataclass(frozen=True, slots=True)
class Beginning:
    """What a node measured of images that another one begins; None where it has not yet.

    Attributes:
        part: of an image's steps that the other one takes.
        step_s: time of a step of an image here.
        above_step_s: time of a step of an image there.
        crossing_s: round trip, and what the half-drawn image takes on the link.
        alike: requests that each beginning was for.
    """

    part: float
    step_s: float | None = None
    above_step_s: float | None = None
    crossing_s: float | None = None
    alike: float | None = None


@dataclass(frozen=True, slots=True)
class Agreement:
    """What is known of how two models agree. The smaller model's axis comes first; one ``task`` stands for all.

    Attributes:
        deferred: how many answers of a cascade are deferred.
        good: how many of all are then as good as the larger model's.
        acceptance: probability that a token of a draft stays; 0 where the one cannot draft for the other.
        ratio: time of a token by drafts over that of the larger model alone, as measured between two machines; nan
            where nothing was.
        rtt_s: between machines, as measured; nan where nothing was.
        usable: machines that take part.
        beginnings: of images, by the machine that draws and the one that may begin.
    """

    deferred: Float[np.ndarray, "task artifact artifact"]
    good: Float[np.ndarray, "task artifact artifact"]
    acceptance: Float[np.ndarray, "task artifact artifact"]
    ratio: Float[np.ndarray, "node node"]
    rtt_s: Float[np.ndarray, "node node"]
    usable: Bool[np.ndarray, " node"]
    beginnings: Mapping[tuple[int, int], Beginning] = field(default_factory=dict)

    @classmethod
    def expected(cls, config: Collaboration, artifacts: int, nodes: int) -> Agreement:
        """What the scenario expects, before anything was measured."""
        shape, unknown = (1, artifacts, artifacts), np.full((nodes, nodes), np.nan)
        return cls(
            np.full(shape, config.deferred), np.full(shape, config.good), np.full(shape, config.acceptance),
            unknown, unknown.copy(), np.ones(nodes, np.bool_),
        )  # fmt: skip

    def last(self) -> Agreement:
        """The last task's, for all tasks."""
        return replace(self, deferred=self.deferred[-1:], good=self.good[-1:], acceptance=self.acceptance[-1:])
