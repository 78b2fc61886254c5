"""A tiny language model whose next token is never nearly a tie, adapters of it, and what `generate` says."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
import torch

from gainnet.inference.request import Answer, Sampling
from gainnet.models import hub
from gainnet.models.hub import Language
from gainnet.models.low_rank import Factors, LowRank
from gainnet.scenario.knowledge import SmallModel

torch.set_num_threads(1)
CONTEXT = 96
SHAPE = SmallModel(layers=2, width=32, heads=4, kv_heads=2, vocabulary=300, context=CONTEXT)
TEXTS = ("the patient has a cough and a fever", "no known allergies", "both parents are well, she says")


@cache
def language() -> Language:
    return spread(hub.build(SHAPE, words(), seed=1))


@cache
def words() -> Any:
    return hub.tokenizer(TEXTS, SHAPE.vocabulary, CONTEXT)


def spread(made: Language) -> Language:
    """With weights so large that tokens differ in how likely they are, and answers do not repeat one token."""
    with torch.no_grad():
        for tensor in made.model.parameters():
            if tensor.ndim == 2:
                tensor.mul_(8.0)
    return hub.as_language(made.model, made.tokenizer, made.context)


def prompts(count: int, longest: int = 60, seed: int = 0) -> list[list[int]]:
    """Of different lengths."""
    rng = np.random.default_rng(seed)
    return [rng.integers(3, 250, rng.integers(1, longest, endpoint=True)).tolist() for _ in range(count)]


def greedy(max_tokens: int = 12, **more: Any) -> Sampling:
    return Sampling(max_tokens=max_tokens, temperature=0.0, **more)


def generated(made: Language, prompt: Sequence[int], max_tokens: int = 12) -> list[int]:
    model: Any = made.model
    found = model.generate(torch.tensor([list(prompt)]), max_new_tokens=max_tokens, do_sample=False)
    return [int(token) for token in found[0, len(prompt) :]]


def read(answer: Answer) -> list[int]:
    return [piece.token for piece in answer.wait(60.0) if piece.token is not None]


def adapter(made: Language, seed: int, rank: int = 4, only: str = "") -> LowRank:
    """Random factors on the linear layers whose name has ``only`` in it."""
    rng = np.random.default_rng(seed)
    layers = {}
    for name, module in made.model.named_modules():
        weight = getattr(module, "weight", None)
        if name.endswith(("_proj", "c_attn", "c_proj", "c_fc")) and only in name and weight is not None:
            out, inward = weight.shape if isinstance(module, torch.nn.Linear) else weight.T.shape
            a = rng.standard_normal((rank, inward), np.float32) / np.float32(inward**0.5)
            layers[name] = Factors(a, rng.standard_normal((out, rank), np.float32))
    return LowRank(layers, 2.0, made.digest)


def merged(made: Language, given: LowRank) -> Language:
    """The model whose weights are changed by the dense products."""
    import copy

    model = copy.deepcopy(made.model)
    for name in given.layers:
        module: Any = model.get_submodule(name)
        change = torch.from_numpy(given.product(name))
        module.weight.data += change if isinstance(module, torch.nn.Linear) else change.T
    return Language(model, made.tokenizer, made.digest, made.context)
