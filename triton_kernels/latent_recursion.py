"""Cycles of the recursion, as a sequence of the layers' launches; ``latent_step`` is a cycle's last application.

``y + x`` is computed once per cycle, and the first layer adds this injection to the state on load. The host reads no
values of tensors, so a CUDA graph can capture the whole call.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from trm_fast.triton_kernels.attention import Attention
from trm_fast.triton_kernels.group_mixer import GroupMixer
from trm_fast.triton_kernels.layer import Layer, TensorSpec, buffer_bytes, split_buffer
from trm_fast.triton_kernels.mlp import MLP
from trm_fast.triton_kernels.token_mixer import TokenMixer


def network(
    weights: Sequence[Tensor],
    cos: Tensor | None,
    sin: Tensor | None,
    mask: Tensor | None,
    groups: Tensor | bool | None,
    heads: int,
    group_scale: float,
    eps: float,
    causal: bool,
) -> list[Layer]:
    """Builds the layers of a network.

    ``weights`` has four matrices per block: two for mixing, two for the MLP. With groups it has two, those of a group
    mixer. ``groups`` may be True if the layers are only asked for ``saved_specs``.
    """
    if groups is not None:
        pairs = zip(weights[::2], weights[1::2], strict=True)
        return [GroupMixer(gate_up, down, groups, group_scale, eps) for gate_up, down in pairs]
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


def saved_specs(layers: Sequence[Layer], z: Tensor, n: int, dual: bool, inject_last: bool) -> list[TensorSpec]:
    """Shapes and dtypes of the tensors that a forward with ``keep`` saves, in their order in the buffer.

    They are the injection, if there is one; in dual state, the answer state before the last application; and for each
    application and layer, the output and the layer's saved tensors.
    """
    state: TensorSpec = (tuple(z.shape), z.dtype)
    specs = [state] * (_injects_x(n, dual, inject_last) + dual)
    for _ in range(n + 1):
        for layer in layers:
            specs += [state, *layer.saved_specs(z)]
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
    """Runs cycles of ``network(*blocks)`` and returns (y, z, saved). No result aliases an input or another result.

    States are (B, L, D) in one dtype. In single state, y is None and the returned y is empty. ``saved`` is uint8, and
    empty unless ``keep``, which allows only one cycle.
    """
    layers = network(*blocks)
    y, z, x = (None if t is None else t.contiguous() for t in (y, z, x))
    assert z is not None
    if keep:
        return _fwd_saving(layers, y, z, x, n, inject_last)
    # The state alternates between two buffers. Each layer but the last has one buffer for its output.
    between = [torch.empty_like(z) for _ in layers[:-1]]
    for _ in range(cycles):
        injection = x if y is None else y + x
        buffers = [torch.empty_like(z), torch.empty_like(z)]
        for i in range(n):
            z = _apply(layers, z, injection, [*between, buffers[i % 2]])
        if y is None:
            z = _apply(layers, z, x if inject_last else None, [*between, buffers[n % 2]])
        else:
            y = _apply(layers, y, z, [*between, torch.empty_like(z)])
    return z.new_empty(0) if y is None else y, z if n or y is None else z.clone(), z.new_empty(0, dtype=torch.uint8)


def _fwd_saving(
    layers: Sequence[Layer], y: Tensor | None, z: Tensor, x: Tensor | None, n: int, inject_last: bool
) -> tuple[Tensor, Tensor, Tensor]:
    dual = y is not None
    specs = saved_specs(layers, z, n, dual, inject_last)
    saved = z.new_empty(buffer_bytes(specs), dtype=torch.uint8)
    slots = iter(split_buffer(saved, specs))
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
            layer.forward(h, injected, out, [next(slots) for _ in layer.saved_specs(h)])
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
    """Returns (dy, dz, dx, gradients of the weights) of one cycle.

    dy is empty in single state. dx is empty if no application injects x: in single state with n = 0 and without
    ``inject_last``. Gradients have the dtypes of their tensors, and are summed over applications in float32.
    """
    layers = network(*blocks)
    z = z.contiguous()
    specs = saved_specs(layers, z, n, dual, inject_last)
    slots = split_buffer(saved, specs)
    injection = slots.pop(0) if _injects_x(n, dual, inject_last) else None
    y = slots.pop(0) if dual else None
    tensor_counts = [1 + len(layer.saved_specs(z)) for layer in layers]

    def application_bwd(application: int, d: Tensor, h: Tensor, injected: Tensor | None) -> Tensor:
        """Returns the gradient of an application's input, from the gradient ``d`` of its output."""
        at = application * sum(tensor_counts)
        saved_tensors = [slots[at + sum(tensor_counts[:i]) :][:count] for i, count in enumerate(tensor_counts)]
        for i in reversed(range(len(layers))):
            layer_input, layer_injection = (saved_tensors[i - 1][0], None) if i else (h, injected)
            d = layers[i].backward(d, layer_input, layer_injection, saved_tensors[i][0], saved_tensors[i][1:])
        return d

    def state(application: int) -> Tensor:
        """Returns the latent state before an application."""
        return slots[application * sum(tensor_counts) - tensor_counts[-1]] if application else z

    dx = z.new_zeros(z.shape, dtype=torch.float32)
    dy_in = z.new_empty(0)
    if dual:
        assert y is not None
        if dy is None:
            dy_in = z.new_zeros(z.shape)
            dz = z.new_zeros(z.shape) if dz is None else dz
        else:
            dy_in = application_bwd(n, dy.contiguous(), y, state(n))
            dz = dy_in if dz is None else dy_in + dz
    else:
        dz = application_bwd(
            n, z.new_zeros(z.shape) if dz is None else dz.contiguous(), state(n), injection if inject_last else None
        )
        if inject_last:
            dx += dz
    for application in reversed(range(n)):
        dz = application_bwd(application, dz.contiguous(), state(application), injection)
        dx += dz
    dweights = [gradient for layer in layers for gradient in layer.gradients()]
    if dual:
        dy_in = (dy_in + dx).to(z.dtype)
    if dual and n == 0:
        dz = dz.clone()  # an op's result must not be its input
    return dy_in, dz, dx.to(z.dtype) if n > 0 or dual or inject_last else z.new_empty(0), dweights
