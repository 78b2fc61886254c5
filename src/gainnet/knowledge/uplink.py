"""From ends to edges: who is asked for what, how each trains, and what its edge gets of it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from gainnet.knowledge import journal, secure, split
from gainnet.knowledge.algebra import Algebra
from gainnet.knowledge.arm import Ask, Links
from gainnet.knowledge.compress import Encoder, Feedback, decode
from gainnet.knowledge.compress_kernel import BLOCK
from gainnet.knowledge.ends import Ends
from gainnet.knowledge.setting import Setting
from gainnet.knowledge.split import SplitTuner
from gainnet.knowledge.update import Update
from gainnet.models.low_rank import LowRank

SHARED_BASIS = "shared a"
DOWN_BIT = 16
"""Of each number that an end fetches."""
STALE = 0.5
"""What a round of lateness leaves of an update's weight."""


class Uplink:
    """The ends of a setting, as their edges see them.

    Args:
        setting: models, data and ends.
        algebra: how edges join what arrives.
        ends: who trains.
    """

    def __init__(self, setting: Setting, algebra: Algebra, ends: Ends) -> None:
        self._setting, self._algebra, self._ends = setting, algebra, ends
        self._split = SplitTuner(setting.tuner)
        self._handed: dict[int, tuple[LowRank, LowRank]] = {}
        self._cuts: dict[tuple[int, int], tuple[LowRank, LowRank]] = {}
        how = setting.config.compression
        self._encoder = {end: Encoder(how.update_bits, how.update_change) for end in range(len(setting.shards))}

    def ask(
        self, number: int, ends: list[int], links: Links, besides_bit: Sequence[float]
    ) -> tuple[list[Ask], list[str]]:
        """What each of these ends is asked; and a line for each that can't take part, and why.

        ``besides_bit``: what else goes down to an end, by its edge.
        """
        self._handed.clear()
        self._cuts.clear()
        asks, lines = [], []
        for end in ends:
            rank = self._setting.rank(end)
            numbers, besides = self._numbers(rank), besides_bit[int(self._setting.edge_of[end])]
            sent_bit = self._masked_bit(end, ends) if self._setting.config.secure else self._update_bit(numbers)
            down_bit = DOWN_BIT * numbers + besides
            examples = self._ends.fitting(end, number, links, down_bit, sent_bit)
            place = self._place(end, number, examples, links)
            if place.kind == "none":
                lines.append(f"end {end}: does not take part: {place.reason}")
                continue
            if place.kind == "split":  # the edge has the adapter of its layers
                numbers = self._numbers(rank, place.cut)
                sent_bit, down_bit = self._update_bit(numbers), DOWN_BIT * numbers + besides
            asks.append(
                Ask(
                    end=end,
                    place=place.kind,
                    cut=place.cut,
                    train_token=place.end_token,
                    edge_token=place.edge_token,
                    uplink_bit=sent_bit + place.uplink_bit,
                    downlink_bit=down_bit + place.downlink_bit,
                    examples=examples,
                )
            )
        return asks, lines

    def handed(self, adapter: LowRank) -> LowRank:
        """An adapter as ends get it, computed once in a round: edges may have one in common."""
        if id(adapter) not in self._handed:
            self._handed[id(adapter)] = adapter, self._algebra.handed(adapter)
        return self._handed[id(adapter)][1]

    def receive(self, number: int, ask: Ask, start: LowRank, late_by: int) -> Update:
        """Train an end on its data and rebuild its update at its edge; Diverged or InputError where there is none.

        ``start``: what was `handed` out in that round.
        """
        setting, end = self._setting, ask.end
        before = self._cut(start, setting.rank(end))
        moved_bit, edge = 0.0, split.at_edge(before.layers, ask.cut)
        if ask.place == "split":
            made = self._split.tune(
                before,
                setting.lesson(end, number, ask.examples),
                epochs=setting.config.local_epochs,
                batch=setting.config.batch,
                learning_rate=setting.config.learning_rate,
                rng=setting.stream(f"tune.{number}.{end}"),
                factors="b" if self._algebra.linear else "ab",
                cut=ask.cut,
                compression=setting.config.compression,
                prompt_weight=setting.config.prompt_weight,
            )
            tuned, moved_bit = made.tuned, float(made.uplink_bit)
        else:
            tuned = self._ends.tune(end, number, before, ask.examples)
        basis = SHARED_BASIS if self._algebra.linear else None
        rng = setting.stream(f"compress.{number}.{end}")
        told = split.told(before, tuned.adapter, edge) if edge else tuned.adapter
        sent = self._encoder[end].encode(before, told, rng, basis)
        arrived = decode(sent.data, before)
        return Update(
            end=end,
            number=number,
            digest=sent.digest,
            weight=float(len(setting.held(end, number))) * STALE**late_by,
            before=before,
            after=split.joined(before, arrived, tuned.adapter, edge) if edge else arrived,
            loss=tuned.loss,
            uplink_bit=sent.bit + moved_bit,
        )

    def weights(self) -> dict[str, np.ndarray]:
        """What the ends' compression still owes."""
        return {
            f"owed{end}": encoder.feedback.lost
            for end, encoder in self._encoder.items()
            if encoder.feedback is not None
        }

    def restore(self, weights: journal.Arrays) -> None:
        """Go on from there."""
        for end, encoder in self._encoder.items():
            owed = weights.get(f"owed{end}")
            encoder.feedback = None if owed is None else Feedback(SHARED_BASIS, owed)

    def _cut(self, start: LowRank, rank: int) -> LowRank:
        """What ends of that rank begin with: one adapter for all of them."""
        key = id(start), rank
        if key not in self._cuts:
            self._cuts[key] = start, self._algebra.cut(start, rank)
        return self._cuts[key][1]

    def _update_bit(self, numbers: int) -> float:
        """What an update of so many numbers takes, to within its header; at most, where `update_change` leaves some out."""
        bits = self._setting.config.compression.update_bits
        return float(bits * numbers + (16 * -(-numbers // BLOCK) if bits < 16 else 0))

    def _numbers(self, rank: int, cut: tuple[int, int] = (0, 0)) -> int:
        """How many numbers of an adapter of that rank are sent, where the edge has the layers of a cut."""
        shapes = self._setting.tuner.adapters.layers
        kept = shapes.keys() - split.at_edge(shapes, cut)
        return sum(rank * (shapes[name][0] + (0 if self._algebra.linear else shapes[name][1])) for name in kept)

    def _masked_bit(self, end: int, ends: Sequence[int]) -> float:
        """What an end sends to a sum of masked updates (`secure.masked_sum`): every number of ``b`` whole, keys and shares."""
        setting = self._setting
        shapes = setting.tuner.adapters.layers.values()
        numbers = 1 + sum(setting.rank(end) * outward for outward, _ in shapes)
        members = [other for other in ends if setting.edge_of[other] == setting.edge_of[end]]
        return float(secure.uplink_bit(numbers, len(members)))

    def _place(self, end: int, number: int, examples: int, links: Links) -> split.Place:
        """Where an end trains."""
        setting = self._setting
        drawn = setting.drawn(end, number, examples)
        return split.place(
            self._split.shape,
            [setting.shards[end][index] for index in drawn],
            rank=setting.rank(end),
            config=setting.config,
            end_flop_per_s=float(links.end_flop_per_s[end]),
            edge_flop_per_s=float(links.edge_flop_per_s[end]),
            memory_byte=float(links.end_memory_byte[end]),
            uplink_bit_per_s=float(links.uplink_bit_per_s[end]),
            downlink_bit_per_s=float(links.downlink_bit_per_s[end]),
        )
