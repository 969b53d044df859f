"""Cycles of TRM's recursion in one call: latent steps and the answer step, through the whole network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from trm_fast.ops import backend, reference
from trm_fast.ops import packed as fused
from trm_fast.ops.dispatch import define_triton, triton_kernels
from trm_fast.ops.gated import saved_floats
from trm_fast.ops.mlp import gate_up_floats
from trm_fast.ops.token_mixer import hidden_floats

Rotary = tuple[Tensor, Tensor]
"""cos and sin of the positions, (L, D / heads) each."""


def latent_recursion(
    y: Tensor | None,
    z: Tensor,
    x: Tensor,
    weights: Sequence[Tensor],
    n: int,
    *,
    heads: int = 0,
    rotary: Rotary | None = None,
    inject_last: bool = True,
    cycles: int = 1,
    eps: float = 1e-5,
    packed: Sequence[Tensor] | None = None,
    mask: Tensor | None = None,
    causal: bool = False,
) -> tuple[Tensor | None, Tensor]:
    """``n`` times ``z = net(z + y + x)``, then ``y = net(y + z)`` (arXiv 2510.04871, figure 3); ``cycles`` in a row.

    In single state (``y`` is None) ``n`` times ``z = net(z + x)``, and once more, with x or without (``inject_last``).
    The network is a stack of post-norm blocks: token mixer or attention, then mlp. Its weights' gradients are summed
    over the n + 1 applications inside the call.

    Args:
        y, z, x: answer, latent and embedded question, each (B, L, D), of one dtype.
        weights: four matrices a block: those of ``token_mixer`` (``heads`` 0) or ``attention``, then those of ``mlp``.
            Where their dtype is not the states' (float32 weights, bfloat16 states), they are cast once a call.
        n: latent steps a cycle.
        heads: of attention; 0 for the token mixer.
        rotary: cos and sin, (L, D / heads) each, for rotary positions; they get no gradient.
        inject_last: in single state, whether the last application adds x, too.
        cycles: more than one only where no gradient is wanted.
        eps: added to the mean square of every norm.
        packed: ``pack_weights(weights, L)``, kept up to date; spares the CUDA kernels packing them in every call.
        mask: bool (B, L), which tokens are there: a mixer reads the others as zeros, attention lets them be seen by
            themselves alone.
        causal: of attention: no token sees later ones.

    Returns:
        The new (y, z); y is None in single state.

    Raises:
        ValueError: the states' shapes or dtypes differ, a mask does not fit them, or gradients are wanted of more than
            one cycle.
    """
    for name, state in (("y", y), ("x", x)):
        if state is not None and (state.shape, state.dtype) != (z.shape, z.dtype):
            raise ValueError(
                f"latent_recursion: {name} is {tuple(state.shape)} {state.dtype}, z is {tuple(z.shape)} {z.dtype}"
            )
    chosen = backend.select_masked("latent_recursion", mask, causal, heads, z, y, x, *weights)
    if chosen == "cuda":
        if not (reason := fused.unfit(z, weights, heads)):
            return fused.latent_recursion(y, z, x, weights, n, packed, inject_last, cycles, eps)
        chosen = backend.instead("latent_recursion", chosen, reason, z, heads)
    weights = in_dtype_of_states(weights, z)
    if chosen == "reference":
        return reference.latent_recursion(
            y, z, x, weights, n, heads=heads, rotary=rotary, inject_last=inject_last, cycles=cycles, eps=eps,
            mask=mask, causal=causal,
        )  # fmt: skip
    y_out, z_out = recur(y, z, x, weights, n, heads, rotary, inject_last, cycles, eps, chosen, mask, causal)
    return None if y is None else y_out, z_out


def in_dtype_of_states(weights: Sequence[Tensor], z: Tensor) -> list[Tensor]:
    """Each application's products then read the low precision, and its gradients are summed before they are cast."""
    return [w.to(z.dtype) for w in weights]


def recur(
    y: Tensor | None,
    z: Tensor,
    x: Tensor,
    weights: Sequence[Tensor],
    n: int,
    heads: int,
    rotary: Rotary | None,
    inject_last: bool,
    cycles: int,
    eps: float,
    chosen: str,
    mask: Tensor | None,
    causal: bool,
) -> tuple[Tensor, Tensor]:
    """The chosen backend's kernels, with or without gradient; y is empty in single state."""
    cos, sin = rotary or (None, None)
    if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in (y, z, x, *weights)):
        if cycles != 1:
            raise ValueError(f"latent_recursion: gradients need cycles=1, not {cycles}; run the others under no_grad")
        y_out, z_out = LatentRecursionFunction.apply(
            y, z, x, cos, sin, heads, n, inject_last, eps, chosen, mask, causal, *weights
        )
    else:
        y_out, z_out, _ = backend.kernels(chosen).latent_recursion_fwd.default(
            y, z, x, list(weights), cos, sin, heads, n, cycles, inject_last, eps, False, mask, causal
        )
    return y_out, z_out


class LatentRecursionFunction(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        y: Tensor | None,
        z: Tensor,
        x: Tensor | None,
        cos: Tensor | None,
        sin: Tensor | None,
        heads: int,
        n: int,
        inject_last: bool,
        eps: float,
        chosen: str,
        mask: Tensor | None,
        causal: bool,
        *weights: Tensor,
    ) -> tuple[Tensor, Tensor]:
        y_out, z_out, saved = backend.kernels(chosen).latent_recursion_fwd.default(
            y, z, x, list(weights), cos, sin, heads, n, 1, inject_last, eps, True, mask, causal
        )
        ctx.save_for_backward(z, saved, cos, sin, mask, *weights)
        ctx.options, ctx.causal, ctx.backend = (heads, n, y is not None, inject_last, eps), causal, chosen
        ctx.set_materialize_grads(False)
        if y is None:
            ctx.mark_non_differentiable(y_out)
        return y_out, z_out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor | None, dz: Tensor | None) -> tuple[Tensor | None, ...]:
        z, saved, cos, sin, mask, *weights = ctx.saved_tensors
        dual = ctx.options[2]
        dy_in, dz_in, dx, dweights = backend.kernels(ctx.backend).latent_recursion_bwd.default(
            dy if dual else None, dz, z, saved, weights, cos, sin, *ctx.options, mask, ctx.causal
        )
        return (dy_in if dual else None, dz_in, dx, *[None] * 9, *dweights)


def _fwd_fake(
    y: Tensor | None,
    z: Tensor,
    x: Tensor | None,
    weights: list[Tensor],
    cos: Tensor | None,
    sin: Tensor | None,
    heads: int,
    n: int,
    cycles: int,
    inject_last: bool,
    eps: float,
    keep: bool,
    mask: Tensor | None,
    causal: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    y_out = z.new_empty(0) if y is None else z.new_empty(z.shape)
    injections = n + (y is not None or inject_last)
    kept = recursion_floats(z, weights, heads, n + 1, injections) if keep else 0
    return y_out, z.new_empty(z.shape), z.new_empty(kept)


def _bwd_fake(
    dy: Tensor | None,
    dz: Tensor | None,
    z: Tensor,
    saved: Tensor,
    weights: list[Tensor],
    cos: Tensor | None,
    sin: Tensor | None,
    heads: int,
    n: int,
    dual: bool,
    inject_last: bool,
    eps: float,
    mask: Tensor | None,
    causal: bool,
) -> tuple[Tensor, Tensor, Tensor, list[Tensor]]:
    dy_in = z.new_empty(z.shape) if dual else z.new_empty(0)
    dx = z.new_empty(z.shape) if n or dual or inject_last else z.new_empty(0)
    return dy_in, z.new_empty(z.shape), dx, [w.new_empty(w.shape) for w in weights]


def recursion_floats(z: Tensor, weights: Sequence[Tensor], heads: int, applications: int, injections: int) -> int:
    """The size of what the C++ forward keeps: for each application its layers' share, and the inputs of those that
    have one of their own."""
    B, L, D = z.shape
    layers = 0
    for i in range(0, len(weights), 4):
        layers += saved_floats(z, 4 * L * D, L) if heads else saved_floats(z, hidden_floats(weights[i], D), D)
        layers += saved_floats(z, gate_up_floats(weights[i + 2], L), L)
    return applications * layers + injections * B * L * D


def _triton_fwd_fake(
    y: Tensor | None,
    z: Tensor,
    x: Tensor | None,
    weights: list[Tensor],
    cos: Tensor | None,
    sin: Tensor | None,
    heads: int,
    n: int,
    cycles: int,
    inject_last: bool,
    eps: float,
    keep: bool,
    mask: Tensor | None,
    causal: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    kernels = triton_kernels("latent_recursion")
    layers = kernels.network(weights, heads, cos, sin, eps, mask, causal)
    kept = triton_kernels("layer").size(kernels.saved_specs(layers, z, n, y is not None, inject_last)) if keep else 0
    y_out = z.new_empty(0) if y is None else z.new_empty(z.shape)
    return y_out, z.new_empty(z.shape), z.new_empty(kept, dtype=torch.uint8)


define_triton(
    "latent_recursion",
    "latent_recursion_fwd(Tensor? y, Tensor z, Tensor? x, Tensor[] weights, Tensor? cos, Tensor? sin, int heads, "
    "int n, int cycles, bool inject_last, float eps, bool keep, Tensor? mask, bool causal) "
    "-> (Tensor y_out, Tensor z_out, Tensor saved)",
    _triton_fwd_fake,
)
define_triton(
    "latent_recursion",
    "latent_recursion_bwd(Tensor? dy, Tensor? dz, Tensor z, Tensor saved, Tensor[] weights, Tensor? cos, "
    "Tensor? sin, int heads, int n, bool dual, bool inject_last, float eps, Tensor? mask, bool causal) "
    "-> (Tensor dy_in, Tensor dz_in, Tensor dx, Tensor[] dweights)",
    _bwd_fake,
)
if not backend.EXTENSION_MISSING:
    torch.library.register_fake("trm_fast::latent_recursion_fwd", _fwd_fake)
    torch.library.register_fake("trm_fast::latent_recursion_bwd", _bwd_fake)
