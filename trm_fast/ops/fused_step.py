"""The fused step: ``latent_step`` with the CUDA C++ kernels, which read packed weights.

The forward keeps the states between the layers, and the backward recomputes the hidden units. Each layer has one kernel
for the gradient of its input (csrc/ops/token_mixer/cuda_bwd.cu, csrc/ops/mlp/cuda.cu), and the token mixer has one for
the gradients of its weights. The MLP's three other products are computed by cuBLAS.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from trm_fast.ops._core.registry import define
from trm_fast.ops.gradients import plain_backward, reference_gradients
from trm_fast.ops.network import Network
from trm_fast.ops.packing import GROUP, pack_weights


def fused_step(
    z: Tensor, injection: Tensor | None, weights: Sequence[Tensor], packed: Sequence[Tensor] | None, eps: float
) -> Tensor:
    """``net(z + injection)`` with the fused kernels.

    Args:
        z, injection: (B, L, D), bfloat16 or float16; the injection may be None.
        weights: four matrices per layer, in any floating dtype.
        packed: ``pack_weights(weights, L)``; if None, the weights are packed in this call.
        eps: added to the mean square in every norm.

    Returns:
        (B, L, D).
    """
    matrices = packed_for(z, weights, packed)
    if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in (z, injection, *weights)):
        out: Tensor = LatentStepFunction.apply(z, injection, matrices, eps, *weights)
        return out
    y, _ = torch.ops.trm_fast.latent_step_packed_fwd.default(z, injection, matrices, eps, False)
    return y


def packed_for(z: Tensor, weights: Sequence[Tensor], packed: Sequence[Tensor] | None) -> list[Tensor]:
    """``packed`` if it has the dtype of ``z``; otherwise the weights, packed in this call."""
    if packed is None or packed[0].dtype != z.dtype:
        return pack_weights(weights, z.shape[1], z.dtype)
    return list(packed)


class LatentStepFunction(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, z: Tensor, injection: Tensor | None, packed: list[Tensor], eps: float, *weights: Tensor
    ) -> Tensor:
        y, kept = torch.ops.trm_fast.latent_step_packed_fwd.default(z, injection, packed, eps, True)
        ctx.save_for_backward(injection, *weights, y, *packed, z, *kept)
        ctx.weights, ctx.eps = [(w.shape, w.dtype) for w in weights], eps
        return y

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        count = len(ctx.weights)
        injection, *tensors = ctx.saved_tensors
        weights, (y, *saved) = tensors[:count], tensors[count:]
        packed, kept = saved[:count], saved[count:]
        if plain_backward(dy):
            dz, dinjection, *rest = _plain_gradients(ctx, dy, kept[0], injection, *weights)
            return (dz, dinjection, None, None, *rest)
        kernels, gradients = torch.ops.trm_fast, list[Tensor]()
        for i in reversed(range(0, len(packed), 4)):
            mixer_in, mixer_out, mlp_in, mlp_out = packed[i : i + 4]
            h, mixed, over_tokens, over_channels = kept[i : i + 4]
            d = kernels.rms_norm_bwd.default(dy, y, over_channels, -1)
            active, dgate_up = kernels.mlp_packed_bwd.default(d, mixed, mlp_in, mlp_out)
            d, rows = d.flatten(0, 1), mixed.flatten(0, 1)
            dmlp_out = d.t() @ active
            dmixed = d.addmm_(dgate_up, mlp_in).view_as(mixed)  # in place, because addmm would copy d first
            added = None if i else injection
            dy, sums = kernels.token_mixer_packed_bwd.default(dmixed, h, added, mixed, over_tokens, mixer_in, mixer_out)
            y = h
            dmixer_in, dmixer_out = sums.sum(0).split((2, 1))
            dmlp_in = (dgate_up.t() @ rows).unflatten(0, (-1, 2, GROUP)).transpose(0, 1)
            gradients[:0] = [dmixer_in, dmixer_out[0].t(), dmlp_in.flatten(1, 2), dmlp_out]
        dweights = [_unpadded(g, *weight) for g, weight in zip(gradients, ctx.weights, strict=True)]
        return (dy, None if injection is None else dy, None, None, *dweights)


def _plain_gradients(ctx: Any, dy: Tensor, *inputs: Tensor | None) -> list[Tensor | None]:
    """The gradients of the state, the injection and the weights in operations that can be differentiated again."""

    def reference(z: Tensor, injection: Tensor | None, *weights: Tensor) -> Tensor:
        return Network([w.to(z.dtype) for w in weights], eps=ctx.eps).reference(z, injection)

    needed = [*ctx.needs_input_grad[:2], *ctx.needs_input_grad[4:]]
    return reference_gradients(reference, inputs, needed, dy)


def _unpadded(gradient: Tensor, shape: torch.Size, dtype: torch.dtype) -> Tensor:
    """The gradient of a weight from that of its packed form, where gate and up, if any, are two planes."""
    rows, columns = shape
    parts = gradient if gradient.dim() == 3 else gradient.unsqueeze(0)
    return parts[:, : rows // len(parts), :columns].reshape(rows, columns).to(dtype)


def _fwd_fake(
    z: Tensor, injection: Tensor | None, packed: list[Tensor], eps: float, keep: bool
) -> tuple[Tensor, list[Tensor]]:
    (B, L, D), kept = z.shape, []
    for i in range(0, len(packed) if keep else 0, 4):
        kept += [z.new_empty(z.shape) for _ in range(2 if i else 1)]
        kept += [z.new_empty(size, dtype=torch.float32) for size in ((B, 1, D), (B, L, 1))]
    return z.new_empty(z.shape), kept


def _mixer_bwd_fake(
    dy: Tensor, h: Tensor, injection: Tensor | None, y: Tensor, rstd: Tensor, w_in: Tensor, w_out: Tensor
) -> tuple[Tensor, Tensor]:
    (B, _, D), (tokens, inner) = h.shape, w_out.shape
    slabs = min(B * (D // 32), max(1, 264 * 64 // inner))  # token_mixer_slabs of csrc/ops/token_mixer/cuda.h
    return h.new_empty(h.shape), h.new_empty(slabs, 3, inner, tokens, dtype=torch.float32)


def _mlp_bwd_fake(d: Tensor, h: Tensor, w_in: Tensor, w_out: Tensor) -> tuple[Tensor, Tensor]:
    rows, inner = h.shape[0] * h.shape[1], w_out.shape[1]
    return h.new_empty(rows, inner), h.new_empty(rows, 2 * inner)


define(
    {
        "latent_step_packed_fwd(Tensor z, Tensor? injection, Tensor[] packed, float eps, bool keep) "
        "-> (Tensor y, Tensor[] kept)": _fwd_fake,
        "token_mixer_packed_bwd(Tensor dy, Tensor h, Tensor? injection, Tensor y, Tensor rstd, Tensor w_in, "
        "Tensor w_out) -> (Tensor dh, Tensor sums)": _mixer_bwd_fake,
        "mlp_packed_bwd(Tensor d, Tensor h, Tensor w_in, Tensor w_out) "
        "-> (Tensor active, Tensor dgate_up)": _mlp_bwd_fake,
    }
)
