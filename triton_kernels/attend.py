"""The forward kernel of attention without its projections: scores, softmax and the weighted sum of values, per head.

Queries and keys are rotated when they are loaded. A rotation combines each channel of a head's first half with the same
channel of the second half; joining the halves moves no value between threads. A block of keys is a tuple of pieces
with the sizes ``PIECES``, as in the token mixer: 97 keys are 64 + 32 + 16. If one block holds all keys, softmax
needs no running maximum, and only the last piece needs a mask. Every head reads the tables of angles again, so all
other loads bypass L1 (".cg"), and the tables stay there. ``attend_bwd`` has the backward.
"""

from __future__ import annotations

import triton
import triton.language as tl

from trm_fast.triton_kernels.keys import fix_cache_keys

LOG2_E = tl.constexpr(1.4426950408889634)
MASKED_SCORE = tl.constexpr(-1e30)  # the score of a masked key
# The initial running maximum. It is far above MASKED_SCORE in any scale, because the first blocks of a row may have
# only masked keys. Otherwise their maximum would be a rounded value near -1e30. A fused multiply-add would subtract it
# from an unrounded product, and exp2 of the difference could be infinite.
INITIAL_MAX = tl.constexpr(-1e20)


@triton.jit
def piece_indices(PIECES: tl.constexpr, i: tl.constexpr):
    """The indices of the keys in piece ``i`` of a block, counted from the block's first key."""
    start = 0
    for j in tl.static_range(i):
        start += PIECES[j]
    return start + tl.arange(0, PIECES[i])


@triton.jit
def visible(p_mask, i_query, i_key, L, CAUSAL: tl.constexpr, MASK: tl.constexpr):
    """The mask of the keys that a query attends to, always including itself; i_query and i_key broadcast."""
    m = i_key < L
    if MASK:
        m = m & ((tl.load(p_mask + i_key, mask=i_key < L, other=0) != 0) | (i_key == i_query))
    if CAUSAL:
        m = m & (i_key <= i_query)
    return m


@triton.jit
def _row_offsets(i_row, i_column, L, stride: tl.constexpr, EDGE: tl.constexpr):
    """The offsets of a block. With EDGE, rows beyond the last row have the offsets of the last row.

    So loads need neither a mask for rows nor registers for zeros. Rows beyond the last have probability 0, so they add
    nothing.
    """
    if EDGE:
        i_row = tl.minimum(i_row, L - 1)
    return i_row[:, None] * stride + i_column[None, :]


@triton.jit
def _column_mask(i_column, width: tl.constexpr, WIDTH: tl.constexpr):
    """The mask [1 x WIDTH] of the first ``width`` columns; a constant if there are no others."""
    if width == WIDTH:
        return tl.full((1, WIDTH), True, tl.int1)
    else:
        return (i_column < width)[None, :]


@triton.jit
def load_rows(p, i_row, L, width: tl.constexpr, WIDTH: tl.constexpr, stride: tl.constexpr, EDGE: tl.constexpr):
    """Loads some tokens of one head, [rows x WIDTH], with zeros beyond ``width``."""
    i_column = tl.arange(0, WIDTH)
    at, m = _row_offsets(i_row, i_column, L, stride, EDGE), _column_mask(i_column, width, WIDTH)
    return tl.load(p + at, mask=m, other=0, cache_modifier=".cg")


@triton.jit
def store_rows(p, b, i_row, L, width: tl.constexpr, WIDTH: tl.constexpr, stride: tl.constexpr):
    """Stores some tokens of one head; tokens beyond the last are skipped."""
    i_column = tl.arange(0, WIDTH)
    m = (i_row < L)[:, None] & _column_mask(i_column, width, WIDTH)
    tl.store(p + i_row[:, None] * stride + i_column[None, :], b.to(p.dtype.element_ty), mask=m)


@triton.jit
def _load_halves(
    p,
    i_row,
    L,
    half: tl.constexpr,
    HALF: tl.constexpr,
    stride: tl.constexpr,
    EDGE: tl.constexpr,
    CACHE: tl.constexpr,
):
    """Loads some tokens of one head as two halves [rows x HALF], in float32."""
    i_column = tl.arange(0, HALF)
    at, m = p + _row_offsets(i_row, i_column, L, stride, EDGE), _column_mask(i_column, half, HALF)
    b_a = tl.load(at, mask=m, other=0, cache_modifier=CACHE)
    b_b = tl.load(at + half, mask=m, other=0, cache_modifier=CACHE)
    return b_a.to(tl.float32), b_b.to(tl.float32)


@triton.jit
def load_rotated(
    p,
    p_cos,
    p_sin,
    i_row,
    L,
    width: tl.constexpr,
    ROWS: tl.constexpr,
    WIDTH: tl.constexpr,
    stride: tl.constexpr,
    EDGE: tl.constexpr,
    ROTATE: tl.constexpr,
):
    """Loads some tokens of one head, [ROWS x WIDTH] in their dtype. With ROTATE it rotates them in float32."""
    if not ROTATE:
        return load_rows(p, i_row, L, width, WIDTH, stride, EDGE)
    half: tl.constexpr = width // 2
    HALF: tl.constexpr = WIDTH // 2
    b_a, b_b = _load_halves(p, i_row, L, half, HALF, stride, EDGE, ".cg")
    c_a, c_b = _load_halves(p_cos, i_row, L, half, HALF, width, EDGE, "")
    s_a, s_b = _load_halves(p_sin, i_row, L, half, HALF, width, EDGE, "")
    b_a, b_b = b_a * c_a - b_b * s_a, b_b * c_b + b_a * s_b
    # This sets only rows beyond the last to zero. It keeps the compiler from repeating the rotation in every warp, in
    # the layout of a dot operand, which spilled thousands of bytes of registers on sm_80.
    m_row = (i_row < L)[:, None]
    b_a, b_b = tl.where(m_row, b_a, 0.0), tl.where(m_row, b_b, 0.0)
    dtype: tl.constexpr = p.dtype.element_ty
    return tl.reshape(tl.permute(tl.join(b_a.to(dtype), b_b.to(dtype)), (0, 2, 1)), (ROWS, WIDTH))


@triton.jit
def store_unrotated(
    p,
    b,
    p_cos,
    p_sin,
    i_row,
    L,
    width: tl.constexpr,
    ROWS: tl.constexpr,
    WIDTH: tl.constexpr,
    stride: tl.constexpr,
    ROTATE: tl.constexpr,
):
    """Stores the gradient before the rotation, computed from b [ROWS x WIDTH], the gradient after it."""
    if ROTATE:
        half: tl.constexpr = width // 2
        HALF: tl.constexpr = WIDTH // 2
        b_a, b_b = tl.split(tl.permute(tl.reshape(b, (ROWS, 2, HALF)), (0, 2, 1)))
        i_column = tl.arange(0, HALF)
        # The addresses are computed differently from `load_rotated`, so that the compiler does not hold those in
        # registers until here. Rows beyond the last are not stored.
        at, m = i_row[:, None] * width + i_column[None, :], (i_row < L)[:, None] & _column_mask(i_column, half, HALF)
        c_a, c_b = tl.load(p_cos + at, mask=m), tl.load(p_cos + half + at, mask=m)
        s_a, s_b = tl.load(p_sin + at, mask=m), tl.load(p_sin + half + at, mask=m)
        store_rows(p, b_a * c_a + b_b * s_b, i_row, L, half, HALF, stride)
        store_rows(p + half, b_b * c_b - b_a * s_a, i_row, L, half, HALF, stride)
    else:
        store_rows(p, b, i_row, L, width, WIDTH, stride)


@triton.jit
def block_position(L, heads: tl.constexpr, BLOCK: tl.constexpr):
    """The position of this program: the tokens of its block, ``example * heads + head``, its example and its head.

    The grid has one axis, because CUDA limits the others to 65535 programs.
    """
    blocks = tl.cdiv(L, BLOCK)
    i_line = (tl.program_id(0) // blocks).to(tl.int64)
    i_row = tl.program_id(0) % blocks * BLOCK + tl.arange(0, BLOCK)
    return i_row, i_line, i_line // heads, (i_line % heads).to(tl.int32)


# L is not a constant, so padded lengths with the same END share one compiled kernel. END, the end of the loop over keys
# or queries, is L rounded up to a multiple of the block.


@triton.jit
def attend_fwd_kernel(
    p_qkv,
    p_cos,
    p_sin,
    p_mask,
    p_out,
    p_lse,
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
    PIECES: tl.constexpr,
):
    """Each program computes ``out`` and lse for QUERIES queries of one head.

    lse, float32 (B, heads, L), is the base-2 logarithm of the softmax denominator. qkv is (B, L, 3 D), and out is
    (B, L, D).
    """
    i_query, i_line, i_example, i_head = block_position(L, heads, QUERIES)
    width: tl.constexpr = D // heads
    factor: tl.constexpr = LOG2_E * width**-0.5  # scores in units of exp2
    p_q, p_mask = p_qkv + i_example * L * 3 * D + i_head * width, p_mask + i_example * L
    b_q = load_rotated(p_q, p_cos, p_sin, i_query, L, width, QUERIES, WIDTH, 3 * D, True, ROTATE)
    b_out = tl.zeros((QUERIES, WIDTH), tl.float32)
    b_sum = tl.zeros((QUERIES,), tl.float32)
    b_max = tl.full((QUERIES,), INITIAL_MAX, tl.float32)
    for first in range(0, END, KEYS):
        b_s, b_new = (), b_max
        for i in tl.static_range(len(PIECES)):
            i_key = first + piece_indices(PIECES, i)
            b_k = load_rotated(
                p_q + D, p_cos, p_sin, i_key, L, width, PIECES[i], WIDTH, 3 * D,
                END > KEYS or i == len(PIECES) - 1, ROTATE,
            )  # fmt: skip
            b = tl.dot(b_q, tl.trans(b_k), input_precision="ieee")
            if CAUSAL or MASK or END > KEYS or i == len(PIECES) - 1:
                b = tl.where(visible(p_mask, i_query[:, None], i_key[None, :], L, CAUSAL, MASK), b, MASKED_SCORE)
            b_s += (b,)
            b_new = tl.maximum(b_new, tl.max(b, 1) * factor)
        if END > KEYS:
            b_shrink = tl.exp2(b_max - b_new)
            b_sum, b_out = b_sum * b_shrink, b_out * b_shrink[:, None]
        for i in tl.static_range(len(PIECES)):
            b_p = tl.exp2(b_s[i] * factor - b_new[:, None])
            b_sum += tl.sum(b_p, 1)
            i_key = first + piece_indices(PIECES, i)
            b_v = load_rows(p_q + 2 * D, i_key, L, width, WIDTH, 3 * D, END > KEYS or i == len(PIECES) - 1)
            b_out = tl.dot(b_p.to(b_v.dtype), b_v, b_out, input_precision="ieee")
        b_max = b_new
    p_out += i_example * L * D + i_head * width
    store_rows(p_out, b_out * (1 / b_sum)[:, None], i_query, L, width, WIDTH, D)
    tl.store(p_lse + i_line * L + i_query, b_max + tl.log2(b_sum), mask=i_query < L)


fix_cache_keys(globals())
