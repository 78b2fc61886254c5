"""Runs a training in a folder: progress, its curve, a state to go on from, and what was learnt at the end."""

from __future__ import annotations

import csv
import io
import signal
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

import torch

from gainnet.errors import InputError
from gainnet.measurement import results
from gainnet.orchestrator import checkpoint
from gainnet.scenario.complaint import nearest
from gainnet.scenario.load import load
from gainnet.scenario.scenario import Scenario
from gainnet.training.diffusion import DiffusionTraining
from gainnet.training.drl import DrlTraining
from gainnet.training.neural import NeuralTraining
from gainnet.training.training import SCENARIO, Arrays, Training
from gainnet.workers.workers import InProcess, Workers

TRAININGS: Mapping[str, Callable[..., Training]] = {
    "neural": NeuralTraining,
    "drl": DrlTraining,
    "diffusion": DiffusionTraining,
}
STATE, CURVE, PICTURE = results.STATE, "curve.csv", "curve.svg"
STATE_BYTE_MAX = 16 * 2**30
SAVE_EVERY_S = 30.0
SIGNALS = (signal.SIGINT, signal.SIGTERM)
Progress = Callable[[int, int], None]


class Held:
    """While entered, SIGINT and SIGTERM wait for `hand_on`, which is called between steps; a second one does not wait.

    What they do is not changed: they go to whoever had them before. Only a process's main thread holds them.
    """

    def __init__(self) -> None:
        self._before: dict[int, Any] = {}
        self._waiting: int | None = None

    def __enter__(self) -> Held:
        if threading.current_thread() is threading.main_thread():
            heard = {number: signal.getsignal(number) for number in SIGNALS}
            self._before = {number: who for number, who in heard.items() if who not in (signal.SIG_IGN, None)}
            self._hold()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._release()
        if self._waiting is not None:
            signal.raise_signal(self._waiting)

    @property
    def waiting(self) -> bool:
        """Whether one came."""
        return self._waiting is not None

    def hand_on(self) -> None:
        """Let one that came do what it does: KeyboardInterrupt, as a rule."""
        if self._waiting is None:
            return
        number, self._waiting = self._waiting, None
        self._release()
        signal.raise_signal(number)
        self._hold()

    def _take(self, number: int, _frame: FrameType | None) -> None:
        if self._waiting is None:
            self._waiting = number
        else:
            self.hand_on()

    def _hold(self) -> None:
        for number in self._before:
            signal.signal(number, self._take)

    def _release(self) -> None:
        for number, who in self._before.items():
            signal.signal(number, who)


class Folder:
    """A training and where it is kept.

    Args:
        folder: made where it is missing.
        training: what is trained.
    """

    def __init__(self, folder: Path, training: Training) -> None:
        self.folder = folder
        self.training = training
        self.done = 0
        self.curve: list[dict[str, float]] = []
        self._saved = 0

    def run(self, workers: Workers, progress: Progress) -> Path:
        """Take the steps that are left; returns the file that was learnt.

        An interrupt saves the state first, always that of whole steps: in this process it waits for the end of a step.
        With other workers, whom Ctrl-C ends in their jobs, it does not, and the step is undone. A second interrupt does
        not wait either; then what was saved last stays.
        """
        self.training.prepare(workers)
        if isinstance(workers, InProcess):
            with Held() as held:
                self._run(workers, progress, held)
        else:
            self._run(workers, progress, None)
        return self.folder / self.save()[0]

    def _run(self, workers: Workers, progress: Progress, held: Held | None) -> None:
        """Take the steps that are left, and save every `SAVE_EVERY_S` and before an interrupt."""
        training, saved_s = self.training, time.monotonic()
        while self.done < training.steps:
            number, before = self.done, _copied(training.state()) if held is None else None
            try:
                figures = training.step(number, workers)
                self.curve.append({"step": float(number), **figures})
                self.done += 1
                progress(self.done, training.steps)
                if (held is not None and held.waiting) or time.monotonic() - saved_s > SAVE_EVERY_S:
                    self.save()
                    saved_s = time.monotonic()
                if held is not None:
                    held.hand_on()
            except KeyboardInterrupt:
                if self.done == number and before is not None:
                    self._restore(before)
                whole = self.done > number or before is not None
                if whole and self.done > self._saved:
                    self.save()
                raise

    def save(self) -> tuple[str, ...]:
        """Write everything; returns the names of what was learnt, once all steps are taken.

        OutputError where that can't be, and the folder is then as it was.
        """
        kind = self.training.kind
        notes = {"step": str(self.done), "steps": str(self.training.steps)}
        state = self.training.state()
        writers = {
            **{name: results.text_writer(text) for name, text in self.training.begun().items()},
            CURVE: results.text_writer(self._csv()),
            STATE: lambda path: checkpoint.write_state(path, kind, state, notes),
        }
        learnt = self.training.learnt(notes) if self.done == self.training.steps else {}
        writers |= learnt
        if learnt and self.curve:
            writers[PICTURE] = lambda path: draw(path, kind, self.curve)
        results.replace(self.folder, writers)
        self._saved = self.done
        return tuple(learnt)

    def resume(self) -> None:
        """Go on from the saved state. InputError where it is of another training."""
        state, notes = checkpoint.read_state(self.folder / STATE, self.training.kind, STATE_BYTE_MAX)
        if notes.get("steps") != str(self.training.steps):
            raise InputError(f"{self.folder}: its training has {notes.get('steps')} steps: give no other --steps")
        with (self.folder / CURVE).open(encoding="utf-8", newline="") as file:
            self.curve = [{n: float(value) for n, value in row.items() if value} for row in csv.DictReader(file)]
        self.done = self._saved = int(notes["step"])
        try:
            self._restore(state)
        except (KeyError, RuntimeError, ValueError):
            raise InputError(f"{self.folder / STATE}: holds no state of this training") from None

    def _restore(self, state: Arrays) -> None:
        """Be as after ``done`` steps, whose state that is."""
        self.training.restore(state)
        self.curve = [row for row in self.curve if row["step"] < self.done]

    def _csv(self) -> str:
        names = list(dict.fromkeys(name for row in self.curve for name in row))
        out = io.StringIO()
        writer = csv.DictWriter(out, names, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows({name: repr(value) for name, value in row.items()} for row in self.curve)
        return out.getvalue()


def _copied(state: Arrays) -> Arrays:
    """A state that no further step changes."""
    return {name: array.copy() for name, array in state.items()}


def begin(kind: str, scenario: Scenario, steps: int | None, folder: Path, *, overwrite: bool = False) -> Folder:
    """A new training. InputError for an unknown kind, OutputError for a folder that can't be written, or holds a training
    that is not to be overwritten.
    """
    if kind not in TRAININGS:
        known = ", ".join(TRAININGS)
        raise InputError(f"unknown learned matcher {kind!r}: one of {known}{nearest(kind, tuple(TRAININGS))}")
    torch.set_num_threads(1)
    results.prepare(folder, over=overwrite)
    options: dict[str, Any] = {} if steps is None else {"steps": steps}
    return Folder(folder, TRAININGS[kind](scenario, **options))


def resume(folder: Path) -> Folder:
    """The training in a folder, from its last saved state. InputError where there is none."""
    if not (folder / STATE).is_file():
        raise InputError(f"--resume {folder}: holds no {STATE}: nothing to go on from")
    _, notes = checkpoint.read_state(folder / STATE, None, STATE_BYTE_MAX)
    found = begin(notes.get("kind", ""), load(str(folder / SCENARIO)), int(notes["steps"]), folder, overwrite=True)
    found.resume()
    return found


def draw(path: Path, kind: str, curve: list[dict[str, float]]) -> None:
    """The curve as a picture, one panel for each figure."""
    from matplotlib.figure import Figure

    names = [name for name in dict.fromkeys(n for row in curve for n in row) if name != "step"]
    figure = Figure(figsize=(7.0, 1.9 * len(names)), layout="constrained")
    for panel, name in zip(figure.subplots(len(names), 1, sharex=True, squeeze=False)[:, 0], names, strict=True):
        points = [(row["step"], row[name]) for row in curve if name in row]
        panel.plot(*zip(*points, strict=True), marker="." if len(points) < 60 else "", linewidth=1.2, color="#1f5fa8")
        panel.set_ylabel(name.replace("_", " "))
        panel.grid(alpha=0.3)
    panel.set_xlabel(f"step of training {kind}")
    figure.savefig(path, format="svg", metadata={"Date": None})
