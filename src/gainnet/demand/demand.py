"""Demand: the tasks that arrive in each frame.

Tasks are drawn in blocks of time, some hundred at once, and handed out frame by frame. A block is drawn in *layers*:
layer k of a service is an independent draw of its arrivals and sizes given its rate, and each task carries the
threshold ``k + u`` with u uniform in [0, 1). Under a demand factor f the tasks with a threshold below f exist. The
layers below floor(f) are whole and the next is thinned to f - floor(f), so by superposition and thinning the rate is
exactly f times the base rate at every moment, f may change in any frame, and raising f only ever adds tasks. The
generator of each (block, layer) is seeded by their numbers, so no draw depends on what the network did or on the
factors of the past: runs with the same seed and the same faults see the same tasks, whatever matches them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
from jaxtyping import Float, Int

from gainnet.demand.arrivals import Process, arrivals
from gainnet.demand.learning import Rounds
from gainnet.demand.service import Columns, Services, Size, services, sizes
from gainnet.demand.task import ServiceKind, Tasks
from gainnet.errors import InputError
from gainnet.network.state import NetworkState
from gainnet.rng import stream
from gainnet.scenario import demand as scenario

_BLOCK_TASKS = 512
_BLOCK_MAX_S = 1000.0
_ALWAYS = -1.0  # the threshold of tasks that no demand factor touches
_INTEGERS = ("task_id", "service", "user", "adapter")
_TYPES = {f.name: np.int64 if f.name in _INTEGERS else np.float64 for f in fields(Tasks) if f.name != "task_id"}
_NONE = Tasks(task_id=np.empty(0, np.int64), **{name: np.empty(0, dtype) for name, dtype in _TYPES.items()})


@dataclass(frozen=True, slots=True)
class _Source:
    """One service as it is drawn: ``key`` seeds the generators of its blocks and layers."""

    service: int
    value: float
    process: Process
    size: Size
    key: tuple[int, ...]

    def draw(self, block: int, layer: int, start_s: float, end_s: float) -> Columns:
        """The columns of the tasks (and their thresholds) of a layer that arrive in [start_s, end_s)."""
        seeds = np.random.SeedSequence(self.key, spawn_key=(block, layer))
        generator = np.random.Generator(np.random.PCG64(seeds))
        drawn = self.process.draw(generator, start_s, end_s)
        count = len(drawn.time_s)
        threshold = layer + generator.random(count) if self.process.surges else np.full(count, _ALWAYS)
        columns: Columns = {name: np.zeros(count, dtype) for name, dtype in _TYPES.items()}
        columns["adapter"] = np.full(count, -1)
        columns |= self.size(generator, drawn)
        columns["deadline_s"] = drawn.time_s + columns["deadline_s"]
        columns |= {"service": np.full(count, self.service), "user": drawn.user, "arrival_s": drawn.time_s}
        return columns | {"value": np.full(count, self.value), "threshold": threshold}


class Demand:
    """What is asked of the network: one for each run.

    Attributes:
        services: what is asked for.
        rate_per_s: mean rate of all tasks, without faults.
        value_per_s: what they are worth in a second, all satisfied.

    Args:
        config: the services.
        artifacts: names of the models and adapters in use; an artifact index is a position among them.
        ends: how many ends there are.
        seed: of the run.
        frame_s: length of a frame.
        duration_s: length of the run; traces must cover it.

    Errors: TraceError for a trace that cannot be replayed, ScenarioError for a model or adapter that is not in use.
    """

    def __init__(
        self,
        config: scenario.Demand,
        artifacts: Sequence[str],
        *,
        ends: int,
        seed: int,
        frame_s: float,
        duration_s: float,
    ) -> None:
        self.services: Services = services(config, artifacts)
        self._sources = [
            _source(index, name, service, artifacts, ends, seed, duration_s)
            for index, (name, service) in enumerate(config.services.items())
        ]
        self.rate_per_s = rate_per_s = sum(source.process.rate_per_s for source in self._sources)
        self.value_per_s = sum(source.process.rate_per_s * source.value for source in self._sources)
        self._block_s = max(frame_s, _BLOCK_TASKS / max(rate_per_s, _BLOCK_TASKS / _BLOCK_MAX_S))
        self._given_s = 0.0
        self._given = 0
        self._frame_s = frame_s
        self._frames = 0
        self._names = tuple(config.services)
        self._drawn = [source.process.rate_per_s > 0.0 for source in self._sources]
        self._ends = ends
        self._asked: list[Columns] = []
        self._open(0, 1)

    def arrive(self, state: NetworkState) -> Tasks:
        """The tasks that arrived since the last call and before ``state.time_s``, in the order of their arrival.

        Called once a frame, these are the arrivals in [time_s - frame_s, time_s); none have arrived at time 0. The
        demand factor of the state's health applies to all of them, except to those that `ask` put in, which come
        last.
        """
        factor = state.load.health.demand_factor
        parts = []
        while True:
            if self._layers < factor:
                self._open(self._block, math.ceil(factor))
            part = self._take(state.time_s, factor)
            if part is not None:
                parts.append(part)
            if state.time_s <= self._end_s:
                break
            self._open(self._block + 1, max(1, math.ceil(factor)))
        self._given_s = max(self._given_s, state.time_s)
        self._frames = round(state.time_s / self._frame_s) + 1
        parts += self._asked
        self._asked = []
        if not parts:
            return _NONE
        columns = parts[0] if len(parts) == 1 else {name: np.concatenate([p[name] for p in parts]) for name in _TYPES}
        first, self._given = self._given, self._given + len(columns["arrival_s"])
        return Tasks(task_id=np.arange(first, self._given), **columns)

    def ask(
        self,
        service: int,
        user: Int[np.ndarray, " task"],
        *,
        deadline_s: float,
        prompt_token: Float[np.ndarray, " task"] | float,
        uplink_bit: Float[np.ndarray, " task"] | float,
        output_token: Float[np.ndarray, " task"] | float = 0.0,
        downlink_bit: Float[np.ndarray, " task"] | float = 0.0,
        value: Float[np.ndarray, " task"] | float | None = None,
    ) -> float:
        """Put learning tasks into the demand; they arrive with the next call of `arrive`, at the start of its frame.

        Returns that time: (service, user, arrival_s) tells each task from all others of the run.

        Args:
            service: index of a learning service that draws no rounds of its own.
            user: the ends that take part, none twice.
            deadline_s: when they must have ended (absolute), after they arrive.
            prompt_token: tokens to train on at the end.
            uplink_bit: bits to send to the node that aggregates.
            output_token: tokens to train on at that node, above 0 in split training.
            downlink_bit: bits to fetch from that node first.
            value: what each is worth; the service's own value by default.

        Errors: InputError names what is wrong; then nothing was put in.
        """
        arrival_s, count = self._frames * self._frame_s, len(user)
        amounts = {
            "prompt_token": prompt_token,
            "output_token": output_token,
            "uplink_bit": uplink_bit,
            "downlink_bit": downlink_bit,
            "value": self._sources[service].value if value is None else value,
        }
        given: Columns = {name: np.full(count, amount, np.float64) for name, amount in amounts.items()}
        self._check(service, user, arrival_s, deadline_s, given)
        columns: Columns = {name: np.zeros(count, dtype) for name, dtype in _TYPES.items()}
        columns |= given | {"user": user.astype(np.int64), "service": np.full(count, service)}
        columns |= {"adapter": np.full(count, -1), "arrival_s": np.full(count, arrival_s)}
        columns["deadline_s"] = np.full(count, float(deadline_s))
        if count:
            self._asked.append(columns)
        return arrival_s

    def _check(
        self, service: int, user: Int[np.ndarray, " task"], arrival_s: float, deadline_s: float, given: Columns
    ) -> None:
        """InputError where learning tasks that somebody asks for cannot be."""
        where = f"demand.services.{self._names[service]}"
        if self.services.kind[service] != ServiceKind.LEARNING:
            raise InputError(f"{where}.kind: rounds are asked of a learning service")
        if self._drawn[service]:
            raise InputError(f"{where}.participation: must be 0 where rounds are asked for, or some come twice")
        if len(user) and not 0 <= user.min() <= user.max() < self._ends:
            raise InputError(f"{where}: asked of ends {user.min()} to {user.max()}, there are 0 to {self._ends - 1}")
        present = [columns["user"] for columns in self._asked if columns["service"][0] == service]
        everyone = np.concatenate([user, *present])
        if len(np.unique(everyone)) < len(everyone):
            raise InputError(f"{where}: an end is asked twice at {arrival_s:g} s")
        if not arrival_s < deadline_s < np.inf:
            raise InputError(
                f"{where}: deadline_s = {deadline_s:g}, must be finite and after the arrival, {arrival_s:g} s"
            )
        for name, amount in given.items():
            if not (np.isfinite(amount) & (amount >= 0.0)).all():
                raise InputError(f"{where}: {name} must be finite and at least 0")
        nothing = sum(amount for name, amount in given.items() if name != "value") == 0.0
        if np.any(nothing):
            raise InputError(f"{where}: a task needs something to do, and these have neither tokens nor bits")

    def _open(self, block: int, layers: int) -> None:
        """Draw a block with as many layers, and go to the first task in it that was not handed out yet."""
        self._block, self._layers = block, layers
        start_s, self._end_s = block * self._block_s, (block + 1) * self._block_s
        drawn = [
            source.draw(block, layer, start_s, self._end_s)
            for source in self._sources
            for layer in range(layers if source.process.surges else 1)
        ]
        order = np.argsort(np.concatenate([columns["arrival_s"] for columns in drawn]), kind="stable")
        self._columns = {name: np.concatenate([columns[name] for columns in drawn])[order] for name in _TYPES}
        self._threshold: Float[np.ndarray, " task"] = np.concatenate([c["threshold"] for c in drawn])[order]
        self._arrival_s: Float[np.ndarray, " task"] = self._columns["arrival_s"]
        self._next = int(self._arrival_s.searchsorted(self._given_s)) if self._given_s > start_s else 0

    def _take(self, until_s: float, factor: float) -> Columns | None:
        """The columns of the block's next tasks that arrive before until_s and exist under the factor, if any."""
        first = self._next
        last = int(self._arrival_s.searchsorted(until_s)) if until_s < self._end_s else len(self._arrival_s)
        if last <= first:
            return None
        self._next = last
        if factor == self._layers:
            return {name: column[first:last] for name, column in self._columns.items()}
        kept = first + np.flatnonzero(self._threshold[first:last] < factor)
        return {name: column[kept] for name, column in self._columns.items()} if len(kept) else None


def _source(
    index: int,
    name: str,
    config: scenario.AnyService,
    artifacts: Sequence[str],
    ends: int,
    seed: int,
    duration_s: float,
) -> _Source:
    """One service, from its own stream of randomness."""
    own = stream(seed, f"demand.{name}")
    key = tuple(int(word) for word in own.integers(2**32, size=4))
    process: Process
    if isinstance(config, scenario.Learning):
        process = Rounds(config, ends)
    else:
        process = arrivals(config.arrivals, ends, own, duration_s)
    return _Source(index, config.value, process, sizes(name, config, process.trace, artifacts), key)
