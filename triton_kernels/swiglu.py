"""``silu(gate) * up``, forward and backward, element by element; for the products' epilogues, too.

Where the result is rounded to bfloat16, the sigmoid is one instruction of the special function unit, ``tanh.approx``
(relative error 2^-11), not two and their scaling: between products that unit and the instructions around it are what
the tensor cores wait for.
"""

from __future__ import annotations

import math
import os

import torch
import triton
import triton.language as tl
from torch import Tensor

from trm_fast.triton_kernels import configs
from trm_fast.triton_kernels.keys import settle

TURNS = tl.constexpr(8)  # columns of an accumulator that a thread has two of, before it has the next two
INSTRUCTIONS = tl.constexpr(os.environ.get("TRITON_INTERPRET") != "1")  # the interpreter has none of a card's own


@triton.jit
def _sigmoid_and_silu(b_gate, dtype: tl.constexpr):
    if dtype == tl.bfloat16 and INSTRUCTIONS:
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
    """float32 in, ``dtype`` out."""
    _, b_silu = _sigmoid_and_silu(b_gate, dtype)
    return (b_silu * b_up).to(dtype)


@triton.jit
def silu_mul_bwd(b_d, b_gate, b_up, dtype: tl.constexpr):
    """The gradients of gate and up, given that of their product."""
    b_sigmoid, b_silu = _sigmoid_and_silu(b_gate, dtype)
    return (b_d * b_up * (b_sigmoid + b_silu * (1 - b_sigmoid))).to(dtype), (b_d * b_silu).to(dtype)


@triton.jit
def in_turns(i, half):
    """The rows of gate and up, ``half`` apart, for a product with both: ``TURNS`` of the one, then of the other."""
    return i // (2 * TURNS) * TURNS + i % TURNS + i // TURNS % 2 * half


@triton.jit
def apart(b, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """Gate and up, each [ROWS x COLUMNS], of a product with both in turns: no value changes its thread."""
    b_gate, b_up = tl.split(tl.permute(tl.reshape(b, (ROWS, COLUMNS // TURNS, 2, TURNS)), (0, 1, 3, 2)))
    return tl.reshape(b_gate, (ROWS, COLUMNS)), tl.reshape(b_up, (ROWS, COLUMNS))


@triton.jit
def together(b_gate, b_up, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """The other way round."""
    b_gate = tl.reshape(b_gate, (ROWS, COLUMNS // TURNS, TURNS))
    b = tl.join(b_gate, tl.reshape(b_up, (ROWS, COLUMNS // TURNS, TURNS)))
    return tl.reshape(tl.permute(b, (0, 1, 3, 2)), (ROWS, 2 * COLUMNS))


@triton.jit
def _offsets(count, half, BLOCK: tl.constexpr):
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    return i, i // half * 2 * half + i % half, i < count


@triton.jit
def swiglu_fwd_kernel(p_gate_up, p_out, count, half, BLOCK: tl.constexpr):
    i_out, i_gate, m = _offsets(count, half, BLOCK)
    b_gate = tl.load(p_gate_up + i_gate, mask=m, other=0).to(tl.float32)
    b_up = tl.load(p_gate_up + i_gate + half, mask=m, other=0).to(tl.float32)
    tl.store(p_out + i_out, silu_mul(b_gate, b_up, p_out.dtype.element_ty), mask=m)


@triton.jit
def swiglu_bwd_kernel(p_dout, p_gate_up, p_dgate_up, count, half, BLOCK: tl.constexpr):
    i_out, i_gate, m = _offsets(count, half, BLOCK)
    b_gate = tl.load(p_gate_up + i_gate, mask=m, other=0).to(tl.float32)
    b_up = tl.load(p_gate_up + i_gate + half, mask=m, other=0).to(tl.float32)
    b_dout = tl.load(p_dout + i_out, mask=m, other=0).to(tl.float32)
    b_dgate, b_dup = silu_mul_bwd(b_dout, b_gate, b_up, p_dgate_up.dtype.element_ty)
    tl.store(p_dgate_up + i_gate, b_dgate, mask=m)
    tl.store(p_dgate_up + i_gate + half, b_dup, mask=m)


def swiglu_fwd(gate_up: Tensor, dim: int) -> Tensor:
    """gate_up with the gate in the first half of ``dim`` and up in the second; the result has half its size there."""
    shape = list(gate_up.shape)
    shape[dim] //= 2
    out = gate_up.new_empty(shape)
    if out.numel():
        _launch(swiglu_fwd_kernel, "swiglu_fwd", out, dim, gate_up.contiguous(), out)
    return out


def swiglu_bwd(dout: Tensor, gate_up: Tensor, dim: int) -> Tensor:
    """The gradient of gate_up."""
    dgate_up = torch.empty_like(gate_up, memory_format=torch.contiguous_format)
    if dout.numel():
        _launch(swiglu_bwd_kernel, "swiglu_bwd", dout, dim, dout.contiguous(), gate_up.contiguous(), dgate_up)
    return dgate_up


def _launch(kernel: triton.JITFunction, name: str, out: Tensor, dim: int, *tensors: Tensor) -> None:
    half = math.prod(out.shape[dim % out.dim() :])  # the stretch of the gate, and of up, under one outer index
    config = configs.lookup(name, out)
    kernel[(triton.cdiv(out.numel(), config["BLOCK"]),)](*tensors, out.numel(), half, **config)


settle(globals())
