"""The op ``token_mixer``: a whole SwiGLU layer over tokens, in the (B, L, D) layout."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from trm_fast.ops._core.registry import Case, Op, register
from trm_fast.ops.layer import PANEL, layer_kernels, rounded, saved_floats
from trm_fast.ops.mlp import GATED, gated_layer, mlp_reference


def token_mixer(h: Tensor, gate_up: Tensor, down: Tensor, eps: float = 1e-5) -> Tensor:
    """``mlp`` over tokens instead of channels, including the norm. Kernels do not transpose ``h``.

    TRM mixes tokens with this layer if it has no attention (arXiv 2510.04871, section 4.5).

    Args:
        h: (B, L, D), floating point.
        gate_up: (2 I, L), the rows of the gate, then those of up. Same dtype as ``h``.
        down: (L, I).
        eps: added to the mean square in the norm.

    Returns:
        (B, L, D), the dtype of ``h``.

    Raises:
        TypeError: a tensor is not floating-point.
        ValueError: the weights do not fit ``h`` or each other.

    Examples:
        >>> import torch
        >>> token_mixer(torch.ones(2, 3, 8), torch.zeros(32, 3), torch.zeros(3, 16)).shape
        torch.Size([2, 3, 8])
    """
    return gated_layer("token_mixer", h, gate_up, down, eps, axis=1, reference=token_mixer_reference)


def token_mixer_reference(h: Tensor, gate_up: Tensor, down: Tensor, eps: float = 1e-5) -> Tensor:
    return mlp_reference(h.transpose(1, 2), gate_up, down, eps).transpose(1, 2)


def token_mixer_saved(h: Tensor, gate_up: Tensor, *_: Any) -> int:
    """Number of floats that the C++ forward saves; the channels are padded to whole panels."""
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
