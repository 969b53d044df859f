"""Calls the kernels of ops that take one tensor and one axis, with and without gradients."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from trm_fast.ops._core.registry import OPS, kernels
from trm_fast.ops.gradients import plain_backward, reference_gradients


def run_along_axis(op: str, chosen: str, x: Tensor, dim: int) -> Tensor:
    """Applies an op along ``dim`` of ``x`` with a backend's kernels. Their backward needs only ``x``."""
    if torch.is_grad_enabled() and x.requires_grad:
        y: Tensor = AxisFunction.apply(op, chosen, x, dim)
        return y
    result: Tensor = getattr(kernels(chosen), f"{op}_fwd").default(x, dim)
    return result


class AxisFunction(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, op: str, chosen: str, x: Tensor, dim: int) -> Tensor:
        ctx.save_for_backward(x)
        ctx.op, ctx.backend, ctx.dim = op, chosen, dim
        y: Tensor = getattr(kernels(chosen), f"{op}_fwd").default(x, dim)
        return y

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        (x,) = ctx.saved_tensors
        if plain_backward(dy):
            reference, dim = OPS[ctx.op].reference, ctx.dim
            return None, None, *reference_gradients(lambda x: reference(x, dim), [x], [True], dy), None
        return None, None, getattr(kernels(ctx.backend), f"{ctx.op}_bwd").default(dy, x, ctx.dim), None
