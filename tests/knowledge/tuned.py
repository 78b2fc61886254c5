"""A small model and texts to train adapters on."""

from functools import cache

import numpy as np

from gainnet.knowledge.text import Encoded
from gainnet.models.hub import Language, build, tokenizer
from gainnet.scenario.knowledge import SmallModel

TEXTS = (
    "the patient has a cough and a fever",
    "no known allergies",
    "she takes ten milligrams of lisinopril every morning and an aspirin at night, and nothing else",
    "he had his appendix out",
    "both parents are well",
    "a rash on the left arm came two days ago",
    "smokes a pack a day",
    "no",
    "the knee is swollen after a fall from a ladder",
)
SMALL = SmallModel(layers=4, width=16, heads=2, kv_heads=1, vocabulary=300, context=64)


def language(config: SmallModel = SMALL) -> Language:
    """Random weights, the same each time."""
    return build(config, _tokenizer(), seed=1)


@cache
def _tokenizer():
    return tokenizer(TEXTS, SMALL.vocabulary, SMALL.context)


def texts() -> list[Encoded]:
    """Of different lengths, each with its first third as the prompt."""
    made = [np.array([1, *_tokenizer()(text)["input_ids"], 2], np.int64)[: SMALL.context] for text in TEXTS]
    return [Encoded(token, max(1, len(token) // 3)) for token in made]
