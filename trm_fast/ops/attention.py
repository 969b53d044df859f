"""A whole attention layer: queries, keys and values, rotary positions, attention, output, residual and norm."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from trm_fast.ops._core import dispatch
from trm_fast.ops._core.registry import GPU_FLOATS, Case, Op, kernels, register, triton_kernels
from trm_fast.ops.mlp import layer_bwd_fake, saved_floats
from trm_fast.ops.rms_norm import rms_norm_reference
from trm_fast.ops.tensors import accumulate


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
    chosen = dispatch.select_masked("attention", mask, causal, heads, h, qkv, out)
    if chosen == "reference":
        return attention_reference(h, qkv, out, heads, rotary, eps, mask, causal)
    cos, sin = rotary or (None, None)
    if torch.is_grad_enabled() and (h.requires_grad or qkv.requires_grad or out.requires_grad):
        y: Tensor = AttentionFunction.apply(chosen, heads, eps, causal, h, qkv, out, cos, sin, mask)
        return y
    result, _ = kernels(chosen).attention_fwd.default(h, qkv, out, heads, cos, sin, eps, False, mask, causal)
    return result


def attention_reference(
    h: Tensor,
    qkv: Tensor,
    out: Tensor,
    heads: int,
    rotary: tuple[Tensor, Tensor] | None = None,
    eps: float = 1e-5,
    mask: Tensor | None = None,
    causal: bool = False,
) -> Tensor:
    B, L, D = h.shape
    q, k, v = F.linear(h, qkv).view(B, L, 3, heads, D // heads).permute(2, 0, 3, 1, 4)
    if rotary is not None:
        q, k = _rotate(q, *rotary), _rotate(k, *rotary)
    mixed = F.scaled_dot_product_attention(q, k, v, _visible(mask, L, causal), is_causal=causal and mask is None)
    return rms_norm_reference(F.linear(mixed.transpose(1, 2).reshape(B, L, D), out), h, eps=eps)


def _visible(mask: Tensor | None, L: int, causal: bool) -> Tensor | None:
    """Which key each query sees, (B, 1, L, L); a token always sees itself, so no row is empty."""
    if mask is None:
        return None
    position = torch.arange(L, device=mask.device)
    visible = mask[:, None, None, :].expand(-1, 1, L, -1)
    if causal:
        visible = visible & (position[:, None] >= position)
    return visible | (position[:, None] == position)


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    a, b = accumulate(x).chunk(2, dim=-1)
    return (torch.cat((a, b), -1) * cos + torch.cat((-b, a), -1) * sin).to(x.dtype)


class AttentionFunction(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, chosen: str, heads: int, eps: float, causal: bool, *tensors: Tensor | None) -> Tensor:
        h, qkv, out, cos, sin, mask = tensors
        y, saved = kernels(chosen).attention_fwd.default(h, qkv, out, heads, cos, sin, eps, True, mask, causal)
        ctx.save_for_backward(saved, *tensors)
        ctx.options = chosen, heads, eps, causal
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        saved, h, qkv, out, cos, sin, mask = ctx.saved_tensors
        chosen, heads, eps, causal = ctx.options
        gradients = kernels(chosen).attention_bwd.default(dy, h, saved, qkv, out, heads, cos, sin, eps, mask, causal)
        return (None, None, None, None, *gradients, None, None, None)


def _triton_fwd_fake(h: Tensor, qkv: Tensor, out: Tensor, heads: int, *options: Any) -> tuple[Tensor, Tensor]:
    cos, sin, eps, keep, _, _ = options
    layer = triton_kernels("attention").Attention(qkv, out, heads, cos, sin, eps)
    return h.new_empty(h.shape), triton_kernels("layer").saved_like(layer, h, keep)


def _fwd_fake(h: Tensor, qkv: Tensor, out: Tensor, heads: int, *options: Any) -> tuple[Tensor, Tensor]:
    L, D = h.shape[1:]
    _, _, _, keep, _, _ = options
    return h.new_empty(h.shape), h.new_empty(saved_floats(h, 4 * L * D, L) if keep else 0)


_MATRICES = [(2, 19, 128), (384, 128), (128, 128)]
register(
    Op(
        attention,
        attention_reference,
        kernels={"cpp": (torch.float32, torch.bfloat16), "triton": GPU_FLOATS},
        inference_only={"cpp": (torch.bfloat16,)},
        fakes={"attention_fwd": _fwd_fake, "attention_bwd": layer_bwd_fake},
        triton=[
            "attention_fwd(Tensor h, Tensor qkv, Tensor out, int heads, Tensor? cos, Tensor? sin, float eps, "
            "bool keep, Tensor? mask, bool causal) -> (Tensor y, Tensor saved)",
            "attention_bwd(Tensor dy, Tensor h, Tensor saved, Tensor qkv, Tensor out, int heads, Tensor? cos, "
            "Tensor? sin, float eps, Tensor? mask, bool causal) -> (Tensor dh, Tensor dqkv, Tensor dout)",
        ],
        triton_fakes={"attention_fwd": _triton_fwd_fake},
        cases=[
            Case(_MATRICES, 3, lambda op, *inputs: op(*inputs, heads=2)),
            Case(
                _MATRICES,
                3,
                lambda op, *inputs: op(*inputs[:3], heads=2, mask=inputs[3], causal=True),
                lambda _: [torch.arange(19) % 7 < torch.tensor([[7], [4]])],
            ),
        ],
        timed=lambda batch: Case(
            [(batch, 97, 512), (1536, 512), (512, 512)], 3, lambda op, *inputs: op(*inputs, heads=8)
        ),
        matrix=True,
    )
)
