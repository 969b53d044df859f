"""Calls, gradients and schemas of single layers, shared by the ops ``mlp``, ``token_mixer`` and ``attention``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from trm_fast.ops._core.registry import GPU_FLOATS, OPS, kernels, triton_kernels
from trm_fast.ops.gradients import plain_backward, reference_gradients
from trm_fast.ops.tensors import check_tensors

PANEL = 32  # kPanel of csrc/core/layer.h


def layer_weights(op: str, names: str, h: Tensor, w_in: Tensor, w_out: Tensor) -> tuple[Tensor, Tensor]:
    """Checks the tensors of a layer, and returns the weights in the dtype of ``h``. As in torch's layers, only autocast
    allows weights of another dtype.

    Args:
        names: the names of ``h`` and the two weights, for messages.

    Raises:
        TypeError: a tensor is not floating-point.
        ValueError: their devices or dtypes differ.
    """
    check_tensors(op, names, h, w_in, w_out)
    if w_in.dtype == w_out.dtype == h.dtype:
        return w_in, w_out
    if torch.is_autocast_enabled(h.device.type):
        return w_in.to(h.dtype), w_out.to(h.dtype)
    dtypes = ", ".join(f"{name} is {t.dtype}" for name, t in zip(names.split(), (h, w_in, w_out), strict=True))
    raise ValueError(f"{op}: the weights must have the dtype of the input, but {dtypes}")


def run_layer(op: str, chosen: str, h: Tensor, w_in: Tensor, w_out: Tensor, *more: Any) -> Tensor:
    """Applies a layer to ``h`` (B, L, D) with a backend's kernels. ``more``: tensors without gradient, then options."""
    if torch.is_grad_enabled() and (h.requires_grad or w_in.requires_grad or w_out.requires_grad):
        y: Tensor = LayerFunction.apply(op, chosen, h, w_in, w_out, *more)
        return y
    result: Tensor = getattr(kernels(chosen), f"{op}_fwd").default(h, False, w_in, w_out, *more)[0]
    return result


class LayerFunction(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, op: str, chosen: str, h: Tensor, *layer: Any) -> Tensor:
        y, saved = getattr(kernels(chosen), f"{op}_fwd").default(h, True, *layer)
        tensors = [a for a in layer if a is None or isinstance(a, Tensor)]
        ctx.save_for_backward(h, saved, *tensors)
        ctx.op, ctx.backend, ctx.options = op, chosen, layer[len(tensors) :]
        result: Tensor = y
        return result

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        if plain_backward(dy):
            return _plain_gradients(ctx, dy)
        bwd = getattr(kernels(ctx.backend), f"{ctx.op}_bwd").default
        gradients = bwd(dy, *ctx.saved_tensors, *ctx.options)
        return (None, None, *gradients, *[None] * (len(ctx.saved_tensors) + len(ctx.options) - 4))


def _plain_gradients(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
    """The gradients of ``LayerFunction`` in operations that can be differentiated again."""
    h, _, *layer = ctx.saved_tensors
    op, options = OPS[ctx.op], ctx.options
    reference = op.layer_reference or op.reference
    needed = ctx.needs_input_grad[2 : 3 + len(layer)]
    gradients = reference_gradients(lambda *tensors: reference(*tensors, *options), [h, *layer], needed, dy)
    return (None, None, *gradients, *[None] * len(options))


def layer_kernels(op: str, triton_layer: str, arguments: str, saved_size: Callable[..., int]) -> Mapping[str, Any]:
    """The part of ``Op`` that describes the kernels of a layer.

    Args:
        triton_layer: the class in ``triton_kernels/<op>.py`` that takes ``arguments``.
        arguments: the layer's arguments in the schemas, weights first.
        saved_size: (h, *arguments) -> number of floats that the C++ forward saves for the backward.
    """

    def fwd(h: Tensor, keep: bool, *layer: Any) -> tuple[Tensor, Tensor]:
        return h.new_empty(h.shape), new_saved(h, saved_size(h, *layer) if keep else 0)

    def triton_fwd(h: Tensor, keep: bool, *layer: Any) -> tuple[Tensor, Tensor]:
        instance = getattr(triton_kernels(op), triton_layer)(*layer)
        return h.new_empty(h.shape), triton_kernels("layer").new_saved(instance, h, keep)

    def bwd(dy: Tensor, h: Tensor, saved: Tensor, w_in: Tensor, w_out: Tensor, *_: Any) -> tuple[Tensor, ...]:
        return h.new_empty(h.shape), w_in.new_empty(w_in.shape), w_out.new_empty(w_out.shape)

    return {
        "kernels": {"cpp": (torch.float32, torch.bfloat16), "triton": GPU_FLOATS},
        "schemas": {
            f"{op}_fwd(Tensor h, bool keep, {arguments}) -> (Tensor y, Tensor saved)": fwd,
            f"{op}_bwd(Tensor dy, Tensor h, Tensor saved, {arguments}) -> (Tensor dh, Tensor d_in, Tensor d_out)": bwd,
        },
        "triton_fakes": {f"{op}_fwd": triton_fwd},
        "matrix": True,
    }


def rounded(count: int, unit: int) -> int:
    """``count``, rounded up to a multiple of ``unit``."""
    return -(-count // unit) * unit


def saved_floats(h: Tensor, kept: int, rstd: int, gate_up: bool = True) -> int:
    """Number of floats that a layer's forward saves (csrc/core/recursion.cpp). ``kept`` and ``rstd``: per example.
    ``gate_up``: whether it keeps values of gate and up, which have the dtype of ``h``."""
    B, L, D = h.shape
    if gate_up and h.dtype == torch.bfloat16:
        kept //= 2
    return B * (kept + L * D + rstd)


def new_saved(h: Tensor, floats: int) -> Tensor:
    """An uninitialized tensor of the kind that the C++ forward saves for the backward."""
    return h.new_empty(floats, dtype=torch.float32)
