"""What an end sends to its edge, and the edge's box for it: nothing is counted twice, and nothing is lost unsaid."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from gainnet.models.low_rank import LowRank


@dataclass(frozen=True, slots=True)
class Update:
    """A change of an adapter, as its receiver rebuilds it.

    Attributes:
        end: who made it.
        number: the round that it was made for.
        digest: of what was sent.
        weight: how much it counts: the examples behind it, less where it is late.
        before: what the end began with.
        after: what it made of that, after compression.
        loss: mean loss of the training (nat a token).
        uplink_bit: what was sent up, activations of a split included.
    """

    end: int
    number: int
    digest: str
    weight: float
    before: LowRank
    after: LowRank
    loss: float
    uplink_bit: float


@dataclass(slots=True)
class Inbox:
    """An edge's box: updates of a round by their digest.

    Attributes:
        lines: what was refused, and why.
    """

    lines: list[str] = field(default_factory=list)
    _updates: dict[str, Update] = field(default_factory=dict)
    _seen: dict[str, tuple[int, int]] = field(default_factory=dict)

    def put(self, update: Update) -> bool:
        """Take an update; one that is there already, or a second one of the same end for a round, does not count."""
        who = (update.number, update.end)
        if update.digest in self._seen:
            self.lines.append(f"end {update.end}: update {update.digest[:12]} came again and was not counted twice")
            return False
        if who in self._seen.values():
            self.lines.append(f"end {update.end}: a second update for round {update.number} was refused")
            return False
        self._seen[update.digest] = who
        self._updates[update.digest] = update
        return True

    def empty(self) -> tuple[list[Update], list[str]]:
        """The updates, in the order of ends and rounds, and the lines; the digests stay known."""
        found = sorted(self._updates.values(), key=lambda update: (update.end, update.number))
        lines, self.lines = self.lines, []
        self._updates = {}
        return found, lines

    def known(self) -> list[tuple[str, int, int]]:
        """Digest, round and end of every update that was ever taken."""
        return [(digest, *who) for digest, who in self._seen.items()]

    def remember(self, known: Iterable[tuple[str, int, int]]) -> None:
        """Go on from there."""
        self._seen = {digest: (number, end) for digest, number, end in known}
