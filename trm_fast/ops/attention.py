"""The op ``attention``: a whole attention layer, with rotary positions, output projection, residual and norm."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from trm_fast.ops._core import dispatch
from trm_fast.ops._core.registry import Case, Op, register
from trm_fast.ops.layer import layer_kernels, layer_weights, run_layer, saved_floats
from trm_fast.ops.rms_norm import rms_norm_reference
from trm_fast.ops.tensors import accumulate, check_tensors


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
    """``rms_norm(h + out @ attention(qkv @ h))``. Without ``mask`` and ``causal`` every token attends to every token.

    Args:
        h: (B, L, D), float32, bfloat16 or float16 for kernels; any floating dtype for the reference.
        qkv: (3 D, D), the weights of queries, keys and values, each ordered by head. Same dtype as ``h``.
        out: (D, D), the output projection.
        heads: number of heads, a divisor of D.
        rotary: cos and sin, (L, D / heads) each, for rotary positions (arXiv 2104.09864), which rotate channel i of a
            head's first half with channel i of its second half. They get no gradient.
        eps: added to the mean square in the norm.
        mask: bool (B, L), False for padding. A padded position attends to itself, and no other position attends to it.
        causal: whether a token attends only to itself and earlier ones.

    Returns:
        (B, L, D), the dtype of ``h``.

    Raises:
        TypeError: a tensor is not floating-point.
        ValueError: the weights, tables, heads or mask do not fit ``h``.

    Examples:
        >>> attention(torch.ones(2, 5, 8), torch.zeros(24, 8), torch.zeros(8, 8), heads=2).shape
        torch.Size([2, 5, 8])
    """
    qkv, out = layer_weights("attention", "h qkv out", h, qkv, out)
    check_tensors("attention", "h cos sin", h, *rotary or ())
    L, D = h.shape[1:]
    if qkv.shape != (3 * D, D) or out.shape != (D, D) or heads < 1 or D % heads:
        raise ValueError(
            f"attention: qkv {tuple(qkv.shape)} and out {tuple(out.shape)} must be ({3 * D}, {D}) and ({D}, {D}), "
            f"and {heads} heads must divide {D}"
        )
    if rotary is not None and any(table.shape != (L, D // heads) for table in rotary):
        raise ValueError(f"attention: cos and sin must be ({L}, {D // heads})")
    chosen = dispatch.select_masked("attention", mask, causal, heads, h)
    if chosen == "reference":
        return attention_reference(h, qkv, out, heads, rotary, eps, mask, causal)
    cos, sin = rotary or (None, None)
    return run_layer("attention", chosen, h, qkv, out, cos, sin, mask, heads, eps, causal)


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
    # The fast implementations have only first derivatives.
    twice = h.dtype == torch.float64 or dispatch.transformed()
    with sdpa_kernel(SDPBackend.MATH) if twice else nullcontext():
        mixed = F.scaled_dot_product_attention(q, k, v, _visible(mask, L, causal), is_causal=causal and mask is None)
    return rms_norm_reference(F.linear(mixed.transpose(1, 2).reshape(B, L, D), out), h, eps=eps)


def _layer_reference(
    h: Tensor,
    qkv: Tensor,
    out: Tensor,
    cos: Tensor | None,
    sin: Tensor | None,
    mask: Tensor | None,
    heads: int,
    eps: float,
    causal: bool,
) -> Tensor:
    """The reference with the kernels' arguments."""
    rotary = None if cos is None or sin is None else (cos.detach(), sin.detach())
    return attention_reference(h, qkv, out, heads, rotary, eps, mask, causal)


def _visible(mask: Tensor | None, L: int, causal: bool) -> Tensor | None:
    """Which keys each query attends to, bool (B, 1, L, L). Every token attends to itself, so no row is empty."""
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


def attention_saved(h: Tensor, *_: Any) -> int:
    L, D = h.shape[1:]
    return saved_floats(h, 4 * L * D, L, gate_up=False)


_LAYER = "Tensor qkv, Tensor out, Tensor? cos, Tensor? sin, Tensor? mask, int heads, float eps, bool causal"
_MATRICES = [(2, 19, 128), (384, 128), (128, 128)]
register(
    Op(
        attention,
        attention_reference,
        layer_reference=_layer_reference,
        **layer_kernels("attention", "Attention", _LAYER, attention_saved),
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
    )
)
