"""Models of other shapes answer as `generate` does, with adapters too; what cannot be served is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from served import CONTEXT, SHAPE, adapter, generated, greedy, language, merged, prompts, read, spread, words
from torch.nn import functional
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Olmo2Config,
    Olmo2ForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from gainnet.errors import InputError
from gainnet.inference import forward as passes
from gainnet.inference.engine import Engine
from gainnet.inference.forward import Linear, rounded
from gainnet.models import hub
from gainnet.models.adapter import Adapters

WIDE: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": CONTEXT,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
SCALED = {"rope_type": "linear", "factor": 2.0, "rope_theta": 10000.0}


def _made(kind: Any, config: Any) -> hub.Language:
    torch.manual_seed(3)
    model = kind(config)
    with torch.no_grad():
        for name, tensor in model.named_parameters():
            if name.endswith("bias"):
                tensor.normal_(0.0, 0.5)
    return spread(hub.as_language(model, words(), CONTEXT))


def _models() -> dict[str, hub.Language]:
    size = {"vocab_size": len(words())}
    narrow = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": CONTEXT, "pad_token_id": 0, "bos_token_id": 1}
    return {
        "llama, linear positions": _made(LlamaForCausalLM, LlamaConfig(**WIDE, **size, rope_parameters=SCALED)),
        "llama, biases": _made(LlamaForCausalLM, LlamaConfig(**WIDE, **size, attention_bias=True, mlp_bias=True)),
        "mistral": _made(MistralForCausalLM, MistralConfig(**WIDE, **size, sliding_window=None, head_dim=16)),
        "qwen2": _made(Qwen2ForCausalLM, Qwen2Config(**WIDE, **size)),
        "qwen3": _made(Qwen3ForCausalLM, Qwen3Config(**WIDE, **size, head_dim=8)),
        "olmo2": _made(Olmo2ForCausalLM, Olmo2Config(**WIDE, **size)),
        "gpt2": _made(GPT2LMHeadModel, GPT2Config(**narrow, **size, eos_token_id=2)),
        "llama, gelu": _made(LlamaForCausalLM, LlamaConfig(**WIDE, **size, hidden_act="gelu")),
    }


@pytest.fixture(scope="module")
def models() -> dict[str, hub.Language]:
    return _models()


NAMES = ["llama, linear positions", "llama, biases", "mistral", "qwen2", "qwen3", "olmo2", "gpt2", "llama, gelu"]


@pytest.mark.parametrize("name", NAMES)
def test_they_answer_as_generate_does_alone_and_with_adapters(models: dict[str, hub.Language], name: str) -> None:
    made = models[name]
    asked = prompts(4, longest=40)
    one = adapter(made, 1)
    with Engine(made, slots=3, prefill=24, threads=1) as engine:
        engine.load_adapter("a", one)
        plain = [engine.submit(prompt, greedy(8)) for prompt in asked]
        adapted = [engine.submit(prompt, greedy(8), adapter="a") for prompt in asked]
        assert [read(answer) for answer in plain] == [generated(made, prompt, 8) for prompt in asked]
        changed = merged(made, one)
        assert [read(answer) for answer in adapted] == [generated(changed, prompt, 8) for prompt in asked]
    assert made.model.config._attn_implementation == "sdpa"  # the model itself is as it was
    own = name.startswith(("llama", "mistral", "qwen2")) and "gelu" not in name
    assert isinstance(engine._scheduler._forward, passes.LlamaForward if own else passes.ModuleForward)


def test_without_onednn_plain_products_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passes, "_HAS_ONEDNN", False)
    prompt = prompts(1)[0]
    with Engine(language(), threads=1) as engine:
        assert read(engine.submit(prompt, greedy())) == generated(language(), prompt)


def test_what_cannot_be_served_is_refused(models: dict[str, hub.Language]) -> None:
    def refused(change: dict[str, Any], message: str) -> None:
        made = hub.Language(LlamaForCausalLM(LlamaConfig(**WIDE, vocab_size=len(words()))), words(), "", CONTEXT)
        for key, value in change.items():
            setattr(made.model.config, key, value)
        with pytest.raises(InputError, match=message):
            Engine(made)

    refused({"model_type": "mamba"}, "model type 'mamba' cannot be served: one of gpt2, llama")
    refused({"sliding_window": 8}, "attends to 8 positions only")
    refused({"rope_parameters": {"rope_type": "dynamic"}}, "rotary positions 'dynamic' cannot be served")


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")  # peft asks transformers
def test_a_model_with_adapters_in_its_modules_is_refused() -> None:
    made = hub.build(SHAPE, words(), seed=2)
    Adapters(made, [2])
    with pytest.raises(InputError, match="the model has adapters in its modules"):
        Engine(made)


def test_few_numbers_of_rows_are_multiplied_and_none_is_much_larger_than_asked() -> None:
    found = [rounded(rows) for rows in range(1, 513)]
    assert found[:8] == list(range(1, 9))
    assert all(rows <= made <= max(rows + 3, 1.25 * rows) for rows, made in zip(range(1, 513), found, strict=True))
    assert len(set(found)) <= 36


@pytest.mark.parametrize("rows", [1, 7, 9, 17, 33, 100])
def test_rows_that_are_added_change_nothing(rows: int) -> None:
    draw = torch.Generator().manual_seed(rows)
    weight, bias, given = (torch.randn(shape, generator=draw) for shape in ((24, 16), (24,), (rows, 16)))
    made = Linear(weight, bias)(given)
    torch.testing.assert_close(made, functional.linear(given, weight, bias), rtol=1e-5, atol=1e-5)


def test_warming_meets_every_number_of_rows_that_a_step_may_have_and_stops_in_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = LlamaConfig(**WIDE, vocab_size=len(words()))
    found = passes.forward(_made(LlamaForCausalLM, made), 2)
    met: set[int] = set()
    monkeypatch.setattr(Linear, "__call__", lambda _, given: met.add(len(given)))
    found.warm(70)
    assert {rounded(rows) for rows in range(1, 71)} == met
    met.clear()
    monkeypatch.setattr(passes, "WARM_S", -1.0)
    found.warm(70)
    assert not met
