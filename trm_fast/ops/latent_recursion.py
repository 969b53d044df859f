"""Cycles of TRM's recursion in one call: latent steps and the answer step, through the whole network."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from trm_fast.ops._core import dispatch
from trm_fast.ops._core.registry import GPU_FLOATS, Case, Op, kernels, register, triton_kernels
from trm_fast.ops.attention import attention_reference
from trm_fast.ops.fused_step import fused_step, packed_for
from trm_fast.ops.mlp import gate_up_floats, mlp_reference, saved_floats
from trm_fast.ops.packing import pack_weights, unsupported_reason
from trm_fast.ops.token_mixer import hidden_floats, token_mixer_reference

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
    chosen = dispatch.select_masked("latent_recursion", mask, causal, heads, z, y, x, *weights)
    if chosen == "cuda":
        if not (reason := unsupported_reason(z, weights, heads)):
            return _fused_recursion(y, z, x, weights, n, packed, inject_last, cycles, eps)
        chosen = dispatch.fallback("latent_recursion", chosen, reason, z, heads)
    weights = in_dtype_of_states(weights, z)
    if chosen == "reference":
        return latent_recursion_reference(
            y, z, x, weights, n, heads=heads, rotary=rotary, inject_last=inject_last, cycles=cycles, eps=eps,
            mask=mask, causal=causal,
        )  # fmt: skip
    y_out, z_out = recur(y, z, x, weights, n, heads, rotary, inject_last, cycles, eps, chosen, mask, causal)
    return None if y is None else y_out, z_out


def latent_recursion_reference(
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
    def net(h: Tensor) -> Tensor:
        return network_reference(h, weights, heads, rotary, eps, mask, causal)

    for _ in range(cycles):
        injection = x if y is None else y + x
        for _ in range(n):
            z = net(z + injection)
        if y is None:
            z = net(z + x if inject_last else z)
        else:
            y = net(y + z)
    return y, z


def network_reference(
    h: Tensor,
    weights: Sequence[Tensor],
    heads: int,
    rotary: Rotary | None,
    eps: float,
    mask: Tensor | None,
    causal: bool,
) -> Tensor:
    for i in range(0, len(weights), 4):
        w_in, w_out, gate_up, down = weights[i : i + 4]
        if heads:
            h = attention_reference(h, w_in, w_out, heads, rotary, eps, mask, causal)
        else:
            h = token_mixer_reference(h if mask is None else h * mask.unsqueeze(-1), w_in, w_out, eps)
        h = mlp_reference(h, gate_up, down, eps)
    return h


def _fused_recursion(
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
    """The recursion on the fused CUDA kernels."""
    packed = packed_for(z, weights, packed)
    for _ in range(cycles):
        injection = x if y is None else y + x
        for _ in range(n):
            z = fused_step(z, injection, weights, packed, eps)
        if y is None:
            z = fused_step(z, x if inject_last else None, weights, packed, eps)
        else:
            y = fused_step(y, z, weights, packed, eps)
    return y, z


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
        y_out, z_out, _ = kernels(chosen).latent_recursion_fwd.default(
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
        y_out, z_out, saved = kernels(chosen).latent_recursion_fwd.default(
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
        dy_in, dz_in, dx, dweights = kernels(ctx.backend).latent_recursion_bwd.default(
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
    module = triton_kernels("latent_recursion")
    layers = module.network(weights, heads, cos, sin, eps, mask, causal)
    kept = triton_kernels("layer").size(module.saved_specs(layers, z, n, y is not None, inject_last)) if keep else 0
    y_out = z.new_empty(0) if y is None else z.new_empty(z.shape)
    return y_out, z.new_empty(z.shape), z.new_empty(kept, dtype=torch.uint8)


def _supervision_step(op: Callable[..., Any], y: Tensor, z: Tensor, x: Tensor, *weights: Tensor) -> Tensor:
    """As training has it: two cycles without gradient, and one with; the weights, then packed ones."""
    half = len(weights) // 2
    with torch.no_grad():
        op(y, z, x, weights[:half], 2, cycles=2, packed=weights[half:])
    return torch.cat(op(y, z, x, weights[:half], 2, packed=weights[half:]))


register(
    Op(
        latent_recursion,
        latent_recursion_reference,
        kernels={
            "cpp": (torch.float32, torch.bfloat16),
            "triton": GPU_FLOATS,
            "cuda": (torch.bfloat16, torch.float16),  # tensor cores round float32
        },
        inference_only={"cpp": (torch.bfloat16,)},
        fakes={"latent_recursion_fwd": _fwd_fake, "latent_recursion_bwd": _bwd_fake},
        triton=[
            "latent_recursion_fwd(Tensor? y, Tensor z, Tensor? x, Tensor[] weights, Tensor? cos, Tensor? sin, "
            "int heads, int n, int cycles, bool inject_last, float eps, bool keep, Tensor? mask, bool causal) "
            "-> (Tensor y_out, Tensor z_out, Tensor saved)",
            "latent_recursion_bwd(Tensor? dy, Tensor? dz, Tensor z, Tensor saved, Tensor[] weights, Tensor? cos, "
            "Tensor? sin, int heads, int n, bool dual, bool inject_last, float eps, Tensor? mask, bool causal) "
            "-> (Tensor dy_in, Tensor dz_in, Tensor dx, Tensor[] dweights)",
        ],
        triton_fakes={"latent_recursion_fwd": _triton_fwd_fake},
        # What training takes, at the published number of tokens: Triton's mixer has them in several pieces. D = 128 is
        # the narrowest that the fused CUDA layers take.
        cases=[
            Case(
                [(2, 97, 128)] * 3 + [(64, 97), (97, 32), (128, 128), (128, 64)],
                7,
                lambda op, *inputs: torch.cat(op(*inputs[:3], inputs[3:], 2)),
            )
        ],
        timed=lambda batch: Case(
            [(batch, 97, 512)] * 3 + [(1024, 97), (97, 512), (3072, 512), (512, 1536)],
            7,
            _supervision_step,
            lambda inputs: pack_weights(inputs[3:], 97, inputs[0].dtype),
        ),
        matrix=True,
        general=("cpp", "triton"),
    )
)
