"""A whole SwiGLU layer over tokens, in the natural (B, L, D) layout."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from trm_fast.ops._core.registry import Case, Op, register
from trm_fast.ops.layer import PANEL, layer_kernels, rounded, saved_floats
from trm_fast.ops.mlp import GATED, gated_layer, mlp_reference


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
    return gated_layer("token_mixer", h, gate_up, down, eps, axis=1, reference=token_mixer_reference)


def token_mixer_reference(h: Tensor, gate_up: Tensor, down: Tensor, eps: float = 1e-5) -> Tensor:
    return mlp_reference(h.transpose(1, 2), gate_up, down, eps).transpose(1, 2)


def token_mixer_saved(h: Tensor, gate_up: Tensor, *_: Any) -> int:
    """The channels of gate and up are padded to whole panels."""
    D = h.shape[2]
    return saved_floats(h, gate_up.shape[0] * rounded(D, PANEL), D)


register(
    Op(
        token_mixer,
        token_mixer_reference,
        cases=[Case([(2, 19, 128), (64, 19), (19, 32)], 3, lambda op, *inputs: op(*inputs))],
        timed=lambda batch: Case([(batch, 97, 512), (1024, 97), (97, 512)], 3, lambda op, *inputs: op(*inputs)),
        **layer_kernels("token_mixer", "TokenMixer", GATED, token_mixer_saved),
    )
)
