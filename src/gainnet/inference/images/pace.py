"""When it pays that another machine takes the first steps of images, once for all that are alike; what was measured of it.

An image has S steps, of which alike ones may have the first k in common (`gainnet.inference.images.request.Sharing`, with
its least similarity, below which none do). Drawn here, n images take ``n S t_h``. Begun elsewhere, where a step takes t_a
and the first k are taken once for g alike requests, they take ``k t_a + RTT + bit / R + n (S - k) t_h``. In time alone
that pays iff ``RTT + bit / R < k (n t_h - t_a)``; in machines' time alone, priced c_h and c_a, iff
``k t_a c_a / g < n k t_h c_h``, which asks for enough alike requests. The rule is the objective that the orchestrator has:
what an answer costs, and the price of a second that somebody waits for it.
"""

from __future__ import annotations

from dataclasses import dataclass

from gainnet.errors import InputError

_FORGET = 0.9
"""What each measurement leaves of the weight of those before it: who asks for what changes within a few requests."""
AGAIN = 32
"""Of so many requests that are drawn here although they might be begun elsewhere, one is, so that a change is seen."""


@dataclass(frozen=True, slots=True)
class Work:
    """What is asked for.

    Attributes:
        images: of one prompt.
        steps: of each.
        shared: of them that alike images have in common.
    """

    images: int
    steps: int
    shared: int


@dataclass(frozen=True, slots=True)
class Prices:
    """What time is worth, in one currency.

    Attributes:
        here_per_s: a second of this machine.
        above_per_s: a second of the one that would begin.
        waiting_per_s: a second that somebody waits for an answer.
    """

    here_per_s: float = 0.0
    above_per_s: float = 0.0
    waiting_per_s: float = 1.0

    def __post_init__(self) -> None:
        for name in ("here_per_s", "above_per_s", "waiting_per_s"):
            if not 0.0 <= getattr(self, name) < float("inf"):
                raise InputError(f"prices.{name} {getattr(self, name):g}: must be at least 0")


@dataclass(frozen=True, slots=True)
class Taken:
    """What an answer takes.

    Attributes:
        latency_s: until it is there.
        cost: of machines' time.
    """

    latency_s: float
    cost: float

    def loss(self, waiting_per_s: float) -> float:
        """Its cost, and that of waiting."""
        return self.cost + waiting_per_s * self.latency_s


def whole(work: Work, step_s: float, per_s: float, crossing_s: float = 0.0, beside: float = 1.0) -> Taken:
    """One machine takes all steps.

    Args:
        work: what is asked for.
        step_s: time of a step of an image.
        per_s: price of the machine's second.
        crossing_s: to the machine and back.
        beside: requests like this one that it draws at the same time, this one included.
    """
    busy_s = work.images * work.steps * step_s
    return Taken(crossing_s + beside * busy_s, busy_s * per_s)


def begun(work: Work, step_s: float, above_step_s: float, crossing_s: float, alike: float, prices: Prices) -> Taken:
    """Another machine takes the first steps once for ``alike`` requests, this one what is left of each image's."""
    first_s, rest_s = work.shared * above_step_s, work.images * (work.steps - work.shared) * step_s
    cost = first_s * prices.above_per_s / max(alike, 1.0) + rest_s * prices.here_per_s
    return Taken(first_s + crossing_s + rest_s, cost)


class _Mean:
    """A mean that forgets."""

    def __init__(self) -> None:
        self.value, self._weight = 0.0, 0.0

    def add(self, value: float) -> None:
        self._weight = _FORGET * self._weight + 1.0
        self.value += (value - self.value) / self._weight

    @property
    def known(self) -> bool:
        return self._weight > 0.0


class Handing:
    """What was measured between a machine that begins images and one that goes on with them."""

    def __init__(self) -> None:
        self._step, self._above, self._crossing, self._alike = _Mean(), _Mean(), _Mean(), _Mean()
        self._kept = 0

    @property
    def known(self) -> bool:
        """Whether images were begun there and gone on with here."""
        return self._step.known and self._crossing.known

    @property
    def begun(self) -> bool:
        """Whether images were begun there."""
        return self._crossing.known

    @property
    def step_s(self) -> float:
        """Time of a step of an image here."""
        return self._step.value

    @property
    def above_step_s(self) -> float:
        """Time of a step of an image there."""
        return self._above.value

    @property
    def crossing_s(self) -> float:
        """Round trip, and what the half-drawn image takes on the link."""
        return self._crossing.value

    @property
    def alike(self) -> float:
        """Requests that each beginning was for."""
        return self._alike.value if self._alike.known else 1.0

    def drawn(self, image_steps: int, seconds: float) -> None:
        """So many steps of images took so long here."""
        self._step.add(seconds / image_steps)

    def handed(self, steps: int, drawn_s: float, asked_s: float, alike: int) -> None:
        """Steps were taken there in ``drawn_s`` for so many alike requests, and came here ``asked_s`` after they were asked."""
        self._above.add(drawn_s / steps)
        self._crossing.add(max(asked_s - drawn_s, 0.0))
        self._alike.add(float(alike))

    def here(self, work: Work, prices: Prices) -> Taken:
        """What is expected where this machine takes all steps."""
        return whole(work, self.step_s, prices.here_per_s)

    def shared(self, work: Work, prices: Prices) -> Taken:
        """What is expected where the other one begins."""
        return begun(work, self.step_s, self.above_step_s, self.crossing_s, self.alike, prices)

    def pays(self, work: Work, prices: Prices) -> bool:
        """Whether the other machine should begin. What is not known yet, or was not tried for long, is tried."""
        if not work.shared:
            return False
        better = self.shared(work, prices).loss(prices.waiting_per_s) < self.here(work, prices).loss(
            prices.waiting_per_s
        )
        self._kept = 0 if better or not self.known else self._kept + 1
        if self._kept == AGAIN:
            self._kept = 0
            return True
        return better or not self.known
