"""A run from the command line: simulated or, where it learns, learnt; begun anew or gone on with."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from gainnet.apps.interrupt import Interrupt
from gainnet.apps.progress import stages
from gainnet.errors import InputError

if TYPE_CHECKING:
    from gainnet.measurement.record import Recorder
    from gainnet.scenario.scenario import Scenario


@contextlib.contextmanager
def extra(name: str) -> Iterator[None]:
    """Say in one line which extra is missing where an import fails."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise InputError(f"{error.name} is not installed: pip install 'gainnet[{name}]'") from None


def gone_on_with(scenario: str, folder: Path) -> Scenario:
    """The scenario of a run that learns and was stopped."""
    from gainnet.measurement import results
    from gainnet.scenario.load import load

    kept = folder / "scenario.yaml"
    if not kept.is_file() or not (folder / results.JOURNAL).is_dir():
        raise InputError(f"--resume {folder}: holds no run that learns, so there is nothing to go on with")
    loaded = load(str(kept))
    if scenario not in (loaded.name, str(kept)):
        raise InputError(f"--resume {folder}: is a run of {loaded.name!r}, not of {scenario!r}")
    return loaded


def simulated(
    scenario: Scenario, interrupt: Interrupt, folder: Path, *, resume: bool, quiet: bool
) -> tuple[Recorder, bool]:
    """The closed recorder of a run, and whether it was interrupted. A run that learns keeps its rounds in the folder."""
    from gainnet.measurement.record import Recorder

    recorder = Recorder(scenario)
    try:
        with stages("simulating", quiet) as show:

            def advance(what: str, done: int, total: int) -> None:
                interrupt.check()
                show(what, done, total)

            if scenario.knowledge is None:
                from gainnet.run import simulate

                simulate(scenario, progress=lambda done, total: advance("simulating", done, total), recorder=recorder)
            else:
                with extra("learn"):
                    from gainnet.knowledge.loop import learn
                from gainnet.measurement import results

                if not resume:
                    results.begin(folder, scenario)
                learn(scenario, folder=folder, resume=resume, progress=advance, recorder=recorder)
    except KeyboardInterrupt:
        if recorder.record is None:  # nothing was simulated yet
            raise
        return recorder, True
    return recorder, False
