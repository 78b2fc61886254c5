"""Differential privacy of what ends send: clipping, noise, and what it has cost so far.

*Of updates* (DP-FedAvg, arXiv 1710.06963): the change of an end's factors is scaled down to norm ``clip``, and the mean over
``n`` ends gets noise N(0, (z clip / n)^2) in each number, for noise multiplier z. The clip follows a quantile of norms
(arXiv 1905.03871): ``clip exp(-rate (b - quantile))`` with b the noisy part of norms within it. This is private for
aggregation that is linear in factors (`ffa`, where only b is sent); a product of noisy factors is not what was accounted for.

*Of examples*: DP-SGD on the end, whose noise multiplier `ExamplePrivacy.of` finds.

What is spent follows from Renyi divergences of the sampled Gaussian mechanism (arXiv 1908.10530) and their conversion to
(epsilon, delta) (arXiv 1905.09982, Theorem 21), at the orders that Opacus takes.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
from jaxtyping import Float
from scipy.special import logsumexp

from gainnet.errors import InputError
from gainnet.models.low_rank import Factors, LowRank

ORDERS = np.array([1.0 + tenth / 10.0 for tenth in range(1, 100)] + [float(order) for order in range(12, 64)])
REACH = 12.0
"""Deviations over which the divergence is integrated."""
POINTS_PER_DEVIATION = 8
LEAST_NOISE = 0.05
"""Below which no less is looked for."""

Sent = Literal["ab", "b"]


def divergences(noise: float, rate: float) -> Float[np.ndarray, " order"]:
    """Renyi divergences, at `ORDERS`, of one step with a noise multiplier of sums over a sample of this rate.

    The log of ``E[((1 - q) + q exp((2 x - 1) / (2 z^2)))^order]`` over x from N(0, z^2) over ``order - 1``: integrated by the
    trapezoidal rule, which for such functions is exact to rounding.
    """
    if rate == 0.0:
        return np.zeros(len(ORDERS))
    if noise == 0.0:
        return np.full(len(ORDERS), np.inf)
    if rate == 1.0:
        return ORDERS / (2.0 * noise**2)
    step = noise / POINTS_PER_DEVIATION
    x = np.arange(-REACH * noise, ORDERS[-1] + REACH * noise, step)
    density = -((x / noise) ** 2) / 2.0 + np.log(step / (noise * np.sqrt(2.0 * np.pi)))
    ratio = np.logaddexp(np.log1p(-rate), np.log(rate) + (2.0 * x - 1.0) / (2.0 * noise**2))
    # Rounding may leave -1e-16 where there is all but no divergence.
    return np.maximum(logsumexp(ORDERS[:, None] * ratio + density, axis=1), 0.0) / (ORDERS - 1.0)


def converted(renyi: Float[np.ndarray, " order"], delta: float) -> float:
    """The epsilon of divergences at `ORDERS`; infinite where they are."""
    found = renyi - (np.log(delta) + np.log(ORDERS)) / (ORDERS - 1.0) + np.log1p(-1.0 / ORDERS)
    return float(max(found.min(), 0.0))


@dataclass(slots=True)
class Accountant:
    """What has been spent.

    Attributes:
        delta: at which epsilon is told.
        renyi: divergences so far, at `ORDERS`; all there is to store.
    """

    delta: float
    renyi: Float[np.ndarray, " order"] = field(default_factory=lambda: np.zeros(len(ORDERS)))

    def step(self, noise: float, rate: float, count: int = 1) -> float:
        """Accounts for steps of a noise multiplier and sampling rate, and tells the epsilon spent so far."""
        _within(noise=noise, rate=rate)
        self.renyi = self.renyi + count * divergences(noise, rate)
        return self.epsilon

    @property
    def epsilon(self) -> float:
        """Spent so far; 0 before the first step."""
        return converted(self.renyi, self.delta) if self.renyi.any() else 0.0


def noise_multiplier(epsilon: float, delta: float, steps: Mapping[float, int]) -> float:
    """The least noise multiplier, to 1e-4 of itself, whose steps spend no more than epsilon at delta.

    Args:
        epsilon, delta: what may be spent.
        steps: how many there are at each sampling rate.

    Raises:
        InputError: no noise is enough: the conversion itself costs more than epsilon at this delta.
    """
    _within(epsilon=epsilon)
    for rate in steps:
        _within(rate=rate)

    def spent(noise: float) -> float:
        return converted(np.sum([n * divergences(noise, rate) for rate, n in steps.items()], axis=0), delta)

    high = 1.0
    while spent(high) > epsilon:
        high *= 2.0
        if high > 1e5:
            raise InputError(
                f"privacy.epsilon is {epsilon:g}: at delta {delta:g} no noise is enough; it must be larger"
            )
    low = high / 2.0
    while low > LEAST_NOISE and spent(low) <= epsilon:
        low, high = low / 2.0, low
    while high - low > 1e-4 * high:
        middle = (low + high) / 2.0
        low, high = (low, middle) if spent(middle) <= epsilon else (middle, high)
    return high


@dataclass(frozen=True, slots=True)
class UpdatePrivacy:
    """Privacy of updates, as it stands: `clip` changes from round to round.

    Attributes:
        noise: multiplier z that is accounted for.
        clip: largest norm of an update.
        quantile: of norms that the clip follows.
        senders: n, how many are expected in a round: fixed, or who takes part would show.
        learning_rate: of the clip.
    """

    noise: float
    clip: float
    quantile: float
    senders: int
    learning_rate: float = 0.2

    @property
    def count_noise(self) -> float:
        """Deviation of the noise on how many norms were within the clip (a twentieth of senders, as published).

        Not less than what keeps `update_noise` within 1.35 times `noise`, where senders are few.
        """
        return max(self.senders / 20.0, 0.75 * self.noise)

    @property
    def update_noise(self) -> float:
        """Multiplier for updates, so that they and the count together are as private as ``noise``."""
        if self.noise == 0.0:
            return 0.0
        return float((self.noise**-2.0 - (2.0 * self.count_noise) ** -2.0) ** -0.5)

    def adapted(self, halves: float, rng: np.random.Generator) -> UpdatePrivacy:
        """With the clip for the next round, from this one's: half a point for each norm within it, minus half for others.

        Halves, so that a sender who joins moves the count by at most a half.
        """
        noise = self.count_noise if self.noise > 0.0 else 0.0
        part = (halves + noise * rng.standard_normal()) / self.senders + 0.5
        return replace(self, clip=self.clip * float(np.exp(-self.learning_rate * (part - self.quantile))))


@dataclass(frozen=True, slots=True)
class ExamplePrivacy:
    """DP-SGD on an end.

    Attributes:
        noise_multiplier: deviation of the noise over ``clip``.
        clip: largest norm of an example's gradient.
        delta: at which epsilon is told.
    """

    noise_multiplier: float
    clip: float
    delta: float

    @classmethod
    def of(
        cls, epsilon: float, delta: float, clip: float, examples: Sequence[int], batch: int, epochs: int
    ) -> ExamplePrivacy:
        """What spends epsilon in rounds of so many epochs, with so many examples in each; those without any cost nothing."""
        if not any(examples) or batch < 1 or epochs < 1:
            raise InputError("privacy: examples, batch and epochs must be at least 1")
        steps: dict[float, int] = defaultdict(int)
        for held in filter(None, examples):
            rate, count = sampled(held, batch, epochs)
            steps[rate] += count
        return cls(noise_multiplier(epsilon, delta, steps), clip, delta)


def sampled(examples: int, batch: int, epochs: int) -> tuple[float, int]:
    """The part of the examples in a batch, on average, and how many batches are drawn in so many epochs."""
    return min(1.0, batch / examples), epochs * -(-examples // batch)


@dataclass(frozen=True, slots=True)
class Clipped:
    """An update within the clip, its norm before, and whether that was within it."""

    after: LowRank
    norm: float
    within: bool


def clipped(before: LowRank, after: LowRank, clip: float) -> Clipped:
    """The change of factors scaled down to norm `clip` where it is longer.

    Raises:
        InputError: NaN or infinity in the change.
    """
    changes = {
        name: Factors(after.layers[name].a - f.a, after.layers[name].b - f.b) for name, f in before.layers.items()
    }
    square = sum(float((part.astype(np.float64) ** 2).sum()) for f in changes.values() for part in (f.a, f.b))
    norm = float(np.sqrt(square))
    if not np.isfinite(norm):
        raise InputError("update: its change holds NaN or infinity")
    if norm <= clip:
        return Clipped(after, norm, within=True)
    # A little less, so that rounding to float32 leaves it within.
    factor = np.float32(clip / norm * (1.0 - 1e-6))
    layers = {
        name: Factors(f.a + factor * changes[name].a, f.b + factor * changes[name].b)
        for name, f in before.layers.items()
    }
    return Clipped(replace(after, layers=layers), norm, within=False)


def noised(adapter: LowRank, deviation: float, rng: np.random.Generator, factors: Sent = "b") -> LowRank:
    """Normal noise of a deviation on each number of b, or of a and b."""

    def noisy(part: Float[np.ndarray, "row column"]) -> Float[np.ndarray, "row column"]:
        return np.asarray(part + deviation * rng.standard_normal(part.shape), np.float32)

    layers = {n: Factors(noisy(f.a) if factors == "ab" else f.a, noisy(f.b)) for n, f in adapter.layers.items()}
    return replace(adapter, layers=layers)


Vector = Float[np.ndarray, " number"]


def plain_sum(vectors: Mapping[int, Vector], size: int) -> Vector:
    """The sum of the vectors of all who sent, by whom they are of; zeros where nobody did."""
    total = np.zeros(size)
    for vector in vectors.values():
        total += vector
    return total


def private_mean(
    before: LowRank,
    afters: Mapping[int, LowRank],
    privacy: UpdatePrivacy,
    rng: np.random.Generator,
    factors: Sent = "b",
    summed: Callable[[Mapping[int, Vector], int], Vector] = plain_sum,
    grain: float = 0.0,
) -> tuple[LowRank, UpdatePrivacy]:
    """`before` plus the private mean change of factors of those who sent, and the privacy for the next round.

    All count alike, over the expected number of senders; where nobody sent there is noise alone, so that nobody can tell. Of
    ``factors="b"`` only b may change.

    Args:
        before: what all of them began with.
        afters: what each sender made of it.
        privacy: as it stands.
        rng: noise.
        factors: which of them were sent.
        summed: adds vectors of so many numbers up: a masked sum, say, of which nobody sees the parts.
        grain: to whose multiples numbers are rounded before they are added; clips leave room for that.

    Raises:
        InputError: an adapter of another rank, or whose a changed where it must not; NaN or infinity; a clip that is lost in
            the grain; no sum.
    """
    size = sum(f.b.size + (f.a.size if factors == "ab" else 0) for f in before.layers.values())
    clip = privacy.clip - 0.5 * grain * float(np.sqrt(size))
    if clip <= 0.0:
        raise InputError(f"privacy: a clip of {privacy.clip:g} is less than what rounding may move {size} numbers by")
    total = summed({who: _change(before, after, clip, factors) for who, after in afters.items()}, 1 + size)
    at, layers = 1, {}
    for name, f in before.layers.items():
        found = []
        for part, sent in ((f.a, factors == "ab"), (f.b, True)):
            change = total[at : at + part.size].reshape(part.shape) / privacy.senders if sent else 0.0
            found.append(np.asarray(part + change, np.float32) if sent else part)
            at += part.size if sent else 0
        layers[name] = Factors(*found)
    deviation = privacy.update_noise * privacy.clip / privacy.senders
    return noised(replace(before, layers=layers), deviation, rng, factors), privacy.adapted(float(total[0]), rng)


def _change(before: LowRank, after: LowRank, clip: float, factors: Sent) -> Vector:
    """Half a point for a change within the clip, minus half for another, and the clipped change, layer by layer."""
    for name, f in before.layers.items():
        if after.layers[name].a.shape != f.a.shape:
            raise InputError(f"update: layer {name} has rank {after.layers[name].rank}; private updates need one rank")
        if factors == "b" and not np.array_equal(after.layers[name].a, f.a):
            raise InputError(f"update: a of {name} was changed; only b may be where only b gets noise")
    found = clipped(before, after, clip)
    parts = [np.array([0.5 if found.within else -0.5])]
    for name, f in found.after.layers.items():
        start = before.layers[name]
        pairs = ((f.a, start.a), (f.b, start.b)) if factors == "ab" else ((f.b, start.b),)
        parts.extend((part.astype(np.float64) - earlier).ravel() for part, earlier in pairs)
    return np.concatenate(parts)


def _within(noise: float = 1.0, rate: float = 1.0, epsilon: float = 1.0) -> None:
    if not noise >= 0.0:
        raise InputError(f"privacy: noise multiplier is {noise}; it must be at least 0")
    if not 0.0 <= rate <= 1.0:
        raise InputError(f"privacy: sampling rate is {rate}; it must be from 0 to 1")
    if not epsilon > 0.0:
        raise InputError(f"privacy.epsilon is {epsilon}; it must be above 0")
