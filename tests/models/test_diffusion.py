"""Step by step a model draws what its pipeline draws, and what is no pipeline is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DDPMScheduler,
    DiffusionPipeline,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import CLIPTextConfig, CLIPTextModel, PreTrainedTokenizerFast

from gainnet.errors import InputError
from gainnet.models import diffusion
from gainnet.models.diffusion import Diffusion
from gainnet.models.text_diffusion import TextDiffusion
from painted import WORDS, pipeline

PROMPTS = ["a two", "ONE of them", "anything"]


def drawn(model: Diffusion, prompts: list[str], latent: torch.Tensor, steps: int, eta: float = 0.0) -> torch.Tensor:
    given = [model.condition(prompt) for prompt in prompts]
    for step in model.schedule(steps):
        latent = model.step(latent, [step] * len(prompts), given, torch.zeros_like(latent), [eta] * len(prompts))
    return latent


@pytest.mark.parametrize("predicts", ["v_prediction", "epsilon", "sample"])
@pytest.mark.parametrize("clip", [True, False])
def test_steps_draw_what_the_pipeline_draws(predicts: str, clip: bool) -> None:
    made = pipeline(prediction_type=predicts, clip_sample=clip)
    model = diffusion.of(made)
    noise = torch.randn((3, 1, 4, 4), generator=torch.Generator().manual_seed(1))
    whole = made(PROMPTS, num_inference_steps=7, eta=0.0, latents=noise, output_type="np").images
    with torch.inference_mode():
        steps = model.pixels(drawn(model, PROMPTS, noise, 7))
    np.testing.assert_allclose(whole * 255.0, steps, atol=1.0)  # a value in the middle may be rounded either way
    assert (np.abs(whole * 255.0 - steps) < 0.5).mean() > 0.9
    assert model.pixel == (4, 4)


def test_noise_is_added_as_diffusers_adds_it() -> None:
    made, steps = pipeline(), 10
    model, scheduler = diffusion.of(made), made.scheduler
    scheduler.set_timesteps(steps)
    rng = torch.Generator().manual_seed(2)
    latent, noise = (torch.randn((2, 1, 4, 4), generator=rng) for _ in range(2))
    for place in (0, 4, 9):
        step = model.schedule(steps)[place]
        given = [model.condition("one"), model.condition("two")]
        with torch.inference_mode():
            mine = model.step(latent, [step, step], given, noise, [0.7, 0.7])
            found = made.unet(latent, step.time, class_labels=torch.tensor([1, 2])).sample
            theirs = scheduler.step(found, step.time, latent, eta=0.7, variance_noise=noise).prev_sample
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-4)


def test_prompts_name_labels() -> None:
    made = pipeline()
    assert [made.label(prompt) for prompt in ("a two", "Zero!", "2", "12", "a house", "")] == [2, 0, 2, 3, 3, 3]
    with pytest.raises(InputError, match="names 'one' and 'two'"):
        made.label("one or two")
    model = diffusion.of(made)
    one, same, other, any_of = (model.condition(prompt) for prompt in ("one", "a 1", "two", "house"))
    assert one.similarity(same) == pytest.approx(1.0)
    assert one.similarity(other) < 0.999
    assert any_of.similarity(any_of) == pytest.approx(1.0)


def test_written_and_read_again(tmp_path: Path) -> None:
    made = pipeline()
    made.save_pretrained(tmp_path / "whole")
    assert not list((tmp_path / "whole").rglob("*.bin"))
    found, again = diffusion.load(tmp_path / "whole"), diffusion.of(made)
    noise = torch.randn((1, 1, 4, 4), generator=torch.Generator().manual_seed(3))
    with torch.inference_mode():
        assert torch.equal(drawn(found, ["one"], noise, 3), drawn(again, ["one"], noise, 3))
    assert type(made).from_pretrained(tmp_path / "whole").config.labels == [list(words) for words in WORDS]
    assert issubclass(type(made), DiffusionPipeline)


def test_what_is_no_image_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"has no model_index\.json"):
        diffusion.load(tmp_path)
    index = tmp_path / "model_index.json"
    for tree, said in (
        ([], "no object"),
        ({"_class_name": "OtherPipeline"}, "is a OtherPipeline: must be one of LabelPipeline"),
        ({"_class_name": "LabelPipeline", "unet": ["os", "system"]}, "unet comes from 'os'"),
        ({"_class_name": "LabelPipeline", "unet": ["diffusers", "UNet2DModel"]}, "cannot be loaded"),
    ):
        index.write_text(json.dumps(tree))
        with pytest.raises(InputError, match=said):
            diffusion.load(tmp_path)
    made = pipeline()
    with torch.no_grad():
        made.unet.conv_in.weight[0, 0, 0, 0] = float("nan")
    with pytest.raises(InputError, match="unet has values that are no finite numbers"):
        diffusion.of(made)
    with pytest.raises(InputError, match="thresholding True"):
        diffusion.of(pipeline(thresholding=True, clip_sample=False))


def texts() -> StableDiffusionPipeline:
    """Stable diffusion in little: 8 x 8 latents of 16 x 16 images, random weights."""
    vocabulary = {word: number for number, word in enumerate(("[UNK]", "[PAD]", "[EOS]", "a", "red", "blue", "house"))}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="[PAD]", eos_token="[EOS]", unk_token="[UNK]", model_max_length=6
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        shape = CLIPTextConfig(
            vocab_size=len(vocabulary), hidden_size=16, intermediate_size=32, num_hidden_layers=1,
            num_attention_heads=2, max_position_embeddings=6, eos_token_id=2, bos_token_id=1, pad_token_id=1,
        )  # fmt: skip
        return StableDiffusionPipeline(
            vae=AutoencoderKL(
                block_out_channels=(8, 8), down_block_types=("DownEncoderBlock2D",) * 2, latent_channels=4,
                up_block_types=("UpDecoderBlock2D",) * 2, norm_num_groups=4, sample_size=16,
            ),
            text_encoder=CLIPTextModel(shape), tokenizer=tokenizer,
            unet=UNet2DConditionModel(
                sample_size=8, block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=4,
                down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), cross_attention_dim=16, attention_head_dim=4,
                up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            ),
            scheduler=DDIMScheduler(
                beta_schedule="scaled_linear", clip_sample=False, set_alpha_to_one=False, steps_offset=1
            ),
            safety_checker=None, feature_extractor=None, requires_safety_checker=False,
        )  # fmt: skip


def test_stable_diffusion_step_by_step(tmp_path: Path) -> None:
    made = texts()
    made.set_progress_bar_config(disable=True)
    made.save_pretrained(tmp_path)
    model = diffusion.load(tmp_path)
    assert isinstance(model, TextDiffusion)
    assert (model.latent, model.pixel, model.calls) == ((4, 8, 8), (16, 16), 2)
    noise = torch.randn((1, 4, 8, 8), generator=torch.Generator().manual_seed(4))
    whole = made("a red house", num_inference_steps=4, latents=noise, output_type="np").images
    with torch.inference_mode():
        steps = model.pixels(drawn(model, ["a red house"], noise, 4))
    np.testing.assert_allclose(whole * 255.0, steps, atol=1.01)
    red, blue = model.condition("a red house"), model.condition("a blue house")
    assert red.similarity(model.condition("a red house")) == pytest.approx(1.0)
    assert red.similarity(blue) < 1.0
    other = texts()
    other.scheduler = DDPMScheduler.from_config(made.scheduler.config)
    assert [step.time for step in diffusion.of(other).schedule(4)] == [step.time for step in model.schedule(4)]
