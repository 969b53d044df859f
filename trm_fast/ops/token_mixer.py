"""A whole SwiGLU layer over tokens, in the natural (B, L, D) layout."""

from __future__ import annotations

from torch import Tensor

from trm_fast.ops import reference
from trm_fast.ops.gated import PANEL, gated_layer, register, rounded, saved_floats


def token_mixer(h: Tensor, gate_up: Tensor, down: Tensor, eps: float = 1e-5) -> Tensor:
    """``mlp`` over tokens, each channel alike, its norm over tokens, too; no transposed copies.

    TRM's attention-free first layer (arXiv 2510.04871, section 4.5).

    Args:
        h: (B, L, D).
        gate_up: (2 I, L), the gate above up.
        down: (L, I).
        eps: of the norm.

    Returns:
        (B, L, D).

    Raises:
        ValueError: weights that do not fit ``h`` or each other.
    """
    return gated_layer("token_mixer", h, gate_up, down, eps, axis=1, plain=reference.token_mixer)


def hidden_floats(gate_up: Tensor, D: int) -> int:
    """What a sample keeps of gate and up, as ``gate_up_floats`` of the mlp."""
    return gate_up.shape[0] * rounded(D, PANEL)


def _saved(h: Tensor, gate_up: Tensor) -> int:
    return saved_floats(h, hidden_floats(gate_up, h.shape[2]), h.shape[2])


register("token_mixer", "TokenMixer", _saved)
