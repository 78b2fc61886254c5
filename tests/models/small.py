"""A tiny language model, and adapters of it that do something."""

from __future__ import annotations

import numpy as np

from gainnet.models.adapter import Adapters
from gainnet.models.hub import Language, build, tokenizer
from gainnet.models.low_rank import Factors, LowRank
from gainnet.scenario.knowledge import SmallModel

TEXTS = ("the patient has a cough and a fever", "no known allergies", "both parents are well, she says")
SHAPE = SmallModel(layers=2, width=16, heads=2, kv_heads=1, vocabulary=300, context=64)


def language(seed: int = 1) -> Language:
    return build(SHAPE, tokenizer(TEXTS, SHAPE.vocabulary, SHAPE.context), seed)


def drawn(adapters: Adapters, rank: int, seed: int = 0) -> LowRank:
    """A random adapter."""
    rng = np.random.default_rng(seed)
    fresh = adapters.fresh(rank, rng)
    layers = {
        name: Factors(factors.a, 0.3 * rng.standard_normal(factors.b.shape).astype(np.float32))
        for name, factors in fresh.layers.items()
    }
    return LowRank(layers, fresh.scale, fresh.base)
