"""An edge: one domain's adapter, gathered from its ends, mixed with the cloud's, and taught to the ends' small model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gainnet.errors import InputError
from gainnet.knowledge import appraise, distill, journal, masked
from gainnet.knowledge.algebra import Algebra
from gainnet.knowledge.distill import Text
from gainnet.knowledge.drift import Drift
from gainnet.knowledge.masked import Gathered, Masks
from gainnet.knowledge.protection import Protection
from gainnet.knowledge.setting import Setting
from gainnet.knowledge.update import Inbox, Update
from gainnet.models.low_rank import LowRank

RECENT = 8
"""Newest examples of each end, whose loss is watched."""


@dataclass(frozen=True, slots=True)
class Gathering:
    """What an edge made of a round's updates.

    Attributes:
        updates: those that counted.
        lines: what did not, and why.
        uplink_bit: what its ends sent.
        reach: how far it went along their mean.
    """

    updates: list[Update]
    lines: list[str]
    uplink_bit: float
    reach: float = 0.0


class Edge:
    """An edge and its domain.

    Args:
        setting: models and data.
        algebra: how updates are joined.
        index: which edge.
        adapter: what it begins with.

    Attributes:
        adapter: of the foundation model, that answers its domain.
        learnt: what it made of a round, which the cloud hears of.
        start: what its ends begin a round with, by round: this one's and the one before, for those who are late.
        inbox: what its ends sent.
        small: the adapter of its ends' small model, None for the plain one.
    """

    def __init__(self, setting: Setting, algebra: Algebra, index: int, adapter: LowRank) -> None:
        self._setting, self._algebra, self._index = setting, algebra, index
        self.name = setting.corpus.domains[index].name
        self.adapter = self.learnt = adapter
        self.start: dict[int, LowRank] = {}
        self.inbox = Inbox()
        self.small: LowRank | None = None
        self._shares = setting.config.begins == "shared"
        self._known = np.zeros(len(setting.shards), dtype=np.int64)

    def due(self, number: int) -> bool:
        """Whether a round should start: its ends hold data that it has not learnt from, or their loss has risen.

        Loss is watched on the newest of what each holds, learnt from or not, beside that on the domain's held-out notes.
        """
        setting = self._setting
        held = {end: setting.held(end, number) for end in setting.ends_of(self._index).tolist()}
        fresh = {end: len(texts) - int(self._known[end]) for end, texts in held.items()}
        if sum(fresh.values()) >= (setting.config.batch if number else 1):
            return True
        recent = [text for end, texts in held.items() for text in texts[-max(fresh[end], RECENT) :]]
        if not recent:
            return False
        try:
            watch = Drift.of(self._each(setting.validation[self._index]))
        except InputError:  # too few held-out notes to compare with: new data is reason enough
            return any(fresh.values())
        return watch.seen(self._each(recent)).drifted

    def begin(self, number: int, cloud: LowRank, handed: Callable[[LowRank], LowRank]) -> None:
        """A round starts: its ends fetch what the edge has now, or what the cloud has, as it is then ``handed`` out."""
        self.start = {earlier: adapter for earlier, adapter in self.start.items() if earlier >= number - 1}
        self.learnt = cloud if self._shares else self.adapter
        self.start[number] = handed(self.learnt)

    def gather(self, number: int, asked: Sequence[int], privacy: Protection | None) -> Gathering:
        """Join what arrived into what the edge has learnt; where its ends did not begin from the cloud's, that answers.

        Args:
            number: of the round.
            asked: the edge's ends that were asked in it.
            privacy: noise on what is joined, None for none.
        """
        updates, lines = self.inbox.empty()
        sound = [update for update in updates if self._sound(update, number, lines)]
        bit = sum((update.uplink_bit for update in sound), 0.0)
        if not sound and privacy is None:
            return Gathering([], lines, bit)
        setting, before = self._setting, self.learnt
        try:
            joined = self._joined(number, asked, sound, privacy)
        except InputError as error:
            return Gathering([], [*lines, f"{self.name}: what its ends sent could not be joined: {error}"], bit)
        bit = joined.uplink_bit
        reach, self.learnt = self._reached(before, joined.adapter)
        if not self._shares:
            self.adapter = self.learnt
        for update in sound:
            self._known[update.end] = len(setting.held(update.end, update.number))
        return Gathering(sound, lines, bit, reach)

    def _joined(
        self, number: int, asked: Sequence[int], updates: Sequence[Update], privacy: Protection | None
    ) -> Gathered:
        """What its ends learnt, joined in the way that the scenario protects it."""
        setting, before = self._setting, self.start[number]
        masks = Masks(asked, setting.stream(f"masks.{number}.{self._index}").bytes) if setting.config.secure else None
        if privacy is not None:
            noise = setting.stream(f"noise.{number}.{self._index}")
            return privacy.gather(self._index, before, updates, noise, masks)
        if masks is not None:
            return masked.gather(before, updates, masks)
        sent = sum((update.uplink_bit for update in updates), 0.0)
        return Gathered(self._algebra.gather(before, updates), sent)

    def _reached(self, before: LowRank, joined: LowRank) -> tuple[float, LowRank]:
        """How far to go from one adapter to what ends made of it, and where that leads: the best on held-out notes.

        Ends that each take few steps from the same start agree on where to go, and their mean goes too short a way
        (extrapolation, arXiv 2301.09604). Where every step makes it worse, as noise for privacy may, it stays (reach 0).
        """
        setting = self._setting
        held = setting.validation[self._index]
        if not held:
            return 1.0, joined
        line = self._algebra.line(before, joined)
        found = [(0.0, before)] + [(reach, line.at(reach)) for reach in setting.config.reach]
        losses = [self._loss(adapter, known=adapter is before) for _, adapter in found]
        return found[int(np.nanargmin(losses))] if np.isfinite(losses).any() else (1.0, joined)

    def _loss(self, adapter: LowRank, *, known: bool) -> float:
        """On the domain's held-out notes; ``known`` where it may have been measured before."""
        setting = self._setting
        if known:
            return appraise.on_domain(setting, adapter, self._index)
        return appraise.mean_loss(setting.tuner, adapter, setting.validation[self._index])

    def _sound(self, update: Update, number: int, lines: list[str]) -> bool:
        """Whether an update may count; a line where it may not."""
        if not np.isfinite(update.after.flat()).all():
            lines.append(f"end {update.end}: update holds NaN or infinity and was refused")
            return False
        config = self._setting.config
        if update.number != number and (config.secure or config.privacy.kind == "update"):
            what = "its masks were" if config.secure else "what it may cost was accounted"
            lines.append(f"end {update.end}: {what} for round {update.number}, so it can't count now")
            return False
        return True

    def settle(self, cloud: LowRank) -> dict[str, Any]:
        """Take the cloud's knowledge in: of mixes with its own, the one that is best on its held-out notes.

        ``cloud`` is what the next round begins from. Where ends begin from it, what answered so far goes on to do so until
        something is better.
        """
        setting = self._setting
        held = setting.validation[self._index]
        so_far = self._loss(self.adapter, known=True) if held and self._shares else float("inf")
        best: tuple[float, float | None, LowRank] = (so_far, None, self.adapter)
        for kept in sorted(setting.config.kept, reverse=True):
            mixed = self._algebra.mix(cloud, self.learnt, kept)
            loss = self._loss(mixed, known=mixed is cloud or mixed is self.learnt) if held else 1.0 - kept
            if loss < best[0]:
                best = (loss, kept, mixed)
        self.adapter = best[2]
        return {"kept": best[1]}

    def sample(self, number: int) -> list[Text]:
        """Texts of its domain's sections that the edge's model makes up, to teach others with; no data of anybody."""
        setting, config = self._setting, self._setting.config.distillation
        sections = setting.corpus.domains[self._index].sections
        count = -(-config.samples // setting.domains)
        return distill.sample(
            setting.tuner, self.learnt, sections, count, setting.stream(f"sample.{number}.{self._index}")
        )

    def teach(self, number: int, sampled: Sequence[Text]) -> tuple[dict[str, Any], list[str]]:
        """Distil the domain's knowledge into the ends' small model; it stays as it was where that makes it no better.

        ``sampled`` is what it sampled in this round.
        """
        setting, config = self._setting, self._setting.config
        if not config.distillation.samples or not config.distillation.steps:
            return {}, []
        held = setting.validation[self._index]
        taught = distill.small(
            setting.tuner,
            self.adapter,
            setting.small,
            self.small,
            setting.corpus.domains[self._index].sections,
            config.distillation,
            setting.stream(f"small.{number}.{self._index}"),
            sampled=sampled,
        )
        if taught.refused:
            return taught.as_tree(), [f"{self.name}: the ends' model stays as it was: {taught.refused}"]
        fetched = taught.adapter.halved()
        before, after = (appraise.mean_loss(setting.small, adapter, held) for adapter in (self.small, fetched))
        if after < before:
            self.small = fetched
            return taught.as_tree() | {"promoted": True}, []
        return taught.as_tree() | {"promoted": False}, [f"{self.name}: the ends' model stays as it was: no better"]

    def weights(self) -> dict[str, np.ndarray]:
        """Everything that the next rounds depend on."""
        found = journal.packed(f"edge{self._index}", self.adapter) | {f"known{self._index}": self._known}
        taken = self.inbox.known()
        found[f"digest{self._index}"] = np.array([list(bytes.fromhex(digest)) for digest, _, _ in taken], np.uint8)
        found[f"taken{self._index}"] = np.array([who for _, *who in taken], np.int64).reshape(-1, 2)
        for number, adapter in self.start.items():
            found |= journal.packed(f"edge{self._index}.start{number}", adapter)
        if self.small is not None:
            found |= journal.packed(f"edge{self._index}.small", self.small)
        return found

    def restore(self, weights: Mapping[str, np.ndarray]) -> None:
        """Go on from there."""
        setting, prefix = self._setting, f"edge{self._index}"
        self.adapter = self.learnt = journal.unpacked(prefix, weights, setting.base)
        self._known = weights[f"known{self._index}"].copy()
        pairs = zip(weights[f"digest{self._index}"], weights[f"taken{self._index}"].tolist(), strict=True)
        self.inbox.remember([(digest.tobytes().hex(), number, end) for digest, (number, end) in pairs])
        begun = {
            int(k.removeprefix(f"{prefix}.start").split("|")[0]) for k in weights if k.startswith(f"{prefix}.start")
        }
        self.start = {n: journal.unpacked(f"{prefix}.start{n}", weights, setting.base) for n in sorted(begun)}
        small = any(key.startswith(f"{prefix}.small|") for key in weights)
        self.small = journal.unpacked(f"{prefix}.small", weights, setting.small.language.digest) if small else None

    def _each(self, texts: tuple[Any, ...] | list[Any]) -> np.ndarray:
        nat, token = self._setting.tuner.losses(self.adapter, texts)
        return np.asarray(nat / np.maximum(token, 1))
