"""What training is said to cost, against what torch really does and keeps."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from tuned import language

from gainnet.knowledge.batch import collate
from gainnet.knowledge.split import shape_of
from gainnet.knowledge.text import Encoded
from gainnet.knowledge.training_cost import Load, load_of
from gainnet.knowledge.tuning import Tuner
from gainnet.scenario.knowledge import SmallModel

RANK = 4
TEXT = 48


@pytest.fixture(scope="module")
def tuner():
    return Tuner(language(SmallModel(layers=6, width=64, heads=4, kv_heads=2, vocabulary=300, context=64)), [RANK])


@pytest.fixture(scope="module")
def texts():
    rng = np.random.default_rng(0)
    return [Encoded(rng.integers(3, 200, TEXT), 20) for _ in range(8)]


def loss_of(tuner, texts):
    batch = collate(texts)
    token, mask = batch.rectangle(0)
    hidden = tuner.language.model.base_model(input_ids=token, attention_mask=mask).last_hidden_state
    logits = tuner.language.model.lm_head(hidden[batch.row, batch.position[batch.at]])
    return torch.nn.functional.cross_entropy(logits, batch.target)


@pytest.mark.untraced
def test_flop_are_those_that_torch_counts(tuner, texts):
    tuner.adapters.put(tuner.adapters.fresh(RANK, np.random.default_rng(0)))
    with FlopCounterMode(display=False) as counter:
        loss_of(tuner, texts).backward()
    shape, load = shape_of(tuner.language), load_of(texts, 1, len(texts), RANK, 8)
    unfused = replace(load, token2=0)  # torch counts no fused attention on CPUs
    told = shape.flop(unfused, shape.layers) + shape.head_flop(load)
    assert told == pytest.approx(counter.get_total_flops(), rel=0.03)
    attention = shape.flop(load, 1) - shape.flop(unfused, 1)
    forward_and_twice_back, causal_half, products, flop_of_a_product = 3, 0.5, 2, 2
    assert attention == forward_and_twice_back * causal_half * products * flop_of_a_product * 64 * 8 * TEXT**2


def test_memory_is_that_of_the_weights_and_of_what_torch_keeps_for_the_way_back(tuner, texts):
    tuner.adapters.put(tuner.adapters.fresh(RANK, np.random.default_rng(0)))
    weights = {parameter.data_ptr() for parameter in tuner.language.model.parameters()}
    kept = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = (tensor, storage.nbytes())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = loss_of(tuner, texts)
    shape, load = shape_of(tuner.language), load_of(texts, 1, len(texts), RANK, 8)
    learning = 16 * sum(p.numel() for pair in tuner.adapters.parameters().values() for p in pair)
    frozen = 4 * (shape.outer_weights + shape.layers * shape.layer_weights)
    told = shape.memory_byte(load, shape.layers) - learning - frozen
    assert told == pytest.approx(sum(size for _, size in kept.values()), rel=0.25)
    loss.backward()


def test_a_load_counts_what_training_counts(texts):
    silent = Encoded(np.arange(3, 60), 57)
    longer = Encoded(np.arange(3, 63), 30)
    load = load_of([*texts, silent, longer], 3, 4, RANK, 8)
    assert load == Load(
        texts=27, steps=9, token=3 * (8 * TEXT + 60), token2=3 * (8 * TEXT**2 + 3600), counted=3 * (8 * 28 + 30),
        flags_byte=3 * (8 * 6 + 8), token_at_once=60 + 3 * TEXT, counted_at_once=30 + 3 * 28, rank=RANK, activation_bits=8,
    )  # fmt: skip
    assert load_of([silent], 3, 4, RANK, 8).token == 0
