"""SwiGLU, ``silu(gate) * up``, forward and backward: as kernels, and as functions for the epilogues of products.

For bfloat16 results the sigmoid takes one instruction of the special function unit, ``tanh.approx`` (relative error
2^-11), instead of two and their scaling. This matters because the tensor cores wait for that unit between two products.
"""

from __future__ import annotations

import math
import os

import torch
import triton
import triton.language as tl
from torch import Tensor

from trm_fast.triton_kernels import configs
from trm_fast.triton_kernels.keys import fix_cache_keys

INTERLEAVE_ROWS = tl.constexpr(8)  # a thread holds two neighboring columns of every 8 in an accumulator
INLINE_ASSEMBLY = tl.constexpr(os.environ.get("TRITON_INTERPRET") != "1")  # not in Triton's interpreter


@triton.jit
def _sigmoid_and_silu(b_gate, dtype: tl.constexpr):
    """Computes ``sigmoid(gate)`` and ``silu(gate)`` of a float32 block; ``dtype`` is that of the final result."""
    if dtype == tl.bfloat16 and INLINE_ASSEMBLY:
        b_half = 0.5 * b_gate
        b_tanh = tl.inline_asm_elementwise(
            "tanh.approx.f32 $0, $1;", "=f,f", [b_half], dtype=tl.float32, is_pure=True, pack=1
        )
        b_sigmoid, b_silu = 0.5 * b_tanh + 0.5, b_half * b_tanh + b_half
    else:
        b_sigmoid = tl.sigmoid(b_gate)
        b_silu = b_gate * b_sigmoid
    return b_sigmoid, b_silu


@triton.jit
def silu_mul(b_gate, b_up, dtype: tl.constexpr):
    """Computes ``silu(gate) up`` from float32 blocks, rounded to ``dtype``."""
    _, b_silu = _sigmoid_and_silu(b_gate, dtype)
    return (b_silu * b_up).to(dtype)


@triton.jit
def silu_mul_bwd(b_d, b_gate, b_up, dtype: tl.constexpr):
    """Computes the gradients of gate and up in ``dtype`` from ``b_d``, the gradient of ``silu(gate) up``."""
    b_sigmoid, b_silu = _sigmoid_and_silu(b_gate, dtype)
    return (b_d * b_up * (b_sigmoid + b_silu * (1 - b_sigmoid))).to(dtype), (b_d * b_silu).to(dtype)


@triton.jit
def interleaved_rows(i, half):
    """The row of gate_up at position i of the interleaved order. The rows of up start at row ``half``.

    In this order, groups of ``INTERLEAVE_ROWS`` rows of gate and up alternate.
    """
    return i // (2 * INTERLEAVE_ROWS) * INTERLEAVE_ROWS + i % INTERLEAVE_ROWS + i // INTERLEAVE_ROWS % 2 * half


@triton.jit
def deinterleave(b, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """Splits a block [ROWS x 2 COLUMNS] with interleaved columns into gate and up, each [ROWS x COLUMNS].

    No value moves to another thread.
    """
    b_gate, b_up = tl.split(
        tl.permute(tl.reshape(b, (ROWS, COLUMNS // INTERLEAVE_ROWS, 2, INTERLEAVE_ROWS)), (0, 1, 3, 2))
    )
    return tl.reshape(b_gate, (ROWS, COLUMNS)), tl.reshape(b_up, (ROWS, COLUMNS))


@triton.jit
def interleave(b_gate, b_up, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """The inverse of ``deinterleave``."""
    b_gate = tl.reshape(b_gate, (ROWS, COLUMNS // INTERLEAVE_ROWS, INTERLEAVE_ROWS))
    b = tl.join(b_gate, tl.reshape(b_up, (ROWS, COLUMNS // INTERLEAVE_ROWS, INTERLEAVE_ROWS)))
    return tl.reshape(tl.permute(b, (0, 1, 3, 2)), (ROWS, 2 * COLUMNS))


@triton.jit
def _offsets(count, half, BLOCK: tl.constexpr):
    """The offsets of this program's elements in the result and of their gates in gate_up, and the mask of both."""
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    return i, i // half * 2 * half + i % half, i < count


@triton.jit
def swiglu_fwd_kernel(p_gate_up, p_out, count, half, BLOCK: tl.constexpr):
    """Each program computes BLOCK elements of ``out``."""
    i_out, i_gate, m = _offsets(count, half, BLOCK)
    b_gate = tl.load(p_gate_up + i_gate, mask=m, other=0).to(tl.float32)
    b_up = tl.load(p_gate_up + i_gate + half, mask=m, other=0).to(tl.float32)
    tl.store(p_out + i_out, silu_mul(b_gate, b_up, p_out.dtype.element_ty), mask=m)


@triton.jit
def swiglu_bwd_kernel(p_dout, p_gate_up, p_dgate_up, count, half, BLOCK: tl.constexpr):
    """Each program computes the gradients of gate and up for BLOCK elements of ``out``."""
    i_out, i_gate, m = _offsets(count, half, BLOCK)
    b_gate = tl.load(p_gate_up + i_gate, mask=m, other=0).to(tl.float32)
    b_up = tl.load(p_gate_up + i_gate + half, mask=m, other=0).to(tl.float32)
    b_dout = tl.load(p_dout + i_out, mask=m, other=0).to(tl.float32)
    b_dgate, b_dup = silu_mul_bwd(b_dout, b_gate, b_up, p_dgate_up.dtype.element_ty)
    tl.store(p_dgate_up + i_gate, b_dgate, mask=m)
    tl.store(p_dgate_up + i_gate + half, b_dup, mask=m)


def swiglu_fwd(gate_up: Tensor, dim: int) -> Tensor:
    """Returns ``silu(gate) up``, contiguous in the dtype of gate_up and half as large in ``dim``.

    The gate is the first half of ``dim``, and up is the second.
    """
    shape = list(gate_up.shape)
    shape[dim] //= 2
    out = gate_up.new_empty(shape)
    if out.numel():
        _launch(swiglu_fwd_kernel, "swiglu_fwd", out, dim, gate_up.contiguous(), out)
    return out


def swiglu_bwd(dout: Tensor, gate_up: Tensor, dim: int) -> Tensor:
    """Returns the gradient of gate_up, contiguous in its shape and dtype."""
    dgate_up = torch.empty_like(gate_up, memory_format=torch.contiguous_format)
    if dout.numel():
        _launch(swiglu_bwd_kernel, "swiglu_bwd", dout, dim, dout.contiguous(), gate_up.contiguous(), dgate_up)
    return dgate_up


def _launch(kernel: triton.JITFunction, name: str, out: Tensor, dim: int, *tensors: Tensor) -> None:
    """Launches an elementwise kernel over the elements of ``out``; all tensors are contiguous."""
    half = math.prod(out.shape[dim % out.dim() :])  # contiguous elements of the gate, and of up, per outer index
    config = configs.lookup(name, out)
    kernel[(triton.cdiv(out.numel(), config["BLOCK"]),)](*tensors, out.numel(), half, **config)


fix_cache_keys(globals())
