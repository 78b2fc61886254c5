"""The simulator's own model of a machine (`gainnet.network.compute_kernel`), fitted to times that were measured.

Five numbers are found: the flop and the byte that the machine moves in a second, what its software takes for each step
and for each text in it, and the byte of a number in the KV cache, which stands for whatever a step takes longer for
longer texts. All else about the model is given. What a step takes whatever is in it may be software or the reading of
weights: software is only said to take time where the machine alone does not explain what was measured.
"""

from __future__ import annotations

import itertools
import json
import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float
from scipy.optimize import least_squares

from gainnet.errors import GainnetError, InputError
from gainnet.models.card import build
from gainnet.network.compute_kernel import decode_step_s, prefill_s
from gainnet.scenario.models import LanguageModel, card

_DTYPE_BYTE = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "F8_E4M3": 1, "F8_E5M2": 1, "I8": 1, "U8": 1}
_HEADER_MOST = 100_000_000
_KV_LEAST, _KV_MOST = 1e-6, 1e6
_OVERHEAD_LEAST_S, _OVERHEAD_MOST_S = 1e-9, 10.0
_RATE_LEAST, _RATE_MOST = 1.0, 1e18
_LEAST = np.log([_RATE_LEAST, _RATE_LEAST, _KV_LEAST, _OVERHEAD_LEAST_S, _OVERHEAD_LEAST_S]).tolist()
_MOST = np.log([_RATE_MOST, _RATE_MOST, _KV_MOST, _OVERHEAD_MOST_S, _OVERHEAD_MOST_S]).tolist()
"""Bounds of the logarithms of what is found: flop/s, byte/s, KV byte, overhead of a step, of a text."""
_ALONE, _ALONE_MORE = 0.01, 1.1
"""The residual, or times that of the fit with overheads, with which the machine alone is thought to explain the times."""


@dataclass(frozen=True, slots=True)
class Points:
    """What was measured, requests' overhead taken off.

    Attributes:
        prompt_token: lengths of prompts.
        prefill_s: time of each.
        batch: texts that decode together.
        context_token: mean length of each of them.
        step_s: time in which each of them gets a token.
    """

    prompt_token: Float[np.ndarray, " prompt"]
    prefill_s: Float[np.ndarray, " prompt"]
    batch: Float[np.ndarray, " step"]
    context_token: Float[np.ndarray, " step"]
    step_s: Float[np.ndarray, " step"]


@dataclass(frozen=True, slots=True)
class Fit:
    """The machine that explains the points best.

    Attributes:
        model: the card, with its fitted ``kv_byte``.
        flop_per_s: that the machine reaches.
        byte_per_s: that the machine reaches.
        step_overhead_s: what a step takes besides.
        text_overhead_s: what each text in a step takes besides.
        prefill_s: by the model, for each prompt measured.
        step_s: by the model, for each step measured.
        residual: root mean square of the logarithm of predicted over measured time: 0.1 is about 10 %.
    """

    model: LanguageModel
    flop_per_s: float
    byte_per_s: float
    step_overhead_s: float
    text_overhead_s: float
    prefill_s: Float[np.ndarray, " prompt"]
    step_s: Float[np.ndarray, " step"]
    residual: float


def fit(points: Points, model: LanguageModel) -> Fit:
    """Least squares on the logarithms of all times. GainnetError where fewer than one prompt and one step were measured."""
    if not len(points.prompt_token) or not len(points.step_s):
        raise GainnetError("nothing to fit: at least one prompt and one step must be measured")
    measured = np.log(np.concatenate([points.prefill_s, points.step_s]))
    coefficients = _coefficients(model)

    def predicted(
        theta: Float[np.ndarray, " number"],
    ) -> tuple[Float[np.ndarray, " prompt"], Float[np.ndarray, " step"]]:
        """With the first numbers; without overheads where there are but three."""
        besides = () if len(theta) == len(_MOST) else (0.0, 0.0)
        return _predicted(points, coefficients, *np.exp(theta), *besides)

    def error(theta: Float[np.ndarray, " number"]) -> Float[np.ndarray, " point"]:
        found: Float[np.ndarray, " point"] = np.log(np.concatenate(predicted(theta))) - measured
        return found

    def best_of(starts: list[list[float]]) -> tuple[Float[np.ndarray, " number"], float]:
        bounds = (_LEAST[: len(starts[0])], _MOST[: len(starts[0])])
        best = min((least_squares(error, start, bounds=bounds) for start in starts), key=lambda one: float(one.cost))
        return best.x, math.sqrt(float(np.mean(best.fun**2)))

    starts = _starts(points, model)
    alone, residual = best_of([start[:3] for start in starts])
    whole, least = best_of(starts)
    theta = alone if residual <= max(_ALONE, _ALONE_MORE * least) else whole
    numbers = [float(value) for value in np.exp(theta)]
    flop_per_s, byte_per_s, kv_byte, step_overhead_s, text_overhead_s = (*numbers, 0.0, 0.0)[:5]
    prefill, step = predicted(theta)
    return Fit(
        model.model_copy(update={"kv_byte": kv_byte}),
        flop_per_s,
        byte_per_s,
        step_overhead_s,
        text_overhead_s,
        prefill,
        step,
        residual if theta is alone else least,
    )


def _starts(points: Points, model: LanguageModel) -> list[list[float]]:
    """Logarithms of rates that are right where either term rules alone, of some sizes of the cache, and of overheads."""
    longest, least = int(np.argmax(points.prompt_token)), int(np.argmin(points.step_s))
    flop = points.prompt_token[longest] * 2.0 * model.parameters / points.prefill_s[longest]
    byte = model.parameters * model.weight_byte / points.step_s[least]
    scale = model.parameters * model.weight_byte / (2.0 * model.layers * model.kv_heads * model.head_width)
    caches = [scale / (context * batch) for context, batch in ((64.0, 1.0), (512.0, 4.0), (1e4, 8.0))]
    caches = [min(max(kv, 2.0 * _KV_LEAST), 0.5 * _KV_MOST) for kv in caches]
    step_s = float(points.step_s[least])
    return [
        [math.log(value) for value in (flop * f, byte * b, kv, part * step_s, 0.1 * part * step_s)]
        for f, b, kv, part in itertools.product((1.0, 4.0), (1.0, 3.0), caches, (1e-3, 0.7))
    ]


def _coefficients(model: LanguageModel) -> tuple[float, float, float, float]:
    """Flop of a token, attention flop of a token squared, KV byte of a token for each byte of a number, byte of weights."""
    found = build(["fitted"], {"fitted": model})
    cache = float(found.kv_byte_per_token[0]) / model.kv_byte
    return float(found.flop_per_token[0]), float(found.attention_flop_per_token2[0]), cache, float(found.size_byte[0])


def _predicted(
    points: Points,
    coefficients: tuple[float, float, float, float],
    flop_per_s: float,
    byte_per_s: float,
    kv_byte: float,
    step_overhead_s: float,
    text_overhead_s: float,
) -> tuple[Float[np.ndarray, " prompt"], Float[np.ndarray, " step"]]:
    """What the simulator's kernels say of the points."""
    flop, attention, cache, size_byte = coefficients
    given = (flop, attention, cache * kv_byte, size_byte, flop_per_s, byte_per_s, step_overhead_s, text_overhead_s)
    prompts = [prefill_s(float(token), *given) for token in points.prompt_token]
    steps = [
        decode_step_s(float(batch), float(context), *given)
        for batch, context in zip(points.batch, points.context_token, strict=True)
    ]
    return np.array(prompts, np.float64), np.array(steps, np.float64)


def architecture(given: str, quality: float | None = None, weight_byte: float | None = None) -> LanguageModel:
    """The shape of a model: of a preset's card by its name, or of a folder in Hugging Face's format.

    Args:
        given: name or folder.
        quality: of the card; by default the preset's, or 0.5 for a folder.
        weight_byte: of a weight where it runs; by default as the card or the folder has it.

    Errors: InputError where it is neither, or the folder's files say too little.
    """
    folder = Path(given)
    if folder.is_dir():
        found = _of_folder(folder)
    else:
        try:
            known = card(given, {})
        except ValueError as error:
            raise InputError(f"{error}, or a folder with a model") from None
        if not isinstance(known, LanguageModel):
            raise InputError(f"{given}: is a {known.kind} model: only language models are profiled")
        found = known
    change: dict[str, float] = {} if quality is None else {"quality": quality}
    return found.model_copy(update=change | ({} if weight_byte is None else {"weight_byte": weight_byte}))


def _of_folder(folder: Path) -> LanguageModel:
    try:
        config = json.loads((folder / "config.json").read_bytes())
        heads, width = int(config["num_attention_heads"]), int(config["hidden_size"])
        layers = int(config["num_hidden_layers"])
        kv_heads = int(config.get("num_key_value_heads") or heads)
        head_width = int(config.get("head_dim") or width // heads)
        number, size_byte = _weights(sorted(folder.glob("*.safetensors")))
        return LanguageModel(
            parameters=number, layers=layers, width=width, kv_heads=kv_heads, head_width=head_width,
            weight_byte=size_byte / number, kv_byte=size_byte / number, quality=0.5, source=f"{folder.name}: its files",
        )  # fmt: skip
    except (OSError, ValueError, KeyError, TypeError, ZeroDivisionError, struct.error) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"model {folder}: is no language model with config.json and safetensors ({reason})") from None


def _weights(files: Sequence[Path]) -> tuple[float, float]:
    """How many weights there are, and the byte that they take: files' headers say so."""
    number, size_byte = 0.0, 0.0
    for path in files:
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > _HEADER_MOST:
                raise ValueError(f"{path.name} is no safetensors file")
            header = json.loads(file.read(length))
        for name, tensor in header.items():
            if name != "__metadata__":
                own = math.prod(tensor["shape"])
                number, size_byte = number + own, size_byte + own * _DTYPE_BYTE.get(tensor["dtype"], 4)
    return number, size_byte
