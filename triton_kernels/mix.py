"""The forward kernel of the token mixer: SwiGLU, residual and norm over tokens, in the (B, L, D) layout.

A program holds all tokens of some channels of one example, X^T [C x L]. Channels are the rows of the products, and the
program streams the weights: ``G = X^T gate^T``, ``U = X^T up^T``, ``Y^T = X^T + (silu(G) U) down^T``. The activations
stay in registers, because the result of one product is the left factor of the next, and the norm of a channel is a sum
along a row. Only X, Y and the weights move through memory. The backward recomputes the activations, once for dX and
once for the gradients of the weights.

Triton's blocks have powers of two as sizes, and token counts do not. So a block of tokens is a tuple of pieces with
the sizes ``PIECES``: 97 tokens, rounded up to TOKENS = 112, are 64 + 32 + 16. The packed weights (``token_mixer.pack``)
have 3 inner rows of TOKENS: groups of 8 rows of gate and up alternate, and the rows of down^T follow.
"""

from __future__ import annotations

import triton
import triton.language as tl

from trm_fast.triton_kernels.keys import fix_cache_keys
from trm_fast.triton_kernels.layer import load_state
from trm_fast.triton_kernels.swiglu import deinterleave, silu_mul


@triton.jit
def piece_tokens(TOKENS: tl.constexpr, PIECE: tl.constexpr):
    """The indices of a piece's tokens.

    Pieces are distinct powers of two, largest first, so the bits of TOKENS above PIECE are the first token's index.
    """
    return TOKENS // (2 * PIECE) * (2 * PIECE) + tl.arange(0, PIECE)


@triton.jit
def piece_offsets(i_channel, L, D: tl.constexpr, CHANNELS: tl.constexpr, TOKENS: tl.constexpr, PIECE: tl.constexpr):
    """The offsets of a piece [T x C] in its example, and the mask of its elements inside (L, D)."""
    i_token = piece_tokens(TOKENS, PIECE)
    m = (i_token < L)[:, None]
    if D % CHANNELS:
        m = m & (i_channel < D)[None, :]
    return i_token[:, None] * D + i_channel[None, :], m


@triton.jit
def unmasked(p_mask, m, L, MASK: tl.constexpr, TOKENS: tl.constexpr, PIECE: tl.constexpr):
    """Removes padded tokens from ``m``, the mask of a piece; a masked load then reads them as zeros."""
    if MASK:
        i_token = piece_tokens(TOKENS, PIECE)
        m = m & (tl.load(p_mask + i_token, mask=i_token < L, other=0) != 0)[:, None]
    return m


@triton.jit
def load_pieces(p, i_channel, L, D: tl.constexpr, CHANNELS: tl.constexpr, TOKENS: tl.constexpr, PIECES: tl.constexpr):
    """Loads all tokens of some channels of one example, as pieces [T x C]."""
    b = ()
    for i in tl.static_range(len(PIECES)):
        at, m = piece_offsets(i_channel, L, D, CHANNELS, TOKENS, PIECES[i])
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
    """Loads the input of the layer as pieces [T x C], with the injection added and padding as zeros."""
    b = ()
    for i in tl.static_range(len(PIECES)):
        at, m = piece_offsets(i_channel, L, D, CHANNELS, TOKENS, PIECES[i])
        b += (load_state(p_h, p_injection, at, unmasked(p_mask, m, L, MASK, TOKENS, PIECES[i]), INJECT),)
    return b


@triton.jit
def transposed(b, PIECES: tl.constexpr):
    """Transposes each piece."""
    t = ()
    for i in tl.static_range(len(PIECES)):
        t += (tl.trans(b[i]),)
    return t


@triton.jit
def load_weights(p_w, i_row, TOKENS: tl.constexpr, PIECE: tl.constexpr):
    """Loads a piece [rows x T] of packed weights."""
    return tl.load(p_w + i_row[:, None] * TOKENS + piece_tokens(TOKENS, PIECE)[None, :])


@triton.jit
def over_tokens(b_x, p_w, i_row, TOKENS: tl.constexpr, PIECES: tl.constexpr):
    """Multiplies X^T [C x L] by the transpose of some rows of the weights. Returns [C x rows] in float32."""
    b = tl.dot(b_x[0], tl.trans(load_weights(p_w, i_row, TOKENS, PIECES[0])), input_precision="ieee")
    for i in tl.static_range(1, len(PIECES)):
        b = tl.dot(b_x[i], tl.trans(load_weights(p_w, i_row, TOKENS, PIECES[i])), b, input_precision="ieee")
    return b


@triton.jit
def add_over_rows(b_y, b_a, p_w, i_row, TOKENS: tl.constexpr, PIECES: tl.constexpr):
    """Multiplies b_a [C x rows] by these rows of the weights and adds the product to Y^T [C x L], in float32."""
    b = ()
    for i in tl.static_range(len(PIECES)):
        b += (tl.dot(b_a, load_weights(p_w, i_row, TOKENS, PIECES[i]), b_y[i], input_precision="ieee"),)
    return b


@triton.jit
def _add_pieces(b_y, b_x, PIECES: tl.constexpr):
    """Adds two blocks of tokens piece by piece."""
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
    """Each program computes y (B, L, D) and rstd (B, D) for all tokens of CHANNELS channels of one example."""
    i_example = tl.program_id(0).to(tl.int64)
    i_channel = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    base = i_example * L * D
    dtype: tl.constexpr = p_h.dtype.element_ty
    p_h, p_injection, p_mask = p_h + base, p_injection + base, p_mask + i_example * L
    b_x = load_x(p_h, p_injection, p_mask, i_channel, L, D, INJECT, MASK, CHANNELS, TOKENS, PIECES)
    b_x = transposed(b_x, PIECES)
    # The sum starts with the residual, which saves registers. In float32 the residual is added last, because each
    # partial sum would be rounded at the residual's magnitude.
    b_y = ()
    for i in tl.static_range(len(PIECES)):
        b_y += (b_x[i].to(tl.float32) if dtype != tl.float32 else tl.zeros_like(b_x[i]),)
    for first in range(0, inner, INNER):
        b = over_tokens(b_x, p_packed, 2 * first + tl.arange(0, 2 * INNER), TOKENS, PIECES)
        b_gate, b_up = deinterleave(b, CHANNELS, INNER)
        b_hidden = silu_mul(b_gate, b_up, dtype)
        b_y = add_over_rows(b_y, b_hidden, p_packed, 2 * inner + first + tl.arange(0, INNER), TOKENS, PIECES)
    if dtype == tl.float32:
        b_y = _add_pieces(b_y, b_x, PIECES)
    square = tl.sum(b_y[0] * b_y[0], 1)
    for i in tl.static_range(1, len(PIECES)):
        square += tl.sum(b_y[i] * b_y[i], 1)
    rstd = tl.rsqrt(square / L + eps)
    for i in tl.static_range(len(PIECES)):
        at, m = piece_offsets(i_channel, L, D, CHANNELS, TOKENS, PIECES[i])
        tl.store(p_y + base + at, tl.trans((b_y[i] * rstd[:, None]).to(dtype)), mask=m)
    tl.store(p_rstd + i_example * D + i_channel, rstd, mask=i_channel < D)


fix_cache_keys(globals())
