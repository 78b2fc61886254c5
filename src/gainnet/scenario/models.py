"""What a person writes about generative models: cards of language and diffusion models, and of adapters.

A quality is a score in [0, 1]; tasks ask for a least quality. The presets give published architecture figures.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field

from gainnet.scenario.quantity import Count, Fraction, NonNegative, Positive, Section


class LanguageModel(Section):
    """A decoder-only transformer with grouped-query attention."""

    kind: Literal["language"] = "language"
    parameters: Positive
    layers: Count
    width: Count
    kv_heads: Count
    head_width: Count
    weight_byte: Positive = 2.0
    kv_byte: Positive = 2.0
    quality: Fraction
    source: str = "the scenario's own"


class DiffusionModel(Section):
    """A latent diffusion model: text encoder, denoising network (called twice a step under guidance), image decoder.

    Quality rises with the number of steps as ``quality (1 - exp(-steps / steps_scale))``.
    """

    kind: Literal["diffusion"] = "diffusion"
    parameters: Positive
    weight_byte: Positive = 2.0
    step_flop: Positive
    text_flop: NonNegative
    decode_flop: NonNegative
    guidance: bool = True
    overhead_s: NonNegative = 0.0
    image_bit: Positive
    quality: Fraction
    steps_scale: Positive = 8.0
    source: str = "the scenario's own"


class Adapter(Section):
    """A LoRA adapter of one base model; it adds to the quality of the tasks that ask for it."""

    kind: Literal["adapter"] = "adapter"
    base: str
    size_byte: Positive
    load_s: NonNegative = 0.0
    quality_gain: Fraction = 0.05
    source: str = "the scenario's own"


Card = Annotated[LanguageModel | DiffusionModel | Adapter, Field(discriminator="kind")]

MODELS: Mapping[str, Card] = {
    "llama-3.2-1b-int4": LanguageModel(
        parameters=1.24e9, layers=16, width=2048, kv_heads=8, head_width=64, weight_byte=0.91, quality=0.49,
        source="Llama 3.2 1B QLoRA (16 layers, width 2048, 8 KV heads of 64): 4-bit layers, 8-bit embedding and head, "
        "1127 MB; quality: MMLU 49.0 (Meta's model card)",
    ),
    "llama-3.2-3b": LanguageModel(
        parameters=3.21e9, layers=28, width=3072, kv_heads=8, head_width=128, quality=0.63,
        source="Llama 3.2 3B (28 layers, width 3072, 8 KV heads of 128), fp16; quality: MMLU 63.4 (Meta's model card)",
    ),
    "llama-3.1-8b": LanguageModel(
        parameters=8.03e9, layers=32, width=4096, kv_heads=8, head_width=128, quality=0.69,
        source="Llama 3.1 8B (32 layers, width 4096, 8 KV heads of 128), fp16; quality: MMLU 69.4 (Meta's model card)",
    ),
    "llama-3.1-70b-int8": LanguageModel(
        parameters=70.6e9, layers=80, width=8192, kv_heads=8, head_width=128, weight_byte=1.0, quality=0.83,
        source="Llama 3.1 70B (80 layers, width 8192, 8 KV heads of 128), 8-bit weights; quality: MMLU 83.6 at 16 bit",
    ),
    "stable-diffusion-1.5": DiffusionModel(
        parameters=1.066e9, step_flop=0.80e12, text_flop=0.013e12, decode_flop=2.5e12, overhead_s=0.1, image_bit=1.6e6,
        quality=0.80, source="Stable Diffusion 1.5 at 512 x 512: U-Net 859.5 M, 0.339 TMAC a call (T-GATE, arXiv "
        "2404.02747) + 0.063 in attention products; VAE decoder 1.26 TMAC; quality, overhead and image size are ours",
    ),
    "sdxl": DiffusionModel(
        parameters=3.47e9, step_flop=6.76e12, text_flop=0.11e12, decode_flop=10.5e12, overhead_s=0.2, image_bit=6.4e6,
        quality=0.92, steps_scale=9.0, source="SDXL base 1.0 at 1024 x 1024: U-Net 2567 M, 2.99 TMAC a call (T-GATE, "
        "arXiv 2404.02747) + 0.39 in attention products; VAE decoder 5.2 TMAC; quality, overhead, image size are ours",
    ),
}  # fmt: skip


def card(name: str, own: Mapping[str, Card]) -> Card:
    """The card of that name, from the scenario's own or the presets; ValueError names the nearest."""
    if name in own:
        return own[name]
    if name in MODELS:
        return MODELS[name]
    known = [*own, *MODELS]
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.0)
    raise ValueError(f"model {name!r} is not known: one of {', '.join(known)} (did you mean {near[0]!r}?)")
