"""What the router knows of machines that answer together: calibrations of versions, what nodes measured of drafts and images.

A calibration is of one small model's weights, one larger model's card and one public model that was asked for, which
names the version where versions are pinned: a new version begins without, and nothing is kept of it before it has one.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float

from gainnet.execution.telemetry import Drafting, NodeState
from gainnet.inference.calibration import Calibrations, Plan, Stale, confidences
from gainnet.orchestrator.ways import Agreement, Beginning
from gainnet.scenario.collaboration import Collaboration
from gainnet.serving.fleet import Catalogue, Wish
from gainnet.serving.router import Sure, Target

NEVER = 1e6
"""The ratio of drafts that nobody judges."""
LEARN_EVERY = 2
"""Of so many answers one is given by both while there is no calibration."""


def alike(small: str, large: str) -> float:
    """How near an answer is to another: F1 of their words, each counted as often as it is there (ROUGE-1, Lin 2004)."""
    own, other = small.split(), large.split()
    if not own or not other:
        return float(own == other)
    return 2.0 * (Counter(own) & Counter(other)).total() / (len(own) + len(other))


@dataclass(frozen=True, slots=True)
class _Pair:
    """A small model and a larger one for a public model.

    Attributes:
        model: public model that is asked for.
        digest: of the small one's weights.
        small: its card.
        large: the larger one's card.
    """

    model: str
    digest: str
    small: int
    large: int

    @property
    def version(self) -> str:
        return f"{self.model} {self.digest} {self.small} {self.large}"


class Partners:
    """Learns how models agree, and says it as the orchestrator wants it.

    Attributes:
        quality: of each artifact, as it is now.
        calibrations: by version.
    """

    def __init__(
        self, config: Collaboration, catalogue: Catalogue, quality: Float[np.ndarray, " artifact"], nodes: int
    ) -> None:
        """Know nothing yet; ``quality`` is that of each artifact as it is now: not copied."""
        self._config, self._catalogue, self.quality = config, catalogue, quality
        self._digest = [""] * nodes
        self._served = catalogue.served()
        self._names = {place.name: node for node, place in enumerate(catalogue.places) if place is not None}
        self._drafting: dict[tuple[int, int], Drafting] = {}
        self._beginnings: dict[tuple[int, int], Beginning] = {}
        self._expected = Agreement.expected(config, len(quality), nodes)
        self._plans: dict[str, tuple[int, Plan]] = {}
        self._judging: dict[int, tuple[Target, _Pair]] = {}
        self._turns, self._probe = Counter[str](), itertools.count(1)
        self.calibrations = Calibrations()

    def serve(self, served: Bool[np.ndarray, "node artifact"]) -> None:
        """Say which cards each node answers with."""
        self._served = served

    def heard(self, node: int, state: NodeState) -> None:
        """A node said how it is."""
        self._digest[node] = state.digest
        for pair in [pair for pair in self._drafting if pair[0] == node]:
            del self._drafting[pair]
        for name, known in state.verifiers.items():
            if name in self._names:
                self._drafting[node, self._names[name]] = known
        for pair in [pair for pair in self._beginnings if pair[0] == node]:
            del self._beginnings[pair]
        for name, begun in state.beginners.items():
            if name in self._names:
                self._beginnings[node, self._names[name]] = begun

    def agreement(self, wishes: Sequence[Wish]) -> Agreement:
        """What is known for these requests; at times it leaves out how drafts and beginnings did: they are tried again."""
        artifacts, expected = len(self.quality), self._expected
        deferred = np.ones((len(wishes), artifacts, artifacts))
        good, acceptance = np.zeros_like(deferred), np.zeros_like(deferred)
        served = self._served
        ratio, rtt_s = np.full_like(expected.ratio, NEVER), expected.rtt_s.copy()
        again = next(self._probe) % (4 * self._config.audit_every) == 0
        for (node, other), known in self._drafting.items():
            ratio[node, other] = np.nan if known.ratio is None or again else known.ratio
            rtt_s[node, other] = np.nan if known.rtt_s is None else known.rtt_s
            stays = self._config.acceptance if known.acceptance is None else known.acceptance
            acceptance[:, served[node][:, None] & served[other]] = stays
        for i, wish in enumerate(wishes):
            if not wish.ask.together:
                acceptance[i] = 0.0
                continue
            for pair in self._pairs(wish) if self._config.cascade else ():
                plan = self._plan(pair)
                if plan is not None:
                    deferred[i, pair.small, pair.large], good[i, pair.small, pair.large] = plan.deferred, plan.quality
        beginnings = (
            {pair: replace(one, alike=None) for pair, one in self._beginnings.items()} if again else self._beginnings
        )
        return Agreement(deferred, good, acceptance, ratio, rtt_s, expected.usable, beginnings)

    def sure(self, wish: Wish, node: int, small: int, large: int) -> Sure:
        """Whether an answer of a small model at a node may be shown."""
        pair = _Pair(wish.ask.model, self._digest[node], small, large)

        def decide(logprobs: Sequence[float]) -> bool:
            try:
                made = self.calibrations.of(pair.version, 0.0)
            except Stale:
                return False
            plan = self._plan(pair)
            return bool(logprobs) and plan is not None and made.of(confidences(logprobs)) >= plan.least

        return decide

    def audit(self, wish: Wish, large: int, idle: Callable[[int], bool]) -> Target | None:
        """The small model that is to be asked what a larger one answers, if it is this request's turn.

        Only where its node is ``idle``: what is learnt so must not stand in the way of requests.
        """
        if not self._config.cascade or not wish.ask.together or wish.card >= 0:
            return None
        for pair in self._pairs(wish):
            every = LEARN_EVERY if self._plan(pair) is None else self._config.audit_every
            node = self._holder(wish, pair.small)
            if pair.large != large or node is None or not idle(node):
                continue
            self._turns[pair.version] += 1
            if self._turns[pair.version] % every == 0:
                place = self._catalogue.place(node)
                target = Target(
                    place.name, place.url, self._catalogue.own_id(place, pair.small, wish.ask), "audit",
                    sure=lambda _: False,
                )  # fmt: skip
                self._judging[id(target)] = target, pair
                while len(self._judging) > 256:
                    del self._judging[next(iter(self._judging))]
                return target
        return None

    def judged(self, target: Target, logprobs: Sequence[float], said: str, answer: str) -> None:
        """What the small model of an audit said; targets of others are passed over."""
        found = self._judging.pop(id(target), None)
        if found is not None and logprobs:
            good = alike(said, answer) >= self._config.alike
            self.calibrations.judged(found[1].version, confidences(logprobs), good, 0.0)

    def _pairs(self, wish: Wish) -> list[_Pair]:
        """Small and larger cards that may answer a request, each with the small model's weights."""
        cards = np.flatnonzero(self._catalogue.fitting(wish)).tolist() if wish.card < 0 else []
        found = []
        for small in cards:
            node = self._holder(wish, small)
            if node is not None:
                larger = [card for card in cards if self.quality[card] > self.quality[small]]
                found += [_Pair(wish.ask.model, self._digest[node], small, card) for card in larger]
        return found

    def _holder(self, wish: Wish, small: int) -> int | None:
        """Where a small card answers for who asks: at the end, else at the lowest tier that has it."""
        served, fixed = self._served[:, small], self._catalogue.fixed
        if wish.ask.end is not None and served[fixed + wish.ask.end]:
            return fixed + wish.ask.end
        having = np.flatnonzero(served[1:fixed])
        return int(having[0]) + 1 if len(having) else None

    def _plan(self, pair: _Pair) -> Plan | None:
        try:
            made = self.calibrations.of(pair.version, 0.0)
        except Stale:
            return None
        known = self._plans.get(pair.version)
        if known is None or known[0] != id(made):
            known = self._plans[pair.version] = id(made), made.plan(self._config.good)
        return known[1]
