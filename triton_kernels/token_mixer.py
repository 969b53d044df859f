"""SwiGLU over tokens with residual and norm over tokens, fused whole, in the natural (B, L, D) layout.

A program holds all tokens of some channels of one sample, X [L x C], and the weights are the left operands:
``G = gate X``, ``U = up X``, ``Y = X + down (silu(G) U)``, then the norm is a reduction over columns. Nothing but X and
Y touches memory; backward computes the activations again, once for dX and once for the weights. More tokens than
``MOST_TOKENS`` no longer fit, and go through batched products and the ops' single kernels.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor
from trm_fast.triton_kernels import configs
from trm_fast.triton_kernels.layer import Spec, load_state, single_bwd, single_fwd
from trm_fast.triton_kernels.mlp import in_dtype_of
from trm_fast.triton_kernels.rms_norm import normalize, rms_norm_bwd
from trm_fast.triton_kernels.swiglu import silu_mul, silu_mul_bwd, swiglu_bwd, swiglu_fwd

MOST_TOKENS = 128
INNER_MULTIPLE = 64  # the packed inner width's divisor: no kernel masks weights


@triton.jit
def _there(p_mask, m_token, MASK: tl.constexpr):
    """Which tokens are read: padding counts as zeros."""
    if MASK:
        m_token = m_token & (tl.load(p_mask, mask=m_token, other=0) != 0)
    return m_token


@triton.jit
def _load_norm_bwd(p_dy, p_y, p_rstd, at, m, i_rstd, m_rstd, L):
    """The gradient before the norm, ``rstd (dy - y mean(dy y))`` over tokens, in float32."""
    b_dy = tl.load(p_dy + at, mask=m, other=0).to(tl.float32)
    b_y = tl.load(p_y + at, mask=m, other=0).to(tl.float32)
    rstd = tl.load(p_rstd + i_rstd, mask=m_rstd, other=0)
    return rstd[None, :] * (b_dy - b_y * (tl.sum(b_dy * b_y, 0) / L)[None, :])


@triton.jit
def token_mixer_fwd_kernel(
    p_h,
    p_injection,
    p_mask,
    p_packed,
    p_y,
    p_rstd,
    L,
    D,
    inner: tl.constexpr,
    eps,
    INJECT: tl.constexpr,
    MASK: tl.constexpr,
    TOKENS: tl.constexpr,
    CHANNELS: tl.constexpr,
    INNER: tl.constexpr,
):
    i_sample = tl.program_id(0).to(tl.int64)
    i_channel, i_token = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS), tl.arange(0, TOKENS)
    m_channel = i_channel < D
    at = i_sample * L * D + i_token[:, None] * D + i_channel[None, :]
    m = (i_token < L)[:, None] & m_channel[None, :]
    m_there = _there(p_mask + i_sample * L + i_token, i_token < L, MASK)
    b_x = load_state(p_h, p_injection, at, m & m_there[:, None], INJECT)
    b_y = b_x.to(tl.float32)  # the residual: as the sum's start it takes no registers of its own
    for first in range(0, inner, INNER):
        at_w = p_packed + (first + tl.arange(0, INNER))[:, None] * TOKENS + i_token[None, :]
        b_gate = tl.dot(tl.load(at_w), b_x, input_precision="ieee")
        b_up = tl.dot(tl.load(at_w + inner * TOKENS), b_x, input_precision="ieee")
        b_down = tl.load(at_w + 2 * inner * TOKENS)
        b_y = tl.dot(tl.trans(b_down), silu_mul(b_gate, b_up).to(b_x.dtype), b_y, input_precision="ieee")
    rstd = tl.rsqrt(tl.sum(b_y * b_y, 0) / L + eps)
    tl.store(p_y + at, (b_y * rstd[None, :]).to(p_y.dtype.element_ty), mask=m)
    tl.store(p_rstd + i_sample * D + i_channel, rstd, mask=m_channel)


@triton.jit
def token_mixer_bwd_kernel(
    p_dy,
    p_h,
    p_injection,
    p_mask,
    p_y,
    p_rstd,
    p_packed,
    p_dh,
    p_d,
    p_x,
    L,
    D,
    inner: tl.constexpr,
    INJECT: tl.constexpr,
    MASK: tl.constexpr,
    TOKENS: tl.constexpr,
    CHANNELS: tl.constexpr,
    INNER: tl.constexpr,
):
    """The gradient of the input; and for the weights' kernel, which reads them many times, the gradient before the
    norm (d) and the input as it was read (x)."""
    i_sample = tl.program_id(0).to(tl.int64)
    i_channel, i_token = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS), tl.arange(0, TOKENS)
    m_channel = i_channel < D
    at = i_sample * L * D + i_token[:, None] * D + i_channel[None, :]
    m = (i_token < L)[:, None] & m_channel[None, :]
    m_there = _there(p_mask + i_sample * L + i_token, i_token < L, MASK)
    b_x = load_state(p_h, p_injection, at, m & m_there[:, None], INJECT)
    b_dx = _load_norm_bwd(p_dy, p_y, p_rstd, at, m, i_sample * D + i_channel, m_channel, L)
    b_d = b_dx.to(b_x.dtype)
    tl.store(p_d + at, b_d, mask=m)
    if INJECT or MASK:
        tl.store(p_x + at, b_x, mask=m)
    for first in range(0, inner, INNER):
        at_w = p_packed + (first + tl.arange(0, INNER))[:, None] * TOKENS + i_token[None, :]
        b_wgate, b_wup = tl.load(at_w), tl.load(at_w + inner * TOKENS)
        b_gate = tl.dot(b_wgate, b_x, input_precision="ieee")
        b_up = tl.dot(b_wup, b_x, input_precision="ieee")
        b_dhidden = tl.dot(tl.load(at_w + 2 * inner * TOKENS), b_d, input_precision="ieee")
        b_dgate, b_dup = silu_mul_bwd(b_dhidden, b_gate, b_up)
        b_dx = tl.dot(tl.trans(b_wgate), b_dgate.to(b_x.dtype), b_dx, input_precision="ieee")
        b_dx = tl.dot(tl.trans(b_wup), b_dup.to(b_x.dtype), b_dx, input_precision="ieee")
    if MASK:
        b_dx = tl.where(m_there[:, None], b_dx, 0.0)
    tl.store(p_dh + at, b_dx.to(p_dh.dtype.element_ty), mask=m)


@triton.jit
def token_mixer_bwd_weights_kernel(
    p_x,
    p_d,
    p_packed,
    p_sums,
    L,
    D,
    inner,
    tiles,
    tiles_a_slab: tl.constexpr,
    ADD: tl.constexpr,
    TOKENS: tl.constexpr,
    CHANNELS: tl.constexpr,
    INNER: tl.constexpr,
):
    """The weights' gradients, packed as they are: a program sums one slab of (sample, channels) tiles for some rows."""
    i_inner, i_token = tl.program_id(0) * INNER + tl.arange(0, INNER), tl.arange(0, TOKENS)
    at_w = i_inner[:, None] * TOKENS + i_token[None, :]
    b_wgate = tl.load(p_packed + at_w)
    b_wup = tl.load(p_packed + at_w + inner * TOKENS)
    b_wdown = tl.load(p_packed + at_w + 2 * inner * TOKENS)
    at_sums = p_sums + tl.program_id(1).to(tl.int64) * 3 * inner * TOKENS + at_w
    if ADD:
        b_sgate = tl.load(at_sums)
        b_sup = tl.load(at_sums + inner * TOKENS)
        b_sdown = tl.load(at_sums + 2 * inner * TOKENS)
    else:
        b_sgate = tl.zeros((INNER, TOKENS), tl.float32)
        b_sup = tl.zeros((INNER, TOKENS), tl.float32)
        b_sdown = tl.zeros((INNER, TOKENS), tl.float32)
    a_sample = tl.cdiv(D, CHANNELS)
    for i_tile in range(tiles_a_slab):
        tile = tl.program_id(1) * tiles_a_slab + i_tile
        i_sample = (tile // a_sample).to(tl.int64)
        i_channel = tile % a_sample * CHANNELS + tl.arange(0, CHANNELS)
        at = i_sample * L * D + i_token[:, None] * D + i_channel[None, :]
        m = (i_token < L)[:, None] & ((i_channel < D) & (tile < tiles))[None, :]
        b_x = tl.load(p_x + at, mask=m, other=0)
        b_d = tl.load(p_d + at, mask=m, other=0)
        b_gate = tl.dot(b_wgate, b_x, input_precision="ieee")
        b_up = tl.dot(b_wup, b_x, input_precision="ieee")
        b_dgate, b_dup = silu_mul_bwd(tl.dot(b_wdown, b_d, input_precision="ieee"), b_gate, b_up)
        b_xt = tl.trans(b_x)
        b_sgate = tl.dot(b_dgate.to(b_x.dtype), b_xt, b_sgate, input_precision="ieee")
        b_sup = tl.dot(b_dup.to(b_x.dtype), b_xt, b_sup, input_precision="ieee")
        b_hidden = silu_mul(b_gate, b_up).to(b_x.dtype)
        b_sdown = tl.dot(b_hidden, tl.trans(b_d), b_sdown, input_precision="ieee")
    tl.store(at_sums, b_sgate)
    tl.store(at_sums + inner * TOKENS, b_sup)
    tl.store(at_sums + 2 * inner * TOKENS, b_sdown)


class TokenMixer:
    """The layer (``layer.Layer``); gate_up (2 I, L), down (L, I).

    The kernels take gate, up and down^T as (3, I, L), both rounded up: packed once a call, not once a launch.
    ``mask``, uint8 (B, L): tokens where it is 0 are read as zeros.
    """

    def __init__(self, gate_up: Tensor, down: Tensor, eps: float, mask: Tensor | None = None) -> None:
        self.gate_up, self.down, self.eps, self.mask = gate_up.contiguous(), down.contiguous(), eps, mask
        self.fused = down.shape[0] <= MOST_TOKENS
        self._packed: Tensor | None = None
        self.sums: list[Tensor] | None = None

    def kept(self, h: Tensor) -> list[Spec]:
        B, _, D = h.shape
        rstd: Spec = ((B, 1, D), torch.float32)
        return [rstd] if self.fused else [rstd, ((B, self.gate_up.shape[0], D), h.dtype)]

    def packed(self) -> Tensor:
        if self._packed is None:
            L, inner = self.down.shape
            wide = triton.cdiv(inner, INNER_MULTIPLE) * INNER_MULTIPLE
            self._packed = self.down.new_zeros(3, wide, max(16, triton.next_power_of_2(L)))
            self._packed[:2, :inner, :L] = self.gate_up.view(2, inner, L)
            self._packed[2, :inner, :L] = self.down.t()
        return self._packed

    def forward(self, h: Tensor, injection: Tensor | None, y: Tensor, kept: Sequence[Tensor]) -> None:
        B, L, D = h.shape
        rstd = kept[0] if kept else h.new_empty(B, 1, D, dtype=torch.float32)
        if not self.fused:
            h = self._read(h, injection)
            gate_up = _over_tokens(self.gate_up, h)
            if kept:
                kept[1].copy_(gate_up)
            normalize(_over_tokens(self.down, swiglu_fwd(gate_up, 1)), h, 1, self.eps, y, rstd)
        elif h.numel():
            packed = self.packed()
            config = configs.lookup("token_mixer_fwd", h, L, self.down.shape[1], block=packed.shape[2])
            token_mixer_fwd_kernel[(B, triton.cdiv(D, config["CHANNELS"]))](
                h, h if injection is None else injection, h if self.mask is None else self.mask, packed, y, rstd,
                L, D, packed.shape[1], self.eps,
                INJECT=injection is not None, MASK=self.mask is not None, TOKENS=packed.shape[2], **config,
            )  # fmt: skip

    def backward(self, dy: Tensor, h: Tensor, injection: Tensor | None, y: Tensor, kept: Sequence[Tensor]) -> Tensor:
        if not self.fused:
            return self._backward_in_parts(dy, self._read(h, injection), y, *kept)
        dh = torch.empty_like(h)
        if not h.numel():
            return dh
        (rstd,), packed, inject, masked = kept, self.packed(), injection is not None, self.mask is not None
        B, L, D = h.shape
        _, inner, tokens = packed.shape
        d = torch.empty_like(h)
        x = torch.empty_like(h) if inject or masked else h
        config = configs.lookup("token_mixer_bwd", h, L, self.down.shape[1], block=tokens)
        token_mixer_bwd_kernel[(B, triton.cdiv(D, config["CHANNELS"]))](
            dy, h, h if injection is None else injection, h if self.mask is None else self.mask, y, rstd, packed,
            dh, d, x, L, D, inner,
            INJECT=inject, MASK=masked, TOKENS=tokens, **config,
        )  # fmt: skip
        config = dict(configs.lookup("token_mixer_bwd_weights", h, L, self.down.shape[1], block=tokens))
        tiles = B * triton.cdiv(D, config["CHANNELS"])
        slabs = min(config.pop("slabs"), tiles)
        add = self.sums is not None
        if self.sums is None:
            self.sums = [h.new_empty(slabs, *packed.shape, dtype=torch.float32)]
        token_mixer_bwd_weights_kernel[(inner // config["INNER"], slabs)](
            x, d, packed, self.sums[0], L, D, inner, tiles, triton.cdiv(tiles, slabs), ADD=add, TOKENS=tokens, **config
        )
        return dh

    def _backward_in_parts(self, dy: Tensor, h: Tensor, y: Tensor, rstd: Tensor, gate_up: Tensor) -> Tensor:
        d = rms_norm_bwd(dy, y, rstd, 1)
        dgate_up = swiglu_bwd(_over_tokens(self.down.t(), d), gate_up, 1)
        pairs = ((dgate_up, h), (d, swiglu_fwd(gate_up, 1)))
        products = [torch.bmm(a, b.transpose(1, 2)).sum(0, dtype=torch.float32) for a, b in pairs]
        self.sums = products if self.sums is None else [s.add_(p) for s, p in zip(self.sums, products, strict=True)]
        dh = d + _over_tokens(self.gate_up.t(), dgate_up)
        return dh if self.mask is None else dh * self.mask.unsqueeze(-1)

    def _read(self, h: Tensor, injection: Tensor | None) -> Tensor:
        h = h if injection is None else h + injection
        return h if self.mask is None else h * self.mask.unsqueeze(-1)

    def gradients(self) -> list[Tensor]:
        weights = (self.gate_up, self.down)
        if self.sums is None or not self.fused:
            return in_dtype_of(self.sums, weights)
        L, inner = self.down.shape
        total = self.sums[0].sum(0)[:, :inner, :L]
        return in_dtype_of([total[:2].reshape(2 * inner, L), total[2].t().contiguous()], weights)


def _over_tokens(w: Tensor, x: Tensor) -> Tensor:
    return torch.bmm(w.expand(len(x), -1, -1), x)


def token_mixer_fwd(h: Tensor, gate_up: Tensor, down: Tensor, eps: float, keep: bool) -> tuple[Tensor, Tensor]:
    """(y, saved); saved is empty unless ``keep``."""
    return single_fwd(TokenMixer(gate_up, down, eps), h, keep)


def token_mixer_bwd(
    dy: Tensor, h: Tensor, saved: Tensor, gate_up: Tensor, down: Tensor, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """(dh, dgate_up, ddown)."""
    return single_bwd(TokenMixer(gate_up, down, eps), dy, h, saved)
