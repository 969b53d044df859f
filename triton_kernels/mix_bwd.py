"""The backward kernels of the token mixer (``mix``). One computes the gradient of the input, the other the gradients of
the weights. Both recompute the activations.
"""

from __future__ import annotations

import triton
import triton.language as tl

from trm_fast.triton_kernels.keys import fix_cache_keys
from trm_fast.triton_kernels.mix import (
    add_over_rows,
    load_pieces,
    load_weights,
    load_x,
    over_tokens,
    piece_offsets,
    piece_tokens,
    transposed,
    unmasked,
)
from trm_fast.triton_kernels.swiglu import INTERLEAVE_ROWS, deinterleave, interleave, silu_mul, silu_mul_bwd


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
    D: tl.constexpr,
    inner: tl.constexpr,
    INJECT: tl.constexpr,
    MASK: tl.constexpr,
    TOKENS: tl.constexpr,
    PIECES: tl.constexpr,
    CHANNELS: tl.constexpr,
    INNER: tl.constexpr,
):
    """Each program computes dh, the gradient of the input, for all tokens of CHANNELS channels of one example.

    dh is zero at padded tokens. The kernel also stores two inputs of the kernel for the weights: d and x, both (B, L,
    D) in h's dtype. ``d = rstd (dy - y mean(dy y))``, with the mean over tokens, is the gradient before the norm. x is
    the input with injection and mask; without both, x is h and is not written.
    """
    i_example = tl.program_id(0).to(tl.int64)
    i_channel = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    base = i_example * L * D
    dtype: tl.constexpr = p_h.dtype.element_ty
    b_dy, b_y = (
        load_pieces(p_dy + base, i_channel, L, D, CHANNELS, TOKENS, PIECES),
        load_pieces(p_y + base, i_channel, L, D, CHANNELS, TOKENS, PIECES),
    )
    mean = tl.sum(b_dy[0].to(tl.float32) * b_y[0].to(tl.float32), 0)
    for i in tl.static_range(1, len(PIECES)):
        mean += tl.sum(b_dy[i].to(tl.float32) * b_y[i].to(tl.float32), 0)
    mean = mean / L
    rstd = tl.load(p_rstd + i_example * D + i_channel, mask=i_channel < D, other=0)
    b_d, b_dx = (), ()
    for i in tl.static_range(len(PIECES)):
        at, m = piece_offsets(i_channel, L, D, CHANNELS, TOKENS, PIECES[i])
        b = rstd[None, :] * (b_dy[i].to(tl.float32) - b_y[i].to(tl.float32) * mean[None, :])
        tl.store(p_d + base + at, b.to(dtype), mask=m)
        b = tl.trans(b.to(dtype))
        b_d += (b,)
        b_dx += (b.to(tl.float32),)
    p_h, p_injection, p_mask = p_h + base, p_injection + base, p_mask + i_example * L
    b_x = load_x(p_h, p_injection, p_mask, i_channel, L, D, INJECT, MASK, CHANNELS, TOKENS, PIECES)
    if INJECT or MASK:
        for i in tl.static_range(len(PIECES)):
            at, m = piece_offsets(i_channel, L, D, CHANNELS, TOKENS, PIECES[i])
            tl.store(p_x + base + at, b_x[i], mask=m)
    b_x = transposed(b_x, PIECES)
    for first in range(0, inner, INNER):
        i_in = 2 * first + tl.arange(0, 2 * INNER)
        b_gate, b_up = deinterleave(over_tokens(b_x, p_packed, i_in, TOKENS, PIECES), CHANNELS, INNER)
        b_dhidden = over_tokens(b_d, p_packed, 2 * inner + first + tl.arange(0, INNER), TOKENS, PIECES)
        b_dgate, b_dup = silu_mul_bwd(b_dhidden, b_gate, b_up, dtype)
        b_dx = add_over_rows(b_dx, interleave(b_dgate, b_dup, CHANNELS, INNER), p_packed, i_in, TOKENS, PIECES)
    for i in tl.static_range(len(PIECES)):
        at, m = piece_offsets(i_channel, L, D, CHANNELS, TOKENS, PIECES[i])
        b = tl.trans(b_dx[i].to(dtype))
        # Two masked stores instead of one tl.where: with the select, ptxas inserts a wait after every dot.
        if MASK:
            m_unmasked = unmasked(p_mask, m, L, MASK, TOKENS, PIECES[i])
            tl.store(p_dh + base + at, tl.zeros_like(b), mask=m & ~m_unmasked)
            m = m_unmasked
        tl.store(p_dh + base + at, b, mask=m)


@triton.jit
def _load_weight_rows(p_w, i_row, TOKENS: tl.constexpr, PIECES: tl.constexpr):
    """Loads rows of packed weights as pieces [rows x T]."""
    b = ()
    for i in tl.static_range(len(PIECES)):
        b += (load_weights(p_w, i_row, TOKENS, PIECES[i]),)
    return b


@triton.jit
def _zeros(ROWS: tl.constexpr, PIECE: tl.constexpr):
    """The initial sum of one piece."""
    return tl.zeros((ROWS, PIECE), tl.float32)


@triton.jit
def _zero_sums(ROWS: tl.constexpr, PIECES: tl.constexpr):
    """The initial sums of one matrix: pieces [rows x T] of float32 zeros."""
    b = ()
    for i in tl.static_range(len(PIECES)):
        b += (_zeros(ROWS, PIECES[i]),)
    return b


@triton.jit
def _store_sums(p_sums, i_row, b, ADD: tl.constexpr, TOKENS: tl.constexpr, PIECES: tl.constexpr):
    """Stores sums of one matrix. With ADD it adds them to the stored sums of earlier applications."""
    for i in tl.static_range(len(PIECES)):
        at = i_row[:, None] * TOKENS + piece_tokens(TOKENS, PIECES[i])[None, :]
        b_sum = b[i]
        # Added after the loop: the running sums would not fit in registers during it.
        if ADD:
            b_sum += tl.load(p_sums + at)
        tl.store(p_sums + at, b_sum)


@triton.jit
def _project_tokens(b_w, b_x, PIECES: tl.constexpr):
    """Multiplies weights [rows x L] by X [L x C]. Returns [rows x C] in float32."""
    b = tl.dot(b_w[0], b_x[0], input_precision="ieee")
    for i in tl.static_range(1, len(PIECES)):
        b = tl.dot(b_w[i], b_x[i], b, input_precision="ieee")
    return b


@triton.jit
def _add_over_channels(b_sums, b_a, b_x, PIECES: tl.constexpr):
    """Multiplies b_a [rows x C] by X^T [C x L] and adds the product to the sums [rows x L]."""
    b = ()
    for i in tl.static_range(len(PIECES)):
        b += (tl.dot(b_a, tl.trans(b_x[i]), b_sums[i], input_precision="ieee"),)
    return b


@triton.jit
def token_mixer_bwd_weights_kernel(
    p_x,
    p_d,
    p_packed,
    p_sums,
    L,
    D: tl.constexpr,
    inner,
    tiles,
    tiles_per_slab: tl.constexpr,
    ADD: tl.constexpr,
    TOKENS: tl.constexpr,
    PIECES: tl.constexpr,
    CHANNELS: tl.constexpr,
    INNER: tl.constexpr,
):
    """Each program accumulates INNER rows of the gradients of gate, up and down^T over one slab of tiles.

    A tile is all tokens of CHANNELS channels of one example. p_sums is float32 (slabs, 3 inner, TOKENS): per slab the
    rows of gate, then those of up, then those of down^T. Unlike the packed weights, its rows are not interleaved.
    """
    i_row = tl.program_id(0) * INNER + tl.arange(0, INNER)
    i_gate = i_row // INTERLEAVE_ROWS * 2 * INTERLEAVE_ROWS + i_row % INTERLEAVE_ROWS
    dtype: tl.constexpr = p_x.dtype.element_ty
    b_wgate = _load_weight_rows(p_packed, i_gate, TOKENS, PIECES)
    b_wup = _load_weight_rows(p_packed, i_gate + INTERLEAVE_ROWS, TOKENS, PIECES)
    b_wdown = _load_weight_rows(p_packed, i_row + 2 * inner, TOKENS, PIECES)
    b_sgate, b_sup, b_sdown = _zero_sums(INNER, PIECES), _zero_sums(INNER, PIECES), _zero_sums(INNER, PIECES)
    tiles_per_example = tl.cdiv(D, CHANNELS)
    for i_tile in range(tiles_per_slab):
        tile = tl.program_id(1) * tiles_per_slab + i_tile
        i_channel = tile % tiles_per_example * CHANNELS + tl.arange(0, CHANNELS)
        base = (tile // tiles_per_example).to(tl.int64) * L * D
        tokens = tl.where(tile < tiles, L, 0)
        b_x = load_pieces(p_x + base, i_channel, tokens, D, CHANNELS, TOKENS, PIECES)
        b_d = load_pieces(p_d + base, i_channel, tokens, D, CHANNELS, TOKENS, PIECES)
        b_gate, b_up = _project_tokens(b_wgate, b_x, PIECES), _project_tokens(b_wup, b_x, PIECES)
        b_dgate, b_dup = silu_mul_bwd(_project_tokens(b_wdown, b_d, PIECES), b_gate, b_up, dtype)
        b_sdown = _add_over_channels(b_sdown, silu_mul(b_gate, b_up, dtype), b_d, PIECES)
        b_sgate = _add_over_channels(b_sgate, b_dgate, b_x, PIECES)
        b_sup = _add_over_channels(b_sup, b_dup, b_x, PIECES)
    p_sums += tl.program_id(1).to(tl.int64) * 3 * inner * TOKENS
    _store_sums(p_sums, i_row, b_sgate, ADD, TOKENS, PIECES)
    _store_sums(p_sums, i_row + inner, b_sup, ADD, TOKENS, PIECES)
    _store_sums(p_sums, i_row + 2 * inner, b_sdown, ADD, TOKENS, PIECES)


fix_cache_keys(globals())
