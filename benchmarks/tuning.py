"""What a training step costs here against the same step written directly in PEFT and transformers, in one process.

All train the same texts in the same order at the same rank, in turn, and each ratio is the median over turns.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from peft import LoraConfig, get_peft_model

from gainnet.knowledge.split import SplitTuner
from gainnet.knowledge.text import Encoded
from gainnet.knowledge.tuning import Tuner
from gainnet.models.hub import build, tokenizer
from gainnet.scenario.knowledge import Compression, SmallModel

MODELS = {
    "end": SmallModel(layers=2, width=64, heads=2, kv_heads=1, context=256),
    "foundation": SmallModel(layers=4, width=128, heads=4, kv_heads=2, context=256),
}
BATCH, RANK, STEPS, TURNS, RATE = 8, 8, 4, 9, 2e-3

MEANING = {
    "local_step_ratio": "time of a step of local training over that of the same step in PEFT and transformers",
    "split_step_ratio": "the same of a split step, end and edge together, everything sent packed at 8 bits",
    "direct_step_s": "time of the step written directly",
}


def figures(quick: bool = False) -> dict[str, float]:
    """Step times by model, each training in turn."""
    found: dict[str, float] = {}
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for name, config in list(MODELS.items())[: 1 if quick else None]:
            times = _times(_trainings(config), 3 if quick else TURNS)
            direct = times.pop("direct")
            found[f"{name}.direct_step_s"] = float(np.median(direct)) / STEPS
            found |= {f"{name}.{way}_step_ratio": float(np.median(taken / direct)) for way, taken in times.items()}
    finally:
        torch.set_num_threads(before)
    return found


def _times(trainings: dict[str, Callable[[], object]], turns: int) -> dict[str, np.ndarray]:
    """Processor time of each training, turn by turn: it is what others on the machine disturb least."""
    taken: dict[str, list[float]] = {name: [] for name in trainings}
    for turn in range(turns + 1):
        for name, training in trainings.items():
            start = time.process_time()
            training()
            if turn:
                taken[name].append(time.process_time() - start)
    return {name: np.array(times) for name, times in taken.items()}


def _trainings(config: SmallModel) -> dict[str, Callable[[], object]]:
    """An epoch of each kind of training, from the same start."""
    tok = tokenizer(["a text as good as any other"], config.vocabulary, config.context)
    rng = np.random.default_rng(0)
    lengths = rng.integers(config.context // 2, config.context, BATCH * STEPS).tolist()
    texts = [Encoded(rng.integers(3, len(tok), length), length * 3 // 4) for length in lengths]
    tuner = Tuner(build(config, tok, 0), [RANK])
    split, start = SplitTuner(tuner), tuner.adapters.fresh(RANK, rng)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
        lora = LoraConfig(r=RANK, lora_alpha=2 * RANK, target_modules="all-linear", task_type="CAUSAL_LM")
        plain = get_peft_model(build(config, tok, 0).model, lora)

    def how() -> dict[str, Any]:
        return {"epochs": 1, "batch": BATCH, "learning_rate": RATE, "rng": np.random.default_rng(5)}

    return {
        "direct": lambda: _directly(plain, texts, np.random.default_rng(5)),
        "local": lambda: tuner.tune(start, texts, **how()),
        "split": lambda: split.tune(start, texts, **how(), cut=(1, config.layers), compression=Compression()),
    }


def _directly(model: Any, texts: list[Encoded], rng: np.random.Generator) -> None:
    """What one writes with PEFT and transformers: padded batches, labels, clipping, AdamW."""
    weights = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimiser = torch.optim.AdamW(weights, RATE, weight_decay=0.0, fused=True)
    order = rng.permutation(len(texts)).tolist()
    for first in range(0, len(order), BATCH):
        drawn = [texts[index] for index in order[first : first + BATCH]]
        shape = (len(drawn), max(len(text.token) for text in drawn))
        token, mask, label = np.zeros(shape, np.int64), np.zeros(shape, np.int64), np.full(shape, -100)
        for row, text in enumerate(drawn):
            length = len(text.token)
            token[row, :length], mask[row, :length] = text.token, 1
            label[row, text.answer : length] = text.token[text.answer :]
        given = {"input_ids": token, "attention_mask": mask, "labels": label}
        loss = model(**{key: torch.from_numpy(value) for key, value in given.items()}, use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimiser.step()
        optimiser.zero_grad()
        float(loss.detach())
