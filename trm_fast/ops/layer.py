"""Calls, gradients and schemas of single layers, shared by the ops ``mlp``, ``token_mixer`` and ``attention``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from trm_fast.ops._core.registry import GPU_FLOATS, kernels, triton_kernels

PANEL = 32  # kPanel of csrc/core/layer.h


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
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        bwd = getattr(kernels(ctx.backend), f"{ctx.op}_bwd").default
        gradients = bwd(dy, *ctx.saved_tensors, *ctx.options)
        return (None, None, *gradients, *[None] * (len(ctx.saved_tensors) + len(ctx.options) - 4))


def layer_kernels(op: str, triton_layer: str, arguments: str, saved_size: Callable[..., int]) -> Mapping[str, Any]:
    """The part of ``Op`` that describes the kernels of a layer.

    Args:
        triton_layer: the class in ``triton_kernels/<op>.py`` that takes ``arguments``.
        arguments: the layer's arguments in the schemas, weights first.
        saved_size: (h, *arguments) -> number of floats that the C++ forward saves for the backward.
    """

    def fwd(h: Tensor, keep: bool, *layer: Any) -> tuple[Tensor, Tensor]:
        return h.new_empty(h.shape), h.new_empty(saved_size(h, *layer) if keep else 0)

    def triton_fwd(h: Tensor, keep: bool, *layer: Any) -> tuple[Tensor, Tensor]:
        instance = getattr(triton_kernels(op), triton_layer)(*layer)
        return h.new_empty(h.shape), triton_kernels("layer").new_saved(instance, h, keep)

    def bwd(dy: Tensor, h: Tensor, saved: Tensor, w_in: Tensor, w_out: Tensor, *_: Any) -> tuple[Tensor, ...]:
        return h.new_empty(h.shape), w_in.new_empty(w_in.shape), w_out.new_empty(w_out.shape)

    return {
        "kernels": {"cpp": (torch.float32, torch.bfloat16), "triton": GPU_FLOATS},
        "inference_only": {"cpp": (torch.bfloat16,)},
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


def saved_floats(h: Tensor, kept: int, rstd: int) -> int:
    """Number of floats that a layer's forward saves (csrc/core/recursion.cpp). ``kept`` and ``rstd``: per example."""
    B, L, D = h.shape
    return B * (kept + L * D + rstd)
