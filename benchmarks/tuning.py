"""What a step of local tuning costs over the same step written directly in PEFT and transformers, in one process.

Both have the same texts, batches, lengths, weights and optimiser; they take turns, so that a busy machine slows both,
and the ratio is that of the CPU time of all turns' medians.
"""

from __future__ import annotations

import time
import warnings
from typing import Any

import numpy as np
import torch
from peft import LoraConfig, get_peft_model

from gainnet.knowledge.batch import collate
from gainnet.knowledge.text import Encoded
from gainnet.knowledge.tuning import Tuner
from gainnet.models import hub
from gainnet.models.adapter import SCALE, Adapters
from gainnet.models.low_rank import LowRank
from gainnet.scenario.knowledge import SmallModel

MEANING = {
    "local_step_ratio": "CPU time of a tuning step through Tuner over the same written in PEFT and transformers",
    "local_step_s": "CPU time of a tuning step through Tuner",
    "direct_step_s": "CPU time of the same step written in PEFT and transformers",
    "loss_difference": "largest difference of the two trainings' losses: they do the same",
}
SHAPE = SmallModel(layers=6, width=384, heads=6, kv_heads=2, vocabulary=4096, context=512)
RANK, BATCH, STEPS, RATE = 8, 8, 4, 1e-3
NOTE = 48
"""Tokens of a note; a text has 64 to 256 of them in all."""


def figures(quick: bool = False) -> dict[str, float]:
    """The figures of MEANING; ``quick`` takes fewer turns."""
    torch.set_num_threads(1)
    texts = _texts(BATCH * STEPS)
    words = hub.tokenizer(("".join(map(chr, range(32, 127))),), 300, SHAPE.context)
    tuner = Tuner(_language(words), [RANK])
    start = tuner.adapters.fresh(RANK, np.random.default_rng(0))
    plain = _Direct(_language(words), tuner.adapters, start)
    through, direct, differences = [], [], []
    for turn in range(3 if quick else 7):
        begun = time.process_time()
        tuned = tuner.tune(start, texts, epochs=1, batch=BATCH, learning_rate=RATE, rng=np.random.default_rng(turn))
        middle = time.process_time()
        loss = plain.train(texts, np.random.default_rng(turn))
        ended = time.process_time()
        if turn:  # the first warms up
            through.append((middle - begun) / STEPS)
            direct.append((ended - middle) / STEPS)
        differences.append(abs(tuned.loss - loss))
    local, written = float(np.median(through)), float(np.median(direct))
    return {
        "local_step_ratio": local / written,
        "local_step_s": local,
        "direct_step_s": written,
        "loss_difference": max(differences),
    }


class _Direct:
    """The training as one writes it without gainnet."""

    def __init__(self, language: hub.Language, adapters: Adapters, start: LowRank) -> None:
        kinds = sorted({name.rpartition(".")[2] for name in adapters.layers})
        config = LoraConfig(r=RANK, lora_alpha=int(SCALE * RANK), target_modules=kinds, task_type="CAUSAL_LM")
        with warnings.catch_warnings():  # PEFT still asks transformers by a name that was changed
            warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
            self._model: Any = get_peft_model(language.model, config).eval()
        self._start = start
        self._weights = {name: p for name, p in self._model.named_parameters() if p.requires_grad}

    def train(self, texts: list[Encoded], rng: np.random.Generator) -> float:
        """Mean loss of an epoch from the start's weights."""
        for name, weight in self._weights.items():
            factors = self._start.layers[name.removeprefix("base_model.model.").rpartition(".lora_")[0]]
            weight.data.copy_(torch.from_numpy(factors.a if "lora_A" in name else factors.b))
        optimiser = torch.optim.AdamW(self._weights.values(), RATE, weight_decay=0.0, fused=True)
        order, total, counted = rng.permutation(len(texts)), 0.0, 0
        for first in range(0, len(order), BATCH):
            side = collate([texts[index] for index in order[first : first + BATCH]], 0)
            labels = torch.full_like(side.token, -100)
            labels[side.row, side.position + 1] = side.target
            loss = self._model(input_ids=side.token, attention_mask=side.mask, labels=labels).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self._weights.values(), 1.0)
            optimiser.step()
            optimiser.zero_grad()
            total += float(loss.detach()) * len(side.target)
            counted += len(side.target)
        return total / counted


def _language(words: Any) -> hub.Language:
    """The same random weights each time, of the vocabulary's whole size."""
    made = hub.build(SHAPE, words, seed=0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        made.model.resize_token_embeddings(SHAPE.vocabulary, mean_resizing=False)
    return hub.as_language(made.model, words, SHAPE.context)


def _texts(count: int) -> list[Encoded]:
    rng = np.random.default_rng(0)
    lengths = rng.integers(64, 257, count)
    return [Encoded(rng.integers(3, SHAPE.vocabulary, length), int(length) - NOTE) for length in lengths]
