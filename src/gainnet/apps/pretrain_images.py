"""What ``gainnet pretrain --images`` does: a small image model, in a folder that diffusers and nodes load."""

from __future__ import annotations

from pathlib import Path

import torch

from gainnet.errors import InputError
from gainnet.measurement import results
from gainnet.orchestrator import checkpoint
from gainnet.scenario.complaint import nearest
from gainnet.training.digits import STEPS, DigitsTraining
from gainnet.training.train import STATE, STATE_BYTE_MAX, Folder

DATA = ("digits",)


def begin(
    images: str, seed: int | None, steps: int | None, out: Path | None, resume: Path | None, *, overwrite: bool = False
) -> Folder:
    """A training, new or from its last saved state; one thread, so that the same seed gives the same bytes.

    InputError for other images, or where there is nothing to go on with; OutputError for a folder that can't be written, or
    holds a training that is not to be overwritten.
    """
    if images not in DATA:
        raise InputError(f"--images {images}: must be one of {', '.join(DATA)}{nearest(images, DATA)}")
    torch.set_num_threads(1)
    if resume is None:
        folder = out or Path("runs") / f"pretrain-{images}-seed{seed or 0}"
        training = DigitsTraining(STEPS if steps is None else steps, seed or 0)
        results.prepare(folder, over=overwrite)
        return Folder(folder, training)
    if overwrite or any(given is not None for given in (seed, steps, out)):
        raise InputError("--resume DIR: goes on as it was begun: give no --seed, --steps, --out or --overwrite")
    if not (resume / STATE).is_file():
        raise InputError(f"--resume {resume}: holds no {STATE}: nothing to go on from")
    state, notes = checkpoint.read_state(resume / STATE, DigitsTraining.kind, STATE_BYTE_MAX)
    if "seed" not in state:
        raise InputError(f"{resume / STATE}: holds no state of this training")
    found = Folder(resume, DigitsTraining(int(notes["steps"]), int(state["seed"])))
    found.resume()
    return found
