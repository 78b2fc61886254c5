"""``gainnet``: ends teach their edges, edges the cloud, and what was judged good comes back down."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from typing_extensions import override

from gainnet.errors import InputError
from gainnet.knowledge import appraise
from gainnet.knowledge.algebra import Algebra, blank
from gainnet.knowledge.arm import NOTES_OF_QUALITY, Arm, Ask, Closed, Links
from gainnet.knowledge.cloud import Cloud, Learnt
from gainnet.knowledge.compress import Bits, Encoder, decode
from gainnet.knowledge.distill import Text
from gainnet.knowledge.edge import Edge
from gainnet.knowledge.ends import Ends
from gainnet.knowledge.protection import of_examples, protection
from gainnet.knowledge.setting import Setting
from gainnet.knowledge.tuning import Diverged
from gainnet.knowledge.update import Update
from gainnet.knowledge.uplink import DOWN_BIT, Uplink
from gainnet.models.low_rank import LowRank

LARGEST = float(np.finfo(np.float32).max)
"""What the squares of a product's numbers may add up to: more, and inner products are no finite numbers."""
TWICE: dict[Bits, Bits] = {2: 4, 4: 8, 8: 16, 16: 16, 32: 32}
"""Bits of each number that edges send of a whole adapter, by those of an update: 16 lose nothing to speak of, 32 nothing."""
BACK_BIT = 32
"""Of each number that edges fetch from the cloud."""
TOKEN_BIT = 16
"""What a token of a sampled text takes on the way to the cloud; its teacher's predictions follow from the adapter there."""


class Tiers(Arm):
    """Ends, edges and cloud."""

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        config = setting.config
        self._algebra = Algebra(config.aggregation, config.edge_rank)
        self._cloud = Cloud(setting, self._algebra, setting.registry)
        self._edges = [Edge(setting, self._algebra, d, self._cloud.adapter) for d in range(setting.domains)]
        self._private = protection(setting)
        self._ends = Ends(setting, of_examples(setting))
        self._uplink = Uplink(setting, self._algebra, self._ends)
        self._blank: dict[int, LowRank] = {}
        self._asked: list[int] = []
        self._loss: list[float] = []
        self._due = [True] * setting.domains
        # Noise alone is sent where nobody was drawn, or it would show.
        self.alone = config.privacy.kind == "update" and config.starts == "period"

    @override
    def ask(self, number: int, links: Links) -> tuple[Ask, ...]:
        """A part of every edge's ends; only where a round is due, if rounds start by drift."""
        self._due = [self.setting.config.starts == "period" or edge.due(number) for edge in self._edges]
        ends = [end for end in self._ends.participants(number) if self._due[int(self.setting.edge_of[end])]]
        small_bit = [0.0 if edge.small is None else float(DOWN_BIT * edge.small.numbers) for edge in self._edges]
        asks, lines = self._uplink.ask(number, ends, links, small_bit)
        self._lines.extend(lines)
        self._asked = [ask.end for ask in asks]
        for edge in self._edges:
            edge.begin(number, self._cloud.base, self._uplink.handed)
        return tuple(asks)

    @override
    def arrived(self, number: int, ask: Ask, late_by: int) -> None:
        """An update arrived at its domain's edge, whichever cell it came over."""
        edge = self._edges[int(self.setting.edge_of[ask.end])]
        start = edge.start.get(number)
        if start is None:
            self._lines.append(f"end {ask.end}: its update for round {number} came too late to be of use")
            return
        try:
            update = self._uplink.receive(number, ask, start, late_by)
        except (Diverged, InputError) as error:
            self._lines.append(f"end {ask.end}: update refused: {error}")
            return
        self._loss.append(update.loss)
        edge.inbox.put(update)
        if late_by:
            self._lines.append(f"end {ask.end}: update for round {number} came {late_by} late and counts half")

    @override
    def close(self, number: int) -> Closed:
        """Up: edges gather, the cloud learns. Down: edges settle, ends' models are taught."""
        lines = list(self.said())
        losses, self._loss = self._loss, []
        bit = 0.0
        figures: dict[str, Any] = {"train_loss": float(np.mean(losses)) if losses else None}
        gathered: dict[int, list[Update]] = {}
        gone: dict[str, float] = {}
        for index, edge in enumerate(self._edges):
            asked = [end for end in self._asked if int(self.setting.edge_of[end]) == index]
            found = edge.gather(number, asked, self._private if self._due[index] else None)
            lines.extend(found.lines)
            bit += found.uplink_bit
            if found.updates:
                gathered[index], gone[edge.name] = found.updates, found.reach
        figures["gone"] = gone
        figures["up"] = self._know([edge.learnt for edge in self._edges])
        spent = self._private.spend() if self._private is not None else self._ends.spent()
        figures["epsilon"] = spent.epsilon if spent is not None else None
        texts = [edge.sample(number) for edge in self._edges]
        learnt = []
        for index, updates in gathered.items():
            try:
                learnt.append(self._sent(number, index, updates, texts[index]))
            except InputError as error:
                lines.append(f"{self._edges[index].name}: what it sent was refused: {error}")
        figures |= self._cloud.learn(number, learnt, spent)
        lines.extend(figures.pop("lines", ()))
        suspected = figures.get("suspected", ())
        lines.extend(f"{name}: suspected of poison" for name in suspected)
        lines.extend(
            f"{name}: left out of the mean: what it sent makes its own domain no better"
            for name in figures.get("left_out", ())
            if name not in suspected
        )
        if not figures.get("promoted", True):
            lines.append(f"candidate refused, the champion stays: {figures['gate']}")
        down = {edge.name: edge.settle(self._cloud.base) for edge in self._edges}
        taught = {}
        for edge, sampled in zip(self._edges, texts, strict=True):
            taught[edge.name], said = edge.teach(number, sampled)
            lines.extend(said)
        figures |= {
            "settled": down,
            "taught": taught,
            "edges": self._know([edge.adapter for edge in self._edges]),
            "ends": self._ends_know(),
        }
        up = sum(part.bit for part in learnt)
        back = float(BACK_BIT * self._cloud.base.numbers * len(self._edges)) if learnt else 0.0
        return Closed(figures, tuple(lines), self.quality(), bit, up + back)

    @override
    def start(self) -> dict[str, Any]:
        """What is known before anything is learnt."""
        edges = self._know([edge.adapter for edge in self._edges])
        return super().start() | {"edges": edges, "ends": self._ends_know()}

    @override
    def quality(self) -> dict[str, float]:
        """Mean ROUGE-1 of the notes that each tier writes."""
        setting = self.setting
        return {
            "end": appraise.quality(setting.small, [e.small for e in self._edges], setting, NOTES_OF_QUALITY),
            "edge": appraise.quality(setting.tuner, [e.adapter for e in self._edges], setting, NOTES_OF_QUALITY),
            "cloud": appraise.quality(
                setting.tuner, [self._cloud.adapter] * len(self._edges), setting, NOTES_OF_QUALITY
            ),
        }

    @override
    def answering(self, domain: int) -> Sequence[LowRank | None]:
        """Its edge's adapter."""
        return (self._edges[domain].adapter,)

    @override
    def answers(self) -> Mapping[str, LowRank | None]:
        """The champion's, and each edge's."""
        return {"cloud": self._cloud.adapter} | {f"edge-{edge.name}": edge.adapter for edge in self._edges}

    @override
    def taught(self) -> Mapping[str, LowRank | None]:
        """What each edge made of the small model."""
        return {f"end-{edge.name}": edge.small for edge in self._edges}

    @override
    def weights(self) -> dict[str, np.ndarray]:
        """Everything that the next rounds depend on."""
        found = self._cloud.weights() | self._uplink.weights() | self._ends.weights()
        for edge in self._edges:
            found |= edge.weights()
        return found | (self._private.weights() if self._private is not None else {})

    @override
    def restore(self, weights: Mapping[str, np.ndarray]) -> None:
        """Go on from there."""
        self._cloud.restore(weights)
        self._uplink.restore(weights)
        self._ends.restore(weights)
        for edge in self._edges:
            edge.restore(weights)
        if self._private is not None:
            self._private.restore(weights)

    def _sent(self, number: int, index: int, updates: Sequence[Update], texts: list[Text]) -> Learnt:
        """What an edge sends to the cloud, compressed like all that is sent; a poisoned one lies."""
        edge, poison, base = self._edges[index], self.setting.config.poison, self._cloud.base
        told, bits = self._algebra.kept(edge.learnt), self.setting.config.compression.update_bits
        if poison is not None and poison.edge == index and number >= poison.from_round:
            told = self._algebra.add(base, [(-poison.scale, self._algebra.change(base, told))])
        rng = self.setting.stream(f"backhaul.{number}.{index}")
        # Factors that have none in common with the base's are sent whole. Their change has twice the rank: this takes no more.
        before, encoder = (base, Encoder(bits)) if self._algebra.linear else (self._nothing(told), Encoder(TWICE[bits]))
        sent = encoder.encode(before, told, rng)
        received = decode(sent.data, before)
        if not _most(received) < LARGEST:
            raise InputError("its numbers are too large to be added up")
        return Learnt(
            edge=index,
            weight=sum(update.weight for update in updates),
            ends=len(updates),
            bit=float(sent.bit + TOKEN_BIT * sum(len(text.encoded.token) for text in texts)),
            teacher=received,
            texts=texts,
        )

    def _nothing(self, adapter: LowRank) -> LowRank:
        """What the cloud has of an adapter's factors before they arrive: zeros of these shapes."""
        if adapter.rank not in self._blank:
            self._blank[adapter.rank] = blank(adapter)
        return self._blank[adapter.rank]

    def _know(self, adapters: Sequence[LowRank]) -> dict[str, dict[str, float]]:
        """Perplexity of an adapter of each edge on the edge's own domain, on the others, on public text."""
        pairs = zip(self._edges, adapters, strict=True)
        return {edge.name: appraise.own(self.scores(adapter), edge.name) for edge, adapter in pairs}

    def _ends_know(self) -> dict[str, dict[str, float]]:
        """The same of the ends' small models."""
        setting = self.setting
        return {
            edge.name: appraise.own(appraise.appraise(setting.small, edge.small, setting), edge.name)
            for edge in self._edges
        }


def _most(adapter: LowRank) -> float:
    """What the squares of the numbers of an adapter's products add up to, at most."""
    flat = [[part.ravel("K") for part in (factors.a, factors.b)] for factors in adapter.layers.values()]
    squares = [[float(np.dot(part, part)) for part in parts] for parts in flat]  # float32 that overflows is infinity
    return adapter.scale**2 * sum(a * b for a, b in squares)
