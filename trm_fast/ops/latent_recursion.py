"""Cycles of TRM's recursion in one call: latent steps and the answer step, through the whole network."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from trm_fast.ops._core import dispatch
from trm_fast.ops._core.registry import GPU_FLOATS, Case, Op, kernels, register, triton_kernels
from trm_fast.ops.attention import attention_reference, attention_saved
from trm_fast.ops.fused_step import fused_step, packed_for
from trm_fast.ops.mlp import mlp_reference, mlp_saved
from trm_fast.ops.packing import pack_weights, unsupported_reason
from trm_fast.ops.token_mixer import token_mixer_reference, token_mixer_saved

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
    network = Network(weights, heads, rotary, eps, mask, causal)
    return recur("latent_recursion", y, z, x, network, n, inject_last, cycles, packed)


def latent_recursion_reference(
    y: Tensor | None,
    z: Tensor,
    x: Tensor,
    weights: Sequence[Tensor],
    n: int,
    *,
    inject_last: bool = True,
    cycles: int = 1,
    packed: Sequence[Tensor] | None = None,
    **options: Any,
) -> tuple[Tensor | None, Tensor]:
    return _in_cycles(Network(weights, **options).reference, y, z, x, n, inject_last, cycles)


class Network(NamedTuple):
    """The blocks that are applied, and how."""

    weights: Sequence[Tensor]
    heads: int = 0
    rotary: Rotary | None = None
    eps: float = 1e-5
    mask: Tensor | None = None
    causal: bool = False

    def reference(self, h: Tensor, injection: Tensor | None) -> Tensor:
        h = h if injection is None else h + injection
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


def _in_cycles(
    step: Callable[[Tensor, Tensor | None], Tensor],
    y: Tensor | None,
    z: Tensor,
    x: Tensor,
    n: int,
    inject_last: bool,
    cycles: int,
) -> tuple[Tensor | None, Tensor]:
    """The recursion, application by application: ``step`` applies the network to a state and what is injected."""
    for _ in range(cycles):
        injection = x if y is None else y + x
        for _ in range(n):
            z = step(z, injection)
        if y is None:
            z = step(z, x if inject_last else None)
        else:
            y = step(y, z)
    return y, z


def recur(
    op: str,
    y: Tensor | None,
    z: Tensor,
    x: Tensor,
    network: Network,
    n: int,
    inject_last: bool = True,
    cycles: int = 1,
    packed: Sequence[Tensor] | None = None,
) -> tuple[Tensor | None, Tensor]:
    """``latent_recursion`` by the backend that ``op`` takes, with or without gradient."""
    weights, heads, rotary, eps, mask, causal = network
    chosen = dispatch.select_masked(op, mask, causal, heads, z, y, x, *weights)
    if chosen == "cuda":
        if not (reason := unsupported_reason(z, weights, heads)):
            matrices = packed_for(z, weights, packed)
            fused = lambda h, injection: fused_step(h, injection, weights, matrices, eps)  # noqa: E731
            return _in_cycles(fused, y, z, x, n, inject_last, cycles)
        chosen = dispatch.fallback(op, chosen, reason, z, heads)
    # Each application's products then read the low precision, and its gradients are summed before they are cast.
    weights = [w.to(z.dtype) for w in weights]
    if chosen == "reference":
        return _in_cycles(Network(weights, *network[1:]).reference, y, z, x, n, inject_last, cycles)
    cos, sin = rotary or (None, None)
    if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in (y, z, x, *weights)):
        if cycles != 1:
            raise ValueError(f"latent_recursion: gradients need cycles=1, not {cycles}; run the others under no_grad")
        options = n, inject_last, heads, eps, causal
        y_out, z_out = LatentRecursionFunction.apply(chosen, options, y, z, x, cos, sin, mask, *weights)
    else:
        layers = weights, cos, sin, mask, heads, eps, causal
        y_out, z_out, _ = kernels(chosen).latent_recursion_fwd.default(y, z, x, n, inject_last, cycles, False, *layers)
    return None if y is None else y_out, z_out


class LatentRecursionFunction(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, chosen: str, options: tuple[int, bool, int, float, bool], *tensors: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        y, z, x, cos, sin, mask, *weights = tensors
        n, inject_last, *rest = options
        y_out, z_out, saved = kernels(chosen).latent_recursion_fwd.default(
            y, z, x, n, inject_last, 1, True, weights, cos, sin, mask, *rest
        )
        ctx.save_for_backward(z, saved, cos, sin, mask, *weights)
        ctx.options, ctx.rest, ctx.backend = (n, y is not None, inject_last), rest, chosen
        ctx.set_materialize_grads(False)
        if y is None:
            ctx.mark_non_differentiable(y_out)
        return y_out, z_out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor | None, dz: Tensor | None) -> tuple[Tensor | None, ...]:
        z, saved, cos, sin, mask, *weights = ctx.saved_tensors
        dual = ctx.options[1]
        dy_in, dz_in, dx, dweights = kernels(ctx.backend).latent_recursion_bwd.default(
            dy if dual else None, dz, z, saved, *ctx.options, weights, cos, sin, mask, *ctx.rest
        )
        return (None, None, dy_in if dual else None, dz_in, dx, None, None, None, *dweights)


def _fwd_fake(
    kept: Callable[[Tensor, Sequence[Tensor], int, int, bool, bool], Tensor],
) -> Callable[..., tuple[Tensor, Tensor, Tensor]]:
    """``kept`` is what a forward that keeps something keeps."""

    def fake(
        y: Tensor | None, z: Tensor, x: Tensor | None, n: int, inject_last: bool, cycles: int, keep: bool, *layers: Any
    ) -> tuple[Tensor, Tensor, Tensor]:
        weights, _, _, _, heads, _, _ = layers
        saved = kept(z, weights, heads, n, y is not None, inject_last)
        y_out = z.new_empty(0 if y is None else z.shape)
        return y_out, z.new_empty(z.shape), saved if keep else saved.new_empty(0)

    return fake


def _bwd_fake(
    dy: Tensor | None, dz: Tensor | None, z: Tensor, saved: Tensor, n: int, dual: bool, inject_last: bool, *layers: Any
) -> tuple[Tensor, Tensor, Tensor, list[Tensor]]:
    weights, *_ = layers
    dy_in = z.new_empty(z.shape if dual else 0)
    dx = z.new_empty(z.shape if n or dual or inject_last else 0)
    return dy_in, z.new_empty(z.shape), dx, [w.new_empty(w.shape) for w in weights]


def _kept(z: Tensor, weights: Sequence[Tensor], heads: int, n: int, dual: bool, inject_last: bool) -> Tensor:
    """What the C++ forward keeps: for each application its layers' share, and the inputs of those that have one of
    their own."""
    layers = 0
    for i in range(0, len(weights), 4):
        layers += (attention_saved if heads else token_mixer_saved)(z, weights[i])
        layers += mlp_saved(z, weights[i + 2])
    return z.new_empty((n + 1) * layers + (n + (dual or inject_last)) * z.numel())


def _kept_by_triton(z: Tensor, weights: Sequence[Tensor], heads: int, n: int, dual: bool, inject_last: bool) -> Tensor:
    module = triton_kernels("latent_recursion")
    layers = module.network(weights, None, None, None, heads, 0.0, False)
    specs = module.saved_specs(layers, z, n, dual, inject_last)
    return z.new_empty(triton_kernels("layer").size(specs), dtype=torch.uint8)


def _supervision_step(op: Callable[..., Any], y: Tensor, z: Tensor, x: Tensor, *weights: Tensor) -> Tensor:
    """As training has it: two cycles without gradient, and one with; the weights, then packed ones."""
    half = len(weights) // 2
    with torch.no_grad():
        op(y, z, x, weights[:half], 2, cycles=2, packed=weights[half:])
    return torch.cat(op(y, z, x, weights[:half], 2, packed=weights[half:]))


BACKENDS: dict[str, Any] = {  # what holds for one application as well
    "kernels": {
        "cpp": (torch.float32, torch.bfloat16),
        "triton": GPU_FLOATS,
        "cuda": (torch.bfloat16, torch.float16),  # tensor cores round float32
    },
    "inference_only": {"cpp": (torch.bfloat16,)},
    "matrix": True,
    "general": ("cpp", "triton"),
}
_LAYERS = "Tensor[] weights, Tensor? cos, Tensor? sin, Tensor? mask, int heads, float eps, bool causal"
register(
    Op(
        latent_recursion,
        latent_recursion_reference,
        schemas={
            f"latent_recursion_fwd(Tensor? y, Tensor z, Tensor? x, int n, bool inject_last, int cycles, bool keep, "
            f"{_LAYERS}) -> (Tensor y_out, Tensor z_out, Tensor saved)": _fwd_fake(_kept),
            f"latent_recursion_bwd(Tensor? dy, Tensor? dz, Tensor z, Tensor saved, int n, bool dual, bool inject_last, "
            f"{_LAYERS}) -> (Tensor dy_in, Tensor dz_in, Tensor dx, Tensor[] dweights)": _bwd_fake,
        },
        triton_fakes={"latent_recursion_fwd": _fwd_fake(_kept_by_triton)},
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
        **BACKENDS,
    )
)
