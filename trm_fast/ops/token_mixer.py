"""A whole SwiGLU layer over tokens, in the natural (B, L, D) layout."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from trm_fast.ops import backend, reference
from trm_fast.ops.mlp import check_swiglu, gate_up_floats, saved_floats


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
    if backend.select("token_mixer", h) == "reference":
        return reference.token_mixer(h, gate_up, down, eps)
    if torch.is_grad_enabled() and (h.requires_grad or gate_up.requires_grad or down.requires_grad):
        y: Tensor = TokenMixerFunction.apply(h, gate_up, down, eps)
        return y
    return torch.ops.trm_fast.token_mixer_fwd.default(h, gate_up, down, eps, False)[0]


class TokenMixerFunction(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, h: Tensor, gate_up: Tensor, down: Tensor, eps: float) -> Tensor:
        y, saved = torch.ops.trm_fast.token_mixer_fwd.default(h, gate_up, down, eps, True)
        ctx.save_for_backward(h, saved, gate_up, down)
        ctx.eps = eps
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        return (*torch.ops.trm_fast.token_mixer_bwd.default(dy, *ctx.saved_tensors, ctx.eps), None)


if not backend.EXTENSION_MISSING:

    @torch.library.register_fake("trm_fast::token_mixer_fwd")
    def _(h: Tensor, gate_up: Tensor, down: Tensor, eps: float, keep: bool) -> tuple[Tensor, Tensor]:
        D = h.shape[2]
        return h.new_empty(h.shape), h.new_empty(saved_floats(h, gate_up_floats(gate_up, D), D) if keep else 0)

    @torch.library.register_fake("trm_fast::token_mixer_bwd")
    def _(
        dy: Tensor, h: Tensor, saved: Tensor, gate_up: Tensor, down: Tensor, eps: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        return h.new_empty(h.shape), gate_up.new_empty(gate_up.shape), down.new_empty(down.shape)
