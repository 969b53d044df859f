"""A whole attention layer: queries, keys and values, rotary positions, attention, output, residual and norm."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from trm_fast.ops import backend, reference
from trm_fast.ops.mlp import saved_floats


def attention(
    h: Tensor, qkv: Tensor, out: Tensor, heads: int, rotary: tuple[Tensor, Tensor] | None = None, eps: float = 1e-5
) -> Tensor:
    """``rms_norm(h + out @ attention(qkv @ h))``: every token sees every token.

    Args:
        h: (B, L, D).
        qkv: (3 D, D), queries above keys above values, each head by head.
        out: (D, D).
        heads: a divisor of D.
        rotary: cos and sin, (L, D / heads) each, for rotary positions (halves rotated against each other; arXiv
            2104.09864); they get no gradient.
        eps: of the norm.

    Returns:
        (B, L, D).

    Raises:
        ValueError: weights, tables or heads that do not fit ``h``.
    """
    L, D = h.shape[1:]
    if qkv.shape != (3 * D, D) or out.shape != (D, D) or D % heads:
        raise ValueError(
            f"attention: qkv {tuple(qkv.shape)} and out {tuple(out.shape)} must be ({3 * D}, {D}) and ({D}, {D}), "
            f"and {heads} heads must divide {D}"
        )
    if rotary is not None and any(table.shape != (L, D // heads) for table in rotary):
        raise ValueError(f"attention: cos and sin must be ({L}, {D // heads})")
    if backend.select("attention", h) == "reference":
        return reference.attention(h, qkv, out, heads, rotary, eps)
    cos, sin = rotary or (None, None)
    if torch.is_grad_enabled() and (h.requires_grad or qkv.requires_grad or out.requires_grad):
        y: Tensor = AttentionFunction.apply(h, qkv, out, heads, cos, sin, eps)
        return y
    return torch.ops.trm_fast.attention_fwd.default(h, qkv, out, heads, cos, sin, eps, False)[0]


class AttentionFunction(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, h: Tensor, qkv: Tensor, out: Tensor, heads: int, cos: Tensor | None, sin: Tensor | None, eps: float
    ) -> Tensor:
        y, saved = torch.ops.trm_fast.attention_fwd.default(h, qkv, out, heads, cos, sin, eps, True)
        ctx.save_for_backward(h, saved, qkv, out, cos, sin)
        ctx.heads, ctx.eps = heads, eps
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        h, saved, qkv, out, cos, sin = ctx.saved_tensors
        gradients = torch.ops.trm_fast.attention_bwd.default(dy, h, saved, qkv, out, ctx.heads, cos, sin, ctx.eps)
        return (*gradients, None, None, None, None)


if not backend.EXTENSION_MISSING:

    @torch.library.register_fake("trm_fast::attention_fwd")
    def _(
        h: Tensor,
        qkv: Tensor,
        out: Tensor,
        heads: int,
        cos: Tensor | None,
        sin: Tensor | None,
        eps: float,
        keep: bool,
    ) -> tuple[Tensor, Tensor]:
        L, D = h.shape[1:]
        return h.new_empty(h.shape), h.new_empty(saved_floats(h, 4 * L * D, L) if keep else 0)

    @torch.library.register_fake("trm_fast::attention_bwd")
    def _(
        dy: Tensor,
        h: Tensor,
        saved: Tensor,
        qkv: Tensor,
        out: Tensor,
        heads: int,
        cos: Tensor | None,
        sin: Tensor | None,
        eps: float,
    ) -> tuple[Tensor, Tensor, Tensor]:
        return h.new_empty(h.shape), qkv.new_empty(qkv.shape), out.new_empty(out.shape)
