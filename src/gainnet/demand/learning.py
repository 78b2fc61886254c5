"""When the tasks of learning services start: rounds at a fixed period, each with a random part of the ends."""

from __future__ import annotations

import math

import numpy as np

from gainnet.demand.arrivals import Drawn
from gainnet.demand.trace import Trace
from gainnet.scenario import demand as scenario


class Rounds:
    """Rounds at 0, period_s, 2 period_s ...; in each, ``participation`` of the ends take part, none twice.

    The number of participants is ``participation * ends``, rounded up or down at random so that its mean is exact.
    Rounds are planned by whoever trains, not asked for by users: the demand factor leaves them alone.
    """

    surges = False
    trace: Trace | None = None

    def __init__(self, config: scenario.Learning, ends: int) -> None:
        self._period_s = config.period_s
        self._mean = config.participation * ends
        self._ends = ends
        self.rate_per_s = self._mean / config.period_s

    def draw(self, rng: np.random.Generator, start_s: float, end_s: float) -> Drawn:
        """The participants of the rounds that start in [start_s, end_s), in the order of rounds and ends."""
        rounds = range(math.ceil(start_s / self._period_s), math.ceil(end_s / self._period_s))
        chosen = [np.sort(rng.permutation(self._ends)[: math.floor(self._mean + rng.random())]) for _ in rounds]
        user = np.concatenate([np.empty(0, dtype=np.int64), *chosen])
        time_s = np.repeat(self._period_s * np.array(rounds, dtype=np.float64), [len(users) for users in chosen])
        return Drawn(time_s, user, np.full(len(user), -1))
