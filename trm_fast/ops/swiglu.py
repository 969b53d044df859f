"""The gated activation of SwiGLU."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from trm_fast.ops import backend, reference
from trm_fast.ops.dispatch import define_triton


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
    chosen = backend.select("swiglu", gate_up)
    if chosen == "reference":
        return reference.swiglu(gate_up, dim)
    if torch.is_grad_enabled() and gate_up.requires_grad:
        out: Tensor = SwiGLUFunction.apply(gate_up, dim, chosen)
        return out
    result: Tensor = backend.kernels(chosen).swiglu_fwd.default(gate_up, dim)
    return result


class SwiGLUFunction(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate_up: Tensor, dim: int, chosen: str) -> Tensor:
        ctx.save_for_backward(gate_up)
        ctx.dim, ctx.backend = dim, chosen
        out: Tensor = backend.kernels(chosen).swiglu_fwd.default(gate_up, dim)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dout: Tensor) -> tuple[Tensor, None, None]:
        (gate_up,) = ctx.saved_tensors
        return backend.kernels(ctx.backend).swiglu_bwd.default(dout, gate_up, ctx.dim), None, None


def _fwd_fake(gate_up: Tensor, dim: int) -> Tensor:
    shape = list(gate_up.shape)
    shape[dim] = shape[dim] // 2
    return gate_up.new_empty(shape)


def _bwd_fake(dout: Tensor, gate_up: Tensor, dim: int) -> Tensor:
    return gate_up.new_empty(gate_up.shape)


define_triton("swiglu", "swiglu_fwd(Tensor gate_up, int dim) -> Tensor", _fwd_fake)
define_triton("swiglu", "swiglu_bwd(Tensor dout, Tensor gate_up, int dim) -> Tensor", _bwd_fake)
if not backend.EXTENSION_MISSING:
    torch.library.register_fake("trm_fast::swiglu_fwd", _fwd_fake)
    torch.library.register_fake("trm_fast::swiglu_bwd", _bwd_fake)
