"""A whole SwiGLU layer over channels: products, activation, residual and norm."""

from __future__ import annotations

from torch import Tensor

from trm_fast.ops import reference
from trm_fast.ops.gated import PANEL, gated_layer, register, rounded, saved_floats


def mlp(h: Tensor, gate_up: Tensor, down: Tensor, eps: float = 1e-5) -> Tensor:
    """``rms_norm(h + down @ swiglu(gate_up @ h))`` over channels; TRM's second layer (arXiv 2510.04871).

    Args:
        h: (B, L, D).
        gate_up: (2 I, D), the gate above up.
        down: (D, I).
        eps: of the norm.

    Returns:
        (B, L, D).

    Raises:
        ValueError: weights that do not fit ``h`` or each other.
    """
    return gated_layer("mlp", h, gate_up, down, eps, axis=2, plain=reference.mlp)


def gate_up_floats(gate_up: Tensor, L: int) -> int:
    """What a sample keeps of gate and up, padded to whole panels."""
    return 2 * rounded(gate_up.shape[0] // 2, PANEL // 2) * L


def _saved(h: Tensor, gate_up: Tensor) -> int:
    return saved_floats(h, gate_up_floats(gate_up, h.shape[1]), h.shape[1])


register("mlp", "MLP", _saved)
