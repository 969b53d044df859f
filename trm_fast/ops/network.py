"""The network of the ops ``latent_recursion`` and ``latent_step``: a stack of layers, in plain PyTorch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

from trm_fast.ops.attention import attention_reference
from trm_fast.ops.group_mixer import check_groups, group_mixer_reference
from trm_fast.ops.mlp import mlp_reference
from trm_fast.ops.token_mixer import token_mixer_reference

Rotary = tuple[Tensor, Tensor]
"""cos and sin of the rotary positions, (L, D / heads) each."""


class Network(NamedTuple):
    """The weights of a network and the options of its layers."""

    weights: Sequence[Tensor]
    heads: int = 0
    rotary: Rotary | None = None
    eps: float = 1e-5
    mask: Tensor | None = None
    causal: bool = False
    groups: Tensor | None = None
    group_scale: float = 1.0

    def check(self, op: str, z: Tensor) -> None:
        """Checks the number of weights, and the groups.

        Raises:
            ValueError: they do not fit ``z`` or the other options.
        """
        per_layer = 4 if self.groups is None else 2
        if not len(self.weights) or len(self.weights) % per_layer:
            raise ValueError(f"{op}: expected {per_layer} weights per layer, but got {len(self.weights)}")
        if self.groups is None:
            if self.causal and not self.heads:
                raise ValueError(f"{op}: causal order needs attention, not a token mixer")
            return
        check_groups(op, z, self.groups)
        if self.heads or self.mask is not None or self.causal:
            raise ValueError(f"{op}: a group mixer has neither heads, mask nor causal order")

    def reference(self, h: Tensor, injection: Tensor | None) -> Tensor:
        """One application of the network to ``h + injection``, (B, L, D), in plain PyTorch."""
        h = h if injection is None else h + injection
        if self.groups is not None:
            for gate_up, down in zip(self.weights[::2], self.weights[1::2], strict=True):
                h = group_mixer_reference(h, gate_up, down, self.groups, self.group_scale, self.eps)
            return h
        for i in range(0, len(self.weights), 4):
            w_in, w_out, gate_up, down = self.weights[i : i + 4]
            if self.heads:
                h = attention_reference(h, w_in, w_out, self.heads, self.rotary, self.eps, self.mask, self.causal)
            else:
                h = token_mixer_reference(
                    h if self.mask is None else h * self.mask.unsqueeze(-1), w_in, w_out, self.eps
                )
            h = mlp_reference(h, gate_up, down, self.eps)
        return h
