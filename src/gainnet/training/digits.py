"""Training of a small image model on the handwritten digits that come with scikit-learn: 8 x 8, ten labels.

A U-Net learns the velocity of the noising process (arXiv 2202.00512) under a cosine schedule (arXiv 2102.09672). For a
tenth of the images it is not told the label, so that it also draws any digit. What is kept are running means of the
weights (arXiv 2006.11239), at half precision. The same seed gives the same bytes on the same machine, also where a
training was stopped and gone on with.

The data are the test set of "Optical Recognition of Handwritten Digits" (E. Alpaydin, C. Kaynak, UCI Machine Learning
Repository, CC BY 4.0).
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import DDIMScheduler, UNet2DModel
from jaxtyping import Float, Int
from torch.nn import functional

from gainnet.errors import InputError
from gainnet.measurement.results import Writer
from gainnet.models.diffusion import Diffusion, of
from gainnet.models.label_pipeline import LabelPipeline
from gainnet.rng import stream
from gainnet.training.training import Arrays, Figures, Training
from gainnet.workers.workers import Workers

STEPS = 500
HELD_OUT = 0.2
"""Part of the images that nothing is learnt from: those are for judging what is drawn."""
LABELS = (
    ("0", "zero", "nought", "null"), ("1", "one"), ("2", "two"), ("3", "three"), ("4", "four"), ("5", "five"),
    ("6", "six"), ("7", "seven"), ("8", "eight"), ("9", "nine"),
)  # fmt: skip
_BATCH, _RATE, _UNLABELLED, _MEMORY, _GRADIENT_MAX = 64, 3e-3, 0.1, 0.995, 1.0
_CHANNELS, _TIMES = (16, 32), 1_000


@dataclass(frozen=True, slots=True)
class Digits:
    """Images, from -1 to 1, and the digits that they show."""

    image: Float[np.ndarray, "image row column"]
    label: Int[np.ndarray, " image"]


def digits(seed: int) -> tuple[Digits, Digits]:
    """What is learnt from, and what is held out. InputError where scikit-learn is missing."""
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise InputError("scikit-learn is missing, which has the digits: pip install 'gainnet[learn]'") from None
    found = load_digits()
    order = stream(seed, "digits.held").permutation(len(found.target))
    held = int(HELD_OUT * len(order))
    image, label = (found.images / 8.0 - 1.0).astype(np.float32), found.target.astype(np.int64)
    return tuple(Digits(image[part], label[part]) for part in (order[held:], order[:held]))  # type: ignore[return-value]


class DigitsTraining(Training):
    """A network that learns to draw digits.

    Args:
        steps: how many it takes.
        seed: of weights, order and noise.
    """

    kind = "digits"

    def __init__(self, steps: int = STEPS, seed: int = 0) -> None:
        self.steps, self._seed = steps, seed
        learnt, _ = digits(0)  # the same are held out whatever the seed
        self._image, self._label = torch.from_numpy(learnt.image)[:, None], torch.from_numpy(learnt.label)
        self._scheduler = DDIMScheduler(
            num_train_timesteps=_TIMES, beta_schedule="squaredcos_cap_v2", prediction_type="v_prediction"
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.module = _network()
        self.optimiser = torch.optim.AdamW(self.module.parameters(), lr=_RATE, fused=True)
        self._mean = {name: value.clone() for name, value in self.module.state_dict().items()}

    def prepare(self, workers: Workers) -> None:
        """See Training: all is there already."""

    def step(self, number: int, workers: Workers) -> Figures:  # noqa: ARG002
        """See Training."""
        rate = _RATE * min(1.0, (number + 1) / 100.0) * 0.5 * (1.0 + math.cos(math.pi * number / self.steps))
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        rng = stream(self._seed, f"digits.step{number}")
        chosen = torch.from_numpy(rng.integers(len(self._image), size=_BATCH))
        label = self._label[chosen].clone()
        label[torch.from_numpy(rng.random(_BATCH) < _UNLABELLED)] = len(LABELS)
        time = torch.from_numpy(rng.integers(_TIMES, size=_BATCH))
        image = self._image[chosen]
        noise = torch.from_numpy(rng.standard_normal(image.shape, np.float32))
        noisy = self._scheduler.add_noise(image, noise, time)
        loss = functional.mse_loss(
            self.module(noisy, time, class_labels=label).sample, self._scheduler.get_velocity(image, noise, time)
        )
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.module.parameters(), _GRADIENT_MAX)
        self.optimiser.step()
        self.optimiser.zero_grad()
        memory = min(_MEMORY, (number + 1) / (number + 10))
        with torch.no_grad():
            for name, value in self.module.state_dict().items():
                self._mean[name].lerp_(value, 1.0 - memory)
        return {"loss": float(loss.detach()), "learning_rate": rate}

    def begun(self) -> Mapping[str, str]:
        """See Training: its data come with a package, so there is nothing to keep."""
        return {}

    def state(self) -> dict[str, np.ndarray]:
        """See Training."""
        mean = {f"mean.{name}": value.numpy().copy() for name, value in self._mean.items()}
        return super().state() | mean | {"seed": np.array(float(self._seed))}

    def restore(self, state: Arrays) -> None:
        """See Training."""
        super().restore(state)
        self._mean = {name: torch.as_tensor(state[f"mean.{name}"].copy()) for name in self._mean}

    def pipeline(self) -> LabelPipeline:
        """The running mean of the weights as of now, rounded to half precision."""
        network = _network()
        network.load_state_dict({name: value.half().float() for name, value in self._mean.items()})
        return LabelPipeline(network, self._scheduler, LABELS)

    def model(self) -> Diffusion:
        """The same, step by step."""
        return of(self.pipeline())

    def learnt(self, notes: Mapping[str, str]) -> Mapping[str, Writer]:  # noqa: ARG002  the format has no place for them
        """See Training: a folder that diffusers loads."""
        with tempfile.TemporaryDirectory() as folder:
            pipeline = self.pipeline()
            pipeline.unet.half()
            pipeline.save_pretrained(folder)
            found = {
                str(path.relative_to(folder)): path.read_bytes()
                for path in sorted(Path(folder).rglob("*"))
                if path.is_file()
            }
        return {name: _writer(content) for name, content in found.items()}


def _network() -> UNet2DModel:
    return UNet2DModel(
        sample_size=8, in_channels=1, out_channels=1, layers_per_block=1, block_out_channels=_CHANNELS,
        down_block_types=("DownBlock2D",) * len(_CHANNELS), up_block_types=("UpBlock2D",) * len(_CHANNELS),
        norm_num_groups=8, num_class_embeds=len(LABELS) + 1, add_attention=False,
    )  # fmt: skip


def _writer(content: bytes) -> Writer:
    def write(path: Path) -> None:
        path.write_bytes(content)

    return write
