"""The op ``latent_recursion``: whole cycles of latent steps and answer steps in one call."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from trm_fast.ops._core import dispatch
from trm_fast.ops._core.registry import GPU_FLOATS, Case, Op, kernels, register, triton_kernels
from trm_fast.ops.attention import attention_saved
from trm_fast.ops.fused_step import fused_step, packed_for
from trm_fast.ops.gradients import plain_backward, reference_gradients
from trm_fast.ops.group_mixer import group_mixer_saved
from trm_fast.ops.layer import new_saved
from trm_fast.ops.mlp import mlp_saved
from trm_fast.ops.network import Network, Rotary
from trm_fast.ops.packing import pack_weights, unsupported_reason
from trm_fast.ops.tensors import check_tensors
from trm_fast.ops.token_mixer import token_mixer_saved


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
    groups: Tensor | None = None,
    group_scale: float = 1.0,
) -> tuple[Tensor | None, Tensor]:
    """Runs ``cycles`` cycles: ``n`` latent steps ``z = net(z + y + x)`` and one answer step ``y = net(y + z)``.

    In single state (``y`` is None) a cycle is ``n`` steps ``z = net(z + x)`` and a last one with or without x
    (``inject_last``). The network is a stack of post-norm layers, each a token mixer or attention, then an MLP; or each
    a group mixer. The gradients of the weights are summed over the n + 1 applications of the network. Source: arXiv
    2510.04871, figure 3.

    Args:
        y, z, x: answer state, latent state and input embedding, each (B, L, D), of one dtype; ``y`` may be None.
        weights: four matrices per layer: the two of ``token_mixer`` (if ``heads`` is 0) or ``attention``, then the two
            of ``mlp``. With ``groups``, only the two of ``group_mixer``. Weights whose dtype is not that of the states
            are cast once per call.
        n: number of latent steps per cycle, 0 or more.
        heads: number of attention heads; 0 for the token mixer.
        rotary: cos and sin, (L, D / heads) each, for rotary positions; they get no gradient.
        inject_last: in single state, whether the last application adds x.
        cycles: number of cycles, 1 or more; more than 1 only without gradients.
        eps: added to the mean square in every norm.
        packed: ``pack_weights(weights, L)``, which the caller keeps up to date. If None, the CUDA kernels' weights are
            packed in every call.
        mask: bool (B, L), False for padding. The token mixer reads padding as zeros; in attention, a padded position
            attends to itself, and no other position attends to it.
        causal: whether a token attends only to itself and earlier ones.
        groups: int64 (G, L), the partitions for group mixers; not with heads, a mask or causal order.
        group_scale: the ``scale`` of the group mixers.

    Returns:
        The new (y, z), in the states' shape and dtype; y is None in single state.

    Raises:
        TypeError: a tensor is not floating-point.
        ValueError: the states differ in shape or dtype, tensors are on different devices, the mask, the groups or the
            number of weights do not fit, ``n`` is negative, ``cycles`` is not positive, or a gradient is required and
            ``cycles`` is not 1.

    Examples:
        >>> state = torch.ones(2, 4, 8)
        >>> weights = [torch.ones(6, 4), torch.ones(4, 3), torch.ones(6, 8), torch.ones(8, 3)]
        >>> y, z = latent_recursion(state, state, state, weights, n=2)
        >>> z.shape
        torch.Size([2, 4, 8])
    """
    for name, state in (("y", y), ("x", x)):
        if state is not None and (state.shape, state.dtype) != (z.shape, z.dtype):
            raise ValueError(
                f"latent_recursion: {name} is {tuple(state.shape)} {state.dtype}, z is {tuple(z.shape)} {z.dtype}"
            )
    network = Network(weights, heads, rotary, eps, mask, causal, groups, group_scale)
    return run_recursion("latent_recursion", y, z, x, network, n, inject_last, cycles, packed)


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
    return _run_cycles(Network(weights, **options).reference, y, z, x, n, inject_last, cycles)


def _run_cycles(
    step: Callable[[Tensor, Tensor | None], Tensor],
    y: Tensor | None,
    z: Tensor,
    x: Tensor,
    n: int,
    inject_last: bool,
    cycles: int,
) -> tuple[Tensor | None, Tensor]:
    """Runs the cycles one application at a time: ``step`` applies the network to a state plus an injection."""
    for _ in range(cycles):
        injection = x if y is None else y + x
        for _ in range(n):
            z = step(z, injection)
        if y is None:
            z = step(z, x if inject_last else None)
        else:
            y = step(y, z)
    return y, z


def run_recursion(
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
    """``latent_recursion`` on the backend chosen for ``op``, which is ``latent_recursion`` or ``latent_step``."""
    weights, heads, rotary, eps, mask, causal, groups, group_scale = network
    check_tensors(op, "z y x cos sin weights", z, y, x, *rotary or (None, None), *weights)
    check_tensors(op, "z packed", z, *packed or ())
    network.check(op, z)
    if n < 0 or cycles < 1:
        raise ValueError(f"{op}: n must be 0 or more and cycles 1 or more, but they are {n} and {cycles}")
    if n == 0 and y is not None:  # z stays as it is: only the answer steps run, as in single state
        return run_recursion(op, None, y, z, network, 0, True, cycles, packed)[1], z
    chosen = dispatch.select_masked(op, mask, causal, heads, z)
    if chosen == "cuda":
        if not (reason := unsupported_reason(z, weights, token_mixer=not heads and groups is None)):
            matrices = packed_for(z, weights, packed)
            fused = lambda h, injection: fused_step(h, injection, weights, matrices, eps)  # noqa: E731
            return _run_cycles(fused, y, z, x, n, inject_last, cycles)
        chosen = dispatch.fallback(op, chosen, reason, z, heads)
    # Cast once for all applications, so that their gradients are summed before they are cast back. The C++ kernels
    # round float32 weights themselves while they pack them, and return float32 gradients.
    rounds = chosen == "cpp"
    weights = [w if rounds and w.dtype == torch.float32 else w.to(z.dtype) for w in weights]
    if chosen == "reference":
        return _run_cycles(Network(weights, *network[1:]).reference, y, z, x, n, inject_last, cycles)
    cos, sin = rotary or (None, None)
    if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in (y, z, x, *weights)):
        if cycles != 1:
            raise ValueError(f"latent_recursion: gradients need cycles=1, not {cycles}; run the others under no_grad")
        options = n, inject_last, heads, group_scale, eps, causal
        y_out, z_out = LatentRecursionFunction.apply(chosen, options, y, z, x, cos, sin, mask, groups, *weights)
    else:
        layers = weights, cos, sin, mask, groups, heads, group_scale, eps, causal
        y_out, z_out, _ = kernels(chosen).latent_recursion_fwd.default(y, z, x, n, inject_last, cycles, False, *layers)
    return None if y is None else y_out, z_out


class LatentRecursionFunction(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, chosen: str, options: tuple[int, bool, int, float, float, bool], *tensors: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        y, z, x, cos, sin, mask, groups, *weights = tensors
        n, inject_last, *rest = options
        y_out, z_out, saved = kernels(chosen).latent_recursion_fwd.default(
            y, z, x, n, inject_last, 1, True, weights, cos, sin, mask, groups, *rest
        )
        ctx.save_for_backward(y, x, z, saved, cos, sin, mask, groups, *weights)
        ctx.options, ctx.rest, ctx.backend = (n, y is not None, inject_last), rest, chosen
        ctx.set_materialize_grads(False)
        if y is None:
            ctx.mark_non_differentiable(y_out)
        return y_out, z_out

    @staticmethod
    def backward(ctx: Any, dy: Tensor | None, dz: Tensor | None) -> tuple[Tensor | None, ...]:
        if plain_backward(dy, dz):
            return _plain_gradients(ctx, dy, dz)
        _, _, z, saved, cos, sin, mask, groups, *weights = ctx.saved_tensors
        dual = ctx.options[1]
        dy_in, dz_in, dx, dweights = kernels(ctx.backend).latent_recursion_bwd.default(
            dy if dual else None, dz, z, saved, *ctx.options, weights, cos, sin, mask, groups, *ctx.rest
        )
        return (None, None, dy_in if dual else None, dz_in, dx, None, None, None, None, *dweights)


def _plain_gradients(ctx: Any, dy: Tensor | None, dz: Tensor | None) -> tuple[Tensor | None, ...]:
    """The gradients of ``LatentRecursionFunction`` in operations that can be differentiated again."""
    y, x, z, _, cos, sin, mask, groups, *weights = ctx.saved_tensors
    n, dual, inject_last = ctx.options
    heads, group_scale, eps, causal = ctx.rest
    rotary = None if cos is None else (cos.detach(), sin.detach())

    def reference(y: Tensor | None, z: Tensor, x: Tensor, *weights: Tensor) -> tuple[Tensor | None, Tensor]:
        cast = [w.to(z.dtype) for w in weights]
        network = Network(cast, heads, rotary, eps, mask, causal, groups, group_scale)
        return _run_cycles(network.reference, y, z, x, n, inject_last, cycles=1)

    needed = [*ctx.needs_input_grad[2:5], *ctx.needs_input_grad[9:]]
    states_and_weights = reference_gradients(reference, [y, z, x, *weights], needed, dy if dual else None, dz)
    return (None, None, *states_and_weights[:3], None, None, None, None, *states_and_weights[3:])


def _fwd_fake(
    new_saved: Callable[[Tensor, Sequence[Tensor], int, bool, int, bool, bool], Tensor],
) -> Callable[..., tuple[Tensor, Tensor, Tensor]]:
    """The fake of the forward; ``new_saved`` makes the tensor that the forward saves for the backward."""

    def fake(
        y: Tensor | None, z: Tensor, x: Tensor | None, n: int, inject_last: bool, cycles: int, keep: bool, *layers: Any
    ) -> tuple[Tensor, Tensor, Tensor]:
        weights, _, _, _, groups, heads, *_ = layers
        saved = new_saved(z, weights, heads, groups is not None, n, y is not None, inject_last)
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


def _cpp_saved(
    z: Tensor, weights: Sequence[Tensor], heads: int, grouped: bool, n: int, dual: bool, inject_last: bool
) -> Tensor:
    """The tensor that the C++ forward saves: for each application, the tensors of its layers, and its input unless
    that is a layer's output."""
    layers = sum(group_mixer_saved(z, weight) for weight in weights[::2]) if grouped else 0
    for i in range(0, 0 if grouped else len(weights), 4):
        layers += (attention_saved if heads else token_mixer_saved)(z, weights[i])
        layers += mlp_saved(z, weights[i + 2])
    return new_saved(z, (n + 1) * layers + (n + (dual or inject_last)) * z.numel())


def _triton_saved(
    z: Tensor, weights: Sequence[Tensor], heads: int, grouped: bool, n: int, dual: bool, inject_last: bool
) -> Tensor:
    module = triton_kernels("latent_recursion")
    layers = module.network(weights, None, None, None, grouped or None, heads, 1.0, 0.0, False)
    specs = module.saved_specs(layers, z, n, dual, inject_last)
    return z.new_empty(triton_kernels("layer").buffer_bytes(specs), dtype=torch.uint8)


def _supervision_step(op: Callable[..., Any], y: Tensor, z: Tensor, x: Tensor, *weights: Tensor) -> Tensor:
    """A training supervision step: two cycles without gradients and one with. ``weights``: plain ones, then packed."""
    half = len(weights) // 2
    with torch.no_grad():
        op(y, z, x, weights[:half], 2, cycles=2, packed=weights[half:])
    return torch.cat(op(y, z, x, weights[:half], 2, packed=weights[half:]))


BACKENDS: dict[str, Any] = {  # latent_step has the same
    "kernels": {
        "cpp": (torch.float32, torch.bfloat16),
        "triton": GPU_FLOATS,
        "cuda": (torch.bfloat16, torch.float16),  # not float32, which tensor cores would round
    },
    "matrix": True,
    "general": ("cpp", "triton"),
}
_LAYERS = (
    "Tensor[] weights, Tensor? cos, Tensor? sin, Tensor? mask, Tensor? groups, int heads, float group_scale, "
    "float eps, bool causal"
)
register(
    Op(
        latent_recursion,
        latent_recursion_reference,
        schemas={
            f"latent_recursion_fwd(Tensor? y, Tensor z, Tensor? x, int n, bool inject_last, int cycles, bool keep, "
            f"{_LAYERS}) -> (Tensor y_out, Tensor z_out, Tensor saved)": _fwd_fake(_cpp_saved),
            f"latent_recursion_bwd(Tensor? dy, Tensor? dz, Tensor z, Tensor saved, int n, bool dual, bool inject_last, "
            f"{_LAYERS}) -> (Tensor dy_in, Tensor dz_in, Tensor dx, Tensor[] dweights)": _bwd_fake,
        },
        triton_fakes={"latent_recursion_fwd": _fwd_fake(_triton_saved)},
        # 97 tokens as published, which Triton's token mixer splits into several blocks. D = 128 is the smallest width
        # that the fused CUDA layers support.
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
