"""Stable diffusion, step by step: prompts of any words, under guidance."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline
from jaxtyping import Int, UInt8
from torch import Tensor

from gainnet.models.diffusion import Condition, Diffusion, Latent
from gainnet.models.label_pipeline import as_pixels

GUIDANCE = 7.5
"""How far a text's prediction is carried on from that of no text (classifier-free guidance, arXiv 2207.12598)."""


class TextDiffusion(Diffusion):
    """A `StableDiffusionPipeline` of diffusers, step by step, under guidance.

    Two prompts are as alike as the vectors are in which the text encoder sums them up.
    """

    calls = 2

    def __init__(self, pipeline: StableDiffusionPipeline) -> None:
        config, factor = pipeline.unet.config, int(pipeline.vae_scale_factor)
        side = int(config.sample_size)
        scheduler = DDIMScheduler.from_config(pipeline.scheduler.config)
        super().__init__(scheduler, (int(config.in_channels), side, side), (side * factor, side * factor))
        self._pipeline, self._network = pipeline, pipeline.unet
        with torch.inference_mode():
            self._nothing = self._read("")[0]

    def condition(self, prompt: str) -> Condition:
        """See `Diffusion`. What is beyond the text encoder's length is cut off."""
        given, summed = self._read(prompt)
        vector = summed.double().numpy()
        return Condition(given, vector / max(float(np.linalg.norm(vector)), 1e-12))

    def pixels(self, latent: Latent) -> UInt8[np.ndarray, "row tall wide colour"]:
        """See `Diffusion`."""
        vae = self._pipeline.vae
        return np.asarray(as_pixels(vae.decode(latent / vae.config.scaling_factor).sample).numpy())

    def _predicted(self, latent: Latent, time: Int[Tensor, " row"], given: Sequence[Condition]) -> Latent:
        texts = torch.stack([*[self._nothing] * len(given), *(one.given for one in given)])
        found = self._network(latent.repeat(2, 1, 1, 1), time.repeat(2), encoder_hidden_states=texts).sample
        without, with_text = found.chunk(2)
        carried: Tensor = without + GUIDANCE * (with_text - without)
        return carried

    def _read(self, prompt: str) -> tuple[Tensor, Tensor]:
        tokenizer = self._pipeline.tokenizer
        ids = tokenizer(
            prompt, padding="max_length", max_length=tokenizer.model_max_length, truncation=True, return_tensors="pt"
        ).input_ids
        found = self._pipeline.text_encoder(ids)
        return found.last_hidden_state[0], found.pooler_output[0]
