"""Texts one after another in one row, each of which attends to itself only: no arithmetic is spent on padding.

A model is told of it by an attention of our own, for as long as such a row goes through it, and by the positions of its
tokens, which begin anew with each text. `packs` looks whether a model gives the same as text by text.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache, partial
from typing import Any

import torch
from torch.nn import functional
from transformers import AttentionInterface, PreTrainedConfig, PreTrainedModel

from gainnet.models.attention import attention

Attend = Callable[..., torch.Tensor]
"""Causal attention of texts of one length: query, key and value, each (text, head, token, width)."""
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
    groups = int(getattr(module, "num_key_value_groups", 1))
    attend = partial(_causal, dropout=dropout, scale=scaling, groups=groups, window=sliding_window)
    by = one_by_one if query.device.type == "cpu" or len(lengths) == 1 else side_by_side
    return by(attend, query, key, value, lengths), None


def one_by_one(
    attend: Attend, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, lengths: Sequence[int]
) -> torch.Tensor:
    """Text after text, which spends nothing on padding."""
    parts = zip(*(torch.split(part, list(lengths), 2) for part in (query, key, value)), strict=True)
    return torch.cat([attend(*part).transpose(1, 2) for part in parts], 1)


def side_by_side(
    attend: Attend, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, lengths: Sequence[int]
) -> torch.Tensor:
    """All texts at once, padded on the right, where nothing looks: a GPU waits for calls rather than for products."""
    spot, size = _spots(tuple(lengths), query.device), (len(lengths), max(lengths))
    rows = []
    for part in (query, key, value):
        own = part[0].transpose(0, 1)
        padded = own.new_zeros((size[0] * size[1], *own.shape[1:])).index_copy(0, spot, own)
        rows.append(padded.view(*size, *own.shape[1:]).transpose(1, 2))
    return attend(*rows).transpose(1, 2).flatten(0, 1).index_select(0, spot)[None]


@lru_cache(maxsize=8)
def _spots(lengths: tuple[int, ...], device: torch.device) -> torch.Tensor:
    """Where the tokens of a row lie among those of its texts padded to the longest."""
    with torch.inference_mode(mode=False):  # it is kept for when gradients are asked for
        places = [torch.arange(length) + index * max(lengths) for index, length in enumerate(lengths)]
        return torch.cat(places).to(device)


def _causal(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    *,
    dropout: float,
    scale: float | None,
    groups: int,
    window: int | None,
) -> torch.Tensor:
    """(text, head, token, width) of texts of one length."""
    length = query.shape[2]
    if window is None or length <= window:
        return attention(query, key, value, dropout, scale, groups)
    mask = torch.ones((length, length), dtype=torch.bool, device=query.device).tril_().triu_(1 - window)
    return functional.scaled_dot_product_attention(query, key, value, mask, dropout, scale=scale, enable_gqa=groups > 1)


AttentionInterface.register(NAME, _attend)
