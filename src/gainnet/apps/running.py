"""A run from the command line: simulated or, where it learns, learnt; begun anew or gone on with."""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from gainnet.apps.interrupt import Interrupt
from gainnet.apps.progress import stages
from gainnet.errors import GainnetError, InputError, OutputError

if TYPE_CHECKING:
    from gainnet.measurement.record import Recorder
    from gainnet.scenario.scenario import Scenario

REGISTRY = "knowledge.registry"


@contextlib.contextmanager
def extra(name: str) -> Iterator[None]:
    """Say in one line which extra is missing where an import fails."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise InputError(f"{error.name} is not installed: pip install 'gainnet[{name}]'") from None


def registry_of(scenario: Scenario) -> str | None:
    """Where versions are published, if they are."""
    return scenario.knowledge.registry if scenario.knowledge is not None else None


def gone_on_with(scenario: str, folder: Path, overrides: Sequence[str]) -> tuple[Scenario, str | None]:
    """The scenario of a run that learns and was stopped, and where it is published: only that may be another than before."""
    from gainnet.measurement import results
    from gainnet.scenario.load import change, load
    from gainnet.scenario.override import parse

    if any(".".join(parse(text)[0]) != REGISTRY for text in overrides):
        raise InputError(f"--resume DIR: goes on as it was begun: --set may give another {REGISTRY} only")
    kept = folder / "scenario.yaml"
    if not kept.is_file() or not (folder / results.JOURNAL).is_dir():
        raise InputError(f"--resume {folder}: holds no run that learns, so there is nothing to go on with")
    loaded = load(str(kept))
    if scenario not in (loaded.name, str(kept)):
        raise InputError(f"--resume {folder}: is a run of {loaded.name!r}, not of {scenario!r}")
    return loaded, registry_of(change(loaded, overrides))


def simulated(
    scenario: Scenario,
    interrupt: Interrupt,
    folder: Path,
    *,
    registry: str | None,
    command: str,
    resume: bool,
    quiet: bool,
) -> tuple[Recorder, bool]:
    """The closed recorder of a run, and whether it was interrupted. A run that learns keeps its rounds in the folder.

    ``command`` is what makes it again.
    Where it will be published to a registry, that is reached before anything is learnt, or forgotten.
    """
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
                if registry is not None:
                    from gainnet.knowledge.publish import check

                    check(registry)
                with extra("learn"):
                    from gainnet.knowledge.loop import learn
                    from gainnet.knowledge.setting import check as possible
                from gainnet.measurement import results

                if not resume:
                    possible(scenario.knowledge, scenario.network.edges)
                    results.begin(folder, scenario, command)
                learn(scenario, folder=folder, resume=resume, progress=advance, recorder=recorder)
    except KeyboardInterrupt:
        if recorder.record is None:  # nothing was simulated yet
            raise
        return recorder, True
    return recorder, False


def publish(scenario: Scenario, folder: Path, registry: str, *, quiet: bool) -> None:
    """Bring the versions in a folder, where all else is written, to a registry; OutputError says how to do it later."""
    from gainnet.knowledge.publish import publish as bring
    from gainnet.knowledge.registry import Registry
    from gainnet.measurement import results

    try:
        with stages("publishing versions", quiet):
            bring(Registry(folder / results.REGISTRY), registry)
    except GainnetError as error:
        again = ["gainnet", "run", scenario.name, "--resume", str(folder), "--set", f"{REGISTRY}={registry}"]
        raise OutputError(f"{error}: all results are in {folder}, publish later: {shlex.join(again)}") from None
