"""Training on digits: repeatable, resumable, and what it writes is drawn from."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from gainnet.apps import pretrain_images
from gainnet.errors import InputError
from gainnet.models import diffusion
from gainnet.training.digits import LABELS, DigitsTraining, digits
from gainnet.training.train import Folder
from gainnet.workers.workers import InProcess


def quietly(done: int, total: int) -> None:
    pass


def trained(folder: Path, seed: int, until: Callable[[int, int], None] = quietly) -> dict[str, bytes]:
    begun = pretrain_images.begin("digits", seed, 3, folder, None)
    begun.run(InProcess(), until)
    return read(folder)


def read(folder: Path) -> dict[str, bytes]:
    names = ("model_index.json", "unet/diffusion_pytorch_model.safetensors", "unet/config.json")
    return {name: (folder / name).read_bytes() for name in names}


def test_the_same_seed_gives_the_same_bytes_also_where_it_was_stopped(tmp_path: Path) -> None:
    first = trained(tmp_path / "first", 1)
    assert trained(tmp_path / "other", 2) != first

    def stop(done: int, total: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path / "stopped", 1, stop)
    resumed = pretrain_images.begin("digits", None, None, None, tmp_path / "stopped")
    assert resumed.done == 2
    resumed.run(InProcess(), quietly)
    assert read(tmp_path / "stopped") == first
    model = diffusion.load(tmp_path / "first")
    assert (model.latent, model.pixel, model.calls) == ((1, 8, 8), (8, 8), 1)
    assert len(model.condition("a seven").likeness) == 64


def test_what_is_held_out() -> None:
    learnt, held = digits(0)
    assert (len(learnt.label), len(held.label)) == (1438, 359)
    assert (learnt.image.min(), learnt.image.max(), learnt.image.shape[1:]) == (-1.0, 1.0, (8, 8))
    assert set(held.label.tolist()) == set(range(len(LABELS)))
    seen = {image.tobytes() for image in learnt.image}
    assert np.mean([image.tobytes() in seen for image in held.image]) < 0.01


def test_what_cannot_be_begun(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--images cats: must be one of digits"):
        pretrain_images.begin("cats", None, None, None, None)
    with pytest.raises(InputError, match="nothing to go on from"):
        pretrain_images.begin("digits", None, None, None, tmp_path)
    with pytest.raises(InputError, match="goes on as it was begun"):
        pretrain_images.begin("digits", 1, None, None, tmp_path)
    assert isinstance(Folder(tmp_path, DigitsTraining(1)).training, DigitsTraining)
