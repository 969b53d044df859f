"""A whole SwiGLU layer over channels: products, activation, residual and norm."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from trm_fast.ops import backend, reference


def mlp(h: Tensor, gate_up: Tensor, down: Tensor, eps: float = 1e-5) -> Tensor:
    """``rms_norm(h + down @ swiglu(gate_up @ h))`` over channels; TRM's second layer (arXiv 2510.04871).

    Args:
        h: (B, L, D).
        gate_up: (2 I, D), the gate above up.
        down: (D, I).
        eps: of the norm.

    Returns:
        (B, L, D).

    Raises:
        ValueError: weights that do not fit ``h`` or each other.
    """
    check_swiglu("mlp", h.shape[-1], gate_up, down)
    if backend.select("mlp", h) == "reference":
        return reference.mlp(h, gate_up, down, eps)
    if torch.is_grad_enabled() and (h.requires_grad or gate_up.requires_grad or down.requires_grad):
        y: Tensor = MLPFunction.apply(h, gate_up, down, eps)
        return y
    return torch.ops.trm_fast.mlp_fwd.default(h, gate_up, down, eps, False)[0]


def check_swiglu(op: str, width: int, gate_up: Tensor, down: Tensor) -> None:
    inner = down.shape[-1]
    if gate_up.shape != (2 * inner, width) or down.shape != (width, inner):
        raise ValueError(
            f"{op}: gate_up {tuple(gate_up.shape)} and down {tuple(down.shape)} must be (2 I, {width}) and ({width}, I)"
        )


class MLPFunction(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, h: Tensor, gate_up: Tensor, down: Tensor, eps: float) -> Tensor:
        y, saved = torch.ops.trm_fast.mlp_fwd.default(h, gate_up, down, eps, True)
        ctx.save_for_backward(h, saved, gate_up, down)
        ctx.eps = eps
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        return (*torch.ops.trm_fast.mlp_bwd.default(dy, *ctx.saved_tensors, ctx.eps), None)


SHALLOW = 64  # kShallow of csrc/ops/layer.h


def gate_up_floats(gate_up: Tensor, width: int) -> int:
    """What a sample keeps of gate and up, each ``width`` wide: nothing where they are quickly computed again."""
    return 0 if gate_up.shape[1] <= SHALLOW else gate_up.shape[0] * width


def saved_floats(h: Tensor, kept: int, rstd: int) -> int:
    """The size of what the forward of a layer keeps (csrc/ops/recursion.cpp); ``kept`` and ``rstd`` a sample."""
    B, L, D = h.shape
    return B * (kept + L * D + rstd)


if not backend.EXTENSION_MISSING:

    @torch.library.register_fake("trm_fast::mlp_fwd")
    def _(h: Tensor, gate_up: Tensor, down: Tensor, eps: float, keep: bool) -> tuple[Tensor, Tensor]:
        L = h.shape[1]
        return h.new_empty(h.shape), h.new_empty(saved_floats(h, gate_up_floats(gate_up, L), L) if keep else 0)

    @torch.library.register_fake("trm_fast::mlp_bwd")
    def _(
        dy: Tensor, h: Tensor, saved: Tensor, gate_up: Tensor, down: Tensor, eps: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        return h.new_empty(h.shape), gate_up.new_empty(gate_up.shape), down.new_empty(down.shape)
