"""The forward kernel of the token mixer: SwiGLU, residual and norm over tokens, in the (B, L, D) layout.

A program holds all tokens of some channels of one example, X^T [C x L]. Channels are the rows of the products, and the
program streams the weights: ``G = X^T gate^T``, ``U = X^T up^T``, ``Y^T = X^T + (silu(G) U) down^T``. The activations
stay in registers, where the result of one product is the left factor of the next, and the norm of a channel is a sum
along a row. Only X, Y and the weights move through memory. The backward recomputes the activations, once for dX and
once for the weights.

Blocks have powers of two, token counts do not: tokens come in ``PIECES`` (97 as 64 + 32 + 16), and a block of tokens is
a tuple of pieces. Weights are packed (``token_mixer.pack``): eight rows of the gate and eight of up alternate, then
down^T."""

from __future__ import annotations

import triton
import triton.language as tl

from trm_fast.triton_kernels.keys import fix_cache_keys
from trm_fast.triton_kernels.layer import load_state
from trm_fast.triton_kernels.swiglu import silu_mul, split_interleaved


@triton.jit
def tokens_of(TOKENS: tl.constexpr, PIECE: tl.constexpr):
    """The tokens of a piece. Pieces are powers of two, largest first, so the higher bits of TOKENS are the pieces
    before."""
    return TOKENS // (2 * PIECE) * (2 * PIECE) + tl.arange(0, PIECE)


@triton.jit
def at_piece(i_channel, L, D: tl.constexpr, CHANNELS: tl.constexpr, TOKENS: tl.constexpr, PIECE: tl.constexpr):
    """The offsets of a piece [T x C] in its example, and the mask of the elements that exist."""
    i_token = tokens_of(TOKENS, PIECE)
    m = (i_token < L)[:, None]
    if D % CHANNELS:
        m = m & (i_channel < D)[None, :]
    return i_token[:, None] * D + i_channel[None, :], m


@triton.jit
def read_of(p_mask, m, L, MASK: tl.constexpr, TOKENS: tl.constexpr, PIECE: tl.constexpr):
    """The mask ``m`` without padding, which counts as zeros."""
    if MASK:
        i_token = tokens_of(TOKENS, PIECE)
        m = m & (tl.load(p_mask + i_token, mask=i_token < L, other=0) != 0)[:, None]
    return m


@triton.jit
def load_pieces(p, i_channel, L, D: tl.constexpr, CHANNELS: tl.constexpr, TOKENS: tl.constexpr, PIECES: tl.constexpr):
    b = ()
    for i in tl.static_range(len(PIECES)):
        at, m = at_piece(i_channel, L, D, CHANNELS, TOKENS, PIECES[i])
        b += (tl.load(p + at, mask=m, other=0),)
    return b


@triton.jit
def load_x(
    p_h,
    p_injection,
    p_mask,
    i_channel,
    L,
    D: tl.constexpr,
    INJECT: tl.constexpr,
    MASK: tl.constexpr,
    CHANNELS: tl.constexpr,
    TOKENS: tl.constexpr,
    PIECES: tl.constexpr,
):
    b = ()
    for i in tl.static_range(len(PIECES)):
        at, m = at_piece(i_channel, L, D, CHANNELS, TOKENS, PIECES[i])
        b += (load_state(p_h, p_injection, at, read_of(p_mask, m, L, MASK, TOKENS, PIECES[i]), INJECT),)
    return b


@triton.jit
def transposed(b, PIECES: tl.constexpr):
    t = ()
    for i in tl.static_range(len(PIECES)):
        t += (tl.trans(b[i]),)
    return t


@triton.jit
def weights(p_w, i_row, TOKENS: tl.constexpr, PIECE: tl.constexpr):
    return tl.load(p_w + i_row[:, None] * TOKENS + tokens_of(TOKENS, PIECE)[None, :])


@triton.jit
def over_tokens(b_x, p_w, i_row, TOKENS: tl.constexpr, PIECES: tl.constexpr):
    """X^T [C x L] times rows of the weights, transposed: [C x rows] in float32."""
    b = tl.dot(b_x[0], tl.trans(weights(p_w, i_row, TOKENS, PIECES[0])), input_precision="ieee")
    for i in tl.static_range(1, len(PIECES)):
        b = tl.dot(b_x[i], tl.trans(weights(p_w, i_row, TOKENS, PIECES[i])), b, input_precision="ieee")
    return b


@triton.jit
def add_over_rows(b_y, b_a, p_w, i_row, TOKENS: tl.constexpr, PIECES: tl.constexpr):
    """Y^T [C x L] + b_a [C x rows] times rows of the weights."""
    b = ()
    for i in tl.static_range(len(PIECES)):
        b += (tl.dot(b_a, weights(p_w, i_row, TOKENS, PIECES[i]), b_y[i], input_precision="ieee"),)
    return b


@triton.jit
def _added(b_y, b_x, PIECES: tl.constexpr):
    b = ()
    for i in tl.static_range(len(PIECES)):
        b += (b_y[i] + b_x[i],)
    return b


@triton.jit
def token_mixer_fwd_kernel(
    p_h,
    p_injection,
    p_mask,
    p_packed,
    p_y,
    p_rstd,
    L,
    D: tl.constexpr,
    inner: tl.constexpr,
    eps,
    INJECT: tl.constexpr,
    MASK: tl.constexpr,
    TOKENS: tl.constexpr,
    PIECES: tl.constexpr,
    CHANNELS: tl.constexpr,
    INNER: tl.constexpr,
):
    i_example = tl.program_id(0).to(tl.int64)
    i_channel = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    base = i_example * L * D
    dtype: tl.constexpr = p_h.dtype.element_ty
    p_h, p_injection, p_mask = p_h + base, p_injection + base, p_mask + i_example * L
    b_x = load_x(p_h, p_injection, p_mask, i_channel, L, D, INJECT, MASK, CHANNELS, TOKENS, PIECES)
    b_x = transposed(b_x, PIECES)
    # The sum starts with the residual, which saves registers; not in float32, where each term would be rounded to its
    # size.
    b_y = ()
    for i in tl.static_range(len(PIECES)):
        b_y += (b_x[i].to(tl.float32) if dtype != tl.float32 else tl.zeros_like(b_x[i]),)
    for first in range(0, inner, INNER):
        b = over_tokens(b_x, p_packed, 2 * first + tl.arange(0, 2 * INNER), TOKENS, PIECES)
        b_gate, b_up = split_interleaved(b, CHANNELS, INNER)
        b_hidden = silu_mul(b_gate, b_up, dtype)
        b_y = add_over_rows(b_y, b_hidden, p_packed, 2 * inner + first + tl.arange(0, INNER), TOKENS, PIECES)
    if dtype == tl.float32:
        b_y = _added(b_y, b_x, PIECES)
    square = tl.sum(b_y[0] * b_y[0], 1)
    for i in tl.static_range(1, len(PIECES)):
        square += tl.sum(b_y[i] * b_y[i], 1)
    rstd = tl.rsqrt(square / L + eps)
    for i in tl.static_range(len(PIECES)):
        at, m = at_piece(i_channel, L, D, CHANNELS, TOKENS, PIECES[i])
        tl.store(p_y + base + at, tl.trans((b_y[i] * rstd[:, None]).to(dtype)), mask=m)
    tl.store(p_rstd + i_example * D + i_channel, rstd, mask=i_channel < D)


fix_cache_keys(globals())
