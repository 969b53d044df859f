"""The ops ``stablemax`` and ``stablemax_cross_entropy``, in float64 as in the published code."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from trm_fast.ops._core import dispatch
from trm_fast.ops._core.registry import CPU_FLOATS, GPU_FLOATS, Case, Op, kernels, register
from trm_fast.ops.axis import run_along_axis
from trm_fast.ops.gradients import plain_backward, reference_gradients
from trm_fast.ops.tensors import check_tensors


def stablemax(logits: Tensor, dim: int = -1) -> Tensor:
    """``s(x) / sum(s(x))`` with ``s(x) = x + 1`` for x >= 0 and ``1 / (1 - x)`` for x < 0.

    It is a softmax that grows linearly instead of exponentially. Source: arXiv 2501.04697.

    Args:
        logits: any shape, floating point.
        dim: the axis along which the result sums to one.

    Returns:
        Probabilities in the shape of ``logits``, float64. The gradient has the dtype of ``logits``.

    Raises:
        TypeError: ``logits`` are not floating-point.
        IndexError: ``logits`` has no axis ``dim``.

    Examples:
        >>> stablemax(torch.tensor([0.0, 1.0, -1.0])).tolist()
        [0.2857142857142857, 0.5714285714285714, 0.14285714285714285]
    """
    check_tensors("stablemax", "logits", logits)
    chosen = dispatch.select("stablemax", logits)
    if chosen == "reference":
        return stablemax_reference(logits, dim)
    return run_along_axis("stablemax", chosen, logits, dim)


def stablemax_cross_entropy(logits: Tensor, labels: Tensor, ignore_index: int = -100) -> Tensor:
    """``-log(stablemax(logits)[label])`` at every position; 0 if the label is ``ignore_index``.

    Args:
        logits: (..., V), floating point.
        labels: (...), any integer dtype, in [0, V) or ``ignore_index``.
        ignore_index: the label of positions that have no loss and no gradient.

    Returns:
        Losses in nats, (...), float64. The gradient has the dtype of ``logits``.

    Raises:
        TypeError: logits are not floating-point, or labels are not integers.
        ValueError: shapes or devices do not match.
        RuntimeError: a label is outside [0, V), on a CPU. GPU kernels return NaN as its loss.

    Examples:
        >>> stablemax_cross_entropy(torch.zeros(2, 4), torch.tensor([3, -100]))
        tensor([1.3863, 0.0000], dtype=torch.float64)
    """
    check_tensors("stablemax_cross_entropy", "logits", logits)
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise TypeError(f"stablemax_cross_entropy: labels must be integers, not {labels.dtype}")
    if labels.shape != logits.shape[:-1] or labels.device != logits.device:
        raise ValueError(
            "stablemax_cross_entropy: labels must have the shape of logits without the last axis, on its device, "
            f"but are {tuple(labels.shape)} on {labels.device} for {tuple(logits.shape)} on {logits.device}"
        )
    chosen = dispatch.select("stablemax_cross_entropy", logits)
    if chosen == "reference":
        return stablemax_cross_entropy_reference(logits, labels, ignore_index)
    labels = labels.long()
    if torch.is_grad_enabled() and logits.requires_grad:
        loss: Tensor = StablemaxCrossEntropyFunction.apply(logits, labels, ignore_index, chosen)
        return loss
    losses, _ = kernels(chosen).stablemax_cross_entropy_fwd.default(logits, labels, ignore_index)
    return losses


def _scores(logits: Tensor) -> Tensor:
    """x + 1 for x >= 0, else 1 / (1 - x), in float64, in a form whose gradient is never inf * 0."""
    x = logits.double()
    return F.relu(x) + 1 / (1 - x.clamp(max=0))


def stablemax_reference(logits: Tensor, dim: int = -1) -> Tensor:
    scores = _scores(logits)
    return scores / scores.sum(dim, keepdim=True)


def stablemax_cross_entropy_reference(logits: Tensor, labels: Tensor, ignore_index: int = -100) -> Tensor:
    valid = labels != ignore_index
    # Mask ignored logits before the scores, so that a NaN among them does not reach the gradient as 0 * NaN.
    scores = _scores(logits.where(valid.unsqueeze(-1), 0))
    target = scores.gather(-1, labels.long().where(valid, 0).unsqueeze(-1)).squeeze(-1)
    return (scores.sum(-1).log() - target.log()).where(valid, 0)


class StablemaxCrossEntropyFunction(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, labels: Tensor, ignore_index: int, chosen: str) -> Tensor:
        loss, total = kernels(chosen).stablemax_cross_entropy_fwd.default(logits, labels, ignore_index)
        ctx.save_for_backward(logits, labels, total)
        ctx.ignore_index, ctx.backend = ignore_index, chosen
        return loss

    @staticmethod
    def backward(ctx: Any, dloss: Tensor) -> tuple[Tensor | None, None, None, None]:
        logits, labels, total = ctx.saved_tensors
        if plain_backward(dloss):
            ignored = ctx.ignore_index
            (again,) = reference_gradients(
                lambda x: stablemax_cross_entropy_reference(x, labels, ignored), [logits], [True], dloss
            )
            return again, None, None, None
        bwd = kernels(ctx.backend).stablemax_cross_entropy_bwd.default
        dlogits = bwd(dloss, logits, labels, total, ctx.ignore_index)
        return dlogits, None, None, None


def _in_float64(logits: Tensor, *_: Any) -> Tensor:
    return logits.new_empty(logits.shape, dtype=torch.float64)


def _like_logits(gradient: Tensor, logits: Tensor, *_: Any) -> Tensor:
    return logits.new_empty(logits.shape)


register(
    Op(
        stablemax,
        stablemax_reference,
        kernels={"cpp": CPU_FLOATS, "triton": GPU_FLOATS, "cuda": GPU_FLOATS},
        schemas={
            "stablemax_fwd(Tensor logits, int dim) -> Tensor": _in_float64,
            "stablemax_bwd(Tensor dprobabilities, Tensor logits, int dim) -> Tensor": _like_logits,
        },
        cases=[
            Case([(4, 5, 11)], 1, lambda op, x: op(8 * x)),
            Case([(2, 70, 3)], 1, lambda op, x: op(8 * x, dim=1)),
        ],
        timed=lambda batch: Case([(batch, 97, 11)], 1, lambda op, x: op(8 * x)),
    )
)
register(
    Op(
        stablemax_cross_entropy,
        stablemax_cross_entropy_reference,
        kernels={"cpp": CPU_FLOATS, "triton": GPU_FLOATS, "cuda": GPU_FLOATS},
        schemas={
            "stablemax_cross_entropy_fwd(Tensor logits, Tensor labels, int ignore_index) "
            "-> (Tensor loss, Tensor total)": lambda logits, labels, _: (_in_float64(labels), _in_float64(labels)),
            "stablemax_cross_entropy_bwd(Tensor dloss, Tensor logits, Tensor labels, Tensor total, int ignore_index) "
            "-> Tensor": _like_logits,
        },
        cases=[
            Case(
                [(2, 5, 11)],
                1,
                lambda op, x, labels: op(8 * x, labels),
                lambda _: [torch.tensor([[0, 10, -100, 3, 4], [7, -100, 1, 2, 9]])],
            )
        ],
        timed=lambda batch: Case(
            [(batch, 97, 11)],
            1,
            lambda op, x, labels: op(8 * x, labels),
            lambda _: [torch.arange(batch * 97).reshape(batch, 97) % 11],
        ),
    )
)
