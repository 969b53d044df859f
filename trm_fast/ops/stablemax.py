"""Stable-max and its cross-entropy, accurate to float64."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from trm_fast.ops import backend, reference
from trm_fast.ops.dispatch import define_triton


def stablemax(logits: Tensor, dim: int = -1) -> Tensor:
    """``s(x) / sum(s(x))`` with ``s(x) = x + 1`` for x >= 0 and ``1 / (1 - x)`` below.

    Grows linearly where softmax grows exponentially. Source: arXiv 2501.04697.

    Args:
        logits: any shape, floating point.
        dim: the axis that sums to one.

    Returns:
        Probabilities, same shape, float64. The gradient comes in the logits' dtype.

    Raises:
        IndexError: no such axis.
    """
    chosen = backend.select("stablemax", logits)
    if chosen == "reference":
        return reference.stablemax(logits, dim)
    if torch.is_grad_enabled() and logits.requires_grad:
        probabilities: Tensor = StablemaxFunction.apply(logits, dim, chosen)
        return probabilities
    result: Tensor = backend.kernels(chosen).stablemax_fwd.default(logits, dim)
    return result


def stablemax_cross_entropy(logits: Tensor, labels: Tensor, ignore_index: int = -100) -> Tensor:
    """``-log(stablemax(logits)[label])`` at every position, zero where the label is ``ignore_index``.

    Args:
        logits: (..., V), floating point.
        labels: (...), any integer dtype, in [0, V) or ``ignore_index``.
        ignore_index: the label without a loss and without a gradient.

    Returns:
        Losses in nats, (...), float64. The gradient comes in the logits' dtype.

    Raises:
        TypeError: labels that are not integers.
        ValueError: shapes or devices that do not fit.
        RuntimeError: a label outside [0, V) (found on a CPU; Triton's kernel gives it a loss of NaN).
    """
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise TypeError(f"stablemax_cross_entropy: labels must be integers, not {labels.dtype}")
    if labels.shape != logits.shape[:-1] or labels.device != logits.device:
        raise ValueError(
            "stablemax_cross_entropy: labels must have the shape of logits without the last axis, on its device, "
            f"but are {tuple(labels.shape)} on {labels.device} for {tuple(logits.shape)} on {logits.device}"
        )
    chosen = backend.select("stablemax_cross_entropy", logits)
    if chosen == "reference":
        return reference.stablemax_cross_entropy(logits, labels, ignore_index)
    labels = labels.long()
    if torch.is_grad_enabled() and logits.requires_grad:
        loss: Tensor = StablemaxCrossEntropyFunction.apply(logits, labels, ignore_index, chosen)
        return loss
    losses, _ = backend.kernels(chosen).stablemax_cross_entropy_fwd.default(logits, labels, ignore_index)
    return losses


class StablemaxFunction(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, dim: int, chosen: str) -> Tensor:
        ctx.save_for_backward(logits)
        ctx.dim, ctx.backend = dim, chosen
        probabilities: Tensor = backend.kernels(chosen).stablemax_fwd.default(logits, dim)
        return probabilities

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dprobabilities: Tensor) -> tuple[Tensor, None, None]:
        (logits,) = ctx.saved_tensors
        return backend.kernels(ctx.backend).stablemax_bwd.default(dprobabilities, logits, ctx.dim), None, None


class StablemaxCrossEntropyFunction(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, labels: Tensor, ignore_index: int, chosen: str) -> Tensor:
        loss, total = backend.kernels(chosen).stablemax_cross_entropy_fwd.default(logits, labels, ignore_index)
        ctx.save_for_backward(logits, labels, total)
        ctx.ignore_index, ctx.backend = ignore_index, chosen
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dloss: Tensor) -> tuple[Tensor, None, None, None]:
        logits, labels, total = ctx.saved_tensors
        kernels = backend.kernels(ctx.backend)
        dlogits = kernels.stablemax_cross_entropy_bwd.default(dloss, logits, labels, total, ctx.ignore_index)
        return dlogits, None, None, None


def _fwd_fake(logits: Tensor, dim: int) -> Tensor:
    return logits.new_empty(logits.shape, dtype=torch.float64)


def _bwd_fake(dprobabilities: Tensor, logits: Tensor, dim: int) -> Tensor:
    return logits.new_empty(logits.shape)


def _cross_entropy_fwd_fake(logits: Tensor, labels: Tensor, ignore_index: int) -> tuple[Tensor, Tensor]:
    loss = logits.new_empty(labels.shape, dtype=torch.float64)
    return loss, torch.empty_like(loss)


def _cross_entropy_bwd_fake(dloss: Tensor, logits: Tensor, labels: Tensor, total: Tensor, ignore_index: int) -> Tensor:
    return logits.new_empty(logits.shape)


define_triton("stablemax", "stablemax_fwd(Tensor logits, int dim) -> Tensor", _fwd_fake)
define_triton("stablemax", "stablemax_bwd(Tensor dprobabilities, Tensor logits, int dim) -> Tensor", _bwd_fake)
define_triton(
    "stablemax",
    "stablemax_cross_entropy_fwd(Tensor logits, Tensor labels, int ignore_index) -> (Tensor loss, Tensor total)",
    _cross_entropy_fwd_fake,
)
define_triton(
    "stablemax",
    "stablemax_cross_entropy_bwd(Tensor dloss, Tensor logits, Tensor labels, Tensor total, int ignore_index) -> Tensor",
    _cross_entropy_bwd_fake,
)
if not backend.EXTENSION_MISSING:
    torch.library.register_fake("trm_fast::stablemax_fwd", _fwd_fake)
    torch.library.register_fake("trm_fast::stablemax_bwd", _bwd_fake)
    torch.library.register_fake("trm_fast::stablemax_cross_entropy_fwd", _cross_entropy_fwd_fake)
    torch.library.register_fake("trm_fast::stablemax_cross_entropy_bwd", _cross_entropy_bwd_fake)
