"""The gated activation of SwiGLU."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from trm_fast.ops import backend, reference


def swiglu(gate_up: Tensor, dim: int = -1) -> Tensor:
    """``silu(gate) * up``, where ``gate_up`` holds the gate in the first half of ``dim`` and up in the second.

    The backward recomputes from ``gate_up``, so nothing else is kept for it. Source: arXiv 2002.05202.

    Args:
        gate_up: any shape, floating point, even along ``dim``.
        dim: the axis that is halved.

    Returns:
        ``gate_up``'s shape with ``dim`` halved, same dtype.

    Raises:
        ValueError: an odd size along ``dim``.
        IndexError: no such axis.
    """
    if gate_up.shape[dim] % 2:
        raise ValueError(f"swiglu: axis {dim} of {tuple(gate_up.shape)} holds gate and up, its size must be even")
    if backend.select("swiglu", gate_up) == "reference":
        return reference.swiglu(gate_up, dim)
    if torch.is_grad_enabled() and gate_up.requires_grad:
        out: Tensor = SwiGLUFunction.apply(gate_up, dim)
        return out
    return torch.ops.trm_fast.swiglu_fwd.default(gate_up, dim)


class SwiGLUFunction(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate_up: Tensor, dim: int) -> Tensor:
        ctx.save_for_backward(gate_up)
        ctx.dim = dim
        return torch.ops.trm_fast.swiglu_fwd.default(gate_up, dim)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dout: Tensor) -> tuple[Tensor, None]:
        (gate_up,) = ctx.saved_tensors
        return torch.ops.trm_fast.swiglu_bwd.default(dout, gate_up, ctx.dim), None


if not backend.EXTENSION_MISSING:

    @torch.library.register_fake("trm_fast::swiglu_fwd")
    def _(gate_up: Tensor, dim: int) -> Tensor:
        shape = list(gate_up.shape)
        shape[dim] = shape[dim] // 2
        return gate_up.new_empty(shape)

    @torch.library.register_fake("trm_fast::swiglu_bwd")
    def _(dout: Tensor, gate_up: Tensor, dim: int) -> Tensor:
        return gate_up.new_empty(gate_up.shape)
