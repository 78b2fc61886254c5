"""Causal attention of texts of one length; of a short one in bfloat16 on a CPU, where torch's fused one is slow on the way
back, as plain products.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional

PLAIN_MAX = 320
"""Tokens up to which plain products are faster there (128: 0.8 ms where fused takes 2.1; 512: 9.4 and 7.8)."""


def attention(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, dropout: float, scale: float | None, groups: int
) -> torch.Tensor:
    """Causal attention.

    Args:
        query: (text, head, token, width); texts of one length.
        key: (text, head / groups, token, width).
        value: as key.
        dropout: part of the weights.
        scale: of the products; by default one over the root of the width.
        groups: heads that share a key, which lie one after another.

    Returns:
        (text, head, token, width).
    """
    where = query.device.type
    if torch.is_autocast_enabled(where):
        query, key, value = (part.to(torch.get_autocast_dtype(where)) for part in (query, key, value))
    short = query.dtype == torch.bfloat16 and where == "cpu" and len(query) == 1 and query.shape[2] <= PLAIN_MAX
    if short and torch.is_grad_enabled() and not dropout:
        found: torch.Tensor = _Attention.apply(query[0], key[0], value[0], scale or query.shape[-1] ** -0.5)  # type: ignore[no-untyped-call]
        return found[None]
    return functional.scaled_dot_product_attention(
        query, key, value, None, dropout, is_causal=True, scale=scale, enable_gqa=groups > 1
    )


class _Attention(torch.autograd.Function):
    """softmax(scale Q K' + causal) V; the weights are kept for the way back."""

    @staticmethod
    def forward(
        ctx: Any,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        scale: float,
    ) -> torch.Tensor:
        heads, length, width = query.shape
        shared = len(key)
        rows = query.reshape(shared, -1, width)  # heads that share keys side by side
        weight = torch.bmm(rows, key.transpose(1, 2)).view(heads, length, length)
        later = torch.ones((length, length), dtype=torch.bool).triu_(1)
        weight = weight.mul_(scale).masked_fill_(later, -torch.inf).softmax(-1).view(shared, -1, length)
        ctx.save_for_backward(rows, key, value, weight)
        ctx.scale = scale
        return torch.bmm(weight, value).view(heads, length, width)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        rows, key, value, weight = ctx.saved_tensors
        back = gradient.reshape(rows.shape)
        of_weight = torch.bmm(back, value.transpose(1, 2))
        inner = torch._softmax_backward_data(of_weight, weight, -1, weight.dtype).mul_(ctx.scale)
        return (
            torch.bmm(inner, key).view(gradient.shape),
            torch.bmm(inner.transpose(1, 2), rows),
            torch.bmm(weight.transpose(1, 2), back),
            None,
        )
