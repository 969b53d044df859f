"""The attention layer for a few hundred tokens, with rotary positions, residual and norm, padding and causal order.

torch.mm and ``mlp.project`` compute the projections; the kernels between them are in ``attend`` and ``attend_bwd``.
With an injection, ``qkv_fwd_kernel`` replaces torch.mm and adds the injection to h on load. But if ``project`` uses
cuBLAS, the injection is added to h beforehand, and torch.mm computes the product.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from trm_fast.triton_kernels import configs
from trm_fast.triton_kernels.attend import attend_fwd_kernel
from trm_fast.triton_kernels.attend_bwd import attend_bwd_kernel, attend_bwd_keys_kernel, attend_bwd_queries_kernel
from trm_fast.triton_kernels.keys import fix_cache_keys
from trm_fast.triton_kernels.layer import (
    MIN_PIECE_TOKENS,
    TensorSpec,
    as_bytes,
    layer_bwd,
    layer_fwd,
    load_state,
    pieces,
)
from trm_fast.triton_kernels.mlp import add_products, cast_gradients, project, row_blocks
from trm_fast.triton_kernels.rms_norm import rms_norm_bwd

REGISTERS_PER_MULTIPROCESSOR = 65536


def fit_two_blocks(config: dict[str, Any]) -> dict[str, int]:
    """Limits registers per thread so that a multiprocessor holds two blocks: one loads while the other computes."""
    return {"maxnreg": min(255, REGISTERS_PER_MULTIPROCESSOR // (2 * 32 * config["num_warps"]))}


@triton.jit
def qkv_fwd_kernel(
    p_h,
    p_injection,
    p_w,
    p_qkv,
    rows,
    D: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    DEPTH: tl.constexpr,
):
    """Each program computes a block of ``qkv = (h + injection) w^T``: ROWS tokens and COLUMNS outputs."""
    tiles = tl.cdiv(3 * D, COLUMNS)
    i_row = (tl.program_id(0) // tiles * ROWS + tl.arange(0, ROWS)).to(tl.int64)[:, None]
    i_column = tl.program_id(0) % tiles * COLUMNS + tl.arange(0, COLUMNS)[None, :]
    i_depth = tl.arange(0, DEPTH)
    m_row, m_column = i_row < rows, i_column < 3 * D
    at_h, at_w = i_row * D + i_depth[None, :], p_w + i_column * D + i_depth[:, None]
    b_qkv = tl.zeros((ROWS, COLUMNS), tl.float32)
    for first in range(0, D, DEPTH):
        m_h, m_w = m_row, m_column
        if D % DEPTH:
            m_h, m_w = m_h & (first + i_depth < D)[None, :], m_w & (first + i_depth < D)[:, None]
        b_h = load_state(p_h, p_injection, at_h + first, m_h, True)
        b_qkv = tl.dot(b_h, tl.load(at_w + first, mask=m_w, other=0), b_qkv, input_precision="ieee")
    tl.store(p_qkv + i_row * 3 * D + i_column, b_qkv.to(p_qkv.dtype.element_ty), mask=m_row & m_column)


class Attention:
    """Attention as a ``layer.Layer``, with the weights qkv (3 D, D) and out (D, D).

    cos and sin are (L, D / heads), or None without rotary positions. ``mask`` is bool (B, L): a key with False is
    visible only to the query of its own token.
    """

    def __init__(
        self,
        qkv: Tensor,
        out: Tensor,
        cos: Tensor | None,
        sin: Tensor | None,
        mask: Tensor | None,
        heads: int,
        eps: float,
        causal: bool,
    ) -> None:
        self.qkv, self.out, self.heads, self.eps = qkv.contiguous(), out.contiguous(), heads, eps
        self.rotate = cos is not None
        self.cos = self.out if cos is None else cos.contiguous()  # a placeholder pointer, not read
        self.sin = self.out if sin is None else sin.contiguous()
        self.masked, self.mask, self.causal = mask is not None, self.out if mask is None else as_bytes(mask), causal
        self.sums: list[Tensor] | None = None

    def saved_specs(self, h: Tensor) -> list[TensorSpec]:
        B, L, D = h.shape
        return [
            ((B, L, 3 * D), h.dtype),
            ((B, L, D), h.dtype),
            ((B, self.heads, L), torch.float32),
            ((B, L), torch.float32),
        ]

    def _config(self, kernel: str, h: Tensor) -> dict[str, Any]:
        """Returns block sizes from the table, no larger than L, rounded up to a power of two, and at least 16."""
        L, width = h.shape[1], h.shape[2] // self.heads
        config = configs.lookup(kernel, h, L, width, block=self._padded(h))
        limit = max(MIN_PIECE_TOKENS, triton.next_power_of_2(L))
        return config | {name: min(config[name], limit) for name in ("QUERIES", "KEYS")}

    def _padded(self, h: Tensor) -> int:
        """Returns the width of a head, rounded up to a power of two that tl.dot accepts."""
        return max(16, triton.next_power_of_2(h.shape[2] // self.heads))

    def _launch(self, kernel: triton.JITFunction, h: Tensor, block: int, *tensors: Tensor, **config: Any) -> None:
        """Launches one program for each example, head and block of ``block`` queries or keys."""
        B, L, D = h.shape
        if h.numel():
            kernel[(triton.cdiv(L, block) * B * self.heads,)](
                *tensors, L, D, self.heads,
                ROTATE=self.rotate, CAUSAL=self.causal, MASK=self.masked, WIDTH=self._padded(h), **config,
            )  # fmt: skip

    def forward(self, h: Tensor, injection: Tensor | None, y: Tensor, saved_tensors: Sequence[Tensor]) -> None:
        B, L, D = h.shape
        qkv, mixed, lse, rstd = (
            saved_tensors
            if saved_tensors
            else [h.new_empty(shape, dtype=dtype) for shape, dtype in self.saved_specs(h)]
        )
        if injection is not None and row_blocks(h, D) is None:  # `project` will use cuBLAS
            h, injection = h + injection, None
        if injection is None:
            torch.mm(h.view(B * L, D), self.qkv.t(), out=qkv.view(B * L, 3 * D))
        elif h.numel():
            config = configs.lookup("qkv_fwd", h, D)
            grid = (triton.cdiv(B * L, config["ROWS"]) * triton.cdiv(3 * D, config["COLUMNS"]),)
            qkv_fwd_kernel[grid](h, injection, self.qkv, qkv, B * L, D, **config)
        tables = self.cos, self.sin, self.mask
        config = self._config("attend_fwd", h)
        queries, keys = config["QUERIES"], min(config["KEYS"], triton.cdiv(L, MIN_PIECE_TOKENS) * MIN_PIECE_TOKENS)
        config |= {"KEYS": keys, "END": triton.cdiv(L, keys) * keys, "PIECES": pieces(keys)}
        fits_registers = self.causal or not self.masked or keys <= 64  # a mask without causal order would spill
        if keys >= L and fits_registers and h.element_size() == 2 and self._padded(h) <= 64:
            config |= fit_two_blocks(config)
        self._launch(attend_fwd_kernel, h, queries, qkv, *tables, mixed, lse, **config)
        project(mixed.view(B * L, D), self.out, h, injection, self.eps, y, rstd)

    def backward(
        self, dy: Tensor, h: Tensor, injection: Tensor | None, y: Tensor, saved_tensors: Sequence[Tensor]
    ) -> Tensor:
        h = h if injection is None else h + injection
        qkv, mixed, lse, rstd = saved_tensors
        B, L, D = h.shape
        d = rms_norm_bwd(dy, y, rstd, -1).view(B * L, D)
        dmixed, dqkv = torch.mm(d, self.out), torch.empty_like(qkv)
        self._backward_attend(dmixed, mixed, qkv, lse, dqkv)
        dqkv_rows = dqkv.view(B * L, 3 * D)
        self.sums = add_products(self.sums, (dqkv_rows, h.view(B * L, D)), (d, mixed.view(B * L, D)))
        return d.addmm_(dqkv_rows, self.qkv).view(h.shape)

    def _backward_attend(self, dmixed: Tensor, mixed: Tensor, qkv: Tensor, lse: Tensor, dqkv: Tensor) -> None:
        """Writes the gradient of qkv into dqkv.

        One kernel computes it if the table's blocks for ``attend_bwd_queries`` hold all tokens, otherwise two kernels.
        """
        L = mixed.shape[1]
        tables = self.cos, self.sin, self.mask
        config = self._config("attend_bwd_queries", mixed)
        queries, keys = config["QUERIES"], config["KEYS"]
        if min(queries, keys) >= L:
            keys = triton.cdiv(L, MIN_PIECE_TOKENS) * MIN_PIECE_TOKENS
            config |= {"KEYS": keys, "PIECES": pieces(keys, max_piece=64)}
            # With a mask, or with other widths or lengths, this would spill registers.
            fits_registers = not self.causal and not self.masked and 64 < keys < 128
            if fits_registers and mixed.element_size() == 2 and self._padded(mixed) == 64:
                config |= fit_two_blocks(config)
            self._launch(attend_bwd_kernel, mixed, queries, dmixed, mixed, qkv, *tables, lse, dqkv, **config)
            return
        shared = qkv, *tables, lse, torch.empty_like(lse), dqkv
        end = triton.cdiv(L, keys) * keys
        self._launch(attend_bwd_queries_kernel, mixed, queries, dmixed, mixed, *shared, END=end, **config)
        config = self._config("attend_bwd_keys", mixed)
        queries, keys = config["QUERIES"], config["KEYS"]
        end = triton.cdiv(L, queries) * queries
        self._launch(attend_bwd_keys_kernel, mixed, keys, dmixed, *shared, END=end, **config)

    def gradients(self) -> list[Tensor]:
        return cast_gradients(self.sums, (self.qkv, self.out))


def attention_fwd(h: Tensor, keep: bool, *layer: Any) -> tuple[Tensor, Tensor]:
    """Returns (y, saved) of ``Attention(*layer)``; saved is uint8, and empty unless ``keep``. h is (B, L, D)."""
    return layer_fwd(Attention(*layer), h, keep)


def attention_bwd(dy: Tensor, h: Tensor, saved: Tensor, *layer: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Returns (dh, dqkv, dout) in the dtypes of h and the weights."""
    return layer_bwd(Attention(*layer), dy, h, saved)


fix_cache_keys(globals())
