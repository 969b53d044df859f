"""The op ``group_mixer``: a SwiGLU layer whose first product also reads means over groups of positions."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from trm_fast.ops._core import dispatch
from trm_fast.ops._core.registry import Case, Op, register
from trm_fast.ops.layer import PANEL, layer_kernels, layer_weights, rounded, run_layer, saved_floats
from trm_fast.ops.rms_norm import rms_norm_reference
from trm_fast.ops.swiglu import swiglu_reference
from trm_fast.ops.tensors import accumulate


def group_mixer(
    h: Tensor, gate_up: Tensor, down: Tensor, groups: Tensor, scale: float = 1.0, eps: float = 1e-5
) -> Tensor:
    """``rms_norm(h + down @ swiglu(gate_up @ [h, m_1, ..., m_G]))``, where ``m_g`` at a position is ``scale`` times the
    mean of ``h`` over the position's group in partition g.

    The layer distinguishes positions only by their groups: a permutation of the positions that maps groups to groups
    permutes its output. For example, a sudoku's rows, columns and boxes are three partitions of its cells.

    Args:
        h: (B, L, D), floating point.
        gate_up: (2 I, (1 + G) D), the rows of the gate above those of up; the first D columns read ``h``, the next D
            the means of the first partition, and so on. Same dtype as ``h``.
        down: (D, I).
        groups: int64 (G, L), the number of each position's group in each partition, from 0 to L - 1.
        scale: factor of the means.
        eps: added to the mean square in the norm.

    Returns:
        (B, L, D), the dtype of ``h``.

    Raises:
        TypeError: a tensor is not floating-point.
        ValueError: the weights or groups do not fit ``h`` or each other.

    Examples:
        >>> pairs = torch.tensor([[0, 0, 1, 1]])
        >>> group_mixer(torch.ones(2, 4, 8), torch.zeros(32, 16), torch.zeros(8, 16), pairs).shape
        torch.Size([2, 4, 8])
    """
    gate_up, down = layer_weights("group_mixer", "h gate_up down", h, gate_up, down)
    D, inner = h.shape[-1], down.shape[-1]
    check_groups("group_mixer", h, groups)
    if gate_up.shape != (2 * inner, (1 + len(groups)) * D) or down.shape != (D, inner):
        raise ValueError(
            f"group_mixer: gate_up {tuple(gate_up.shape)} and down {tuple(down.shape)} must be "
            f"(2 I, {(1 + len(groups)) * D}) and ({D}, I) for {len(groups)} partitions"
        )
    chosen = dispatch.select("group_mixer", h)
    if chosen == "reference":
        return group_mixer_reference(h, gate_up, down, groups, scale, eps)
    return run_layer("group_mixer", chosen, h, gate_up, down, groups, scale, eps)


def check_groups(op: str, h: Tensor, groups: Tensor) -> None:
    """Checks that ``groups`` (G, L) are partitions of the positions of ``h`` (B, L, D). The kernels check the numbers.

    Raises:
        ValueError: they are not.
    """
    expected = (groups.shape[:1] + h.shape[1:2], torch.int64, h.device)
    if groups.dim() != 2 or not len(groups) or (groups.shape, groups.dtype, groups.device) != expected:
        raise ValueError(
            f"{op}: groups must be int64 (G, {h.shape[1]}) on {h.device}, but are {groups.dtype} "
            f"{tuple(groups.shape)} on {groups.device}"
        )


def group_mixer_reference(
    h: Tensor, gate_up: Tensor, down: Tensor, groups: Tensor, scale: float = 1.0, eps: float = 1e-5
) -> Tensor:
    read = torch.cat([h, *(scale * group_means(h, group) for group in groups)], dim=-1)
    return rms_norm_reference(F.linear(swiglu_reference(F.linear(read, gate_up)), down), h, eps=eps)


def group_means(h: Tensor, group: Tensor) -> Tensor:
    """The mean of ``h`` (B, L, D) over each position's group, (B, L, D); ``group`` int64 (L,)."""
    values = accumulate(h)
    # scatter_add, because index_add is exported to ONNX as another operation.
    sums = torch.zeros_like(values).scatter_add(1, group[None, :, None].expand_as(values), values)
    sizes = values.new_zeros(h.shape[1]).scatter_add(0, group, values.new_ones(h.shape[1]))
    return (sums / sizes.clamp_min(1).unsqueeze(-1)).index_select(1, group).to(h.dtype)


def group_mixer_saved(h: Tensor, gate_up: Tensor, *_: Any) -> int:
    """The number of floats that the C++ forward saves. The backward recomputes the means."""
    L = h.shape[1]
    return saved_floats(h, 2 * rounded(gate_up.shape[0] // 2, PANEL // 2) * L, L)


def grid_groups(height: int, width: int) -> Tensor:
    """The rows and columns of a grid as partitions, int64 (2, height * width)."""
    cells = torch.arange(height * width)
    return torch.stack((cells // width, cells % width))


register(
    Op(
        group_mixer,
        group_mixer_reference,
        cases=[
            Case(
                [(2, 18, 128), (128, 384), (128, 64)],
                3,
                lambda op, *inputs: op(*inputs, 1.5),
                lambda inputs: [grid_groups(3, 6)],
            )
        ],
        timed=lambda batch: Case(
            [(batch, 81, 512), (3072, 1536), (512, 1536)],
            3,
            lambda op, *inputs: op(*inputs, 1.5),
            lambda inputs: [grid_groups(9, 9)],
        ),
        **layer_kernels(
            "group_mixer", "GroupMixer", "Tensor gate_up, Tensor down, Tensor groups, float scale, float eps",
            group_mixer_saved,
        ),
    )
)  # fmt: skip
