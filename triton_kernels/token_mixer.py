"""The token mixer: SwiGLU, residual and norm over tokens.

Up to ``MAX_TOKENS`` tokens, one kernel computes the forward (``mix``) and two compute the backward (``mix_bwd``). For
more tokens, torch.bmm and the kernels of single ops compute both.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import triton
from torch import Tensor

from trm_fast.triton_kernels import configs
from trm_fast.triton_kernels.layer import MIN_PIECE_TOKENS, TensorSpec, as_bytes, layer_bwd, layer_fwd, pieces
from trm_fast.triton_kernels.mix import token_mixer_fwd_kernel
from trm_fast.triton_kernels.mix_bwd import token_mixer_bwd_kernel, token_mixer_bwd_weights_kernel
from trm_fast.triton_kernels.mlp import cast_gradients
from trm_fast.triton_kernels.rms_norm import normalize, rms_norm_bwd
from trm_fast.triton_kernels.swiglu import INTERLEAVE_ROWS, swiglu_bwd, swiglu_fwd

MAX_TOKENS = 128  # of the fused kernels
INNER_MULTIPLE = 64  # the packed inner width is a multiple of this, so that kernels need no mask for weights


def pack(gate_up: Tensor, down: Tensor) -> Tensor:
    """Packs gate_up (2 I, L) and down (L, I) into one matrix (3 I, L), padded with zeros.

    I is padded to a multiple of ``INNER_MULTIPLE``, and L to one of ``MIN_PIECE_TOKENS``. Groups of ``INTERLEAVE_ROWS``
    rows of gate and up alternate, and the rows of down^T follow.
    """
    L, inner = down.shape
    padded_inner, group = triton.cdiv(inner, INNER_MULTIPLE) * INNER_MULTIPLE, INTERLEAVE_ROWS.value
    packed = down.new_zeros(3, padded_inner, triton.cdiv(L, MIN_PIECE_TOKENS) * MIN_PIECE_TOKENS)
    packed[:2, :inner, :L] = gate_up.view(2, inner, L)
    packed[2, :inner, :L] = down.t()
    interleaved = packed[:2].view(2, padded_inner // group, group, -1).transpose(0, 1).reshape(2 * padded_inner, -1)
    return torch.cat((interleaved, packed[2]))


class TokenMixer:
    """The token mixer as a ``layer.Layer``, with the weights gate_up (2 I, L) and down (L, I).

    An object packs the weights only once. ``mask`` is bool (B, L); tokens with False are read as zeros.
    """

    def __init__(self, gate_up: Tensor, down: Tensor, eps: float, mask: Tensor | None = None) -> None:
        self.gate_up, self.down, self.eps = gate_up.contiguous(), down.contiguous(), eps
        self.mask = None if mask is None else as_bytes(mask)
        self.fused = down.shape[0] <= MAX_TOKENS
        self._packed: Tensor | None = None
        self.sums: list[Tensor] | None = None

    def saved_specs(self, h: Tensor) -> list[TensorSpec]:
        B, _, D = h.shape
        rstd: TensorSpec = ((B, 1, D), torch.float32)
        return [rstd] if self.fused else [rstd, ((B, self.gate_up.shape[0], D), h.dtype)]

    def packed(self) -> Tensor:
        """Returns the packed weights."""
        if self._packed is None:
            self._packed = pack(self.gate_up, self.down)
        return self._packed

    def _options(self, kernel: str, h: Tensor) -> dict[str, Any]:
        """Returns the launch options and constants of a kernel."""
        L, inner = self.down.shape
        tokens = self.packed().shape[1]
        return {"TOKENS": tokens, "PIECES": pieces(tokens)} | configs.lookup(kernel, h, L, inner, block=tokens)

    def forward(self, h: Tensor, injection: Tensor | None, y: Tensor, saved_tensors: Sequence[Tensor]) -> None:
        B, L, D = h.shape
        rstd = saved_tensors[0] if saved_tensors else h.new_empty(B, 1, D, dtype=torch.float32)
        if not self.fused:
            h = self._read(h, injection)
            gate_up = _over_tokens(self.gate_up, h)
            if saved_tensors:
                saved_tensors[1].copy_(gate_up)
            normalize(_over_tokens(self.down, swiglu_fwd(gate_up, 1)), h, 1, self.eps, y, rstd)
        elif h.numel():
            packed, options = self.packed(), self._options("token_mixer_fwd", h)
            token_mixer_fwd_kernel[(B, triton.cdiv(D, options["CHANNELS"]))](
                h, h if injection is None else injection, h if self.mask is None else self.mask, packed, y, rstd,
                L, D, len(packed) // 3, self.eps,
                INJECT=injection is not None, MASK=self.mask is not None, **options,
            )  # fmt: skip

    def backward(
        self, dy: Tensor, h: Tensor, injection: Tensor | None, y: Tensor, saved_tensors: Sequence[Tensor]
    ) -> Tensor:
        if not self.fused:
            return self._backward_in_parts(dy, self._read(h, injection), y, *saved_tensors)
        dh = torch.empty_like(h)
        if not h.numel():
            return dh
        (rstd,), packed, inject, masked = saved_tensors, self.packed(), injection is not None, self.mask is not None
        B, L, D = h.shape
        inner = len(packed) // 3
        d = torch.empty_like(h)
        x = torch.empty_like(h) if inject or masked else h
        options = self._options("token_mixer_bwd", h)
        token_mixer_bwd_kernel[(B, triton.cdiv(D, options["CHANNELS"]))](
            dy, h, h if injection is None else injection, h if self.mask is None else self.mask, y, rstd, packed,
            dh, d, x, L, D, inner,
            INJECT=inject, MASK=masked, **options,
        )  # fmt: skip
        options = self._options("token_mixer_bwd_weights", h)
        tiles = B * triton.cdiv(D, options["CHANNELS"])
        slabs = min(options.pop("slabs"), tiles)
        add = self.sums is not None
        if self.sums is None:
            self.sums = [h.new_empty(slabs, 3, inner, packed.shape[1], dtype=torch.float32)]
        token_mixer_bwd_weights_kernel[(inner // options["INNER"], slabs)](
            x, d, packed, self.sums[0], L, D, inner, tiles, triton.cdiv(tiles, slabs), ADD=add, **options
        )
        return dh

    def _backward_in_parts(self, dy: Tensor, h: Tensor, y: Tensor, rstd: Tensor, gate_up: Tensor) -> Tensor:
        """The backward with more than ``MAX_TOKENS`` tokens; h has injection and mask applied."""
        d = rms_norm_bwd(dy, y, rstd, 1)
        dgate_up = swiglu_bwd(_over_tokens(self.down.t(), d), gate_up, 1)
        pairs = ((dgate_up, h), (d, swiglu_fwd(gate_up, 1)))
        products = [torch.bmm(a, b.transpose(1, 2)).sum(0, dtype=torch.float32) for a, b in pairs]
        self.sums = products if self.sums is None else [s.add_(p) for s, p in zip(self.sums, products, strict=True)]
        dh = d + _over_tokens(self.gate_up.t(), dgate_up)
        return dh if self.mask is None else dh * self.mask.unsqueeze(-1)

    def _read(self, h: Tensor, injection: Tensor | None) -> Tensor:
        """Returns the input with injection and mask applied."""
        h = h if injection is None else h + injection
        return h if self.mask is None else h * self.mask.unsqueeze(-1)

    def gradients(self) -> list[Tensor]:
        weights = (self.gate_up, self.down)
        if self.sums is None or not self.fused:
            return cast_gradients(self.sums, weights)
        L, inner = self.down.shape
        total = self.sums[0].sum(0)[:, :inner, :L]
        return cast_gradients([total[:2].reshape(2 * inner, L), total[2].t().contiguous()], weights)


def _over_tokens(w: Tensor, x: Tensor) -> Tensor:
    return torch.bmm(w.expand(len(x), -1, -1), x)


def token_mixer_fwd(h: Tensor, keep: bool, *layer: Any) -> tuple[Tensor, Tensor]:
    """Returns (y, saved) of ``TokenMixer(*layer)``; saved is uint8, and empty unless ``keep``. h is (B, L, D)."""
    return layer_fwd(TokenMixer(*layer), h, keep)


def token_mixer_bwd(dy: Tensor, h: Tensor, saved: Tensor, *layer: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Returns (dh, dgate_up, ddown) in the dtypes of h and the weights."""
    return layer_bwd(TokenMixer(*layer), dy, h, saved)
