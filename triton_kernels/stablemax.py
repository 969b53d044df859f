"""Stable-max and its cross-entropy, in float64 as published. The score of x is ``x + 1`` for x >= 0, else
``1 / (1 - x)``; a probability is a score divided by the sum of scores.

Logits are far smaller than the states, so it does not matter that float64 is slow on a GPU.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from trm_fast.triton_kernels import configs
from trm_fast.triton_kernels.keys import fix_cache_keys
from trm_fast.triton_kernels.rms_norm import line_geometry


@triton.jit
def _score(x):
    """The score of x, in float64."""
    b_x = x.to(tl.float64)
    # The divisor of the branch not taken must not be zero.
    return tl.where(b_x < 0, 1.0 / (1.0 - tl.where(b_x < 0, b_x, 0.0)), b_x + 1.0)


@triton.jit
def _slope(x, b_score):
    """The derivative of the score."""
    return tl.where(x < 0, b_score * b_score, 1.0)


@triton.jit
def _line_starts(lines, size, inner, LINES: tl.constexpr):
    """The first offsets of this program's lines, and the mask of lines inside the tensor.

    A line has ``size`` elements with stride ``inner``.
    """
    i_line = tl.program_id(0).to(tl.int64) * LINES + tl.arange(0, LINES)
    return (i_line // inner * size * inner + i_line % inner)[:, None], (i_line < lines)[:, None]


@triton.jit
def stablemax_fwd_kernel(p_logits, p_out, lines, size: tl.constexpr, inner, ROWS: tl.constexpr, BLOCK: tl.constexpr):
    """Each program computes the probabilities of ROWS lines, in two passes over blocks of BLOCK logits."""
    start, m_line = _line_starts(lines, size, inner, ROWS)
    total = tl.zeros((ROWS,), tl.float64)
    for first in range(0, size, BLOCK):
        i = (first + tl.arange(0, BLOCK))[None, :]
        m = m_line & (i < size)
        total += tl.sum(tl.where(m, _score(tl.load(p_logits + start + i * inner, mask=m, other=0)), 0.0), 1)
    for first in range(0, size, BLOCK):
        i = (first + tl.arange(0, BLOCK))[None, :]
        m = m_line & (i < size)
        b_x = tl.load(p_logits + start + i * inner, mask=m, other=0)
        tl.store(p_out + start + i * inner, _score(b_x) / total[:, None], mask=m)


@triton.jit
def stablemax_bwd_kernel(
    p_dout, p_logits, p_dlogits, lines, size: tl.constexpr, inner, ROWS: tl.constexpr, BLOCK: tl.constexpr
):
    """Each program computes ``dx = s'(x) / total (dp - sum(dp s) / total)`` for ROWS lines, in two passes.

    s is the score, total the sum of scores, and dp the gradient of the probabilities.
    """
    start, m_line = _line_starts(lines, size, inner, ROWS)
    total = tl.zeros((ROWS,), tl.float64)
    product = tl.zeros((ROWS,), tl.float64)
    for first in range(0, size, BLOCK):
        i = (first + tl.arange(0, BLOCK))[None, :]
        m = m_line & (i < size)
        b_score = tl.where(m, _score(tl.load(p_logits + start + i * inner, mask=m, other=0)), 0.0)
        total += tl.sum(b_score, 1)
        product += tl.sum(b_score * tl.load(p_dout + start + i * inner, mask=m, other=0), 1)
    mean = (product / total)[:, None]
    for first in range(0, size, BLOCK):
        i = (first + tl.arange(0, BLOCK))[None, :]
        m = m_line & (i < size)
        b_x = tl.load(p_logits + start + i * inner, mask=m, other=0)
        b_d = _slope(b_x, _score(b_x)) / total[:, None] * (tl.load(p_dout + start + i * inner, mask=m, other=0) - mean)
        tl.store(p_dlogits + start + i * inner, b_d.to(p_dlogits.dtype.element_ty), mask=m)


@triton.jit
def stablemax_cross_entropy_fwd_kernel(
    p_logits, p_labels, p_loss, p_total, rows, classes: tl.constexpr, ignore, ROWS: tl.constexpr, BLOCK: tl.constexpr
):
    """Each program computes the loss and the sum of scores of ROWS rows of logits."""
    i_row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    m_row = i_row < rows
    label = tl.load(p_labels + i_row, mask=m_row, other=ignore)
    valid = label != ignore
    total = tl.zeros((ROWS,), tl.float64)
    for first in range(0, classes, BLOCK):
        i_class = first + tl.arange(0, BLOCK)
        m = (valid & m_row)[:, None] & (i_class < classes)[None, :]
        b_x = tl.load(p_logits + i_row[:, None] * classes + i_class[None, :], mask=m, other=0)
        total += tl.sum(tl.where(m, _score(b_x), 0.0), 1)
    inside = valid & (label >= 0) & (label < classes)
    target = _score(tl.load(p_logits + i_row * classes + label, mask=inside & m_row, other=0))
    loss = tl.where(valid, tl.log(tl.where(valid, total, 1.0)) - tl.log(target), 0.0)
    # A kernel cannot raise, so a label outside the classes gives NaN.
    tl.store(p_loss + i_row, tl.where(valid & (inside == 0), float("nan"), loss), mask=m_row)
    tl.store(p_total + i_row, tl.where(valid, total, 1.0), mask=m_row)


@triton.jit
def stablemax_cross_entropy_bwd_kernel(
    p_dloss,
    p_logits,
    p_labels,
    p_total,
    p_dlogits,
    rows,
    classes: tl.constexpr,
    ignore,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Each program computes ``dx = dloss s'(x) (1 / total - [x is the label's logit] / s(x))`` for ROWS rows."""
    i_row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    m_row = i_row < rows
    label = tl.load(p_labels + i_row, mask=m_row, other=ignore)
    inside = (label != ignore) & (label >= 0) & (label < classes) & m_row
    dloss = tl.load(p_dloss + i_row, mask=inside, other=0)
    share = dloss / tl.load(p_total + i_row, mask=inside, other=1)
    for first in range(0, classes, BLOCK):
        i_class = first + tl.arange(0, BLOCK)
        m = m_row[:, None] & (i_class < classes)[None, :]
        at = i_row[:, None] * classes + i_class[None, :]
        b_x = tl.load(p_logits + at, mask=m & inside[:, None], other=0)
        b_score = _score(b_x)
        b_d = share[:, None] - tl.where(i_class[None, :] == label[:, None], dloss[:, None] / b_score, 0.0)
        b_d = tl.where(inside[:, None], b_d * _slope(b_x, b_score), 0.0)
        tl.store(p_dlogits + at, b_d.to(p_dlogits.dtype.element_ty), mask=m)


def _options(name: str, logits: Tensor, rows: int, classes: int) -> tuple[tuple[int], dict[str, int]]:
    """Returns the grid and the options of a launch."""
    config = dict(configs.lookup(name, logits))
    block = min(triton.next_power_of_2(classes), 1024)
    per_program = max(1, config.pop("elements") // block)
    return (triton.cdiv(rows, per_program),), {"ROWS": per_program, "BLOCK": block, **config}


def stablemax_fwd(logits: Tensor, dim: int) -> Tensor:
    """Returns the probabilities over ``dim``, contiguous float64 in the shape of the logits."""
    out = logits.new_empty(logits.shape, dtype=torch.float64)
    if out.numel():
        lines, size, inner = line_geometry(logits, dim)
        grid, options = _options("stablemax_fwd", logits, lines, size)
        stablemax_fwd_kernel[grid](logits.contiguous(), out, lines, size, inner, **options)
    return out


def stablemax_bwd(dprobabilities: Tensor, logits: Tensor, dim: int) -> Tensor:
    """Returns the gradient of the logits, contiguous in their dtype; dprobabilities are float64."""
    dlogits = torch.empty_like(logits, memory_format=torch.contiguous_format)
    if dlogits.numel():
        lines, size, inner = line_geometry(logits, dim)
        grid, options = _options("stablemax_bwd", logits, lines, size)
        stablemax_bwd_kernel[grid](
            dprobabilities.contiguous(), logits.contiguous(), dlogits, lines, size, inner, **options
        )
    return dlogits


def stablemax_cross_entropy_fwd(logits: Tensor, labels: Tensor, ignore_index: int) -> tuple[Tensor, Tensor]:
    """Returns the losses and the sums of scores, float64 in the shape of the labels, from logits (..., V).

    If a label is ``ignore_index``, the loss is 0 and the sum 1. Any other label outside [0, V) gives a loss of NaN.
    """
    loss = logits.new_empty(labels.shape, dtype=torch.float64)
    total = torch.empty_like(loss)
    if loss.numel():
        grid, options = _options("stablemax_cross_entropy_fwd", logits, loss.numel(), logits.shape[-1])
        stablemax_cross_entropy_fwd_kernel[grid](
            logits.contiguous(), labels.contiguous(), loss, total,
            loss.numel(), logits.shape[-1], ignore_index, **options,
        )  # fmt: skip
    return loss, total


def stablemax_cross_entropy_bwd(
    dloss: Tensor, logits: Tensor, labels: Tensor, total: Tensor, ignore_index: int
) -> Tensor:
    """Returns the gradient of the logits, contiguous in their dtype: zero for ignored or out-of-range labels."""
    dlogits = torch.empty_like(logits, memory_format=torch.contiguous_format)
    if dlogits.numel():
        grid, options = _options("stablemax_cross_entropy_bwd", logits, labels.numel(), logits.shape[-1])
        stablemax_cross_entropy_bwd_kernel[grid](
            dloss.contiguous(), logits.contiguous(), labels.contiguous(), total.contiguous(), dlogits,
            labels.numel(), logits.shape[-1], ignore_index, **options,
        )  # fmt: skip
    return dlogits


fix_cache_keys(globals())
