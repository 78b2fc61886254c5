"""When speculative decoding over a link pays: what was measured of it, and how long drafts should be.

A round drafts g tokens in t_d(g), sends them, and has them verified in t_v(g). Where each token of a draft stays with
probability a after those before it, a round gives E = (1 - a^(g + 1)) / (1 - a) tokens (arXiv 2211.17192), so drafts
are worth their round trip iff ``RTT + payload / R < E t_v(0) - t_v(g) - t_d(g)``; with a flat t_v the right side is
(E - 1) t_v - g t_d.
"""

from __future__ import annotations

from dataclasses import dataclass

from gainnet.errors import InputError
from gainnet.models.collaboration import TOKEN_BIT, expected_tokens

LONGEST = 16
_FORGET = 0.97
"""What each measurement leaves of the weight of those before it."""
_ACCEPTED, _JUDGED = 1.5, 2.0
"""Acceptance before anything is known: as if so many of so many tokens had stayed."""
_RISE = 0.05
"""What one token more is taken to cost beside the first, before drafts of several lengths were seen."""


@dataclass(frozen=True, slots=True)
class Link:
    """What a round has to cross.

    Attributes:
        rtt_s: round trip.
        rate_bit_per_s: of the payload; inf where a measured round trip has it already.
    """

    rtt_s: float
    rate_bit_per_s: float = float("inf")

    def crossing_s(self, length: int) -> float:
        """Time of a round's messages."""
        return self.rtt_s + TOKEN_BIT * length / self.rate_bit_per_s


@dataclass(frozen=True, slots=True)
class Line:
    """A time that grows with the number of tokens: ``fixed_s + each_s * tokens``."""

    fixed_s: float
    each_s: float

    def at(self, tokens: int) -> float:
        """In s."""
        return self.fixed_s + self.each_s * tokens


@dataclass(frozen=True, slots=True)
class Choice:
    """How the rest of an answer should come.

    Attributes:
        length: of the next draft; 0: the whole rest is asked of the verifying model at once.
        drafted_s: time of the rest by drafts of the best length.
        whole_s: time of the rest as a whole request.
    """

    length: int
    drafted_s: float
    whole_s: float


def pays(acceptance: float, length: int, link: Link, draft: Line, verify: Line) -> bool:
    """Whether rounds give tokens faster than the verifying model alone streams them; see the module."""
    if length == 0:
        return False
    gain_s = expected_tokens(acceptance, length) * verify.at(0) - verify.at(length) - draft.at(length)
    return link.crossing_s(length) < gain_s


def choose(
    acceptance: float, link: Link, draft: Line, verify: Line, token_s: float, left: int, longest: int = LONGEST
) -> Choice:
    """The best length of the drafts of what is left of an answer, or none.

    Args:
        acceptance: probability that a token stays.
        link: between the two models.
        draft: time to draft so many tokens.
        verify: time to verify so many tokens.
        token_s: time between tokens of the verifying model alone.
        left: tokens that the answer may still have, at least 1.
        longest: drafts that may be made.
    """
    whole_s = link.rtt_s + left * token_s
    best, best_s = 0, float("inf")
    for length in range(1, min(longest, left - 1) + 1):
        round_s = draft.at(length) + link.crossing_s(length) + verify.at(length)
        tokens = expected_tokens(acceptance, length)
        # The last round gives more than is left: half of it on the mean.
        spent_s = round_s * max(1.0, left / tokens + 0.5 * (1.0 - 1.0 / tokens))
        if spent_s < best_s:
            best, best_s = length, spent_s
    return Choice(best if best_s < whole_s else 0, best_s, whole_s)


class _Mean:
    """A mean that forgets."""

    def __init__(self) -> None:
        self.value, self._weight = 0.0, 0.0

    @property
    def known(self) -> bool:
        return self._weight > 0.0

    def add(self, value: float) -> None:
        self._weight = _FORGET * self._weight + 1.0
        self.value += (value - self.value) / self._weight


class _Fit:
    """A line through points, by least squares that forget; its rise is near `_RISE` of its height until points tell."""

    def __init__(self) -> None:
        self._weight = self._x = self._xx = self._y = self._xy = 0.0

    @property
    def known(self) -> bool:
        return self._weight > 0.0

    def add(self, tokens: int, seconds: float) -> None:
        kept = _FORGET
        self._weight = kept * self._weight + 1.0
        self._x = kept * self._x + tokens
        self._xx = kept * self._xx + tokens**2
        self._y = kept * self._y + seconds
        self._xy = kept * self._xy + tokens * seconds

    def line(self) -> Line:
        # Least squares with one more term, (each_s - _RISE fixed_s)^2.
        a, b, c = self._weight + _RISE**2, self._x - _RISE, self._xx + 1.0
        scale = a * c - b * b
        fixed = (c * self._y - b * self._xy) / scale
        each = (a * self._xy - b * self._y) / scale
        if fixed < 0.0:
            return Line(0.0, max(self._xy / self._xx, 0.0))
        if each < 0.0:
            return Line(self._y / self._weight, 0.0)
        return Line(fixed, each)


class Pace:
    """What was measured between one drafting and one verifying model; the older, the less it counts."""

    def __init__(self, longest: int = LONGEST) -> None:
        """Know nothing yet. InputError where no draft may be made."""
        if longest < 1:
            raise InputError(f"longest {longest}: must be at least 1")
        self.longest = longest
        self._accepted, self._judged = _ACCEPTED, _JUDGED
        self._rtt, self._token = _Mean(), _Mean()
        self._draft, self._verify = _Fit(), _Fit()

    @property
    def acceptance(self) -> float:
        """Probability that a token of a draft stays where those before it did."""
        return self._accepted / self._judged

    @property
    def rtt_s(self) -> float:
        """Round trip; 0 until it was measured."""
        return self._rtt.value

    @property
    def draft(self) -> Line:
        """Time to draft."""
        return self._draft.line() if self._draft.known else Line(0.0, 0.0)

    @property
    def verify(self) -> Line:
        """Time to verify, payload included."""
        return self._verify.line() if self._verify.known else Line(0.0, 0.0)

    @property
    def token_s(self) -> float:
        """Time between tokens of the verifying model alone: as streamed, or that of verifying nothing."""
        return self._token.value if self._token.known else self.verify.at(0)

    @property
    def known(self) -> bool:
        """Whether there is enough to choose by: a round was made."""
        return self._draft.known and self._verify.known

    def crossed(self, seconds: float) -> None:
        """A message without work went to and fro."""
        self._rtt.add(seconds)

    def drafted(self, tokens: int, seconds: float) -> None:
        """A draft was made."""
        self._draft.add(tokens, seconds)

    def verified(self, drafted: int, seconds: float) -> None:
        """A draft was sent and judged, in so long, round trip included."""
        self._verify.add(drafted, max(seconds - self._rtt.value, 0.0))

    def judged(self, accepted: int, rejected: bool) -> None:
        """So many tokens of a draft stayed, and whether one was not what it should have been."""
        self._accepted = _FORGET * self._accepted + accepted
        self._judged = _FORGET * self._judged + accepted + rejected

    def streamed(self, tokens: int, seconds: float) -> None:
        """So many tokens followed a first one in a whole request."""
        if tokens > 0:
            self._token.add(seconds / tokens)

    def choose(self, left: int) -> Choice:
        """How what is left of an answer should come; until something is known, by short drafts."""
        if not self.known:
            return Choice(min(4, self.longest, left - 1), 0.0, 0.0)
        return choose(self.acceptance, Link(self.rtt_s), self.draft, self.verify, self.token_s, left, self.longest)
