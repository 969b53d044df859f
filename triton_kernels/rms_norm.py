"""Residual addition and RMSNorm over any axis, without transposed copies.

A *line* is the elements that share one mean: ``size`` elements with stride ``inner``.
"""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from trm_fast.triton_kernels import configs
from trm_fast.triton_kernels.keys import fix_cache_keys

MAX_LINE_ELEMENTS = 8192  # the longest line that one program holds whole; longer lines are read twice
MAX_ELEMENTS_PER_WARP = 1024  # as many as a warp holds in registers


@triton.jit
def _offsets(lines, size, inner, DENSE: tl.constexpr, LINES: tl.constexpr):
    """The indices of this program's lines, their first offsets, and the mask of lines inside the tensor.

    DENSE means that ``inner`` is 1, so each line is contiguous.
    """
    i_line = tl.program_id(0).to(tl.int64) * LINES + tl.arange(0, LINES)
    start = i_line * size if DENSE else i_line // inner * size * inner + i_line % inner
    return i_line, start[None, :], (i_line < lines)[None, :]


@triton.jit
def _load_sum(p_x, p_residual, at, m, RESIDUAL: tl.constexpr):
    """Loads x, or x + residual, in float32."""
    b_x = tl.load(p_x + at, mask=m, other=0).to(tl.float32)
    if RESIDUAL:
        b_x += tl.load(p_residual + at, mask=m, other=0).to(tl.float32)
    return b_x


@triton.jit
def rms_norm_fwd_kernel(
    p_x,
    p_residual,
    p_y,
    p_rstd,
    lines,
    size: tl.constexpr,
    inner,
    eps,
    RESIDUAL: tl.constexpr,
    DENSE: tl.constexpr,
    SIZE: tl.constexpr,
    LINES: tl.constexpr,
):
    """Each program normalizes LINES lines. A line longer than SIZE is read twice, in blocks of SIZE elements."""
    i_line, start, m_line = _offsets(lines, size, inner, DENSE, LINES)
    i_axis = tl.arange(0, SIZE)[:, None]
    step = 1 if DENSE else inner
    if size <= SIZE:
        at, m = start + i_axis * step, m_line & (i_axis < size)
        b_x = _load_sum(p_x, p_residual, at, m, RESIDUAL)
        rstd = tl.rsqrt(tl.sum(b_x * b_x, 0) / size + eps)
        tl.store(p_y + at, (b_x * rstd[None, :]).to(p_y.dtype.element_ty), mask=m)
    else:
        b_square = tl.zeros((SIZE, LINES), tl.float32)
        for first in range(0, size, SIZE):
            at, m = start + (first + i_axis) * step, m_line & (first + i_axis < size)
            b_x = _load_sum(p_x, p_residual, at, m, RESIDUAL)
            b_square += b_x * b_x
        rstd = tl.rsqrt(tl.sum(b_square, 0) / size + eps)
        for first in range(0, size, SIZE):
            at, m = start + (first + i_axis) * step, m_line & (first + i_axis < size)
            b_x = _load_sum(p_x, p_residual, at, m, RESIDUAL)
            tl.store(p_y + at, (b_x * rstd[None, :]).to(p_y.dtype.element_ty), mask=m)
    tl.store(p_rstd + i_line, rstd, mask=i_line < lines)


@triton.jit
def rms_norm_bwd_kernel(
    p_dy,
    p_y,
    p_rstd,
    p_dx,
    lines,
    size: tl.constexpr,
    inner,
    DENSE: tl.constexpr,
    SIZE: tl.constexpr,
    LINES: tl.constexpr,
):
    """Each program computes ``dx = rstd (dy - y mean(dy y))`` for LINES lines, in blocks of SIZE elements."""
    i_line, start, m_line = _offsets(lines, size, inner, DENSE, LINES)
    i_axis = tl.arange(0, SIZE)[:, None]
    step = 1 if DENSE else inner
    rstd = tl.load(p_rstd + i_line, mask=i_line < lines, other=0)[None, :]
    if size <= SIZE:
        at, m = start + i_axis * step, m_line & (i_axis < size)
        b_dy = tl.load(p_dy + at, mask=m, other=0).to(tl.float32)
        b_y = tl.load(p_y + at, mask=m, other=0).to(tl.float32)
        mean = (tl.sum(b_dy * b_y, 0) / size)[None, :]
        tl.store(p_dx + at, (rstd * (b_dy - b_y * mean)).to(p_dx.dtype.element_ty), mask=m)
    else:
        b_product = tl.zeros((SIZE, LINES), tl.float32)
        for first in range(0, size, SIZE):
            at, m = start + (first + i_axis) * step, m_line & (first + i_axis < size)
            b_dy = tl.load(p_dy + at, mask=m, other=0).to(tl.float32)
            b_product += b_dy * tl.load(p_y + at, mask=m, other=0).to(tl.float32)
        mean = (tl.sum(b_product, 0) / size)[None, :]
        for first in range(0, size, SIZE):
            at, m = start + (first + i_axis) * step, m_line & (first + i_axis < size)
            b_dy = tl.load(p_dy + at, mask=m, other=0).to(tl.float32)
            b_y = tl.load(p_y + at, mask=m, other=0).to(tl.float32)
            tl.store(p_dx + at, (rstd * (b_dy - b_y * mean)).to(p_dx.dtype.element_ty), mask=m)


def launch_options(size: int, inner: int, elements: int, num_warps: int) -> dict[str, int | bool]:
    """Chooses the block's shape and warps: about ``elements`` elements per program, and whole lines if they fit.

    Larger blocks have more warps, to avoid register spills.
    """
    length = min(triton.next_power_of_2(size), MAX_LINE_ELEMENTS)
    lines = max(1, elements // length)
    if inner > 1:
        lines = max(lines, 16)  # neighboring lines fill a memory transaction
        length = min(length, max(1, MAX_LINE_ELEMENTS // lines))
    warps = max(num_warps, length * lines // MAX_ELEMENTS_PER_WARP)
    return {"DENSE": inner == 1, "SIZE": length, "LINES": lines, "num_warps": warps}


def line_geometry(x: Tensor, dim: int) -> tuple[int, int, int]:
    """Returns the number of lines of a contiguous x along ``dim``, their size, and the stride within a line."""
    dim = dim % x.dim()
    size, inner = x.shape[dim], math.prod(x.shape[dim + 1 :])
    return x.numel() // max(size, 1), size, inner


def rms_norm_fwd(x: Tensor, residual: Tensor | None, dim: int, eps: float) -> tuple[Tensor, Tensor]:
    """Returns ``y = t rstd`` with ``t = x + residual``, and ``rstd = rsqrt(mean(t^2) + eps)``; means are over ``dim``.

    y is contiguous in x's shape and dtype. rstd is float32 in x's shape with size 1 in ``dim``.
    """
    y = torch.empty_like(x, memory_format=torch.contiguous_format)
    shape = list(x.shape)
    shape[dim] = 1
    rstd = x.new_empty(shape, dtype=torch.float32)
    normalize(x.contiguous(), None if residual is None else residual.contiguous(), dim, eps, y, rstd)
    return y, rstd


def normalize(x: Tensor, residual: Tensor | None, dim: int, eps: float, y: Tensor, rstd: Tensor) -> None:
    """Like ``rms_norm_fwd``, but writes into preallocated y and rstd. y may alias x. All tensors must be contiguous."""
    lines, size, inner = line_geometry(x, dim)
    if not x.numel():
        rstd.fill_(eps**-0.5)
        return
    config = configs.lookup("rms_norm_fwd", x)
    block = launch_options(size, inner, **config)
    rms_norm_fwd_kernel[(triton.cdiv(lines, block["LINES"]),)](
        x, x if residual is None else residual, y, rstd, lines, size, inner, eps,
        RESIDUAL=residual is not None, **block,
    )  # fmt: skip


def rms_norm_bwd(dy: Tensor, y: Tensor, rstd: Tensor, dim: int) -> Tensor:
    """Returns the gradient of x, which is also that of residual, from the output y; contiguous, in y's dtype."""
    dx = torch.empty_like(y, memory_format=torch.contiguous_format)
    lines, size, inner = line_geometry(y, dim)
    if not y.numel():
        return dx
    config = configs.lookup("rms_norm_bwd", y)
    block = launch_options(size, inner, **config)
    rms_norm_bwd_kernel[(triton.cdiv(lines, block["LINES"]),)](
        dy.contiguous(), y.contiguous(), rstd.contiguous(), dx, lines, size, inner, **block
    )
    return dx


fix_cache_keys(globals())
