"""The cloud: joins what edges learnt into the foundation model's adapter, and promotes it only if nothing got worse."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from gainnet.knowledge import aggregate, appraise, contribution, distill, journal, robust
from gainnet.knowledge.algebra import Algebra, Means, scaled
from gainnet.knowledge.distill import Text
from gainnet.knowledge.gate import Scores, Verdict, judge
from gainnet.knowledge.registry import Contributor, Origin, Registry, Spent
from gainnet.knowledge.setting import Setting
from gainnet.knowledge.text import Encoded
from gainnet.knowledge.tuning import Diverged
from gainnet.models import adapter as adapters
from gainnet.models.low_rank import LowRank

FOUNDATION = "foundation"
FLOAT_BYTE = 4
BEFORE = -1
"""The round before the first: of the adapter that the first round learns from."""
PARTS = (1.0, 0.5, 0.25)
"""Of the way to a candidate that are tried, while it is refused."""
EXACT_MAX = 4
"""Edges up to which all coalitions are tried."""
SHARE_TOLERANCE = 1e-3
"""What counts as little in a contribution (nat a token)."""
JUDGED_OF_DOMAIN = 4
"""Validation examples of each domain on which contributions, and how far to go, are judged."""
ROUNDING = 1e-3
"""Part of its loss by which the change of an edge that stayed as it was may seem to harm: it was quantised and cut."""
HALF_WAY = 0.5
"""How far the opposite of a change is tried."""
HOSTILE = 0.1
"""Part of its loss by which a change harms its own domain that nobody sends who means well."""
WORST_LOSS = 50.0
"""What a model counts for whose loss is no finite number (nat a token)."""
ROOT_OF_DOMAIN = 4
"""Validation examples of each domain that the cloud's own reference update is learnt from."""


@dataclass(frozen=True, slots=True)
class Learnt:
    """What an edge sent: what it made of the cloud's adapter, and texts that it made up.

    Attributes:
        edge: which.
        weight: examples behind it.
        ends: that contributed.
        bit: what it took.
        teacher: the edge's adapter, which is joined, and whose predictions teach.
        texts: that it sampled.
    """

    edge: int
    weight: float
    ends: int
    bit: float
    teacher: LowRank
    texts: list[Text]


@dataclass(frozen=True, slots=True)
class _Joined:
    """The cloud's adapter with what edges sent in it.

    Attributes:
        adapter: this one.
        weight: of each edge in it, parts of one; all zero where none was trusted.
        suspected: which look hostile, worst first.
        harmful: which make their own domain worse, hostile or not, and are not in it.
    """

    adapter: LowRank
    weight: tuple[float, ...]
    suspected: tuple[int, ...]
    harmful: tuple[int, ...] = ()


class Cloud:
    """The foundation model's adapter, and how it moves.

    Args:
        setting: models and data.
        algebra: how changes add.
        registry: where versions are kept, None to keep none.

    Attributes:
        adapter: the champion, which answers.
        base: what is learnt from: the champion or, where rounds begin from what is shared, the best of what the last one
            made, whether or not it may answer.
    """

    def __init__(self, setting: Setting, algebra: Algebra, registry: Registry | None) -> None:
        self._setting, self._algebra, self._registry = setting, algebra, registry
        self.adapter: LowRank = setting.tuner.adapters.fresh(setting.config.edge_rank, setting.stream("fresh"))
        self.base = self.adapter
        self._origin = appraise.appraise(setting.tuner, None, setting)
        self.scores: Scores = appraise.appraise(setting.tuner, self.adapter, setting)
        self._names = [domain.name for domain in setting.corpus.domains]
        self._losses: dict[int, tuple[LowRank, float]] = {}
        self._base_byte = sum(
            weight.numel() * weight.element_size()
            for name, weight in setting.language.model.named_parameters()
            if "lora_" not in name
        )
        self._register_first()

    def learn(self, number: int, learnt: Sequence[Learnt], spent: Spent | None) -> dict[str, Any]:
        """Join, distil, rehearse, judge. Returns figures: loss before and after each, who is suspected, the verdict."""
        setting, config = self._setting, self._setting.config
        figures: dict[str, Any] = {"before": appraise.overall(self.scores)}
        if not learnt:
            return figures | {"cloud": appraise.overall(self.scores), "gate": "nothing arrived"}
        said: list[str] = []
        means = self._algebra.means([part.teacher for part in learnt])
        joined = self._joined(number, learnt, means, said)
        suspected = [self._names[learnt[index].edge] for index in joined.suspected]
        figures["suspected"] = suspected
        figures["weights"] = {self._names[p.edge]: float(w) for p, w in zip(learnt, joined.weight, strict=True)}
        figures["reach"], merged = self._reached(joined.adapter)
        figures["merged"] = appraise.overall(appraise.appraise(setting.tuner, merged, setting))
        left_out = {*joined.suspected, *joined.harmful}
        trusted = [part for index, part in enumerate(learnt) if index not in left_out]
        figures["left_out"] = [self._names[learnt[index].edge] for index in sorted(left_out)]
        taught, figures["distilled"] = self._distil(number, merged, trusted)
        try:
            candidate = self._rehearse(number, taught, trusted)
        except Diverged as error:
            said.append(f"cloud: what it rehearsed was left out: {error}")
            candidate = taught
        if config.incentive.budget > 0.0:
            figures |= self._reward(number, learnt, means)
        self._losses.clear()
        figures |= self._promoted(number, candidate, learnt, joined.weight, spent)
        self.base = self.adapter
        if config.begins == "shared":
            self.base = self._best((candidate, taught, merged))
            figures["base"] = appraise.overall(appraise.appraise(setting.tuner, self.base, setting))
        return figures | {"lines": said}

    def _best(self, made: Sequence[LowRank]) -> LowRank:
        """Of what a round made, what is best on all domains' held-out notes; the champion where nothing is any good.

        Public text gone over again keeps what the model knew, which the gate asks of the champion, and costs some of what
        was just learnt: what is learnt from may be the one without.
        """
        losses = [appraise.mean_of_domains(appraise.appraise(self._setting.tuner, one, self._setting)) for one in made]
        return made[int(np.nanargmin(losses))] if np.isfinite(losses).any() else self.adapter

    def _promoted(
        self, number: int, candidate: LowRank, learnt: Sequence[Learnt], weights: Sequence[float], spent: Spent | None
    ) -> dict[str, Any]:
        """Judge a candidate; what is refused whole may pass in part, on the way there from the champion."""
        setting, way = self._setting, self._algebra.means([self.adapter, candidate])
        for part in PARTS:
            tried = way.of([1.0 - part, part])
            scores = self._scored(tried)
            verdict = judge(scores, self.scores, setting.config.gate, self._origin)
            self._register(number, tried, scores, learnt, weights, verdict, spent)
            if verdict.promoted:
                self.adapter, self.scores = tried, scores
                break
        said = (
            ("promoted" if part == 1.0 else f"promoted to {part:g}") if verdict.promoted else "; ".join(verdict.reasons)
        )
        return {"gate": said, "promoted": verdict.promoted, "cloud": appraise.overall(self.scores)}

    def _scored(self, adapter: LowRank) -> Scores:
        """Loss on held-out data, memory of weights and adapter and, only where it has a limit, the time that a note takes.

        Time is of this machine and differs from run to run.
        """
        setting = self._setting
        found = appraise.appraise(setting.tuner, adapter, setting)
        memory = float(self._base_byte + FLOAT_BYTE * adapter.numbers)
        if setting.config.gate.latency_s is None:
            return replace(found, memory_byte=memory)
        examples = [example for domain in setting.corpus.domains for example in domain.validation[:1]]
        began = time.perf_counter()
        for example in examples:
            appraise.write(setting.tuner, adapter, setting, [example])
        took = (time.perf_counter() - began) / max(len(examples), 1)
        return replace(found, memory_byte=memory, latency_s=took)

    def _joined(self, number: int, learnt: Sequence[Learnt], means: Means, said: list[str]) -> _Joined:
        """The cloud's adapter with what edges sent, made one by the scenario's rule.

        A mean is taken of the edges' adapters, since with shares that sum to one it is that of their changes, added. What
        goes wrong is added to ``said``.
        """
        rule = self._setting.config.robust
        weights = [part.weight for part in learnt]
        if rule.kind != "mean" and rule.kind != "judged":
            changes = [self._algebra.change(self.base, part.teacher) for part in learnt]
            try:
                trusted = self._reference(number, changes) if rule.kind == "fltrust" else None
            except Diverged as error:
                said.append(f"cloud: it has no update of its own to trust others by, so none counts: {error}")
                return _Joined(self.base, (0.0,) * len(learnt), ())
            joined = robust.join(rule.kind, changes, weights, hostile_max=rule.hostile_max, trusted=trusted)
            return _Joined(self._algebra.add(self.base, [(1.0, joined.adapter)]), joined.weight, joined.suspected)
        harm = [self._harm(part) if rule.kind == "judged" else 0.0 for part in learnt]
        harmful = [index for index, part in enumerate(harm) if not part <= ROUNDING]
        hostile = [index for index in harmful if not harm[index] <= HOSTILE or self._opposite_helps(index, learnt)]
        shares = [0.0 if index in harmful else weight for index, weight in enumerate(weights)]
        whole = sum(shares)
        adapter = means.of(shares) if whole > 0.0 else self.base
        weight = tuple(share / (whole or 1.0) for share in shares)
        return _Joined(adapter, weight, tuple(hostile), tuple(harmful))

    def _harm(self, part: Learnt) -> float:
        """By what part of its loss an edge's change makes the model worse on its own domain, where it should be best.

        On all of its held-out notes, by which the edge chose what it sends: what is left is what was lost on the way.
        """
        held = self._setting.validation[part.edge]
        if not held:
            return 0.0
        with_it = appraise.mean_loss(self._setting.tuner, part.teacher, held)
        return with_it / appraise.on_domain(self._setting, self.base, part.edge) - 1.0

    def _opposite_helps(self, index: int, learnt: Sequence[Learnt]) -> bool:
        """Whether the opposite of an edge's change, no longer than others' are, makes the model better on its own domain."""
        part, lengths = learnt[index], [aggregate.distance(one.teacher, self.base) for one in learnt]
        typical = sorted(lengths)[(len(lengths) - 1) // 2]
        way = HALF_WAY * min(1.0, typical / max(lengths[index], 1e-30))
        opposite = self._algebra.add(self.base, [(-way, self._algebra.change(self.base, part.teacher))])
        loss = appraise.mean_loss(self._setting.tuner, opposite, self._setting.validation[part.edge])
        return loss < appraise.on_domain(self._setting, self.base, part.edge) * (1.0 - ROUNDING)

    def _reached(self, joined: LowRank) -> tuple[float, LowRank]:
        """How far to go to what was joined, and where that leads: the best of some on a few held-out notes of every domain.

        The mean of unlike domains' changes goes too short a way for each of them (task arithmetic, arXiv 2212.04089).
        """
        line = self._algebra.line(self.base, joined)
        found = [(reach, line.at(reach)) for reach in self._setting.config.reach]
        losses = [self._loss(adapter) for _, adapter in found]
        reach, best = found[int(np.nanargmin(losses)) if np.isfinite(losses).any() else 0]
        return reach, best if reach == 1.0 else self._algebra.balanced(best)

    def _loss(self, adapter: LowRank) -> float:
        """On a few held-out notes of every domain; of an adapter that was looked at in this round, what it was then."""
        if id(adapter) not in self._losses:
            self._losses[id(adapter)] = adapter, appraise.mean_loss(self._setting.tuner, adapter, self._judged())
        return self._losses[id(adapter)][1]

    def _judged(self) -> list[Encoded]:
        """A few held-out notes of every domain."""
        return [encoded for found in self._setting.validation for encoded in found[:JUDGED_OF_DOMAIN]]

    def _reference(self, number: int, changes: Sequence[LowRank]) -> LowRank:
        """The cloud's own update, from a few held-out examples of every domain (FLTrust's root data).

        It is as long as the median of the edges': a few examples tell the direction, not how far to go.
        """
        setting, config = self._setting, self._setting.config
        root = [encoded for held in setting.validation for encoded in held[:ROOT_OF_DOMAIN]]
        tuned = setting.tuner.tune(
            self.base,
            root,
            epochs=config.local_epochs,
            batch=config.batch,
            learning_rate=config.learning_rate,
            rng=setting.stream(f"root.{number}"),
            factors="b" if self._algebra.linear else "ab",
        )
        own = self._algebra.change(self.base, tuned.adapter)
        typical = float(np.median([aggregate.norm(change) for change in changes]))
        length = aggregate.norm(own)
        return scaled(own, typical / length) if length > 0.0 and typical > 0.0 else own

    def _distil(self, number: int, candidate: LowRank, teachers: Sequence[Learnt]) -> tuple[LowRank, dict[str, Any]]:
        """Texts that edges sample themselves teach the cloud what they know better."""
        config = self._setting.config.distillation
        if not config.samples or not config.steps or not teachers:
            return candidate, {}
        sections = [section for domain in self._setting.corpus.domains for section in domain.sections]
        taught = distill.teach(
            self._setting.tuner,
            candidate,
            [part.teacher for part in teachers],
            sections,
            config,
            self._setting.stream(f"distil.{number}"),
            factors="b" if self._algebra.linear else "ab",
            proof=self._setting.proof(),
            measure=lambda adapter, texts: appraise.on_proof(self._setting, adapter, texts),
            texts=[text for part in teachers for text in part.texts],
        )
        return taught.adapter, taught.as_tree()

    def _rehearse(self, number: int, candidate: LowRank, teachers: Sequence[Learnt]) -> LowRank:
        """Go over some public text again, so that the model keeps what it knew, beside what edges made up, so that it keeps
        that too.
        """
        setting, config = self._setting, self._setting.config
        if not config.rehearsal.texts or not setting.public:
            return candidate
        rng = setting.stream(f"rehearse.{number}")
        chosen = rng.permutation(len(setting.public))[: config.rehearsal.texts]
        tuned = setting.tuner.tune(
            candidate,
            [
                *(setting.public[index] for index in chosen.tolist()),
                *distill.worth_learning(setting.tuner, [text for part in teachers for text in part.texts]),
            ],
            epochs=1,
            batch=config.batch,
            learning_rate=config.rehearsal.learning_rate,
            rng=rng,
            factors="b" if self._algebra.linear else "ab",
        )
        return tuned.adapter

    def _reward(self, number: int, learnt: Sequence[Learnt], means: Means) -> dict[str, Any]:
        """Shapley values of the edges (how much each lowers the loss on held-out notes), and what they are paid."""
        setting, config = self._setting, self._setting.config

        def value(coalition: frozenset[int]) -> float:
            shares = [part.weight if index in coalition else 0.0 for index, part in enumerate(learnt)]
            loss = self._loss(means.near(shares) if coalition else self.base)
            return -loss if np.isfinite(loss) else -WORST_LOSS

        players, rule = range(len(learnt)), config.incentive
        if len(learnt) <= EXACT_MAX:
            found = contribution.exact(players, value)
        else:
            rng = setting.stream(f"shapley.{number}")
            found = contribution.shapley(players, value, rule.permutations, SHARE_TOLERANCE, rng)
        paid = contribution.pay(found.value, rule.budget, rule.cost)
        names = [self._names[part.edge] for part in learnt]
        return {
            "contribution": dict(zip(names, found.value, strict=True)),
            "paid": dict(zip(names, map(float, paid.paid), strict=True)),
        }

    def _register_first(self) -> None:
        """Keep the adapter that the first round learns from, in use from then on; where a run goes on it is there."""
        if self._registry is None or self._registry.champion(FOUNDATION) is not None:
            return
        first, origin = self.adapter, Origin(round=BEFORE, base=self._setting.base, scores=self.scores)
        version = self._registry.register(
            FOUNDATION, first.digest(), lambda folder: adapters.save(first, folder), origin
        )
        self._registry.promote(version)

    def _register(
        self,
        number: int,
        candidate: LowRank,
        scores: Scores,
        learnt: Sequence[Learnt],
        weights: Sequence[float],
        verdict: Verdict,
        spent: Spent | None,
    ) -> None:
        """Keep the version with where it came from and what became of it."""
        if self._registry is None:
            return
        origin = Origin(
            round=number,
            base=self._setting.base,
            parents=(self.base.digest(),),
            contributors=tuple(
                Contributor(self._names[part.edge], part.ends, float(weight))
                for part, weight in zip(learnt, weights, strict=True)
            ),
            privacy=spent,
            scores=scores,
        )
        version = self._registry.register(
            FOUNDATION, candidate.digest(), lambda folder: adapters.save(candidate, folder), origin
        )
        if verdict.promoted:
            self._registry.promote(version, number)
        else:
            self._registry.reject(version, verdict.reasons)

    def weights(self) -> dict[str, np.ndarray]:
        """The champion, and what is learnt from where that is another."""
        own = journal.packed("cloud.base", self.base) if self.base is not self.adapter else {}
        return journal.packed("cloud", self.adapter) | own

    def restore(self, weights: Mapping[str, np.ndarray]) -> None:
        """Go on from there."""
        self.adapter = self.base = journal.unpacked("cloud", weights, self._setting.base)
        if any(key.startswith("cloud.base|") for key in weights):
            self.base = journal.unpacked("cloud.base", weights, self._setting.base)
        self.scores = appraise.appraise(self._setting.tuner, self.adapter, self._setting)
