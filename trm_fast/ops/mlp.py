"""A whole SwiGLU layer over channels: products, activation, residual and norm; what ``token_mixer`` shares with it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from trm_fast.ops._core import dispatch
from trm_fast.ops._core.registry import GPU_FLOATS, Case, Op, kernels, register, triton_kernels
from trm_fast.ops.rms_norm import rms_norm_reference
from trm_fast.ops.swiglu import swiglu_reference

PANEL = 32  # kPanel of csrc/core/layer.h


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
    return gated_layer("mlp", h, gate_up, down, eps, axis=2, reference=mlp_reference)


def mlp_reference(h: Tensor, gate_up: Tensor, down: Tensor, eps: float = 1e-5) -> Tensor:
    return rms_norm_reference(F.linear(swiglu_reference(F.linear(h, gate_up)), down), h, eps=eps)


def gated_layer(
    op: str, h: Tensor, gate_up: Tensor, down: Tensor, eps: float, *, axis: int, reference: Callable[..., Tensor]
) -> Tensor:
    """The layer of ``h`` (B, L, D) over its ``axis`` by the chosen backend.

    Raises:
        ValueError: weights that do not fit ``h`` or each other.
    """
    width, inner = h.shape[axis], down.shape[-1]
    if gate_up.shape != (2 * inner, width) or down.shape != (width, inner):
        raise ValueError(
            f"{op}: gate_up {tuple(gate_up.shape)} and down {tuple(down.shape)} must be (2 I, {width}) and ({width}, I)"
        )
    chosen = dispatch.select(op, h, gate_up, down)
    if chosen == "reference":
        return reference(h, gate_up, down, eps)
    if torch.is_grad_enabled() and (h.requires_grad or gate_up.requires_grad or down.requires_grad):
        y: Tensor = GatedFunction.apply(op, chosen, h, gate_up, down, eps)
        return y
    result: Tensor = getattr(kernels(chosen), f"{op}_fwd").default(h, gate_up, down, eps, False)[0]
    return result


class GatedFunction(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, op: str, chosen: str, h: Tensor, gate_up: Tensor, down: Tensor, eps: float) -> Tensor:
        y, saved = getattr(kernels(chosen), f"{op}_fwd").default(h, gate_up, down, eps, True)
        ctx.save_for_backward(h, saved, gate_up, down)
        ctx.options = op, chosen, eps
        result: Tensor = y
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        op, chosen, eps = ctx.options
        gradients = getattr(kernels(chosen), f"{op}_bwd").default(dy, *ctx.saved_tensors, eps)
        return (None, None, *gradients, None)


def gated_kernels(op: str, triton_layer: str, saved_size: Callable[[Tensor, Tensor], int]) -> Mapping[str, Any]:
    """The kernels of such an op, as ``Op`` takes them.

    Args:
        triton_layer: the class in ``triton_kernels/<op>.py``.
        saved_size: the floats that the C++ forward of ``h`` with ``gate_up`` keeps.
    """

    def triton_fwd(h: Tensor, gate_up: Tensor, down: Tensor, eps: float, keep: bool) -> tuple[Tensor, Tensor]:
        layer = getattr(triton_kernels(op), triton_layer)(gate_up, down, eps)
        return h.new_empty(h.shape), triton_kernels("layer").saved_like(layer, h, keep)

    def fwd(h: Tensor, gate_up: Tensor, down: Tensor, eps: float, keep: bool) -> tuple[Tensor, Tensor]:
        return h.new_empty(h.shape), h.new_empty(saved_size(h, gate_up) if keep else 0)

    return {
        "kernels": {"cpp": (torch.float32, torch.bfloat16), "triton": GPU_FLOATS},
        "inference_only": {"cpp": (torch.bfloat16,)},
        "fakes": {f"{op}_fwd": fwd, f"{op}_bwd": layer_bwd_fake},
        "triton": [
            f"{op}_fwd(Tensor h, Tensor gate_up, Tensor down, float eps, bool keep) -> (Tensor y, Tensor saved)",
            f"{op}_bwd(Tensor dy, Tensor h, Tensor saved, Tensor gate_up, Tensor down, float eps) "
            "-> (Tensor dh, Tensor dgate_up, Tensor ddown)",
        ],
        "triton_fakes": {f"{op}_fwd": triton_fwd},
        "matrix": True,
    }


def layer_bwd_fake(
    dy: Tensor, h: Tensor, saved: Tensor, w_in: Tensor, w_out: Tensor, *_: Any
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of a layer's input and weights."""
    return h.new_empty(h.shape), w_in.new_empty(w_in.shape), w_out.new_empty(w_out.shape)


def rounded(count: int, unit: int) -> int:
    return -(-count // unit) * unit


def saved_floats(h: Tensor, kept: int, rstd: int) -> int:
    """The size of what the forward of a layer keeps (csrc/core/recursion.cpp); ``kept`` and ``rstd`` a sample."""
    B, L, D = h.shape
    return B * (kept + L * D + rstd)


def gate_up_floats(gate_up: Tensor, L: int) -> int:
    """What a sample keeps of gate and up, padded to whole panels."""
    return 2 * rounded(gate_up.shape[0] // 2, PANEL // 2) * L


def _saved_size(h: Tensor, gate_up: Tensor) -> int:
    return saved_floats(h, gate_up_floats(gate_up, h.shape[1]), h.shape[1])


register(
    Op(
        mlp,
        mlp_reference,
        cases=[Case([(2, 19, 128), (128, 128), (128, 64)], 3, lambda op, *inputs: op(*inputs))],
        timed=lambda batch: Case([(batch, 97, 512), (3072, 512), (512, 1536)], 3, lambda op, *inputs: op(*inputs)),
        **gated_kernels("mlp", "MLP", _saved_size),
    )
)
