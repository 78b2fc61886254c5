"""Small image models of random weights."""

from __future__ import annotations

from functools import cache

import torch
from diffusers import DDIMScheduler, UNet2DModel

from gainnet.models.diffusion import Diffusion, of
from gainnet.models.label_pipeline import LabelPipeline

torch.set_num_threads(1)  # threads that wait for one another are slow on a machine with much else to do
WORDS = (("0", "zero"), ("1", "one"), ("2", "two"))


def pipeline(seed: int = 0, **schedule: str | bool) -> LabelPipeline:
    """A network of 4 x 4 and three labels."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = UNet2DModel(
            sample_size=4, in_channels=1, out_channels=1, layers_per_block=1, block_out_channels=(8,),
            down_block_types=("DownBlock2D",), up_block_types=("UpBlock2D",), norm_num_groups=4,
            num_class_embeds=len(WORDS) + 1, add_attention=False,
        )  # fmt: skip
        for weight in network.parameters():
            weight.data.mul_(1.5)
    given = {"beta_schedule": "squaredcos_cap_v2", "prediction_type": "v_prediction"} | schedule
    return LabelPipeline(network, DDIMScheduler(num_train_timesteps=1_000, **given), WORDS)


@cache
def model() -> Diffusion:
    """The same, step by step."""
    return of(pipeline())
