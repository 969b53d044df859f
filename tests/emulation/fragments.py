"""Layouts of numbers in registers and shared memory, as in the PTX manual: pairs, fragments and descriptors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

WARP = 32
PACKED = {"bf16": "u2", "bf16x2": "u4", "f16x2": "u4"}  # types of one or two values that are computed in float32
Values = np.ndarray[Any, Any]


def unpacked(bits: Values, kind: str) -> Values:
    """Converts to float32: (n,) from bf16, (n, 2) from pairs, the low half first."""
    if kind == "f16x2":
        return np.ascontiguousarray(bits)[..., None].view(np.float16).astype(np.float32)
    bits = bits.astype(np.uint32)
    first_half = (bits << np.uint32(16)).view(np.float32)
    return first_half if kind == "bf16" else np.stack((first_half, (bits & np.uint32(0xFFFF0000)).view(np.float32)), -1)


def packed(values: Values, kind: str) -> Values:
    """Converts from float32, rounded to nearest even."""
    dtype = torch.float16 if kind == "f16x2" else torch.bfloat16
    nearest = torch.from_numpy(np.ascontiguousarray(values, np.float32)).to(dtype).view(torch.int16).numpy()
    return nearest.view(np.uint16) if kind == "bf16" else nearest.view(np.uint32)[..., 0]


def rounded(values: Values, bits: int) -> Values:
    """Rounds the mantissa to ``bits`` bits, about the precision of the GPU's approximations."""
    fraction, exponent = np.frexp(values)
    return np.ldexp(np.round(fraction * 2**bits) / 2**bits, exponent).astype(np.float32)


def from_fragments(registers: Sequence[Values], pair: str) -> Values:
    """Assembles a matrix [16 warps x 16] from four registers of each thread: rows g and g + 8 of its warp in the first
    eight columns, then the same rows in the last eight."""
    warps = len(registers[0]) // WARP
    out = np.zeros((warps, 2, 8, 2, 4, 2), np.float32)  # warp, half of rows, row, half of columns, pair, element
    for i, register in enumerate(registers):
        out[:, i % 2, :, i // 2] = unpacked(register, pair).reshape(warps, 8, 4, 2)
    return out.reshape(-1, 16)


def to_accumulators(matrix: Values) -> Values:
    """Splits a matrix [16 warps x N] into accumulators (threads, N / 2): each thread has pairs of columns, of row g and
    of row g + 8."""
    parts = matrix.reshape(len(matrix) // 16, 2, 8, -1, 4, 2)  # warp, half, row, eight columns, pair, element
    return parts.transpose(0, 2, 4, 3, 1, 5).reshape(2 * len(matrix), -1)


def from_descriptor(shared: Values, descriptor: int, rows: int, turned: bool, pair: str) -> Values:
    """Reads a matrix [rows x 16] from shared memory. If ``turned``, neighboring rows are neighbors in memory."""
    start, leading, stride = (((descriptor >> shift) & 0x3FFF) << 4 for shift in (0, 16, 32))
    span = {0: 16, 1: 128, 2: 64, 3: 32}[descriptor >> 62]  # bytes of a line of the swizzle
    row, depth = np.arange(rows)[:, None], np.arange(16)[None, :]
    if turned:
        line = span // 2  # elements
        across, along = (stride, leading) if span == 16 else (leading, stride)
        at = row % line * 2 + row // line * across + depth % 8 * span + depth // 8 * along
    elif span == 16:
        at = row % 8 * 16 + row // 8 * stride + depth % 8 * 2 + depth // 8 * leading
    else:
        at = row % 8 * span + row // 8 * stride + depth * 2
    at = start + at
    at ^= (at >> 3) & (span - 16)  # the swizzle
    bits = shared[at[..., None] + np.arange(2)].view(np.uint16)[..., 0]
    return unpacked(bits.astype(np.uint32), pair)[..., 0]
