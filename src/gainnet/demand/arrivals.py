"""When tasks arrive, and from which end: Poisson, bursty (MMPP), diurnal, and replay of a trace.

Each process draws any stretch of time [start_s, end_s) from the generator it is given, and remembers nothing between
draws but its rate: draws of one stretch with several generators are independent given the rate, so together they are
the same process at as many times the rate. Demand builds its surges on this.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Int

from gainnet.demand.trace import Trace, read
from gainnet.errors import TraceError
from gainnet.scenario import demand as scenario
from gainnet.scenario.fitted import BURSTS

_SPELLS = 256  # spells of a bursty process that are drawn at once; even, so that each lot starts in the same state


@dataclass(frozen=True, slots=True)
class Drawn:
    """Arrivals in time order.

    Attributes:
        time_s: when each arrives.
        user: the end that asks.
        row: the row of the trace that it replays, -1 where there is none.
    """

    time_s: Float[np.ndarray, " task"]
    user: Int[np.ndarray, " task"]
    row: Int[np.ndarray, " task"]


@runtime_checkable
class Process(Protocol):
    """What draws arrivals."""

    @property
    def rate_per_s(self) -> float:
        """Mean rate over all ends."""

    @property
    def surges(self) -> bool:
        """Whether the demand factor of the network's health applies."""

    @property
    def trace(self) -> Trace | None:
        """The trace that gives the sizes, if any."""

    def draw(self, rng: np.random.Generator, start_s: float, end_s: float) -> Drawn:
        """The arrivals in [start_s, end_s)."""


def _from_anyone(rng: np.random.Generator, time_s: Float[np.ndarray, " task"], ends: int) -> Drawn:
    return Drawn(time_s, rng.integers(ends, size=len(time_s)), np.full(len(time_s), -1))


class Steady:
    """A homogeneous Poisson process over all ends."""

    surges = True
    trace: Trace | None = None

    def __init__(self, config: scenario.Poisson, ends: int) -> None:
        self.rate_per_s = config.rate_per_end_per_s * ends
        self._ends = ends

    def draw(self, rng: np.random.Generator, start_s: float, end_s: float) -> Drawn:
        """The arrivals in [start_s, end_s)."""
        count = rng.poisson(self.rate_per_s * (end_s - start_s))
        return _from_anyone(rng, np.sort(rng.uniform(start_s, end_s, count)), self._ends)


class Day:
    """A Poisson process whose rate follows a sinusoidal day, drawn by thinning one at the peak rate.

    Source: Lewis and Shedler, Naval Research Logistics 26 (1979): thinning.
    """

    surges = True
    trace: Trace | None = None

    def __init__(self, config: scenario.Diurnal, ends: int) -> None:
        self.rate_per_s = config.rate_per_end_per_s * ends
        self._config = config
        self._ends = ends

    def draw(self, rng: np.random.Generator, start_s: float, end_s: float) -> Drawn:
        """The arrivals in [start_s, end_s)."""
        day, peak = self._config, 1.0 + self._config.amplitude
        time_s = np.sort(rng.uniform(start_s, end_s, rng.poisson(self.rate_per_s * peak * (end_s - start_s))))
        level = 1.0 + day.amplitude * np.sin(2.0 * math.pi * (time_s / day.period_s + day.phase))
        return _from_anyone(rng, time_s[rng.random(len(time_s)) * peak < level], self._ends)


class Bursts:
    """A two-state Markov-modulated Poisson process whose bursts all ends share.

    The path of bursts and calm spells comes from the generator given here and is extended as it is needed, so every
    draw of one stretch of time sees the same path. With p = burst / (burst + calm) of the time in bursts the calm rate
    is ``rate (1 - p burst_factor) / (1 - p)``, which keeps the mean. The path starts in its stationary state.

    Source: Fischer and Meier-Hellstern, Performance Evaluation 18 (1993): the MMPP cookbook.
    """

    surges = True
    trace: Trace | None = None

    def __init__(self, config: scenario.Bursty, ends: int, rng: np.random.Generator) -> None:
        self.rate_per_s = config.rate_per_end_per_s * ends
        self._ends = ends
        self._rng = rng
        bursting = config.burst_mean_s / (config.burst_mean_s + config.calm_mean_s)
        calm = max(0.0, 1.0 - bursting * config.burst_factor) / (1.0 - bursting)
        mean_s = np.array([config.burst_mean_s, config.calm_mean_s])
        rate_per_s = self.rate_per_s * np.array([config.burst_factor, calm])
        first = [0, 1] if rng.random() < bursting else [1, 0]
        self._mean_s = np.tile(mean_s[first], _SPELLS // 2)
        self._rate_per_s = np.tile(rate_per_s[first], _SPELLS // 2)
        self._switch_s = np.zeros(1)
        self._expected = np.zeros(1)

    def _extend(self, end_s: float) -> None:
        """Draw spells until the path reaches end_s: switching times, and the arrivals expected until each."""
        times, expected = [self._switch_s], [self._expected]
        while times[-1][-1] < end_s:
            spell_s = self._mean_s * self._rng.standard_exponential(_SPELLS)
            times.append(times[-1][-1] + np.cumsum(spell_s))
            expected.append(expected[-1][-1] + np.cumsum(self._rate_per_s * spell_s))
        self._switch_s, self._expected = np.concatenate(times), np.concatenate(expected)

    def draw(self, rng: np.random.Generator, start_s: float, end_s: float) -> Drawn:
        """The arrivals in [start_s, end_s): a unit-rate process in the time that the path's expected arrivals tell."""
        if self._switch_s[-1] < end_s:
            self._extend(end_s)
        low, high = np.interp([start_s, end_s], self._switch_s, self._expected)
        expected = np.sort(rng.uniform(low, high, rng.poisson(high - low)))
        time_s = np.clip(np.interp(expected, self._expected, self._switch_s), start_s, end_s)
        return _from_anyone(rng, time_s, self._ends)


class Replay:
    """The arrivals of a recorded trace, ``speed`` times as fast, from ``start_s`` into it; each from an end at random.

    Stamps coarser than the frames would make requests arrive in lumps, so the place of each within its stamp's
    resolution is drawn, once, from the generator given here. Further draws of a stretch repeat its rows at the same
    times from other ends: a surge keeps the trace's bursts.

    Errors: TraceError where the trace is shorter than ``start_s + duration_s speed``.
    """

    surges = True

    def __init__(self, config: scenario.TraceArrivals, ends: int, rng: np.random.Generator, duration_s: float) -> None:
        self.trace: Trace | None = read(config.path)
        length_s, need_s = self.trace.length_s, config.start_s + duration_s * config.speed
        if length_s < need_s:
            raise TraceError(
                f"{config.path}: the trace is {length_s:g} s long, but start_s + duration_s * speed = "
                f"{config.start_s:g} + {duration_s:g} * {config.speed:g} = {need_s:g} s"
            )
        within_s = self.trace.resolution_s * rng.random(len(self.trace))
        recorded_s = np.sort(self.trace.time_s + within_s)
        self._time_s = (recorded_s - config.start_s) / config.speed
        self._ends = ends
        self.rate_per_s = len(self.trace) / max(length_s, 1.0) * config.speed

    def draw(self, rng: np.random.Generator, start_s: float, end_s: float) -> Drawn:
        """The arrivals in [start_s, end_s)."""
        first, last = np.searchsorted(self._time_s, [start_s, end_s])
        time_s = self._time_s[first:last]
        return Drawn(time_s, rng.integers(self._ends, size=len(time_s)), np.arange(first, last))


def arrivals(config: scenario.Arrivals, ends: int, rng: np.random.Generator, duration_s: float) -> Process:
    """The process that a scenario asks for; ``rng`` drives what its draws share. TraceError for a bad trace."""
    match config:
        case scenario.Poisson():
            return Steady(config, ends)
        case scenario.Diurnal():
            return Day(config, ends)
        case scenario.Bursty():
            return Bursts(config, ends, rng)
        case scenario.FittedBursts():
            bursts = BURSTS[config.name].model_copy(update={"rate_per_end_per_s": config.rate_per_end_per_s})
            return Bursts(bursts, ends, rng)
        case scenario.TraceArrivals():
            return Replay(config, ends, rng, duration_s)
