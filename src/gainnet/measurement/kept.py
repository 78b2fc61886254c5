"""Runs of a comparison that are done, kept in its folder: one that was stopped goes on with the others."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from pathlib import Path

from gainnet.errors import OutputError
from gainnet.measurement import metrics, results
from gainnet.measurement.comparison import Figures
from gainnet.measurement.metrics import Report
from gainnet.measurement.record import Record
from gainnet.measurement.results import Writer
from gainnet.scenario.load import dump
from gainnet.scenario.scenario import Scenario


class Kept:
    """Figures of each run, in a file named by what was run, its seed with it, and by which version of gainnet.

    Args:
        folder: of the comparison.
        machine: what runs them (`results.environment`).

    Attributes:
        known: runs that were kept before, as far as they were asked for.
        done: runs kept since.
    """

    def __init__(self, folder: Path, machine: Report) -> None:
        self._folder = folder / results.KEPT
        self._whole = self._folder / "whole"
        self._machine = machine
        self.known = self.done = 0

    def forget(self) -> None:
        """Remove what is kept; OutputError where that can't be."""
        try:
            if self._folder.exists():
                shutil.rmtree(self._folder)
        except OSError as error:
            raise OutputError(f"{self._folder}: cannot be written: {error.strerror or error}") from None

    def figures(self, scenario: Scenario, *, whole: bool) -> Figures | None:
        """Those of a run that is kept, None of another; ``whole``: its files are wanted too."""
        if whole and not self._holds(scenario):
            return None
        try:
            found: Mapping[str, float | None] = json.loads(self._file(scenario).read_text("utf-8"))
        except (OSError, ValueError):  # a file that was cut short is no run
            return None
        self.known += 1
        return found

    def keep(self, scenario: Scenario, figures: Figures, record: Record | None) -> None:
        """Keep a run that is done, its files too where its record is given; OutputError where that can't be."""
        if record is not None:
            results.replace(self._whole, results.run_writers(record, metrics.report(record), self._machine))
        file = self._file(scenario)
        results.add(file.parent, {file.name: results.text_writer(results.as_json(dict(figures)))})
        self.done += 1

    def writers(self) -> dict[str, Writer]:
        """The files of the one run that is kept whole."""
        return {name: _copy(self._whole / name) for name in results.RUN_FILES}

    def _holds(self, scenario: Scenario) -> bool:
        """Whether all files of this run are there."""
        try:
            same = (self._whole / "scenario.yaml").read_text("utf-8") == dump(scenario)
        except OSError:
            return False
        return same and all((self._whole / name).is_file() for name in results.RUN_FILES)

    def _file(self, scenario: Scenario) -> Path:
        code = f"{self._machine['gainnet']} {self._machine['commit']}\n"
        return self._folder / f"{hashlib.sha256((code + dump(scenario)).encode()).hexdigest()[:24]}.json"


def _copy(source: Path) -> Writer:
    def writer(path: Path) -> None:
        shutil.copyfile(source, path)

    return writer
