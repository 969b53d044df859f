"""A whole attention layer: queries, keys and values, rotary positions, attention, output, residual and norm."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from trm_fast.ops import backend, reference
from trm_fast.ops.dispatch import define_triton, triton_kernels
from trm_fast.ops.gated import saved_floats


def attention(
    h: Tensor,
    qkv: Tensor,
    out: Tensor,
    heads: int,
    rotary: tuple[Tensor, Tensor] | None = None,
    eps: float = 1e-5,
    mask: Tensor | None = None,
    causal: bool = False,
) -> Tensor:
    """``rms_norm(h + out @ attention(qkv @ h))``: every token sees every token, or all that a mask leaves.

    Args:
        h: (B, L, D).
        qkv: (3 D, D), queries above keys above values, each head by head.
        out: (D, D).
        heads: a divisor of D.
        rotary: cos and sin, (L, D / heads) each, for rotary positions (halves rotated against each other; arXiv
            2104.09864); they get no gradient.
        eps: of the norm.
        mask: bool (B, L), which tokens are there; padding is seen by itself alone.
        causal: no token sees later ones.

    Returns:
        (B, L, D).

    Raises:
        ValueError: weights, tables, heads or a mask that do not fit ``h``.
    """
    L, D = h.shape[1:]
    if qkv.shape != (3 * D, D) or out.shape != (D, D) or D % heads:
        raise ValueError(
            f"attention: qkv {tuple(qkv.shape)} and out {tuple(out.shape)} must be ({3 * D}, {D}) and ({D}, {D}), "
            f"and {heads} heads must divide {D}"
        )
    if rotary is not None and any(table.shape != (L, D // heads) for table in rotary):
        raise ValueError(f"attention: cos and sin must be ({L}, {D // heads})")
    chosen = backend.select_masked("attention", mask, causal, heads, h, qkv, out)
    if chosen == "reference":
        return reference.attention(h, qkv, out, heads, rotary, eps, mask, causal)
    cos, sin = rotary or (None, None)
    if torch.is_grad_enabled() and (h.requires_grad or qkv.requires_grad or out.requires_grad):
        y: Tensor = AttentionFunction.apply(h, qkv, out, heads, cos, sin, eps, chosen, mask, causal)
        return y
    result, _ = backend.kernels(chosen).attention_fwd.default(h, qkv, out, heads, cos, sin, eps, False, mask, causal)
    return result


class AttentionFunction(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        h: Tensor,
        qkv: Tensor,
        out: Tensor,
        heads: int,
        cos: Tensor | None,
        sin: Tensor | None,
        eps: float,
        chosen: str,
        mask: Tensor | None,
        causal: bool,
    ) -> Tensor:
        y, saved = backend.kernels(chosen).attention_fwd.default(h, qkv, out, heads, cos, sin, eps, True, mask, causal)
        ctx.save_for_backward(h, saved, qkv, out, cos, sin, mask)
        ctx.heads, ctx.eps, ctx.backend, ctx.causal = heads, eps, chosen, causal
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        h, saved, qkv, out, cos, sin, mask = ctx.saved_tensors
        gradients = backend.kernels(ctx.backend).attention_bwd.default(
            dy, h, saved, qkv, out, ctx.heads, cos, sin, ctx.eps, mask, ctx.causal
        )
        return (*gradients, None, None, None, None, None, None, None)


def _triton_fwd_fake(
    h: Tensor,
    qkv: Tensor,
    out: Tensor,
    heads: int,
    cos: Tensor | None,
    sin: Tensor | None,
    eps: float,
    keep: bool,
    mask: Tensor | None,
    causal: bool,
) -> tuple[Tensor, Tensor]:
    layer = triton_kernels("attention").Attention(qkv, out, heads, cos, sin, eps)
    return h.new_empty(h.shape), triton_kernels("layer").saved_like(layer, h, keep)


def _fwd_fake(
    h: Tensor,
    qkv: Tensor,
    out: Tensor,
    heads: int,
    cos: Tensor | None,
    sin: Tensor | None,
    eps: float,
    keep: bool,
    mask: Tensor | None,
    causal: bool,
) -> tuple[Tensor, Tensor]:
    L, D = h.shape[1:]
    return h.new_empty(h.shape), h.new_empty(saved_floats(h, 4 * L * D, L) if keep else 0)


def _bwd_fake(
    dy: Tensor,
    h: Tensor,
    saved: Tensor,
    qkv: Tensor,
    out: Tensor,
    heads: int,
    cos: Tensor | None,
    sin: Tensor | None,
    eps: float,
    mask: Tensor | None,
    causal: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    return h.new_empty(h.shape), qkv.new_empty(qkv.shape), out.new_empty(out.shape)


define_triton(
    "attention",
    "attention_fwd(Tensor h, Tensor qkv, Tensor out, int heads, Tensor? cos, Tensor? sin, float eps, bool keep, "
    "Tensor? mask, bool causal) -> (Tensor y, Tensor saved)",
    _triton_fwd_fake,
)
define_triton(
    "attention",
    "attention_bwd(Tensor dy, Tensor h, Tensor saved, Tensor qkv, Tensor out, int heads, Tensor? cos, Tensor? sin, "
    "float eps, Tensor? mask, bool causal) -> (Tensor dh, Tensor dqkv, Tensor dout)",
    _bwd_fake,
)
if not backend.EXTENSION_MISSING:
    torch.library.register_fake("trm_fast::attention_fwd", _fwd_fake)
    torch.library.register_fake("trm_fast::attention_bwd", _bwd_fake)
