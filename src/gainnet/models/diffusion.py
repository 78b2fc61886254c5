"""Image models, step by step: any mix of prompts and steps in one pass of a network that removes noise.

A pipeline of diffusers draws an image from its first step to its last. Here a step is a call of its own (DDIM, arXiv
2010.02502), so that images of many requests share passes, and a half-drawn one may be copied or sent elsewhere.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import DDIMScheduler, DiffusionPipeline
from diffusers.utils import logging as reporting
from jaxtyping import Float, Int, UInt8
from safetensors import SafetensorError
from torch import Tensor

from gainnet.errors import InputError
from gainnet.models.label_pipeline import LabelPipeline, as_pixels

Latent = Float[Tensor, "row channel height width"]
INDEX = "model_index.json"
KINDS = ("LabelPipeline", "StableDiffusionPipeline")
_LIBRARIES = ("diffusers", "transformers")
_UNUSED = ("safety_checker", "feature_extractor", "image_encoder")
_ERRORS = (OSError, ValueError, RuntimeError, KeyError, TypeError, ImportError, AttributeError, SafetensorError)


@dataclass(frozen=True, slots=True)
class Step:
    """One step of a schedule.

    Attributes:
        time: what the network is told.
        before: part of the image in the variance before it, alpha bar.
        after: the same after it.
    """

    time: int
    before: float
    after: float


@dataclass(frozen=True, slots=True)
class Condition:
    """A prompt, as a network reads it.

    Attributes:
        given: what is fed to the network.
        likeness: of length 1; the product of two prompts' is their similarity.
    """

    given: Tensor
    likeness: Float[np.ndarray, " feature"]

    def similarity(self, other: Condition) -> float:
        """Cosine of the two prompts' features: 1 where they mean the same to the model."""
        return float(self.likeness @ other.likeness)


class Diffusion(ABC):
    """An image model.

    Attributes:
        latent: channels, height and width of what the steps work on.
        pixel: height and width of an image.
        steps_max: most steps that its schedule has.
        calls: of the network in a step of one image: two under guidance.
    """

    calls = 1

    def __init__(self, scheduler: DDIMScheduler, latent: tuple[int, int, int], pixel: tuple[int, int]) -> None:
        config = scheduler.config
        if config.prediction_type not in ("epsilon", "v_prediction", "sample") or config.thresholding:
            raise InputError(f"scheduler: {config.prediction_type} with thresholding {config.thresholding}: unknown")
        self.latent, self.pixel, self.steps_max = latent, pixel, int(config.num_train_timesteps)
        self._scheduler, self._predicts = scheduler, config.prediction_type
        self._clip = float(config.clip_sample_range) if config.clip_sample else None
        self._schedules: dict[int, tuple[Step, ...]] = {}

    @abstractmethod
    def condition(self, prompt: str) -> Condition:
        """A prompt as the network reads it. InputError where it is none."""

    @abstractmethod
    def pixels(self, latent: Latent) -> UInt8[np.ndarray, "row tall wide colour"]:
        """Images of what the last step left."""

    @abstractmethod
    def _predicted(self, latent: Latent, time: Int[Tensor, " row"], given: Sequence[Condition]) -> Latent: ...

    def schedule(self, steps: int) -> tuple[Step, ...]:
        """The steps of a drawing that has so many."""
        found = self._schedules.get(steps)
        if found is None:
            scheduler = self._scheduler
            scheduler.set_timesteps(steps)
            kept, stride = scheduler.alphas_cumprod, self.steps_max // steps
            found = self._schedules[steps] = tuple(
                Step(time, float(kept[time]), float(kept[after] if after >= 0 else scheduler.final_alpha_cumprod))
                for time, after in ((time, time - stride) for time in scheduler.timesteps.tolist())
            )
        return found

    def step(
        self, latent: Latent, steps: Sequence[Step], given: Sequence[Condition], noise: Latent, eta: Sequence[float]
    ) -> Latent:
        """Take one step with each row, each at its own place in its own schedule (DDIM, equations 12 and 16).

        Args:
            latent: what the rows are.
            steps: which step each takes.
            given: what each is to show.
            noise: drawn for each.
            eta: how much of each one's noise is drawn anew: 0 none, 1 as much as in DDPM.
        """
        time = torch.tensor([step.time for step in steps])
        before, after, anew = (
            torch.tensor(values, dtype=torch.float32).view(-1, 1, 1, 1)
            for values in ([step.before for step in steps], [step.after for step in steps], eta)
        )
        found = self._predicted(latent, time, given)
        match self._predicts:
            case "epsilon":
                image, rest = (latent - (1.0 - before).sqrt() * found) / before.sqrt(), found
            case "sample":
                image, rest = found, (latent - before.sqrt() * found) / (1.0 - before).sqrt()
            case _:
                image = before.sqrt() * latent - (1.0 - before).sqrt() * found
                rest = before.sqrt() * found + (1.0 - before).sqrt() * latent
        if self._clip is not None:
            image = image.clamp(-self._clip, self._clip)
        spread = anew * ((1.0 - after) / (1.0 - before) * (1.0 - before / after)).sqrt()
        return after.sqrt() * image + (1.0 - after - spread**2).clamp_min(0.0).sqrt() * rest + spread * noise


class LabelDiffusion(Diffusion):
    """A `LabelPipeline`, step by step.

    Two labels are as alike as the vectors are by which the network knows them, less those vectors' mean.
    """

    def __init__(self, pipeline: LabelPipeline) -> None:
        config = pipeline.unet.config
        side = int(config.sample_size)
        super().__init__(pipeline.scheduler, (int(config.in_channels), side, side), (side, side))
        self._pipeline, self._network = pipeline, pipeline.unet
        known = self._network.class_embedding.weight.detach().double()
        centred = known - known[:-1].mean(0)
        self._likeness = (centred / centred.norm(dim=1, keepdim=True)).numpy()

    def condition(self, prompt: str) -> Condition:
        """See `Diffusion`: words that name no label mean any of them."""
        label = self._pipeline.label(prompt)
        return Condition(torch.tensor(label), self._likeness[label])

    def pixels(self, latent: Latent) -> UInt8[np.ndarray, "row tall wide colour"]:
        """See `Diffusion`."""
        return np.asarray(as_pixels(latent).numpy())

    def _predicted(self, latent: Latent, time: Int[Tensor, " row"], given: Sequence[Condition]) -> Latent:
        label = torch.stack([one.given for one in given])
        found: Tensor = self._network(latent, time, class_labels=label).sample
        return found


def load(folder: Path) -> Diffusion:
    """The image model in a folder that a `LabelPipeline` or a `StableDiffusionPipeline` wrote; nothing is downloaded.

    Raises:
        InputError: there is none; it is of another kind, names parts that are no part of diffusers or transformers, or its
            weights are pickled, missing, or no finite numbers.
    """
    index = _index(folder)
    kind = index.get("_class_name")
    if kind not in KINDS:
        raise InputError(f"image model {folder}: is a {kind}: must be one of {', '.join(KINDS)}")
    unused = {name: None for name in _UNUSED if name in index}
    shown = reporting.is_progress_bar_enabled()
    reporting.disable_progress_bar()
    try:
        pipeline = (LabelPipeline if kind == KINDS[0] else DiffusionPipeline).from_pretrained(
            folder, use_safetensors=True, local_files_only=True, dtype=torch.float32, **unused
        )
    except _ERRORS as error:
        said = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"image model {folder}: cannot be loaded: {said[:300]}") from None
    finally:
        if shown:
            reporting.enable_progress_bar()
    return of(pipeline, str(folder))


def of(pipeline: DiffusionPipeline, name: str = "image model") -> Diffusion:
    """A pipeline, step by step; frozen. InputError where its weights are no finite numbers."""
    for part, module in pipeline.components.items():
        if isinstance(module, torch.nn.Module):
            module.requires_grad_(False).eval()
            for tensor in module.parameters():
                if not torch.isfinite(tensor).all():
                    raise InputError(f"{name}: {part} has values that are no finite numbers")
                tensor.data = tensor.data.clone()  # a file's weights lie at odd addresses, where sums round otherwise
    if isinstance(pipeline, LabelPipeline):
        return LabelDiffusion(pipeline)
    from gainnet.models.text_diffusion import TextDiffusion  # which imports much

    return TextDiffusion(pipeline)


def _index(folder: Path) -> dict[str, Any]:
    """What a pipeline's folder says it consists of. InputError where it is none, or parts come from elsewhere."""
    try:
        found = json.loads((folder / INDEX).read_text("utf-8"))
    except (OSError, ValueError):
        raise InputError(f"image model {folder}: has no {INDEX} of a diffusers pipeline") from None
    if not isinstance(found, dict):
        raise InputError(f"image model {folder}: its {INDEX} is no object")
    for name, part in found.items():
        component = isinstance(part, list) and len(part) == 2 and all(isinstance(one, str | None) for one in part)
        if component and part[0] not in (*_LIBRARIES, None):
            raise InputError(f"image model {folder}: {name} comes from {part[0]!r}: only {', '.join(_LIBRARIES)} may")
    return found
