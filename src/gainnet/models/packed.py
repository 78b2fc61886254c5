"""Texts one after another in one row, each of which attends to itself only: no arithmetic is spent on padding.

A model is told of it by an attention of our own, for as long as such a row goes through it, and by the positions of its
tokens, which begin anew with each text. `packs` looks whether a model gives the same as text by text.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch.nn import functional
from transformers import AttentionInterface, PreTrainedConfig, PreTrainedModel

from gainnet.models.attention import attention

NAME = "gainnet_packed"
PROBED = (5, 2, 9)
"""Lengths of the texts that `packs` tries."""
TOLERANCE = 1e-4
"""By how much their activations may differ, a part of the largest."""


def positions(lengths: Sequence[int], device: torch.device | str = "cpu") -> torch.Tensor:
    """Number of each token within its own text, (1, token)."""
    return torch.cat([torch.arange(length) for length in lengths])[None].to(device)


@contextmanager
def packed(*configs: PreTrainedConfig) -> Iterator[None]:
    """Meanwhile models of these configurations take rows of several texts, whose ``lengths`` they are called with."""
    before = [config._attn_implementation for config in configs]
    try:
        for config in configs:
            config._attn_implementation = NAME
        yield
    finally:
        for config, name in zip(configs, before, strict=True):
            config._attn_implementation = name


def packs(model: PreTrainedModel) -> bool:
    """Whether a model gives for a row of texts what it gives for each text alone."""
    config: Any = model.config
    if not getattr(model, "_supports_attention_backend", False) or config._attn_implementation != "sdpa":
        return False
    body: Any = model.base_model
    count = min(int(config.vocab_size), 64)
    token = torch.arange(sum(PROBED), device=model.device).mul_(7).add_(3).remainder_(count)
    with torch.inference_mode():
        try:
            with packed(config):
                place = positions(PROBED, model.device)
                together = body(token[None], position_ids=place, use_cache=False, lengths=PROBED).last_hidden_state[0]
        except TypeError:  # there are models that do not hand on what they do not know
            return False
        alone = torch.cat(
            [body(part[None], use_cache=False).last_hidden_state[0] for part in torch.split(token, list(PROBED))]
        )
    return bool((together - alone).abs().max() <= TOLERANCE * alone.abs().max())


def _attend(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,  # noqa: ARG001  such rows have none
    *,
    lengths: Sequence[int],
    dropout: float = 0.0,
    scaling: float | None = None,
    sliding_window: int | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """As transformers asks for it: query (1, head, token, width) to (1, token, head, width)."""
    sizes = list(lengths)
    groups = int(getattr(module, "num_key_value_groups", 1))
    found = []
    for q, k, v in zip(*(torch.split(part, sizes, 2) for part in (query, key, value)), strict=True):
        length = q.shape[2]
        if sliding_window is not None and length > sliding_window:
            mask = torch.ones((length, length), dtype=torch.bool, device=q.device).tril_()
            near = functional.scaled_dot_product_attention(
                q, k, v, mask.triu_(1 - sliding_window), dropout, scale=scaling, enable_gqa=groups > 1
            )
        else:
            near = attention(q, k, v, dropout, scaling, groups)
        found.append(near.transpose(1, 2))
    return torch.cat(found, 1), None


AttentionInterface.register(NAME, _attend)
