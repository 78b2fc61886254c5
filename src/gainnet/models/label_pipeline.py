"""A pipeline of diffusers for a network that knows labels: a prompt's words name the label that is drawn.

What it writes (`save_pretrained`) is a folder of safetensors and JSON, which `gainnet.models.diffusion.load` reads.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import torch
from diffusers import DDIMScheduler, DiffusionPipeline, ImagePipelineOutput, UNet2DModel
from jaxtyping import Float, UInt8
from torch import Tensor

from gainnet.errors import InputError

_WORD = re.compile(r"[a-z0-9]+")


class LabelPipeline(DiffusionPipeline):  # type: ignore[misc]
    """Draws one of the labels that its network was trained with, or any of them where a prompt names none.

    Args:
        unet: has one label more than there are words for: the last one stands for any.
        scheduler: of the steps.
        labels: the words that name each label, in lower case.
    """

    def __init__(
        self, unet: UNet2DModel, scheduler: DDIMScheduler, labels: Sequence[Sequence[str]] | None = None
    ) -> None:
        super().__init__()
        self.register_modules(unet=unet, scheduler=scheduler)
        self.register_to_config(labels=[list(words) for words in labels or ()])

    def label(self, prompt: str) -> int:
        """The label that a prompt names. InputError where it names two."""
        labels: list[list[str]] = self.config.labels
        words = _WORD.findall(prompt.lower())
        found = {index: word for word in words for index, names in enumerate(labels) if word in names}
        if len(found) > 1:
            first, second = list(found.values())[:2]
            raise InputError(f"prompt: names {first!r} and {second!r}: an image shows one of them")
        return next(iter(found), len(labels))

    @torch.no_grad()
    def __call__(
        self,
        prompt: str | list[str],
        num_inference_steps: int = 20,
        eta: float = 1.0,
        generator: torch.Generator | None = None,
        latents: Float[Tensor, "image channel height width"] | None = None,
        output_type: str = "pil",
    ) -> ImagePipelineOutput:
        """One image for each prompt.

        Args:
            prompt: what is drawn.
            num_inference_steps: of the scheduler.
            eta: how much of each step's noise is drawn anew (DDIM, arXiv 2010.02502); 0 draws none.
            generator: of all noise.
            latents: the noise to begin with; None draws it.
            output_type: ``pil`` or ``np``.
        """
        prompts = [prompt] if isinstance(prompt, str) else prompt
        label = torch.tensor([self.label(one) for one in prompts])
        config = self.unet.config
        if latents is None:
            shape = (len(prompts), config.in_channels, config.sample_size, config.sample_size)
            latents = torch.randn(shape, generator=generator)
        self.scheduler.set_timesteps(num_inference_steps)
        for time in self.scheduler.timesteps:
            found = self.unet(latents, time, class_labels=label).sample
            latents = self.scheduler.step(found, time, latents, eta=eta, generator=generator).prev_sample
        pixels = as_pixels(latents).numpy()
        images = pixels / 255.0 if output_type == "np" else self.numpy_to_pil(pixels / 255.0)
        return ImagePipelineOutput(images=images)


def as_pixels(latent: Float[Tensor, "image channel height width"]) -> UInt8[Tensor, "image height width channel"]:
    """Values from -1 to 1 as pixels."""
    return ((latent.clamp(-1.0, 1.0) + 1.0) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1)
