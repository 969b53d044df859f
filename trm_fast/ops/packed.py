"""``latent_step`` on the fused CUDA kernels, and the weights as they read them: in the states' dtype (bfloat16 or
float16), padded, gate and up in turns of 8 rows.

The backward keeps the states between the layers and computes the hidden units again: one kernel a layer for the
gradient that reaches its input (csrc/ops/cuda/token_mixer_bwd.cu, mlp.cu), one for the mixer's weights; of the mlp
three plain products are left, the vendor's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from trm_fast.ops import backend
from trm_fast.ops.reference import interleaved_rows

GROUP = 8  # the columns of a tensor core's tile: gate and up of one unit end in one lane
TOKENS = (32, 64, 96, 112, 128)  # padded sizes that there are kernels for (padded_tokens of csrc/ops/cuda/launch.h)
CHANNELS = (128, 256, 384, 512)


class Layout(NamedTuple):
    """Of one packed matrix: its size, and by how many rows its halves take turns (0: they don't)."""

    rows: int
    columns: int
    interleave: int


def unfit(z: Tensor, weights: Sequence[Tensor], heads: int) -> str | None:
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
    made = []
    for i in range(0, len(weights), 4):
        (_, mixer_inner), (D, mlp_inner) = weights[i + 1].shape, weights[i + 3].shape
        mixer, mlp = _up(mixer_inner, 64), _up(mlp_inner, 64)
        made += [Layout(2 * mixer, padded, GROUP), Layout(padded, mixer, 0)]
        made += [Layout(2 * mlp, D, GROUP), Layout(D, mlp, 0)]
    return made


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


def _up(size: int, multiple: int) -> int:
    return -(-size // multiple) * multiple


def latent_step(
    z: Tensor, injection: Tensor | None, weights: Sequence[Tensor], packed: Sequence[Tensor] | None, eps: float
) -> Tensor:
    """The fused kernels: ``net(z + injection)``. Without ``packed`` the weights are packed first."""
    matrices = _packed_for(z, weights, packed)
    if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in (z, injection, *weights)):
        out: Tensor = LatentStepFunction.apply(z, injection, matrices, eps, *weights)
        return out
    y, _ = torch.ops.trm_fast.latent_step_packed_fwd.default(z, injection, matrices, eps, False)
    return y


def _packed_for(z: Tensor, weights: Sequence[Tensor], packed: Sequence[Tensor] | None) -> list[Tensor]:
    if packed is None or packed[0].dtype != z.dtype:
        return pack_weights(weights, z.shape[1], z.dtype)
    return list(packed)


class LatentStepFunction(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, z: Tensor, injection: Tensor | None, packed: list[Tensor], eps: float, *weights: Tensor
    ) -> Tensor:
        y, kept = torch.ops.trm_fast.latent_step_packed_fwd.default(z, injection, packed, eps, True)
        ctx.save_for_backward(injection, y, *packed, z, *kept)
        ctx.weights = [(w.shape, w.dtype) for w in weights]
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        injection, y, *saved = ctx.saved_tensors
        packed, kept = saved[: len(ctx.weights)], saved[len(ctx.weights) :]
        kernels, gradients = torch.ops.trm_fast, list[Tensor]()
        for i in reversed(range(0, len(packed), 4)):
            mixer_in, mixer_out, mlp_in, mlp_out = packed[i : i + 4]
            h, mixed, over_tokens, over_channels = kept[i : i + 4]
            d = kernels.rms_norm_bwd.default(dy, y, over_channels, -1)
            active, dgate_up = kernels.mlp_packed_bwd.default(d, mixed, mlp_in, mlp_out)
            d, rows = d.flatten(0, 1), mixed.flatten(0, 1)
            dmlp_out = d.t() @ active
            dmixed = d.addmm_(dgate_up, mlp_in).view_as(mixed)  # in place: elsewhere addmm would copy d first
            added = None if i else injection
            dy, sums = kernels.token_mixer_packed_bwd.default(dmixed, h, added, mixed, over_tokens, mixer_in, mixer_out)
            y = h
            dmixer_in, dmixer_out = sums.sum(0).split((2, 1))
            dmlp_in = (dgate_up.t() @ rows).unflatten(0, (-1, 2, GROUP)).transpose(0, 1)
            gradients[:0] = [dmixer_in, dmixer_out[0].t(), dmlp_in.flatten(1, 2), dmlp_out]
        dweights = [_unpadded(g, *weight) for g, weight in zip(gradients, ctx.weights, strict=True)]
        return (dy, None if injection is None else dy, None, None, *dweights)


def _unpadded(gradient: Tensor, shape: torch.Size, dtype: torch.dtype) -> Tensor:
    """From a packed weight's gradient, whose gate and up stand one after the other if it has both."""
    rows, columns = shape
    parts = gradient if gradient.dim() == 3 else gradient.unsqueeze(0)
    return parts[:, : rows // len(parts), :columns].reshape(rows, columns).to(dtype)


def latent_recursion(
    y: Tensor | None,
    z: Tensor,
    x: Tensor,
    weights: Sequence[Tensor],
    n: int,
    packed: Sequence[Tensor] | None,
    inject_last: bool,
    cycles: int,
    eps: float,
) -> tuple[Tensor | None, Tensor]:
    """The recursion of ``reference.latent_recursion`` on the fused kernels."""
    packed = _packed_for(z, weights, packed)
    for _ in range(cycles):
        injection = x if y is None else y + x
        for _ in range(n):
            z = latent_step(z, injection, weights, packed, eps)
        if y is None:
            z = latent_step(z, x if inject_last else None, weights, packed, eps)
        else:
            y = latent_step(y, z, weights, packed, eps)
    return y, z


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
    slabs = min(B * (D // 32), max(1, 264 * 64 // inner))  # token_mixer_slabs of csrc/ops/cuda/launch.h
    return h.new_empty(h.shape), h.new_empty(slabs, 3, inner, tokens, dtype=torch.float32)


def _mlp_bwd_fake(d: Tensor, h: Tensor, w_in: Tensor, w_out: Tensor) -> tuple[Tensor, Tensor]:
    rows, inner = h.shape[0] * h.shape[1], w_out.shape[1]
    return h.new_empty(rows, inner), h.new_empty(rows, 2 * inner)


if not backend.EXTENSION_MISSING:
    torch.library.register_fake("trm_fast::latent_step_packed_fwd", _fwd_fake)
    torch.library.register_fake("trm_fast::token_mixer_packed_bwd", _mixer_bwd_fake)
    torch.library.register_fake("trm_fast::mlp_packed_bwd", _mlp_bwd_fake)
