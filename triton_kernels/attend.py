"""The kernels between attention's products: scores, softmax and the weighted values of one head of one sample.

Queries and keys are rotated as they are loaded: a head is held as two halves, which are what rotary positions rotate
against each other, so nothing is ever joined or written. Backward computes the probabilities again, once for the
queries' gradient and once for the keys' and values'.
"""

from __future__ import annotations

import triton
import triton.language as tl

LOG2_E = tl.constexpr(1.4426950408889634)
UNSEEN = tl.constexpr(-1e30)  # a score that counts for nothing; finite, as rows may begin with keys that are all unseen


@triton.jit
def _seen(p_mask, i_query, i_key, L, CAUSAL: tl.constexpr, MASK: tl.constexpr):
    """Which keys a query sees, the indices as broadcast to each other: it always sees itself."""
    m = i_key < L
    if MASK:
        m = m & ((tl.load(p_mask + i_key, mask=i_key < L, other=0) != 0) | (i_key == i_query))
    if CAUSAL:
        m = m & (i_key <= i_query)
    return m


@triton.jit
def _load_halves(p, i_row, i_half, L, width, half, stride):
    """Both halves of one head of some tokens, in float32."""
    m_row = (i_row < L)[:, None]
    at = i_row.to(tl.int64)[:, None] * stride + i_half[None, :]
    b_a = tl.load(p + at, mask=m_row & (i_half < half)[None, :], other=0)
    b_b = tl.load(p + at + half, mask=m_row & (i_half < width - half)[None, :], other=0)
    return b_a.to(tl.float32), b_b.to(tl.float32)


@triton.jit
def _load_angles(p_cos, p_sin, i_row, i_half, L, width, half):
    """cos of both halves, then sin of both halves."""
    c_a, c_b = _load_halves(p_cos, i_row, i_half, L, width, half, width)
    s_a, s_b = _load_halves(p_sin, i_row, i_half, L, width, half, width)
    return c_a, c_b, s_a, s_b


@triton.jit
def _load_rotated(p, p_cos, p_sin, i_row, i_half, L, width, half, stride, ROTATE: tl.constexpr):
    b_a, b_b = _load_halves(p, i_row, i_half, L, width, half, stride)
    if ROTATE:
        c_a, c_b, s_a, s_b = _load_angles(p_cos, p_sin, i_row, i_half, L, width, half)
        b_a, b_b = b_a * c_a - b_b * s_a, b_b * c_b + b_a * s_b
        # Changes no value, but keeps the compiler from rotating anew in every warp, in a dot operand's layout: on sm_80
        # that took thousands of bytes of spilled registers.
        m_row = (i_row < L)[:, None]
        b_a, b_b = tl.where(m_row, b_a, 0.0), tl.where(m_row, b_b, 0.0)
    return b_a.to(p.dtype.element_ty), b_b.to(p.dtype.element_ty)


@triton.jit
def _store_unrotated(p, b_a, b_b, p_cos, p_sin, i_row, i_half, L, width, half, stride, ROTATE: tl.constexpr):
    """The gradient before the rotation, given that after it."""
    if ROTATE:
        c_a, c_b, s_a, s_b = _load_angles(p_cos, p_sin, i_row, i_half, L, width, half)
        b_a, b_b = b_a * c_a + b_b * s_b, b_b * c_b - b_a * s_a
    m_row = (i_row < L)[:, None]
    at = i_row.to(tl.int64)[:, None] * stride + i_half[None, :]
    tl.store(p + at, b_a.to(p.dtype.element_ty), mask=m_row & (i_half < half)[None, :])
    tl.store(p + at + half, b_b.to(p.dtype.element_ty), mask=m_row & (i_half < width - half)[None, :])


@triton.jit
def _load_head(p, i_row, i_width, L, width, stride):
    m = (i_row < L)[:, None] & (i_width < width)[None, :]
    return tl.load(p + i_row.to(tl.int64)[:, None] * stride + i_width[None, :], mask=m, other=0)


@triton.jit
def _scores(b_aa, b_ab, b_ba, b_bb, scale):
    """Of a's rows with b's, halves apart, times log2(e) for exp2."""
    b_s = tl.dot(b_aa, tl.trans(b_ba), input_precision="ieee")
    return tl.dot(b_ab, tl.trans(b_bb), b_s, input_precision="ieee") * (scale * LOG2_E)


@triton.jit
def _place(L, heads, BLOCK: tl.constexpr):
    """Which head of which sample this program works on, and that head's number in all; one axis of the grid, as the
    others end at 65535."""
    i_line = (tl.program_id(0) // tl.cdiv(L, BLOCK)).to(tl.int64)
    return i_line, i_line // heads, (i_line % heads).to(tl.int32)


# L is no constant, so that batches padded to other lengths do not compile anew; END, where the loop over the other axis
# ends, is one: L rounded up.


@triton.jit
def attend_fwd_kernel(
    p_qkv,
    p_cos,
    p_sin,
    p_mask,
    p_out,
    p_lse,
    L,
    D,
    heads,
    width,
    half,
    scale,
    ROTATE: tl.constexpr,
    CAUSAL: tl.constexpr,
    MASK: tl.constexpr,
    HALF: tl.constexpr,
    WIDTH: tl.constexpr,
    END: tl.constexpr,
    QUERIES: tl.constexpr,
    KEYS: tl.constexpr,
):
    i_line, i_sample, i_head = _place(L, heads, QUERIES)
    i_query = tl.program_id(0) % tl.cdiv(L, QUERIES) * QUERIES + tl.arange(0, QUERIES)
    i_half, i_width = tl.arange(0, HALF), tl.arange(0, WIDTH)
    p_q = p_qkv + i_sample * L * 3 * D + i_head * width
    b_qa, b_qb = _load_rotated(p_q, p_cos, p_sin, i_query, i_half, L, width, half, 3 * D, ROTATE)
    b_out = tl.zeros((QUERIES, WIDTH), tl.float32)
    b_sum = tl.zeros((QUERIES,), tl.float32)
    b_max = tl.full((QUERIES,), float("-inf"), tl.float32)
    for first in range(0, END, KEYS):
        i_key = first + tl.arange(0, KEYS)
        b_ka, b_kb = _load_rotated(p_q + D, p_cos, p_sin, i_key, i_half, L, width, half, 3 * D, ROTATE)
        m_seen = _seen(p_mask + i_sample * L, i_query[:, None], i_key[None, :], L, CAUSAL, MASK)
        b_s = tl.where(m_seen, _scores(b_qa, b_qb, b_ka, b_kb, scale), UNSEEN)
        b_new = tl.maximum(b_max, tl.max(b_s, 1))
        b_p = tl.exp2(b_s - b_new[:, None])
        b_shrink = tl.exp2(b_max - b_new)
        b_sum = b_sum * b_shrink + tl.sum(b_p, 1)
        b_v = _load_head(p_q + 2 * D, i_key, i_width, L, width, 3 * D)
        b_out = tl.dot(b_p.to(b_v.dtype), b_v, b_out * b_shrink[:, None], input_precision="ieee")
        b_max = b_new
    m = (i_query < L)[:, None] & (i_width < width)[None, :]
    at = i_sample * L * D + i_head * width + i_query.to(tl.int64)[:, None] * D + i_width[None, :]
    tl.store(p_out + at, (b_out / b_sum[:, None]).to(p_out.dtype.element_ty), mask=m)
    tl.store(p_lse + i_line * L + i_query, b_max + tl.log2(b_sum), mask=i_query < L)


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
    D,
    heads,
    width,
    half,
    scale,
    ROTATE: tl.constexpr,
    CAUSAL: tl.constexpr,
    MASK: tl.constexpr,
    HALF: tl.constexpr,
    WIDTH: tl.constexpr,
    END: tl.constexpr,
    QUERIES: tl.constexpr,
    KEYS: tl.constexpr,
):
    """dq, and ``dot = sum(dout out)`` of every query, which the other kernel needs."""
    i_line, i_sample, i_head = _place(L, heads, QUERIES)
    i_query = tl.program_id(0) % tl.cdiv(L, QUERIES) * QUERIES + tl.arange(0, QUERIES)
    i_half, i_width = tl.arange(0, HALF), tl.arange(0, WIDTH)
    p_q, at_out = p_qkv + i_sample * L * 3 * D + i_head * width, i_sample * L * D + i_head * width
    b_qa, b_qb = _load_rotated(p_q, p_cos, p_sin, i_query, i_half, L, width, half, 3 * D, ROTATE)
    b_dout = _load_head(p_dout + at_out, i_query, i_width, L, width, D)
    b_out = _load_head(p_out + at_out, i_query, i_width, L, width, D)
    b_dot = tl.sum(b_dout.to(tl.float32) * b_out.to(tl.float32), 1)
    at_row = i_line * L + i_query
    b_lse = tl.load(p_lse + at_row, mask=i_query < L, other=0)
    tl.store(p_dot + at_row, b_dot, mask=i_query < L)
    b_dqa = tl.zeros((QUERIES, HALF), tl.float32)
    b_dqb = tl.zeros((QUERIES, HALF), tl.float32)
    for first in range(0, END, KEYS):
        i_key = first + tl.arange(0, KEYS)
        b_ka, b_kb = _load_rotated(p_q + D, p_cos, p_sin, i_key, i_half, L, width, half, 3 * D, ROTATE)
        m_seen = _seen(p_mask + i_sample * L, i_query[:, None], i_key[None, :], L, CAUSAL, MASK)
        b_s = tl.where(m_seen, _scores(b_qa, b_qb, b_ka, b_kb, scale), UNSEEN)
        b_p = tl.exp2(b_s - b_lse[:, None])
        b_v = _load_head(p_q + 2 * D, i_key, i_width, L, width, 3 * D)
        b_dp = tl.dot(b_dout, tl.trans(b_v), input_precision="ieee")
        b_ds = (b_p * (b_dp - b_dot[:, None]) * scale).to(b_ka.dtype)
        b_dqa = tl.dot(b_ds, b_ka, b_dqa, input_precision="ieee")
        b_dqb = tl.dot(b_ds, b_kb, b_dqb, input_precision="ieee")
    p_dq = p_dqkv + i_sample * L * 3 * D + i_head * width
    _store_unrotated(p_dq, b_dqa, b_dqb, p_cos, p_sin, i_query, i_half, L, width, half, 3 * D, ROTATE)


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
    D,
    heads,
    width,
    half,
    scale,
    ROTATE: tl.constexpr,
    CAUSAL: tl.constexpr,
    MASK: tl.constexpr,
    HALF: tl.constexpr,
    WIDTH: tl.constexpr,
    END: tl.constexpr,
    QUERIES: tl.constexpr,
    KEYS: tl.constexpr,
):
    """dk and dv."""
    i_line, i_sample, i_head = _place(L, heads, KEYS)
    i_key = tl.program_id(0) % tl.cdiv(L, KEYS) * KEYS + tl.arange(0, KEYS)
    i_half, i_width = tl.arange(0, HALF), tl.arange(0, WIDTH)
    p_q, at_out = p_qkv + i_sample * L * 3 * D + i_head * width, i_sample * L * D + i_head * width
    b_ka, b_kb = _load_rotated(p_q + D, p_cos, p_sin, i_key, i_half, L, width, half, 3 * D, ROTATE)
    b_v = _load_head(p_q + 2 * D, i_key, i_width, L, width, 3 * D)
    b_dka = tl.zeros((KEYS, HALF), tl.float32)
    b_dkb = tl.zeros((KEYS, HALF), tl.float32)
    b_dv = tl.zeros((KEYS, WIDTH), tl.float32)
    for first in range(0, END, QUERIES):
        i_query = first + tl.arange(0, QUERIES)
        at_row, m_query = i_line * L + i_query, i_query < L
        b_qa, b_qb = _load_rotated(p_q, p_cos, p_sin, i_query, i_half, L, width, half, 3 * D, ROTATE)
        b_dout = _load_head(p_dout + at_out, i_query, i_width, L, width, D)
        b_lse = tl.load(p_lse + at_row, mask=m_query, other=0)
        b_dot = tl.load(p_dot + at_row, mask=m_query, other=0)
        # Keys along the rows: the left operands of what follows, without a transposition in registers. Queries that
        # are not there have dout = 0; keys that are not there are not stored.
        b_p = tl.exp2(_scores(b_ka, b_kb, b_qa, b_qb, scale) - b_lse[None, :])
        if CAUSAL or MASK:
            m_seen = _seen(p_mask + i_sample * L, i_query[None, :], i_key[:, None], L, CAUSAL, MASK)
            b_p = tl.where(m_seen, b_p, 0.0)
        b_dv = tl.dot(b_p.to(b_v.dtype), b_dout, b_dv, input_precision="ieee")
        b_dp = tl.dot(b_v, tl.trans(b_dout), input_precision="ieee")
        b_ds = (b_p * (b_dp - b_dot[None, :]) * scale).to(b_v.dtype)
        b_dka = tl.dot(b_ds, b_qa, b_dka, input_precision="ieee")
        b_dkb = tl.dot(b_ds, b_qb, b_dkb, input_precision="ieee")
    p_dk = p_dqkv + i_sample * L * 3 * D + i_head * width + D
    _store_unrotated(p_dk, b_dka, b_dkb, p_cos, p_sin, i_key, i_half, L, width, half, 3 * D, ROTATE)
    m = (i_key < L)[:, None] & (i_width < width)[None, :]
    tl.store(
        p_dk + D + i_key.to(tl.int64)[:, None] * 3 * D + i_width[None, :], b_dv.to(p_dqkv.dtype.element_ty), mask=m
    )
