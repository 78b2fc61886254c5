"""A small model of each type that can be cut and packed."""

import torch
from peft import LoraConfig, get_peft_model
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

LAYERS = 4
SHAPE = {
    "vocab_size": 61,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
SLIDING = {"layer_types": ["full_attention", "sliding_attention"] * 2, "sliding_window": 3, "use_sliding_window": True}
KINDS = {
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**SHAPE, tie_word_embeddings=True)),
    "mistral": lambda: MistralForCausalLM(MistralConfig(**SHAPE, sliding_window=4, head_dim=4)),
    "qwen2": lambda: Qwen2ForCausalLM(Qwen2Config(**SHAPE, **SLIDING)),
    "qwen3": lambda: Qwen3ForCausalLM(Qwen3Config(**SHAPE, head_dim=4)),
    "olmo2": lambda: Olmo2ForCausalLM(Olmo2Config(**SHAPE)),
    "gpt2": lambda: GPT2LMHeadModel(
        GPT2Config(
            vocab_size=61, n_embd=16, n_layer=LAYERS, n_head=4, n_positions=64, bos_token_id=1, eos_token_id=2,
            attn_pdrop=0.0, embd_pdrop=0.0, resid_pdrop=0.0,
        )
    ),
}  # fmt: skip


def drawn(kind, lora=False, seed=0):
    """A small model with weights large enough to matter, the adapter's (both factors) among them."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = KINDS[kind]()
        if lora:
            targets = ["c_attn", "c_fc", "c_proj"] if kind == "gpt2" else "all-linear"
            model = get_peft_model(
                model, LoraConfig(r=3, lora_alpha=6, target_modules=targets, fan_in_fan_out=kind == "gpt2")
            )
        for parameter in model.parameters():
            if parameter.requires_grad and parameter.ndim == 2:
                torch.nn.init.normal_(parameter, std=0.15)
    return model
