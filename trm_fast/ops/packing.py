"""Packs weights in the layout that the fused CUDA layers read.

Packed weights have the states' dtype (bfloat16 or float16), are padded with zeros, and alternate between 8 rows of the
gate and 8 rows of up.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from trm_fast.ops.tensors import check_tensors

GROUP = 8  # rows that alternate: the columns of a tensor-core tile, so that one lane gets a unit's gate and up
TOKENS = (32, 64, 96, 112, 128)  # padded token counts that have kernels (padded_tokens in csrc/core/cuda/launch.h)
CHANNELS = (128, 256, 384, 512)


class Layout(NamedTuple):
    """The layout of one packed matrix: its size, and how many rows of each half alternate (0: the order is kept)."""

    rows: int
    columns: int
    interleave: int


def unsupported_reason(z: Tensor, weights: Sequence[Tensor], *, token_mixer: bool) -> str | None:
    """Why the fused kernels cannot run on states ``z`` (B, L, D) with these weights; None if they can."""
    L, D = z.shape[1:]
    if not token_mixer:
        return "its kernels have the token mixer, not attention or groups"
    if TOKENS[-1] < L:
        return f"its kernels take up to {TOKENS[-1]} tokens, not {L}"
    if D not in CHANNELS:
        return f"its kernels take {', '.join(map(str, CHANNELS))} channels, not {D}"
    if any(w.dtype not in (torch.bfloat16, torch.float16, torch.float32) for w in weights):
        return "its weights must be bfloat16, float16 or float32"
    return None


def layouts(weights: Sequence[Tensor], tokens: int) -> list[Layout]:
    """The packed layout of each of ``weights`` (four per layer) for states with ``tokens`` tokens."""
    padded = next(size for size in TOKENS if tokens <= size)
    result = []
    for i in range(0, len(weights), 4):
        (_, mixer_inner), (D, mlp_inner) = weights[i + 1].shape, weights[i + 3].shape
        mixer, mlp = -(-mixer_inner // 64) * 64, -(-mlp_inner // 64) * 64
        result += [Layout(2 * mixer, padded, GROUP), Layout(padded, mixer, 0)]
        result += [Layout(2 * mlp, D, GROUP), Layout(D, mlp, 0)]
    return result


def pack_weights(weights: Sequence[Tensor], tokens: int, dtype: torch.dtype = torch.bfloat16) -> list[Tensor]:
    """Packs weights for the fused CUDA kernels. ``adam_atan2_`` can keep the result up to date (``copies``).

    Args:
        weights: the weights of the token mixer and the MLP of each layer, as ``latent_recursion`` takes them.
        tokens: number of tokens L, at most 128.
        dtype: dtype of the states, bfloat16 or float16.

    Raises:
        TypeError: a weight is not floating-point.
        ValueError: the weights are on different devices.

    Returns:
        One matrix for each weight, in that dtype, padded with zeros.

    Examples:
        >>> weights = [torch.ones(6, 4), torch.ones(4, 3), torch.ones(6, 128), torch.ones(128, 3)]
        >>> [tuple(matrix.shape) for matrix in pack_weights(weights, tokens=4)]
        [(128, 32), (32, 64), (128, 128), (128, 64)]
    """
    check_tensors("pack_weights", "weights", *weights)
    packed = []
    for weight, layout in zip(weights, layouts(weights, tokens), strict=True):
        matrix = weight.new_zeros(layout.rows, layout.columns, dtype=dtype)
        rows = interleaved_rows(len(weight), layout.interleave, weight.device)
        matrix[rows, : weight.shape[1]] = weight.detach().to(dtype)
        packed.append(matrix)
    return packed


def interleaved_rows(rows: int, group: int, device: torch.device) -> Tensor:
    """The new position of each row, int (rows,): ``group`` rows of each half alternate; 0 keeps the order."""
    row = torch.arange(rows, device=device)
    if group == 0:
        return row
    at = row % (rows // 2)
    return at // group * 2 * group + row // (rows // 2) * group + at % group
