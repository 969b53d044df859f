"""The channel MLP: SwiGLU over channels with residual and norm, in two products with epilogues.

cuBLAS computes the products without an epilogue: the gradients of the weights, and dh. It also computes the second
product of the forward if the rows are too wide for the norm to be an epilogue, or if the table says so
(``row_blocks``). The first product writes the result of SwiGLU. If there will be a backward, it also writes gate and
up, because storing and loading them takes less time than recomputing the product.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from trm_fast.triton_kernels import configs
from trm_fast.triton_kernels.keys import fix_cache_keys
from trm_fast.triton_kernels.layer import TensorSpec, layer_bwd, layer_fwd, load_state
from trm_fast.triton_kernels.rms_norm import normalize, rms_norm_bwd
from trm_fast.triton_kernels.swiglu import deinterleave, interleaved_rows, silu_mul, silu_mul_bwd

# The widest row that one program's accumulators hold whole, so that the norm can be the epilogue of the product.
MAX_ROW_CHANNELS = 512


@triton.jit
def gate_up_fwd_kernel(
    p_h,
    p_gate_up,
    p_hidden,
    p_saved,
    rows,
    D: tl.constexpr,
    inner,
    SAVE: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    DEPTH: tl.constexpr,
):
    """Each program computes ``hidden = silu(h gate^T) (h up^T)`` for ROWS tokens and COLUMNS inner channels.

    With SAVE it also stores gate and up in p_saved (rows, 2 inner).
    """
    tiles = tl.cdiv(inner, COLUMNS)  # consecutive programs read the same rows of h, so h comes from L2, as weights do
    i_row = (tl.program_id(0) // tiles * ROWS + tl.arange(0, ROWS)).to(tl.int64)[:, None]
    start = tl.program_id(0) % tiles * COLUMNS
    i_column, i_depth, i_both = start + tl.arange(0, COLUMNS), tl.arange(0, DEPTH), tl.arange(0, 2 * COLUMNS)
    m_row, m_column, m_both = i_row < rows, i_column < inner, start + interleaved_rows(i_both, 0) < inner
    at_h = p_h + i_row * D + i_depth[None, :]
    at_w = p_gate_up + (start + interleaved_rows(i_both, inner))[None, :] * D + i_depth[:, None]
    b = tl.zeros((ROWS, 2 * COLUMNS), tl.float32)
    for first in range(0, D, DEPTH):
        m_h, m_w = m_row, m_both[None, :]
        if D % DEPTH:
            m_h, m_w = m_h & (first + i_depth < D)[None, :], m_w & (first + i_depth < D)[:, None]
        b_h, b_w = tl.load(at_h + first, mask=m_h, other=0), tl.load(at_w + first, mask=m_w, other=0)
        b = tl.dot(b_h, b_w, b, input_precision="ieee")
    b_gate, b_up = deinterleave(b, ROWS, COLUMNS)
    dtype = p_hidden.dtype.element_ty
    m = m_row & m_column[None, :]
    if SAVE:
        at = p_saved + i_row * 2 * inner + i_column[None, :]
        tl.store(at, b_gate.to(dtype), mask=m)
        tl.store(at + inner, b_up.to(dtype), mask=m)
    tl.store(p_hidden + i_row * inner + i_column[None, :], silu_mul(b_gate, b_up, dtype), mask=m)


@triton.jit
def project_fwd_kernel(
    p_a,
    p_w,
    p_h,
    p_injection,
    p_y,
    p_rstd,
    rows,
    K: tl.constexpr,
    D,
    eps,
    INJECT: tl.constexpr,
    ROWS: tl.constexpr,
    WIDTH: tl.constexpr,
    DEPTH: tl.constexpr,
):
    """Each program computes ``y = rms_norm(h + injection + a w^T)`` and rstd for ROWS whole rows."""
    i_row = (tl.program_id(0) * ROWS + tl.arange(0, ROWS)).to(tl.int64)
    i_column, i_depth = tl.arange(0, WIDTH), tl.arange(0, DEPTH)
    m_row, m_column = (i_row < rows)[:, None], (i_column < D)[None, :]
    at_a = p_a + i_row[:, None] * K + i_depth[None, :]
    at_w = p_w + i_column[None, :] * K + i_depth[:, None]
    at, m = i_row[:, None] * D + i_column[None, :], m_row & m_column
    # The sum starts with h, which saves registers. In float32 h is added last, because each partial sum would be
    # rounded at h's magnitude.
    if p_h.dtype.element_ty == tl.float32:
        b_y = tl.zeros((ROWS, WIDTH), tl.float32)
    else:
        b_y = load_state(p_h, p_injection, at, m, INJECT).to(tl.float32)
    for first in range(0, K, DEPTH):
        m_a, m_w = m_row, m_column
        if K % DEPTH:
            m_a, m_w = m_a & (first + i_depth < K)[None, :], m_w & (first + i_depth < K)[:, None]
        b_a = tl.load(at_a + first, mask=m_a, other=0)
        b_y = tl.dot(b_a, tl.load(at_w + first, mask=m_w, other=0), b_y, input_precision="ieee")
    if p_h.dtype.element_ty == tl.float32:
        b_y += load_state(p_h, p_injection, at, m, INJECT)
    rstd = tl.rsqrt(tl.sum(b_y * b_y, 1) / D + eps)
    tl.store(p_y + at, (b_y * rstd[:, None]).to(p_y.dtype.element_ty), mask=m)
    tl.store(p_rstd + i_row, rstd, mask=i_row < rows)


@triton.jit
def _halves(b, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """Splits a block [ROWS x COLUMNS] into its left and right half."""
    return tl.split(tl.permute(tl.reshape(b, (ROWS, 2, COLUMNS // 2)), (0, 2, 1)))


@triton.jit
def _store_swiglu_bwd(b_d, p_saved, p_dgate_up, i_row, i_column, rows, inner):
    """Stores the gradients of gate and up from b_d, the gradient of ``hidden``, for a block of it."""
    at, m = i_row * 2 * inner + i_column, (i_row < rows) & (i_column < inner)
    b_gate = tl.load(p_saved + at, mask=m, other=0).to(tl.float32)
    b_up = tl.load(p_saved + at + inner, mask=m, other=0).to(tl.float32)
    b_dgate, b_dup = silu_mul_bwd(b_d, b_gate, b_up, p_dgate_up.dtype.element_ty)
    tl.store(p_dgate_up + at, b_dgate, mask=m)
    tl.store(p_dgate_up + at + inner, b_dup, mask=m)


@triton.jit
def down_bwd_kernel(
    p_d,
    p_down,
    p_saved,
    p_dgate_up,
    rows,
    D: tl.constexpr,
    inner,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    DEPTH: tl.constexpr,
):
    """Each program computes the gradients of gate and up for ROWS tokens and COLUMNS inner channels.

    Their common factor is ``dhidden = d down``, the gradient of ``hidden``.
    """
    tiles = tl.cdiv(inner, COLUMNS)
    i_row = (tl.program_id(0) // tiles * ROWS + tl.arange(0, ROWS)).to(tl.int64)[:, None]
    i_column = (tl.program_id(0) % tiles * COLUMNS + tl.arange(0, COLUMNS))[None, :]
    i_depth = tl.arange(0, DEPTH)
    m_row, m_column = i_row < rows, i_column < inner
    at_d = p_d + i_row * D + i_depth[None, :]
    at_w = p_down + i_depth[:, None] * inner + i_column
    b_d = tl.zeros((ROWS, COLUMNS), tl.float32)
    for first in range(0, D, DEPTH):
        m_d, m_w = m_row, m_column
        if D % DEPTH:
            m_d, m_w = m_d & (first + i_depth < D)[None, :], m_w & (first + i_depth < D)[:, None]
        b_a = tl.load(at_d + first, mask=m_d, other=0)
        b_d = tl.dot(b_a, tl.load(at_w + first * inner, mask=m_w, other=0), b_d, input_precision="ieee")
    # A quarter of the columns at a time, because gate, up and both results of all columns do not fit in registers.
    i_part = tl.program_id(0) % tiles * COLUMNS + tl.arange(0, COLUMNS // 4)
    b_first, b_second = _halves(b_d, ROWS, COLUMNS)
    b_parts = _halves(b_first, ROWS, COLUMNS // 2) + _halves(b_second, ROWS, COLUMNS // 2)
    for part in tl.static_range(4):
        i_column = (i_part + part * (COLUMNS // 4))[None, :]
        _store_swiglu_bwd(b_parts[part], p_saved, p_dgate_up, i_row, i_column, rows, inner)


def row_blocks(h: Tensor, K: int) -> dict[str, Any] | None:
    """Returns the launch options of ``project`` from K to h's channels, or None for cuBLAS.

    With blocks of whole rows, the norm is an epilogue; but a block has few rows, and each block reads all weights.
    cuBLAS has larger blocks, but then the norm is a separate pass. In the table, ROWS is 0 if cuBLAS is faster.
    """
    D = h.shape[-1]
    config = configs.lookup("project_fwd", h, D, K)
    return config if config["ROWS"] and D <= MAX_ROW_CHANNELS else None


def project(a: Tensor, w: Tensor, h: Tensor, injection: Tensor | None, eps: float, y: Tensor, rstd: Tensor) -> None:
    """Writes ``y = rms_norm(h + injection + a w^T)``, over channels, into preallocated y, and the factors into rstd.

    a is (rows, K), w (D, K), and h, injection and y (B, L, D) with B L = rows, in one dtype; rstd is float32 (B, L).
    All are contiguous, and y must not alias another tensor.
    """
    (rows, K), D = a.shape, w.shape[0]
    config = row_blocks(h, K)
    if config is None:
        h = h if injection is None else h + injection
        torch.mm(a, w.t(), out=y.view(rows, D))  # addmm copies h first, because cuBLAS adds in place
        normalize(y, h, -1, eps, y, rstd)
    elif rows:
        project_fwd_kernel[(triton.cdiv(rows, config["ROWS"]),)](
            a, w, h, h if injection is None else injection, y, rstd, rows, K, D, eps,
            INJECT=injection is not None, WIDTH=max(16, triton.next_power_of_2(D)), **config,
        )  # fmt: skip


def down_bwd(d: Tensor, down: Tensor, gate_up: Tensor) -> Tensor:
    """Returns the gradients of gate and up, (rows, 2 I), from d (rows, D), the gradient of the second product."""
    D, inner = down.shape
    dgate_up = torch.empty_like(gate_up)
    if dgate_up.numel():
        config = configs.lookup("down_bwd", d, inner, D)
        grid = (triton.cdiv(len(d), config["ROWS"]) * triton.cdiv(inner, config["COLUMNS"]),)
        down_bwd_kernel[grid](d, down, gate_up, dgate_up, len(d), D, inner, **config)
    return dgate_up


class MLP:
    """The channel MLP as a ``layer.Layer``, with the weights gate_up (2 I, D) and down (D, I)."""

    def __init__(self, gate_up: Tensor, down: Tensor, eps: float) -> None:
        self.gate_up, self.down, self.eps = gate_up.contiguous(), down.contiguous(), eps
        self.sums: list[Tensor] | None = None

    def saved_specs(self, h: Tensor) -> list[TensorSpec]:
        B, L, _ = h.shape
        rows, inner = B * L, self.down.shape[1]
        return [((rows, 2 * inner), h.dtype), ((rows, inner), h.dtype), ((B, L), torch.float32)]

    def forward(self, h: Tensor, injection: Tensor | None, y: Tensor, saved_tensors: Sequence[Tensor]) -> None:
        h = h if injection is None else h + injection
        B, L, D = h.shape
        inner, rows = self.down.shape[1], B * L
        if saved_tensors:
            gate_up, hidden, rstd = saved_tensors
        else:
            gate_up = hidden = h.new_empty(rows, inner)
            rstd = h.new_empty(B, L, dtype=torch.float32)
        if hidden.numel():
            config = configs.lookup("gate_up_fwd", h, inner, D)
            grid = (triton.cdiv(rows, config["ROWS"]) * triton.cdiv(inner, config["COLUMNS"]),)
            gate_up_fwd_kernel[grid](
                h, self.gate_up, hidden, gate_up, rows, D, inner,
                SAVE=bool(saved_tensors), **config,
            )  # fmt: skip
        project(hidden, self.down, h, None, self.eps, y, rstd)

    def backward(
        self, dy: Tensor, h: Tensor, injection: Tensor | None, y: Tensor, saved_tensors: Sequence[Tensor]
    ) -> Tensor:
        h = h if injection is None else h + injection
        gate_up, hidden, rstd = saved_tensors
        d = rms_norm_bwd(dy, y, rstd, -1).view(len(gate_up), self.down.shape[0])
        dgate_up = down_bwd(d, self.down, gate_up)
        self.sums = add_products(self.sums, (dgate_up, h.view(d.shape)), (d, hidden))
        return d.addmm_(dgate_up, self.gate_up).view(h.shape)

    def gradients(self) -> list[Tensor]:
        return cast_gradients(self.sums, (self.gate_up, self.down))


def add_products(sums: list[Tensor] | None, *pairs: tuple[Tensor, Tensor]) -> list[Tensor]:
    """Adds ``a^T b`` of each pair (a, b) to ``sums`` in place and returns them. None starts new sums, in float32."""
    products = [torch.mm(a.t(), b) for a, b in pairs]
    if sums is None:
        return [product.float() for product in products]
    return [total.add_(product) for total, product in zip(sums, products, strict=True)]


def cast_gradients(sums: list[Tensor] | None, weights: Sequence[Tensor]) -> list[Tensor]:
    """Returns the summed gradients in the dtypes of their weights; zeros if ``sums`` is None."""
    if sums is None:
        return [torch.zeros_like(w) for w in weights]
    return [total.to(w.dtype) for total, w in zip(sums, weights, strict=True)]


def mlp_fwd(h: Tensor, keep: bool, *layer: Any) -> tuple[Tensor, Tensor]:
    """Returns (y, saved) of ``MLP(*layer)``; saved is uint8, and empty unless ``keep``. h is (B, L, D)."""
    return layer_fwd(MLP(*layer), h, keep)


def mlp_bwd(dy: Tensor, h: Tensor, saved: Tensor, *layer: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Returns (dh, dgate_up, ddown) in the dtypes of h and the weights."""
    return layer_bwd(MLP(*layer), dy, h, saved)


fix_cache_keys(globals())
