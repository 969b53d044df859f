"""The weights as the fused CUDA layers read them: in the states' dtype (bfloat16 or float16), padded, gate and up in
turns of 8 rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

GROUP = 8  # the columns of a tensor core's tile: gate and up of one unit end in one lane
TOKENS = (32, 64, 96, 112, 128)  # padded sizes that there are kernels for (padded_tokens of csrc/core/cuda/launch.h)
CHANNELS = (128, 256, 384, 512)


class Layout(NamedTuple):
    """Of one packed matrix: its size, and by how many rows its halves take turns (0: they don't)."""

    rows: int
    columns: int
    interleave: int


def unsupported_reason(z: Tensor, weights: Sequence[Tensor], heads: int) -> str | None:
    """Why the fused kernels cannot take these states and weights; None if they can."""
    L, D = z.shape[1:]
    if heads:
        return "its kernels are for the token mixer, not for attention"
    if TOKENS[-1] < L:
        return f"its kernels take up to {TOKENS[-1]} tokens, not {L}"
    if D not in CHANNELS:
        return f"its kernels take {', '.join(map(str, CHANNELS))} channels, not {D}"
    if any(w.dtype not in (torch.bfloat16, torch.float16, torch.float32) for w in weights):
        return "its weights must be bfloat16, float16 or float32"
    return None


def layouts(weights: Sequence[Tensor], tokens: int) -> list[Layout]:
    """One for each of ``weights`` (four a block), for states of so many tokens."""
    padded = next(size for size in TOKENS if tokens <= size)
    result = []
    for i in range(0, len(weights), 4):
        (_, mixer_inner), (D, mlp_inner) = weights[i + 1].shape, weights[i + 3].shape
        mixer, mlp = -(-mixer_inner // 64) * 64, -(-mlp_inner // 64) * 64
        result += [Layout(2 * mixer, padded, GROUP), Layout(padded, mixer, 0)]
        result += [Layout(2 * mlp, D, GROUP), Layout(D, mlp, 0)]
    return result


def pack_weights(weights: Sequence[Tensor], tokens: int, dtype: torch.dtype = torch.bfloat16) -> list[Tensor]:
    """Copies of ``weights`` in ``layouts``: what ``adam_atan2_`` keeps up to date, given them as ``copies``.

    Args:
        weights: as ``latent_recursion`` takes them, the mixer's and the mlp's of each block.
        tokens: L.
        dtype: of the states.

    Returns:
        As many matrices of that dtype, zero where they are padded.
    """
    packed = []
    for weight, layout in zip(weights, layouts(weights, tokens), strict=True):
        matrix = weight.new_zeros(layout.rows, layout.columns, dtype=dtype)
        rows = interleaved_rows(len(weight), layout.interleave, weight.device)
        matrix[rows, : weight.shape[1]] = weight.detach().to(dtype)
        packed.append(matrix)
    return packed


def interleaved_rows(rows: int, group: int, device: torch.device) -> Tensor:
    """Where each row goes when ``group`` rows of the first half and of the second take turns; 0 leaves the order."""
    row = torch.arange(rows, device=device)
    if group == 0:
        return row
    at = row % (rows // 2)
    return at // group * 2 * group + row // (rows // 2) * group + at % group
