"""Weights as the fused CUDA kernels of ``latent_step`` read them: bfloat16, padded, gate and up in turns of 8 rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from trm_fast.ops import backend, reference
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
    if any(w.dtype not in (torch.bfloat16, torch.float32) for w in weights):
        return "its weights must be bfloat16 or float32"
    return None


def layouts(weights: Sequence[Tensor], tokens: int) -> list[Layout]:
    """One for each of ``weights`` (four a block), for states of so many tokens."""
    padded = next(size for size in TOKENS if tokens <= size)
    made = []
    for i in range(0, len(weights), 4):
        (_, mixer_inner), (D, mlp_inner) = weights[i + 1].shape, weights[i + 3].shape
        mixer, mlp = _up(mixer_inner, 32), _up(mlp_inner, 64)
        made += [Layout(2 * mixer, padded, GROUP), Layout(padded, mixer, 0)]
        made += [Layout(2 * mlp, D, GROUP), Layout(D, mlp, 0)]
    return made


def pack_weights(weights: Sequence[Tensor], tokens: int) -> list[Tensor]:
    """Copies of ``weights`` in ``layouts``: what ``adam_atan2_`` keeps up to date, given them as ``copies``.

    Args:
        weights: as ``latent_recursion`` takes them, the mixer's and the mlp's of each block.
        tokens: L.

    Returns:
        As many bfloat16 matrices, zero where they are padded.
    """
    packed = []
    for weight, layout in zip(weights, layouts(weights, tokens), strict=True):
        matrix = weight.new_zeros(layout.rows, layout.columns, dtype=torch.bfloat16)
        rows = interleaved_rows(len(weight), layout.interleave, weight.device)
        matrix[rows, : weight.shape[1]] = weight.detach().to(torch.bfloat16)
        packed.append(matrix)
    return packed


def _up(size: int, multiple: int) -> int:
    return -(-size // multiple) * multiple


def latent_step(
    z: Tensor, injection: Tensor | None, weights: Sequence[Tensor], packed: Sequence[Tensor] | None, eps: float
) -> Tensor:
    """The fused kernels: ``net(z + injection)``. Without ``packed`` the weights are packed first."""
    if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in (z, injection, *weights)):
        out: Tensor = LatentStepFunction.apply(z, injection, packed, eps, *weights)
        return out
    packed = pack_weights(weights, z.shape[1]) if packed is None else packed
    return torch.ops.trm_fast.latent_step_packed.default(z, injection, list(packed), eps)


class LatentStepFunction(torch.autograd.Function):
    """The kernels keep nothing for a backward: it runs the reference again, and goes back through that."""

    @staticmethod
    def forward(
        ctx: Any, z: Tensor, injection: Tensor | None, packed: Sequence[Tensor] | None, eps: float, *weights: Tensor
    ) -> Tensor:
        ctx.save_for_backward(z, injection, *weights)
        ctx.eps = eps
        packed = pack_weights(weights, z.shape[1]) if packed is None else packed
        return torch.ops.trm_fast.latent_step_packed.default(z, injection, list(packed), eps)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        z, injection, *weights = ctx.saved_tensors
        # Without an injection a zero takes its place, and its gradient is not handed on.
        states = [z, z.new_zeros(()) if injection is None else injection]
        leaves = [t.detach().requires_grad_() for t in (*states, *weights)]
        with torch.enable_grad():
            y = reference.latent_step(leaves[0], leaves[1], [w.to(z.dtype) for w in leaves[2:]], eps=ctx.eps)
        dz, dinjection, *dweights = torch.autograd.grad(y, leaves, dy)
        return (dz, None if injection is None else dinjection, None, None, *dweights)


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
    packed = pack_weights(weights, z.shape[1]) if packed is None else packed
    for _ in range(cycles):
        injection = x if y is None else y + x
        for _ in range(n):
            z = latent_step(z, injection, weights, packed, eps)
        if y is None:
            z = latent_step(z, x if inject_last else None, weights, packed, eps)
        else:
            y = latent_step(y, z, weights, packed, eps)
    return y, z


if not backend.EXTENSION_MISSING:

    @torch.library.register_fake("trm_fast::latent_step_packed")
    def _(z: Tensor, injection: Tensor | None, packed: list[Tensor], eps: float) -> Tensor:
        return z.new_empty(z.shape)
