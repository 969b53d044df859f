"""The op ``mlp``: a whole SwiGLU layer over channels. ``token_mixer`` also uses ``gated_layer``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from trm_fast.ops._core import dispatch
from trm_fast.ops._core.registry import Case, Op, register
from trm_fast.ops.layer import PANEL, layer_kernels, layer_weights, rounded, run_layer, saved_floats
from trm_fast.ops.rms_norm import rms_norm_reference
from trm_fast.ops.swiglu import swiglu_reference

GATED = "Tensor gate_up, Tensor down, float eps"  # arguments of the layer in the schemas


def mlp(h: Tensor, gate_up: Tensor, down: Tensor, eps: float = 1e-5) -> Tensor:
    """``rms_norm(h + down @ swiglu(gate_up @ h))`` over channels: the channel MLP of TRM (arXiv 2510.04871).

    Args:
        h: (B, L, D), floating point.
        gate_up: (2 I, D), the rows of the gate, then those of up. Same dtype as ``h``.
        down: (D, I).
        eps: added to the mean square in the norm.

    Returns:
        (B, L, D), the dtype of ``h``.

    Raises:
        TypeError: a tensor is not floating-point.
        ValueError: the weights do not fit ``h`` or each other.

    Examples:
        >>> import torch
        >>> mlp(torch.ones(2, 3, 8), torch.zeros(32, 8), torch.zeros(8, 16)).shape
        torch.Size([2, 3, 8])
    """
    return gated_layer("mlp", h, gate_up, down, eps, axis=2, reference=mlp_reference)


def mlp_reference(h: Tensor, gate_up: Tensor, down: Tensor, eps: float = 1e-5) -> Tensor:
    return rms_norm_reference(F.linear(swiglu_reference(F.linear(h, gate_up)), down), h, eps=eps)


def gated_layer(
    op: str, h: Tensor, gate_up: Tensor, down: Tensor, eps: float, *, axis: int, reference: Callable[..., Tensor]
) -> Tensor:
    """Applies a SwiGLU layer over one ``axis`` of ``h`` (B, L, D) with the chosen backend.

    Raises:
        TypeError: a tensor is not floating-point.
        ValueError: the weights do not fit ``h`` or each other.
    """
    gate_up, down = layer_weights(op, "h gate_up down", h, gate_up, down)
    width, inner = h.shape[axis], down.shape[-1]
    if gate_up.shape != (2 * inner, width) or down.shape != (width, inner):
        raise ValueError(
            f"{op}: gate_up {tuple(gate_up.shape)} and down {tuple(down.shape)} must be (2 I, {width}) and ({width}, I)"
        )
    chosen = dispatch.select(op, h)
    if chosen == "reference":
        return reference(h, gate_up, down, eps)
    return run_layer(op, chosen, h, gate_up, down, eps)


def mlp_saved(h: Tensor, gate_up: Tensor, *_: Any) -> int:
    """Number of floats that the C++ forward saves; the inner channels are padded to whole panels."""
    L = h.shape[1]
    return saved_floats(h, 2 * rounded(gate_up.shape[0] // 2, PANEL // 2) * L, L)


register(
    Op(
        mlp,
        mlp_reference,
        cases=[Case([(2, 19, 128), (128, 128), (128, 64)], 3, lambda op, *inputs: op(*inputs))],
        timed=lambda batch: Case([(batch, 97, 512), (3072, 512), (512, 1536)], 3, lambda op, *inputs: op(*inputs)),
        **layer_kernels("mlp", "MLP", GATED, mlp_saved),
    )
)
