"""What each generative model costs: the coefficients that the compute kernels need, one array an artifact axis.

An artifact is anything that a node may hold: a model, or an adapter of one. Serving with an adapter costs what its base
costs, so the serving coefficients stand in the base's row and are 0 in the adapter's.

Sources: 2 P flop a token and 6 P (full) for training: arXiv 2001.08361, section 2.1. With a frozen base the backward
pass needs no weight gradients of the base: 4 P.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from jaxtyping import Float, Int

from gainnet.errors import ScenarioError
from gainnet.scenario.models import Adapter, Card, DiffusionModel, LanguageModel, card


class Kind(IntEnum):
    """What an artifact is."""

    LANGUAGE = 0
    DIFFUSION = 1
    ADAPTER = 2


@dataclass(frozen=True, slots=True)
class Cards:
    """The artifacts of a scenario: models first, then adapters. A coefficient without meaning for a kind is 0.

    Attributes:
        names: name of each artifact, in the order of the artifact axis.
        kind: a `Kind`.
        base: artifact index of an adapter's base model, -1 for a model.
        parameters: number of weights (an adapter's own are not counted: 0).
        size_byte: what the weights take in memory and on the wire.
        flop_per_token: 2 P, the weight flop of one token in prefill and decode (language).
        attention_flop_per_token2: 2 L d, causal attention flop of a prefill over n tokens divided by n^2 (language).
        kv_byte_per_token: 2 L n_kv d_head kv_byte, the KV cache of one token (language).
        step_flop: flop of one denoising step of one image, both calls under guidance (diffusion).
        fixed_flop: flop of one image outside its steps, text encoder and image decoder (diffusion).
        overhead_s: time of one request that no hardware shortens (diffusion).
        image_bit: size of one answer image (diffusion).
        quality: score in [0, 1] of the model; of a diffusion model, its limit for many steps.
        steps_scale: steps at which a diffusion model reaches 1 - 1/e of its quality (1 elsewhere).
        quality_gain: what an adapter adds for the tasks that ask for it.
        load_s: an adapter's own extra time to load.
        train_flop_per_token: training flop of one token, or of one image of a diffusion model (one denoising step
            without guidance): three forward passes for a model in full, two for an adapter on its frozen base.
    """

    names: tuple[str, ...]
    kind: Int[np.ndarray, " artifact"]
    base: Int[np.ndarray, " artifact"]
    parameters: Float[np.ndarray, " artifact"]
    size_byte: Float[np.ndarray, " artifact"]
    flop_per_token: Float[np.ndarray, " artifact"]
    attention_flop_per_token2: Float[np.ndarray, " artifact"]
    kv_byte_per_token: Float[np.ndarray, " artifact"]
    step_flop: Float[np.ndarray, " artifact"]
    fixed_flop: Float[np.ndarray, " artifact"]
    overhead_s: Float[np.ndarray, " artifact"]
    image_bit: Float[np.ndarray, " artifact"]
    quality: Float[np.ndarray, " artifact"]
    steps_scale: Float[np.ndarray, " artifact"]
    quality_gain: Float[np.ndarray, " artifact"]
    load_s: Float[np.ndarray, " artifact"]
    train_flop_per_token: Float[np.ndarray, " artifact"]


def build(names_in_use: Sequence[str], own: Mapping[str, Card]) -> Cards:
    """The cards of the named artifacts and of the bases of the named adapters.

    Args:
        names_in_use: names of models and adapters; repeated names count once.
        own: the scenario's own cards, which go before the presets of the same name.

    Returns:
        the artifacts in the order of first mention (an adapter mentions its base), models before adapters.

    Raises:
        ScenarioError: a name that is not known, or an adapter whose base is an adapter.
    """
    found = _closure(names_in_use, own)
    names = tuple(sorted(found, key=lambda name: found[name].kind == "adapter"))
    rows = [_row(found[name], found) for name in names]
    for row, model in zip(rows, map(found.get, names), strict=True):
        if isinstance(model, Adapter):
            row["base"] = float(names.index(model.base))

    def column(field: str, default: float = 0.0) -> Float[np.ndarray, " artifact"]:
        return np.array([row.get(field, default) for row in rows], dtype=np.float64)

    return Cards(
        names=names,
        kind=column("kind").astype(np.int64),
        base=column("base", -1.0).astype(np.int64),
        parameters=column("parameters"),
        size_byte=column("size_byte"),
        flop_per_token=column("flop_per_token"),
        attention_flop_per_token2=column("attention_flop_per_token2"),
        kv_byte_per_token=column("kv_byte_per_token"),
        step_flop=column("step_flop"),
        fixed_flop=column("fixed_flop"),
        overhead_s=column("overhead_s"),
        image_bit=column("image_bit"),
        quality=column("quality"),
        steps_scale=column("steps_scale", 1.0),
        quality_gain=column("quality_gain"),
        load_s=column("load_s"),
        train_flop_per_token=column("train_flop_per_token"),
    )


def _closure(names: Sequence[str], own: Mapping[str, Card]) -> dict[str, Card]:
    """The named cards and the bases of the adapters among them, by name, in the order of first mention."""
    found: dict[str, Card] = {}
    for name in names:
        found[name] = model = _known(name, own, f"models: {name}")
        if isinstance(model, Adapter):
            base = _known(model.base, own, f"models.{name}.base")
            if isinstance(base, Adapter):
                raise ScenarioError(f"models.{name}.base: {model.base!r} is an adapter itself: give a model")
            found[model.base] = base
    return found


def _known(name: str, own: Mapping[str, Card], path: str) -> Card:
    try:
        return card(name, own)
    except ValueError as error:
        raise ScenarioError(f"{path}: {error}") from error


def _row(model: Card, found: Mapping[str, Card]) -> dict[str, float]:
    """The coefficients of one card, by the name of the field in `Cards`."""
    if isinstance(model, Adapter):
        return {
            "kind": float(Kind.ADAPTER),
            "size_byte": model.size_byte,
            "quality_gain": model.quality_gain,
            "load_s": model.load_s,
            "train_flop_per_token": 2.0 * _forward_flop(found[model.base]),
        }
    shared = {
        "parameters": model.parameters,
        "size_byte": model.parameters * model.weight_byte,
        "quality": model.quality,
        "train_flop_per_token": 3.0 * _forward_flop(model),
    }
    if isinstance(model, LanguageModel):
        return shared | {
            "kind": float(Kind.LANGUAGE),
            "flop_per_token": _forward_flop(model),
            "attention_flop_per_token2": 2.0 * model.layers * model.width,
            "kv_byte_per_token": 2.0 * model.layers * model.kv_heads * model.head_width * model.kv_byte,
        }
    return shared | {
        "kind": float(Kind.DIFFUSION),
        "step_flop": model.step_flop * (2.0 if model.guidance else 1.0),
        "fixed_flop": model.text_flop + model.decode_flop,
        "overhead_s": model.overhead_s,
        "image_bit": model.image_bit,
        "steps_scale": model.steps_scale,
    }


def _forward_flop(model: Card) -> float:
    """Flop of one forward pass: of one token through the weights, or of one call of the denoising network."""
    if isinstance(model, LanguageModel):
        return 2.0 * model.parameters
    assert isinstance(model, DiffusionModel)
    return model.step_flop
