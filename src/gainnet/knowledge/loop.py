"""The knowledge loop in the network: rounds are tasks, and what they deliver is learnt from.

A round begins with tasks of the learning service, one for each end that takes part: fetch the adapter, train, send. They
compete with every other task for the same pools through the same matcher. When all have ended, or the deadline has
passed, the round closes: what the network delivered is learnt, really, with gradients; edges and cloud join it, what they
learnt is judged, and the models that answer requests get better (or not) from the next frame on.

A loop that is killed goes on from its last closed round: frames up to there are simulated again, which takes seconds
and needs no learning, since the journal knows what was asked, what arrived and what quality followed.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from threadpoolctl import threadpool_limits

from gainnet.errors import InputError, OutputError
from gainnet.execution.outcome import Outcomes, Result
from gainnet.knowledge import setting as settings
from gainnet.knowledge.arm import Arm, Ask
from gainnet.knowledge.arms import build
from gainnet.knowledge.export import export
from gainnet.knowledge.journal import Journal, Notes
from gainnet.knowledge.network import Network
from gainnet.knowledge.registry import Registry
from gainnet.measurement import results
from gainnet.measurement.record import Recorder
from gainnet.run import Run
from gainnet.scenario.scenario import Scenario

Progress = Callable[[str, int, int], None]
TORCH_THREADS = 1
_SLACK_S = 1e-9
ARRIVED, LATE, LOST, FAILED = "arrived", "late", "lost", "failed"


def learn(
    scenario: Scenario,
    *,
    folder: Path | None = None,
    resume: bool = False,
    progress: Progress | None = None,
    recorder: Recorder | None = None,
) -> Recorder:
    """Run a scenario that has a knowledge loop to its end.

    Args:
        scenario: what to run; its ``knowledge`` says how it learns.
        folder: where the journal of rounds is kept; without one a killed run begins anew.
        resume: go on from the journal.
        progress: called with what is done, how much of it, and how much there is.
        recorder: where to record; a new one by default.

    Raises:
        InputError: data or model cannot be read, or the journal is not this run's.
    """
    recorder = Recorder(scenario) if recorder is None else recorder
    with _threads():
        return _learn(scenario, recorder, folder, progress or (lambda _what, _done, _total: None), resume=resume)


@contextlib.contextmanager
def _threads() -> Iterator[None]:
    """Small matrices gain nothing by more threads and lose much on a busy machine; and the bits must not depend on them."""
    before = torch.get_num_threads()
    torch.set_num_threads(TORCH_THREADS)
    try:
        with threadpool_limits(limits=1, user_api="blas"):
            yield
    finally:
        torch.set_num_threads(before)


def _learn(
    scenario: Scenario, recorder: Recorder, folder: Path | None, progress: Progress, *, resume: bool
) -> Recorder:
    loop = Loop(scenario, folder, progress, resume=resume)
    frame = 0
    try:
        for frame in range(scenario.frames):
            loop.step(frame, recorder)
        report = loop.report(final=True)
        try:
            loop.export()
        except OutputError as error:  # what was measured is worth more
            report["lines"].append(f"adapters were not written: {error}")
    except KeyboardInterrupt:
        recorder.close(loop.run.execution.still_open(frame * scenario.frame_s), loop.report(final=False))
        raise
    recorder.close(loop.run.execution.still_open(scenario.frames * scenario.frame_s), report)
    return recorder


class _Round:
    """A round that is under way.

    Attributes:
        number, start_s: which, and when it began.
        asks: what each end that takes part was asked.
        ended: how each of them ended, so far.
        energy_j: what its tasks used.
    """

    def __init__(self, number: int, start_s: float, asks: tuple[Ask, ...]) -> None:
        self.number, self.start_s = number, start_s
        self.asks = {ask.end: ask for ask in asks}
        self.ended: dict[int, str] = {}
        self.energy_j = 0.0

    def of(self, how: str) -> list[int]:
        """The ends that ended so, in order."""
        return sorted(end for end, ended in self.ended.items() if ended == how)


class Loop:
    """A run, its arm, and the rounds.

    Args:
        scenario: with a knowledge loop.
        folder: of the journal, or None.
        progress: see `learn`.
        resume: whether to go on from the journal.
    """

    def __init__(self, scenario: Scenario, folder: Path | None, progress: Progress, *, resume: bool) -> None:
        assert scenario.knowledge is not None, "a knowledge loop needs a scenario with one"
        self.config, self.scenario, self._progress = scenario.knowledge, scenario, progress
        self.run = Run(scenario)
        self._network = Network(self.run, scenario)
        self._folder = folder
        registry = None if folder is None else Registry(folder / results.REGISTRY)
        if registry is not None and not resume:
            registry.clear()
        self._setting = settings.build(
            self.config, scenario.seed, self._network.edge_of, scenario.network.edges, progress, registry
        )
        self._arm: Arm = build(self._setting)
        self._journal = Journal(None if folder is None else folder / results.JOURNAL)
        if not resume:
            self._journal.clear()
        self._known = self._journal.rounds()
        self._rounds: list[Notes] = []
        self._open: _Round | None = None
        self._earlier: dict[float, _Round] = {}
        self._late: list[tuple[int, int]] = []
        self._numbers: dict[float, int] = {}
        self._said: list[str] = []
        self._quality: list[tuple[float, dict[str, float]]] = []
        self._keep(self._replayed(0) or {"start": self._arm.start(), "identity": self._identity()}, 0.0)

    def step(self, frame: int, recorder: Recorder) -> None:
        """One frame: start what is due, run the network, take what it delivered, close what is over."""
        now_s = frame * self.scenario.frame_s
        while self._quality and self._quality[0][0] <= now_s + _SLACK_S:
            self._network.set_quality(self._quality.pop(0)[1])
        number = len(self._rounds) - 1
        due = self._open is None and number < self.config.rounds
        if self.config.closed and due and now_s >= number * self.config.period_s - _SLACK_S:
            self._start(number, now_s)
        self._take(self.run.step(recorder).outcomes)
        over_s = now_s + self.scenario.frame_s
        begun = self._open
        if begun is not None:
            past = over_s >= begun.start_s + self.config.deadline_s - _SLACK_S
            if past or len(begun.ended) == len(begun.asks):
                self._close(begun, over_s)
        self._progress("simulating", frame + 1, self.scenario.frames)

    def report(self, *, final: bool) -> Notes:
        """What the loop did, as plain data; with the scores on test notes if it is over."""
        rounds = [notes for notes in self._rounds[1:] if "figures" in notes]
        late = [f"end {end}: its update for round {number} came after the last round" for number, end in self._late]
        tree: Notes = {
            "arm": self.config.arm,
            "ends": len(self._setting.edge_of),
            "domains": [domain.name for domain in self._setting.corpus.domains],
            "refused": list(self._setting.corpus.refused),
            "lines": [*self._setting.lines, *self._said, *late],
            "idle": [
                {key: notes[key] for key in ("number", "start_s", "lines")}
                for notes in self._rounds[1:]
                if not notes["started"] and notes.get("lines")
            ],
            "start": self._rounds[0]["start"] if self._rounds else {},
            "rounds": rounds,
            "uplink_bit": float(sum(notes["uplink_bit"] for notes in rounds)),
            "backhaul_bit": float(sum(notes["backhaul_bit"] for notes in rounds)),
            "time_s": float(sum(notes["close_s"] - notes["start_s"] for notes in rounds)),
            "energy_j": float(sum(notes["energy_j"] for notes in rounds)),
            "payments": {
                domain.name: float(sum(notes["figures"].get("paid", {}).get(domain.name, 0.0) for notes in rounds))
                for domain in self._setting.corpus.domains
            },
            "complete": final,
        }
        if final:
            tree["final"] = self._arm.final(lambda done, total: self._progress("writing notes", done, total))
        return tree

    def export(self) -> None:
        """Write what answers where others can load it, if the run has a folder. OutputError where that can't be."""
        if self._folder is not None:
            export(self._arm, self._folder / results.ADAPTERS)

    def _start(self, number: int, now_s: float) -> None:
        known = self._replayed(number + 1)
        if known is not None:
            asks = tuple(Ask.of(tree) for tree in known["asks"])
        else:
            asks = self._arm.ask(number, self._network.links())
        if not asks and self._arm.alone:
            self._open = _Round(number, now_s, asks)
            return
        if not asks:
            nothing = {
                "number": number,
                "start_s": now_s,
                "asks": [],
                "started": False,
                "lines": list(self._arm.said()),
            }
            self._keep(known or nothing, now_s)
            return
        asked_s = self._network.ask(asks, now_s + self.config.deadline_s)
        self._numbers[asked_s] = number
        self._open = self._earlier[asked_s] = _Round(number, now_s, asks)

    def _take(self, outcomes: Outcomes) -> None:
        """What the network did with what ends were asked."""
        for end, asked_s, result, energy_j in self._network.learnt(outcomes):
            found = self._earlier.get(asked_s)
            delivered = result in (Result.SERVED, Result.LATE)
            if found is None and delivered:
                self._said.append(
                    f"end {end}: its update for round {self._numbers[asked_s]} came too late to be of use"
                )
            if found is None or end in found.ended:
                continue
            found.energy_j += energy_j
            if not delivered:
                found.ended[end] = FAILED
            elif end in self._vanished(found):
                found.ended[end] = LOST
            elif found is self._open and result == Result.SERVED:
                found.ended[end] = ARRIVED
            else:
                found.ended[end] = LATE
                self._late.append((found.number, end))

    def _vanished(self, begun: _Round) -> set[int]:
        """The ends that are lost in a round though the network delivered."""
        ends = sorted(begun.asks)
        lost = self._setting.stream(f"loss.{begun.number}").permutation(ends)
        return {int(end) for end in lost[: round(self.config.loss * len(ends))]}

    def _close(self, begun: _Round, now_s: float) -> None:
        """Learn from what arrived, or remember that it was learnt before this run was killed."""
        self._open = None
        late, self._late = self._late, []
        said, self._said = self._said, []
        arrived = begun.of(ARRIVED)
        seen = {"arrived": arrived, "late": [list(pair) for pair in late], "close_s": now_s}
        known = self._replayed(begun.number + 1)
        if known is None:
            known = self._learn(begun, arrived, late) | seen
            known["lines"] = [*said, *known["lines"]]
        elif any(known[key] != value for key, value in seen.items()):
            raise InputError(
                f"round {begun.number}: {len(known['arrived'])} updates arrived before, {len(arrived)} now: "
                "the scenario or the program is another one than the run was begun with"
            )
        self._keep(known, now_s + known["backhaul_s"])
        self._earlier = {start: r for start, r in self._earlier.items() if r.number >= begun.number - 1}

    def _learn(self, begun: _Round, arrived: list[int], late: list[tuple[int, int]]) -> Notes:
        number = begun.number
        asked = {earlier.number: earlier.asks for earlier in self._earlier.values()}
        for done, end in enumerate(arrived):
            self._progress(f"round {number}: learning", done, len(arrived))
            self._arm.arrived(number, begun.asks[end], 0)
        for earlier, end in late:
            if earlier in asked:
                self._arm.arrived(earlier, asked[earlier][end], number - earlier)
        self._progress(f"round {number}: joining", 0, 1)
        closed = self._arm.close(number)
        missing = {end: begun.ended.get(end, "not ended") for end in begun.asks if end not in arrived}
        lines = [f"end {end}: {how}" for end, how in sorted(missing.items())]
        return {
            "number": number,
            "started": True,
            "start_s": begun.start_s,
            "asks": [ask.as_tree() for ask in begun.asks.values()],
            "energy_j": begun.energy_j,
            "uplink_bit": closed.uplink_bit,
            "backhaul_bit": closed.backhaul_bit,
            "backhaul_s": self._network.backhaul_s(closed.backhaul_bit),
            "quality": dict(closed.quality),
            "figures": closed.figures,
            "lines": [*lines, *closed.lines],
        }

    def _replayed(self, entry: int) -> Notes | None:
        """What the journal knows of an entry (0: the start; r + 1: round r), None where it was not reached."""
        if entry >= len(self._known):
            return None
        if entry == 0 and self._known[0]["identity"] != self._identity():
            raise InputError("--resume: this folder's rounds are of another scenario, model or data")
        return self._known[entry]

    def _keep(self, notes: Notes, ready_s: float) -> None:
        """A round is over: keep it, or go on from it where it was the last one known."""
        entry = len(self._rounds)
        self._rounds.append(notes)
        if entry >= len(self._known):
            self._journal.write(entry, notes, self._arm.weights())
        elif entry == len(self._known) - 1:
            self._arm.restore(self._journal.weights(entry))
        if "quality" in notes:
            self._quality.append((ready_s, notes["quality"]))
        elif "start" in notes:
            self._network.set_quality(notes["start"]["quality"])

    def _identity(self) -> dict[str, Any]:
        """What a journal must agree with for a run to go on from it."""
        return {
            "scenario": self.scenario.model_dump_json(),
            "base": self._setting.base,
            "ends": int(np.sum([len(shard) for shard in self._setting.shards])),
        }
