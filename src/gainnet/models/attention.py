"""Causal attention of texts of one length; in bfloat16 on a CPU, where torch's fused one is slow, as plain products."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional

BLOCK = 128
"""Queries at a time, which are multiplied by no key after the last of them."""


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
    if query.dtype == torch.bfloat16 and where == "cpu" and len(query) == 1 and not dropout:
        found: torch.Tensor = _Attention.apply(query[0], key[0], value[0], scale or query.shape[-1] ** -0.5)  # type: ignore[no-untyped-call]
        return found[None]
    return functional.scaled_dot_product_attention(
        query, key, value, None, dropout, is_causal=True, scale=scale, enable_gqa=groups > 1
    )


class _Attention(torch.autograd.Function):
    """softmax(scale Q K' + causal) V, block by block; the weights are kept for the way back."""

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
        rows = (query * scale).view(shared, -1, length, width)  # heads that share keys side by side
        found = torch.empty_like(rows)
        turned, blocks = key.transpose(1, 2), []
        for first in range(0, length, BLOCK):
            last = min(first + BLOCK, length)
            block = rows[:, :, first:last].reshape(shared, -1, width)
            product = torch.bmm(block, turned[..., :last]).view(shared, -1, last - first, last)
            later = torch.ones((last - first, last - first), dtype=torch.bool).triu_(1)
            product[..., first:].masked_fill_(later, -torch.inf)
            weight = product.softmax(-1).view(shared, -1, last)
            found[:, :, first:last] = torch.bmm(weight, value[:, :last]).view(shared, -1, last - first, width)
            blocks += [block, weight]
        ctx.save_for_backward(key, value, *blocks)
        ctx.scale = scale
        return found.view(heads, length, width)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        key, value, *blocks = ctx.saved_tensors
        shared, length, width = key.shape
        back = gradient.reshape(shared, -1, length, width)
        of_query = torch.empty_like(back)
        exact = torch.promote_types(key.dtype, torch.float32)
        of_key, of_value = (key.new_zeros(key.shape, dtype=exact) for _ in range(2))
        turned, first = value.transpose(1, 2), 0
        for block, weight in zip(blocks[::2], blocks[1::2], strict=True):
            last = weight.shape[-1]
            part = back[:, :, first:last].reshape(block.shape)
            of_weight = torch.bmm(part, turned[..., :last])
            inner = torch._softmax_backward_data(of_weight, weight, -1, weight.dtype)
            of_query[:, :, first:last] = torch.bmm(inner, key[:, :last]).view(shared, -1, last - first, width)
            of_key[:, :last] += torch.bmm(inner.transpose(1, 2), block)
            of_value[:, :last] += torch.bmm(weight.transpose(1, 2), part)
            first = last
        return of_query.mul_(ctx.scale).view(gradient.shape), of_key.to(key.dtype), of_value.to(value.dtype), None
