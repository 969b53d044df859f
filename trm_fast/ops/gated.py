"""What ``mlp`` and ``token_mixer`` share: a SwiGLU layer over one axis with residual and norm."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from trm_fast.ops import backend
from trm_fast.ops.dispatch import define_triton, triton_kernels

PANEL = 32  # kPanel of csrc/ops/layer.h


def gated_layer(
    op: str, h: Tensor, gate_up: Tensor, down: Tensor, eps: float, *, axis: int, plain: Callable[..., Tensor]
) -> Tensor:
    """The layer of ``h`` (B, L, D) over its ``axis`` by the chosen backend, where that is the reference by ``plain``.

    Raises:
        ValueError: weights that do not fit ``h`` or each other.
    """
    width, inner = h.shape[axis], down.shape[-1]
    if gate_up.shape != (2 * inner, width) or down.shape != (width, inner):
        raise ValueError(
            f"{op}: gate_up {tuple(gate_up.shape)} and down {tuple(down.shape)} must be (2 I, {width}) and ({width}, I)"
        )
    chosen = backend.select(op, h, gate_up, down)
    if chosen == "reference":
        return plain(h, gate_up, down, eps)
    if torch.is_grad_enabled() and (h.requires_grad or gate_up.requires_grad or down.requires_grad):
        y: Tensor = GatedFunction.apply(op, chosen, h, gate_up, down, eps)
        return y
    result: Tensor = getattr(backend.kernels(chosen), f"{op}_fwd").default(h, gate_up, down, eps, False)[0]
    return result


class GatedFunction(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, op: str, chosen: str, h: Tensor, gate_up: Tensor, down: Tensor, eps: float) -> Tensor:
        y, saved = getattr(backend.kernels(chosen), f"{op}_fwd").default(h, gate_up, down, eps, True)
        ctx.save_for_backward(h, saved, gate_up, down)
        ctx.given = op, chosen, eps
        result: Tensor = y
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        op, chosen, eps = ctx.given
        gradients = getattr(backend.kernels(chosen), f"{op}_bwd").default(dy, *ctx.saved_tensors, eps)
        return (None, None, *gradients, None)


def register(op: str, triton_layer: str, kept: Callable[[Tensor, Tensor], int]) -> None:
    """Tells the dispatcher and ``torch.compile`` of the op's kernels; ``kept``: the floats that the C++ forward keeps
    of ``h`` with ``gate_up``."""

    def triton_fwd(h: Tensor, gate_up: Tensor, down: Tensor, eps: float, keep: bool) -> tuple[Tensor, Tensor]:
        layer = getattr(triton_kernels(op), triton_layer)(gate_up, down, eps)
        return h.new_empty(h.shape), triton_kernels("layer").saved_like(layer, h, keep)

    def fwd(h: Tensor, gate_up: Tensor, down: Tensor, eps: float, keep: bool) -> tuple[Tensor, Tensor]:
        return h.new_empty(h.shape), h.new_empty(kept(h, gate_up) if keep else 0)

    def bwd(
        dy: Tensor, h: Tensor, saved: Tensor, gate_up: Tensor, down: Tensor, eps: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        return h.new_empty(h.shape), gate_up.new_empty(gate_up.shape), down.new_empty(down.shape)

    define_triton(
        op, f"{op}_fwd(Tensor h, Tensor gate_up, Tensor down, float eps, bool keep) -> (Tensor y, Tensor saved)",
        triton_fwd,
    )  # fmt: skip
    define_triton(
        op, f"{op}_bwd(Tensor dy, Tensor h, Tensor saved, Tensor gate_up, Tensor down, float eps) "
        "-> (Tensor dh, Tensor dgate_up, Tensor ddown)", bwd,
    )  # fmt: skip
    if not backend.EXTENSION_MISSING:
        torch.library.register_fake(f"trm_fast::{op}_fwd", fwd)
        torch.library.register_fake(f"trm_fast::{op}_bwd", bwd)


def rounded(count: int, unit: int) -> int:
    return -(-count // unit) * unit


def saved_floats(h: Tensor, kept: int, rstd: int) -> int:
    """The size of what the forward of a layer keeps (csrc/ops/recursion.cpp); ``kept`` and ``rstd`` a sample."""
    B, L, D = h.shape
    return B * (kept + L * D + rstd)
