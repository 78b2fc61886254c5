"""A comparison from the command line: begun anew, or gone on with, and kept run by run."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from gainnet.apps.progress import progress
from gainnet.errors import InputError

if TYPE_CHECKING:
    from gainnet.compare import Sweep
    from gainnet.measurement.comparison import Comparison
    from gainnet.scenario.scenario import Scenario


class Stopped(Exception):
    """An interrupt after some runs were done; what to say of them."""


def compared(
    scenario: Scenario,
    arms: Mapping[str, Sequence[str]],
    reference: str,
    seeds: int,
    sweep: Sweep | None,
    *,
    folder: Path,
    resume: bool,
    overwrite: bool,
    workers: int | None,
    ray: str | None,
    command: Sequence[str],
) -> Comparison:
    """The comparison of `gainnet.compare.compare`, written to a folder: its files, and those of one whole run.

    Args:
        scenario, arms, reference, seeds, sweep, workers, ray: as there.
        folder: of the results.
        resume: runs that are kept in the folder are not made again; else they are forgotten.
        overwrite: even those of a comparison that was stopped.
        command: the arguments that make it again.

    Raises:
        InputError: there is nothing to go on with, and as `compare`.
        OutputError: the folder can't be written, or holds what should not be written over.
        Stopped: an interrupt, where runs are kept.
    """
    from gainnet.compare import compare
    from gainnet.measurement import contrast, results
    from gainnet.measurement.kept import Kept

    if resume and not (folder / results.KEPT).is_dir():
        raise InputError(f"--resume {folder}: holds no comparison, so there is nothing to go on with")
    results.prepare(folder, over=resume or overwrite)
    machine = results.environment(shlex.join(["gainnet", *command]))
    kept = Kept(folder, machine)
    if not resume:
        kept.forget()
    total = 0
    try:
        with progress("comparing", quiet=False) as show:

            def advance(done: int, of: int) -> None:
                nonlocal total
                total = of
                show(done, of)

            found, _ = compare(scenario, arms, reference, seeds, sweep, workers, advance, ray, kept)
    except KeyboardInterrupt:
        if not kept.done:
            raise
        again = shlex.join(["gainnet", *_without_out(command), "--resume", str(folder)])
        raise Stopped(f"{kept.known + kept.done} of {total} runs are kept, go on: {again}") from None
    files = kept.writers()
    files["compare.json"] = results.text_writer(results.as_json(found.as_tree(machine)))
    files["compare.csv"] = results.text_writer(found.as_csv())
    files["compare.html"] = results.text_writer(contrast.page(found, machine))
    results.replace(folder, files)
    return found


def _without_out(command: Sequence[str]) -> list[str]:
    """The arguments without where results go, and what they may replace."""
    found, skip = [], False
    for word in command:
        if skip or word in ("--out", "--resume"):
            skip = not skip
        elif word != "--overwrite" and not word.startswith(("--out=", "--resume=")):
            found.append(word)
    return found
