"""The backward kernels of ``attend``.

They recompute the probabilities p: once if one block holds all tokens of a head, otherwise once for the gradient of the
queries and once for the gradients of keys and values. ``ds = p (dp - dot)`` omits the scale of the scores; dq and dk
are multiplied by it at the end.
"""

from __future__ import annotations

import triton
import triton.language as tl

from trm_fast.triton_kernels.attend import (
    LOG2_E,
    block_position,
    load_rotated,
    load_rows,
    piece_indices,
    store_rows,
    store_unrotated,
    visible,
)
from trm_fast.triton_kernels.keys import fix_cache_keys


@triton.jit
def _load_queries(
    p_q,
    p_cos,
    p_sin,
    p_dout,
    p_lse,
    i_query,
    L,
    D: tl.constexpr,
    width: tl.constexpr,
    QUERIES: tl.constexpr,
    WIDTH: tl.constexpr,
    ROTATE: tl.constexpr,
):
    """Loads rotated queries, the gradients of their ``out``, and their lse, which is infinite beyond the last query."""
    b_q = load_rotated(p_q, p_cos, p_sin, i_query, L, width, QUERIES, WIDTH, 3 * D, True, ROTATE)
    b_dout = load_rows(p_dout, i_query, L, width, WIDTH, D, True)
    return b_q, b_dout, tl.load(p_lse + i_query, mask=i_query < L, other=float("inf"))


@triton.jit
def _dot(p_out, b_dout, i_query, L, D: tl.constexpr, width: tl.constexpr, WIDTH: tl.constexpr):
    """Computes ``sum(dout out)`` over the channels of the head, for every query."""
    b_out = load_rows(p_out, i_query, L, width, WIDTH, D, True)
    return tl.sum(b_dout.to(tl.float32) * b_out.to(tl.float32), 1)


@triton.jit
def attend_bwd_kernel(
    p_dout,
    p_out,
    p_qkv,
    p_cos,
    p_sin,
    p_mask,
    p_lse,
    p_dqkv,
    L,
    D: tl.constexpr,
    heads: tl.constexpr,
    ROTATE: tl.constexpr,
    CAUSAL: tl.constexpr,
    MASK: tl.constexpr,
    WIDTH: tl.constexpr,
    QUERIES: tl.constexpr,
    KEYS: tl.constexpr,
    PIECES: tl.constexpr,
):
    """Each program computes dq, dk and dv of one whole head.

    Keys come in pieces, so they are the columns of every product, and dk and dv are computed transposed.
    """
    i_query, i_line, i_example, i_head = block_position(L, heads, QUERIES)
    width: tl.constexpr = D // heads
    scale: tl.constexpr = width**-0.5
    factor: tl.constexpr = LOG2_E * scale
    at, at_out = i_example * L * 3 * D + i_head * width, i_example * L * D + i_head * width
    p_q, p_dq, p_mask, p_dout, p_lse = (
        p_qkv + at,
        p_dqkv + at,
        p_mask + i_example * L,
        p_dout + at_out,
        p_lse + i_line * L,
    )
    dtype: tl.constexpr = p_qkv.dtype.element_ty
    b_q, b_dout, b_lse = _load_queries(p_q, p_cos, p_sin, p_dout, p_lse, i_query, L, D, width, QUERIES, WIDTH, ROTATE)
    b_dot = _dot(p_out + at_out, b_dout, i_query, L, D, width, WIDTH)
    b_dq = tl.zeros((QUERIES, WIDTH), tl.float32)
    for i in tl.static_range(len(PIECES)):
        i_key = piece_indices(PIECES, i)
        b_k = load_rotated(
            p_q + D, p_cos, p_sin, i_key, L, width, PIECES[i], WIDTH, 3 * D, i == len(PIECES) - 1, ROTATE
        )
        b_p = tl.exp2(tl.dot(b_q, tl.trans(b_k), input_precision="ieee") * factor - b_lse[:, None])
        if CAUSAL or MASK or i == len(PIECES) - 1:
            b_p = tl.where(visible(p_mask, i_query[:, None], i_key[None, :], L, CAUSAL, MASK), b_p, 0.0)
        b_v = load_rows(p_q + 2 * D, i_key, L, width, WIDTH, 3 * D, i == len(PIECES) - 1)
        b_dp = tl.dot(b_dout, tl.trans(b_v), input_precision="ieee")
        b_ds = (b_p * (b_dp - b_dot[:, None])).to(dtype)
        b_dv = tl.dot(tl.trans(b_dout), b_p.to(dtype), input_precision="ieee")
        store_rows(p_dq + 2 * D, tl.trans(b_dv.to(dtype)), i_key, L, width, WIDTH, 3 * D)
        b_dq = tl.dot(b_ds, b_k, b_dq, input_precision="ieee")
        b_dk = tl.trans(tl.dot(tl.trans(b_q), b_ds, input_precision="ieee") * scale)
        store_unrotated(p_dq + D, b_dk, p_cos, p_sin, i_key, L, width, PIECES[i], WIDTH, 3 * D, ROTATE)
    store_unrotated(p_dq, b_dq * scale, p_cos, p_sin, i_query, L, width, QUERIES, WIDTH, 3 * D, ROTATE)


@triton.jit
def attend_bwd_queries_kernel(
    p_dout,
    p_out,
    p_qkv,
    p_cos,
    p_sin,
    p_mask,
    p_lse,
    p_dot,
    p_dqkv,
    L,
    D: tl.constexpr,
    heads: tl.constexpr,
    ROTATE: tl.constexpr,
    CAUSAL: tl.constexpr,
    MASK: tl.constexpr,
    WIDTH: tl.constexpr,
    END: tl.constexpr,
    QUERIES: tl.constexpr,
    KEYS: tl.constexpr,
):
    """Each program computes dq for QUERIES queries of one head, and stores ``dot`` for ``attend_bwd_keys_kernel``."""
    i_query, i_line, i_example, i_head = block_position(L, heads, QUERIES)
    width: tl.constexpr = D // heads
    scale: tl.constexpr = width**-0.5
    factor: tl.constexpr = LOG2_E * scale
    at, at_out = i_example * L * 3 * D + i_head * width, i_example * L * D + i_head * width
    p_q, p_mask, p_dout, p_lse = p_qkv + at, p_mask + i_example * L, p_dout + at_out, p_lse + i_line * L
    b_q, b_dout, b_lse = _load_queries(p_q, p_cos, p_sin, p_dout, p_lse, i_query, L, D, width, QUERIES, WIDTH, ROTATE)
    b_dot = _dot(p_out + at_out, b_dout, i_query, L, D, width, WIDTH)
    tl.store(p_dot + i_line * L + i_query, b_dot, mask=i_query < L)
    b_dq = tl.zeros((QUERIES, WIDTH), tl.float32)
    for first in range(0, END, KEYS):
        i_key = first + tl.arange(0, KEYS)
        b_k = load_rotated(p_q + D, p_cos, p_sin, i_key, L, width, KEYS, WIDTH, 3 * D, True, ROTATE)
        b_p = tl.exp2(tl.dot(b_q, tl.trans(b_k), input_precision="ieee") * factor - b_lse[:, None])
        b_p = tl.where(visible(p_mask, i_query[:, None], i_key[None, :], L, CAUSAL, MASK), b_p, 0.0)
        b_v = load_rows(p_q + 2 * D, i_key, L, width, WIDTH, 3 * D, True)
        b_dp = tl.dot(b_dout, tl.trans(b_v), input_precision="ieee")
        b_ds = (b_p * (b_dp - b_dot[:, None])).to(b_k.dtype)
        b_dq = tl.dot(b_ds, b_k, b_dq, input_precision="ieee")
    store_unrotated(p_dqkv + at, b_dq * scale, p_cos, p_sin, i_query, L, width, QUERIES, WIDTH, 3 * D, ROTATE)


@triton.jit
def attend_bwd_keys_kernel(
    p_dout,
    p_qkv,
    p_cos,
    p_sin,
    p_mask,
    p_lse,
    p_dot,
    p_dqkv,
    L,
    D: tl.constexpr,
    heads: tl.constexpr,
    ROTATE: tl.constexpr,
    CAUSAL: tl.constexpr,
    MASK: tl.constexpr,
    WIDTH: tl.constexpr,
    END: tl.constexpr,
    QUERIES: tl.constexpr,
    KEYS: tl.constexpr,
):
    """Each program computes dk and dv for KEYS keys of one head."""
    i_key, i_line, i_example, i_head = block_position(L, heads, KEYS)
    width: tl.constexpr = D // heads
    scale: tl.constexpr = width**-0.5
    factor: tl.constexpr = LOG2_E * scale
    at, at_out = i_example * L * 3 * D + i_head * width, i_example * L * D + i_head * width
    p_q, p_dk, p_mask, p_dout = p_qkv + at, p_dqkv + at + D, p_mask + i_example * L, p_dout + at_out
    p_lse, p_dot = p_lse + i_line * L, p_dot + i_line * L
    b_k = load_rotated(p_q + D, p_cos, p_sin, i_key, L, width, KEYS, WIDTH, 3 * D, True, ROTATE)
    b_v = load_rows(p_q + 2 * D, i_key, L, width, WIDTH, 3 * D, True)
    b_dk = tl.zeros((KEYS, WIDTH), tl.float32)
    b_dv = tl.zeros((KEYS, WIDTH), tl.float32)
    for first in range(0, END, QUERIES):
        i_query = first + tl.arange(0, QUERIES)
        b_q, b_dout, b_lse = _load_queries(
            p_q, p_cos, p_sin, p_dout, p_lse, i_query, L, D, width, QUERIES, WIDTH, ROTATE
        )
        b_dot = tl.load(p_dot + i_query, mask=i_query < L, other=0)
        # Keys are the rows, so that the next products need no transposition in registers. Queries beyond the last have
        # an infinite lse, so probability 0; keys beyond the last are not stored.
        b_p = tl.exp2(tl.dot(b_k, tl.trans(b_q), input_precision="ieee") * factor - b_lse[None, :])
        if CAUSAL or MASK:
            b_p = tl.where(visible(p_mask, i_query[None, :], i_key[:, None], L, CAUSAL, MASK), b_p, 0.0)
        b_dv = tl.dot(b_p.to(b_v.dtype), b_dout, b_dv, input_precision="ieee")
        b_dp = tl.dot(b_v, tl.trans(b_dout), input_precision="ieee")
        b_ds = (b_p * (b_dp - b_dot[None, :])).to(b_v.dtype)
        b_dk = tl.dot(b_ds, b_q, b_dk, input_precision="ieee")
    store_unrotated(p_dk, b_dk * scale, p_cos, p_sin, i_key, L, width, KEYS, WIDTH, 3 * D, ROTATE)
    store_rows(p_dk + D, b_dv, i_key, L, width, WIDTH, 3 * D)


fix_cache_keys(globals())
