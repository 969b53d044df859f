"""Cycles of the recursion as a sequence of the layers' launches; ``latent_step`` is the last application of one.

``y + x`` is computed once in a cycle; the first layer adds this injection to the state when it loads it. The host reads
no value of a tensor, so a CUDA graph can hold the whole call."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from trm_fast.triton_kernels.attention import Attention
from trm_fast.triton_kernels.layer import Layer, Spec, size, split
from trm_fast.triton_kernels.mlp import MLP
from trm_fast.triton_kernels.token_mixer import TokenMixer


def network(
    weights: Sequence[Tensor],
    cos: Tensor | None,
    sin: Tensor | None,
    mask: Tensor | None,
    heads: int,
    eps: float,
    causal: bool,
) -> list[Layer]:
    """The layers of a network; ``weights`` has four matrices for each block."""
    layers: list[Layer] = []
    for i in range(0, len(weights), 4):
        w_in, w_out, gate_up, down = weights[i : i + 4]
        if heads:
            layers.append(Attention(w_in, w_out, cos, sin, mask, heads, eps, causal))
        else:
            layers.append(TokenMixer(w_in, w_out, eps, mask))
        layers.append(MLP(gate_up, down, eps))
    return layers


def _apply(layers: Sequence[Layer], h: Tensor, injection: Tensor | None, ys: Sequence[Tensor]) -> Tensor:
    for layer, y in zip(layers, ys, strict=True):
        layer.forward(h, injection, y, ())
        h, injection = y, None
    return h


def _injects_x(n: int, dual: bool, inject_last: bool) -> bool:
    return n > 0 or (inject_last and not dual)


def saved_specs(layers: Sequence[Layer], z: Tensor, n: int, dual: bool, inject_last: bool) -> list[Spec]:
    """The tensors that a forward with ``keep`` saves: the injection, the answer state before the last application, and
    for each application the outputs and saved tensors of the layers."""
    state: Spec = (tuple(z.shape), z.dtype)
    specs = [state] * (_injects_x(n, dual, inject_last) + dual)
    for _ in range(n + 1):
        for layer in layers:
            specs += [state, *layer.kept(z)]
    return specs


def latent_recursion_fwd(
    y: Tensor | None,
    z: Tensor,
    x: Tensor | None,
    n: int,
    inject_last: bool,
    cycles: int,
    keep: bool,
    *blocks: Any,
) -> tuple[Tensor, Tensor, Tensor]:
    """(y, z, saved) after the cycles of ``network(*blocks)``. y is empty in single state; saved is empty unless
    ``keep``, which allows only one cycle."""
    layers = network(*blocks)
    y, z, x = (None if t is None else t.contiguous() for t in (y, z, x))
    assert z is not None
    if keep:
        return _fwd_keeping(layers, y, z, x, n, inject_last)
    # The states alternate between two buffers; the tensors between the layers of a block have one buffer each.
    inside = [torch.empty_like(z) for _ in layers[:-1]]
    for _ in range(cycles):
        injection = x if y is None else y + x
        buffers = [torch.empty_like(z), torch.empty_like(z)]
        for i in range(n):
            z = _apply(layers, z, injection, [*inside, buffers[i % 2]])
        if y is None:
            z = _apply(layers, z, x if inject_last else None, [*inside, buffers[n % 2]])
        else:
            y = _apply(layers, y, z, [*inside, torch.empty_like(z)])
    return z.new_empty(0) if y is None else y, z if n or y is None else z.clone(), z.new_empty(0, dtype=torch.uint8)


def _fwd_keeping(
    layers: Sequence[Layer], y: Tensor | None, z: Tensor, x: Tensor | None, n: int, inject_last: bool
) -> tuple[Tensor, Tensor, Tensor]:
    dual = y is not None
    specs = saved_specs(layers, z, n, dual, inject_last)
    saved = z.new_empty(size(specs), dtype=torch.uint8)
    slots = iter(split(saved, specs))
    injection = None
    if _injects_x(n, dual, inject_last):
        injection = next(slots)
        if y is None:
            injection.copy_(x)
        else:
            torch.add(y, x, out=injection)
    if y is not None:
        y = next(slots).copy_(y)

    def apply(h: Tensor, injected: Tensor | None) -> Tensor:
        for layer in layers:
            out = next(slots)
            layer.forward(h, injected, out, [next(slots) for _ in layer.kept(h)])
            h, injected = out, None
        return h

    for _ in range(n):
        z = apply(z, injection)
    if y is None:
        return z.new_empty(0), apply(z, injection if inject_last else None).clone(), saved
    return apply(y, z).clone(), z.clone(), saved


def latent_recursion_bwd(
    dy: Tensor | None,
    dz: Tensor | None,
    z: Tensor,
    saved: Tensor,
    n: int,
    dual: bool,
    inject_last: bool,
    *blocks: Any,
) -> tuple[Tensor, Tensor, Tensor, list[Tensor]]:
    """(dy, dz, dx, gradients of the weights) of one cycle; dy is empty in single state, dx if nothing is injected.

    Gradients of several applications are summed in float32.
    """
    layers = network(*blocks)
    z = z.contiguous()
    specs = saved_specs(layers, z, n, dual, inject_last)
    slots = split(saved, specs)
    injection = slots.pop(0) if _injects_x(n, dual, inject_last) else None
    y = slots.pop(0) if dual else None
    share = [1 + len(layer.kept(z)) for layer in layers]

    def pull(application: int, d: Tensor, h: Tensor, injected: Tensor | None) -> Tensor:
        """The gradient of an application's input, from the gradient ``d`` of its output."""
        at = application * sum(share)
        kept = [slots[at + sum(share[:i]) :][:count] for i, count in enumerate(share)]
        for i in reversed(range(len(layers))):
            into, extra = (kept[i - 1][0], None) if i else (h, injected)
            d = layers[i].backward(d, into, extra, kept[i][0], kept[i][1:])
        return d

    def state(application: int) -> Tensor:
        """The latent state before an application."""
        return slots[application * sum(share) - share[-1]] if application else z

    dx = z.new_zeros(z.shape, dtype=torch.float32)
    dy_in = z.new_empty(0)
    if dual:
        assert y is not None
        if dy is None:
            dy_in = z.new_zeros(z.shape)
            dz = z.new_zeros(z.shape) if dz is None else dz
        else:
            dy_in = pull(n, dy.contiguous(), y, state(n))
            dz = dy_in if dz is None else dy_in + dz
    else:
        dz = pull(
            n, z.new_zeros(z.shape) if dz is None else dz.contiguous(), state(n), injection if inject_last else None
        )
        if inject_last:
            dx += dz
    for application in reversed(range(n)):
        dz = pull(application, dz.contiguous(), state(application), injection)
        dx += dz
    dweights = [gradient for layer in layers for gradient in layer.gradients()]
    if dual:
        dy_in = (dy_in + dx).to(z.dtype)
    if dual and n == 0:
        dz = dz.clone()  # an op's result must not be its input
    return dy_in, dz, dx.to(z.dtype) if n > 0 or dual or inject_last else z.new_empty(0), dweights
