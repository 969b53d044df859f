"""A whole SwiGLU layer over channels: products, activation, residual and norm."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from trm_fast.ops import backend, reference
from trm_fast.ops.dispatch import define_triton, triton_kernels


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
    chosen = backend.select("mlp", h, gate_up, down)
    if chosen == "reference":
        return reference.mlp(h, gate_up, down, eps)
    if torch.is_grad_enabled() and (h.requires_grad or gate_up.requires_grad or down.requires_grad):
        y: Tensor = MLPFunction.apply(h, gate_up, down, eps, chosen)
        return y
    result, _ = backend.kernels(chosen).mlp_fwd.default(h, gate_up, down, eps, False)
    return result


def check_swiglu(op: str, width: int, gate_up: Tensor, down: Tensor) -> None:
    inner = down.shape[-1]
    if gate_up.shape != (2 * inner, width) or down.shape != (width, inner):
        raise ValueError(
            f"{op}: gate_up {tuple(gate_up.shape)} and down {tuple(down.shape)} must be (2 I, {width}) and ({width}, I)"
        )


class MLPFunction(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, h: Tensor, gate_up: Tensor, down: Tensor, eps: float, chosen: str) -> Tensor:
        y, saved = backend.kernels(chosen).mlp_fwd.default(h, gate_up, down, eps, True)
        ctx.save_for_backward(h, saved, gate_up, down)
        ctx.eps, ctx.backend = eps, chosen
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        gradients = backend.kernels(ctx.backend).mlp_bwd.default(dy, *ctx.saved_tensors, ctx.eps)
        return (*gradients, None, None)


PANEL = 32  # kPanel of csrc/ops/layer.h


def gate_up_floats(gate_up: Tensor, L: int) -> int:
    """What a sample keeps of gate and up, padded to whole panels."""
    return 2 * rounded(gate_up.shape[0] // 2, PANEL // 2) * L


def rounded(count: int, unit: int) -> int:
    return -(-count // unit) * unit


def saved_floats(h: Tensor, kept: int, rstd: int) -> int:
    """The size of what the forward of a layer keeps (csrc/ops/recursion.cpp); ``kept`` and ``rstd`` a sample."""
    B, L, D = h.shape
    return B * (kept + L * D + rstd)


def _triton_fwd_fake(h: Tensor, gate_up: Tensor, down: Tensor, eps: float, keep: bool) -> tuple[Tensor, Tensor]:
    layer = triton_kernels("mlp").MLP(gate_up, down, eps)
    return h.new_empty(h.shape), triton_kernels("layer").saved_like(layer, h, keep)


def _fwd_fake(h: Tensor, gate_up: Tensor, down: Tensor, eps: float, keep: bool) -> tuple[Tensor, Tensor]:
    kept = saved_floats(h, gate_up_floats(gate_up, h.shape[1]), h.shape[1]) if keep else 0
    return h.new_empty(h.shape), h.new_empty(kept)


def _bwd_fake(
    dy: Tensor, h: Tensor, saved: Tensor, gate_up: Tensor, down: Tensor, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    return h.new_empty(h.shape), gate_up.new_empty(gate_up.shape), down.new_empty(down.shape)


define_triton(
    "mlp",
    "mlp_fwd(Tensor h, Tensor gate_up, Tensor down, float eps, bool keep) -> (Tensor y, Tensor saved)",
    _triton_fwd_fake,
)
define_triton(
    "mlp",
    "mlp_bwd(Tensor dy, Tensor h, Tensor saved, Tensor gate_up, Tensor down, float eps) "
    "-> (Tensor dh, Tensor dgate_up, Tensor ddown)",
    _bwd_fake,
)
if not backend.EXTENSION_MISSING:
    torch.library.register_fake("trm_fast::mlp_fwd", _fwd_fake)
    torch.library.register_fake("trm_fast::mlp_bwd", _bwd_fake)
