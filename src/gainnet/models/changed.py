"""A frozen linear layer and the adapter that learns, in one pass: what PEFT's layer computes, without what it keeps between."""

from __future__ import annotations

from typing import Any

import torch


class Changed(torch.nn.Module):
    """``x W' + bias + scale (x A') B'``, gradients for x, A and B only.

    Args:
        weight: (output, input), frozen; may be a transposed view.
        bias: (output), frozen, or none.
        down, up: A (rank, input) and B (output, rank).
        scale: of their product.
        half: what is multiplied is rounded to bfloat16, and the outcome is one, as under autocast.
    """

    def __init__(
        self,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        down: torch.nn.Parameter,
        up: torch.nn.Parameter,
        scale: float,
        half: bool,
    ) -> None:
        super().__init__()
        kind = torch.bfloat16 if half else weight.dtype
        frozen = weight.detach().to(kind), None if bias is None else bias.detach().to(kind)
        self._parts = (*frozen, down, up, scale)  # in a tuple: they are parameters of another module

    def forward(self, value: torch.Tensor) -> torch.Tensor:
        """(..., input) to (..., output)."""
        found: torch.Tensor = _Changed.apply(value, *self._parts)  # type: ignore[no-untyped-call]
        return found


class _Changed(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        value: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        down: torch.Tensor,
        up: torch.Tensor,
        scale: float,
    ) -> torch.Tensor:
        kind = weight.dtype
        with torch.autocast(value.device.type, enabled=False):
            rows = value.reshape(-1, value.shape[-1]).to(kind)
            down_now, up_now = down.to(kind), up.to(kind)
            between = rows @ down_now.T
            found = rows @ weight.T if bias is None else torch.addmm(bias, rows, weight.T)
            found.addmm_(between, up_now.T, alpha=scale)
        ctx.save_for_backward(rows, weight, down_now, up_now, between)
        ctx.scale, ctx.kind = scale, (value.dtype, down.dtype)
        return found.resize_((*value.shape[:-1], len(weight)))  # no view: there are models that add to it in place

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        rows, weight, down, up, between = ctx.saved_tensors
        kind, own = ctx.kind
        back = gradient.reshape(-1, gradient.shape[-1]).to(weight.dtype)
        inner = (back @ up).mul_(ctx.scale)
        of_value = of_down = of_up = None
        if ctx.needs_input_grad[3]:
            of_down = (inner.T @ rows).to(own)
        if ctx.needs_input_grad[4]:
            of_up = (back.T @ between).mul_(ctx.scale).to(own)
        if ctx.needs_input_grad[0]:
            of_value = (back @ weight).addmm_(inner, down).view(*gradient.shape[:-1], -1).to(kind)
        return of_value, None, None, of_down, of_up, None
