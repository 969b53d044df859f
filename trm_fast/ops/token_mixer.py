"""A whole SwiGLU layer over tokens, in the natural (B, L, D) layout."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from trm_fast.ops import backend, reference
from trm_fast.ops.dispatch import define_triton, triton_kernels
from trm_fast.ops.mlp import PANEL, check_swiglu, rounded, saved_floats


def token_mixer(h: Tensor, gate_up: Tensor, down: Tensor, eps: float = 1e-5) -> Tensor:
    """``mlp`` over tokens, each channel alike, its norm over tokens, too; no transposed copies.

    TRM's attention-free first layer (arXiv 2510.04871, section 4.5).

    Args:
        h: (B, L, D).
        gate_up: (2 I, L), the gate above up.
        down: (L, I).
        eps: of the norm.

    Returns:
        (B, L, D).

    Raises:
        ValueError: weights that do not fit ``h`` or each other.
    """
    check_swiglu("token_mixer", h.shape[1], gate_up, down)
    chosen = backend.select("token_mixer", h, gate_up, down)
    if chosen == "reference":
        return reference.token_mixer(h, gate_up, down, eps)
    if torch.is_grad_enabled() and (h.requires_grad or gate_up.requires_grad or down.requires_grad):
        y: Tensor = TokenMixerFunction.apply(h, gate_up, down, eps, chosen)
        return y
    result, _ = backend.kernels(chosen).token_mixer_fwd.default(h, gate_up, down, eps, False)
    return result


class TokenMixerFunction(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, h: Tensor, gate_up: Tensor, down: Tensor, eps: float, chosen: str) -> Tensor:
        y, saved = backend.kernels(chosen).token_mixer_fwd.default(h, gate_up, down, eps, True)
        ctx.save_for_backward(h, saved, gate_up, down)
        ctx.eps, ctx.backend = eps, chosen
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        gradients = backend.kernels(ctx.backend).token_mixer_bwd.default(dy, *ctx.saved_tensors, ctx.eps)
        return (*gradients, None, None)


def hidden_floats(gate_up: Tensor, D: int) -> int:
    """What a sample keeps of gate and up, as ``gate_up_floats`` of the mlp."""
    return gate_up.shape[0] * rounded(D, PANEL)


def _triton_fwd_fake(h: Tensor, gate_up: Tensor, down: Tensor, eps: float, keep: bool) -> tuple[Tensor, Tensor]:
    layer = triton_kernels("token_mixer").TokenMixer(gate_up, down, eps)
    return h.new_empty(h.shape), triton_kernels("layer").saved_like(layer, h, keep)


def _fwd_fake(h: Tensor, gate_up: Tensor, down: Tensor, eps: float, keep: bool) -> tuple[Tensor, Tensor]:
    kept = saved_floats(h, hidden_floats(gate_up, h.shape[2]), h.shape[2]) if keep else 0
    return h.new_empty(h.shape), h.new_empty(kept)


def _bwd_fake(
    dy: Tensor, h: Tensor, saved: Tensor, gate_up: Tensor, down: Tensor, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    return h.new_empty(h.shape), gate_up.new_empty(gate_up.shape), down.new_empty(down.shape)


define_triton(
    "token_mixer",
    "token_mixer_fwd(Tensor h, Tensor gate_up, Tensor down, float eps, bool keep) -> (Tensor y, Tensor saved)",
    _triton_fwd_fake,
)
define_triton(
    "token_mixer",
    "token_mixer_bwd(Tensor dy, Tensor h, Tensor saved, Tensor gate_up, Tensor down, float eps) "
    "-> (Tensor dh, Tensor dgate_up, Tensor ddown)",
    _bwd_fake,
)
if not backend.EXTENSION_MISSING:
    torch.library.register_fake("trm_fast::token_mixer_fwd", _fwd_fake)
    torch.library.register_fake("trm_fast::token_mixer_bwd", _bwd_fake)
