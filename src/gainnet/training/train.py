"""Runs a training in a folder: progress, its curve, a state to go on from, and what was learnt at the end."""

from __future__ import annotations

import csv
import io
import time
from collections.abc import Callable, Mapping
from pathlib import Path
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
from gainnet.training.training import SCENARIO, Training
from gainnet.workers.workers import Workers

TRAININGS: Mapping[str, Callable[..., Training]] = {
    "neural": NeuralTraining,
    "drl": DrlTraining,
    "diffusion": DiffusionTraining,
}
STATE, CURVE, PICTURE = "state.safetensors", "curve.csv", "curve.svg"
STATE_BYTE_MAX = 16 * 2**30
SAVE_EVERY_S = 30.0
Progress = Callable[[int, int], None]


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

    def run(self, workers: Workers, progress: Progress) -> Path:
        """Take the steps that are left; returns the file that was learnt. An interrupt saves the state first."""
        training = self.training
        saved_s = time.monotonic()
        try:
            training.prepare(workers)
            while self.done < training.steps:
                figures = training.step(self.done, workers)
                self.curve.append({"step": float(self.done), **figures})
                self.done += 1
                progress(self.done, training.steps)
                if time.monotonic() - saved_s > SAVE_EVERY_S:
                    self.save()
                    saved_s = time.monotonic()
        except KeyboardInterrupt:
            if self.done:
                self.save()
            raise
        return self.folder / self.save()[0]

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
        return tuple(learnt)

    def resume(self) -> None:
        """Go on from the saved state. InputError where it is of another training."""
        state, notes = checkpoint.read_state(self.folder / STATE, self.training.kind, STATE_BYTE_MAX)
        if notes.get("steps") != str(self.training.steps):
            raise InputError(f"{self.folder}: its training has {notes.get('steps')} steps: give no other --steps")
        try:
            self.training.restore(state)
        except (KeyError, RuntimeError, ValueError):
            raise InputError(f"{self.folder / STATE}: holds no state of this training") from None
        self.done = int(notes["step"])
        with (self.folder / CURVE).open(encoding="utf-8", newline="") as file:
            rows = [{name: float(value) for name, value in row.items() if value} for row in csv.DictReader(file)]
        self.curve = [row for row in rows if row["step"] < self.done]

    def _csv(self) -> str:
        names = list(dict.fromkeys(name for row in self.curve for name in row))
        out = io.StringIO()
        writer = csv.DictWriter(out, names, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows({name: repr(value) for name, value in row.items()} for row in self.curve)
        return out.getvalue()


def begin(kind: str, scenario: Scenario, steps: int | None, folder: Path) -> Folder:
    """A new training. InputError for an unknown kind, OutputError for a folder that can't be written."""
    if kind not in TRAININGS:
        known = ", ".join(TRAININGS)
        raise InputError(f"unknown learned matcher {kind!r}: one of {known}{nearest(kind, tuple(TRAININGS))}")
    torch.set_num_threads(1)
    results.prepare(folder)
    options: dict[str, Any] = {} if steps is None else {"steps": steps}
    return Folder(folder, TRAININGS[kind](scenario, **options))


def resume(folder: Path) -> Folder:
    """The training in a folder, from its last saved state. InputError where there is none."""
    if not (folder / STATE).is_file():
        raise InputError(f"--resume {folder}: holds no {STATE}: nothing to go on from")
    _, notes = checkpoint.read_state(folder / STATE, None, STATE_BYTE_MAX)
    found = begin(notes.get("kind", ""), load(str(folder / SCENARIO)), int(notes["steps"]), folder)
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
