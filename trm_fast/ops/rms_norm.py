"""The op ``rms_norm``: residual addition and RMSNorm in one pass."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from trm_fast.ops._core import dispatch
from trm_fast.ops._core.registry import CPU_FLOATS, GPU_FLOATS, Case, Op, kernels, register
from trm_fast.ops.gradients import plain_backward
from trm_fast.ops.tensors import accumulate, check_tensors


def rms_norm(x: Tensor, residual: Tensor | None = None, dim: int = -1, eps: float = 1e-5) -> Tensor:
    """``t * rsqrt(mean(t^2 over dim) + eps)`` with ``t = x + residual``, without a learned weight.

    Kernels normalize over any axis without transposing: ``dim=1`` of (B, L, D) normalizes over tokens.
    This is the norm after every layer of TRM (arXiv 2510.04871, published code).

    Args:
        x: any shape, floating point.
        residual: same shape, dtype and device as ``x``, or None.
        dim: the axis to average over.
        eps: added to the mean square.

    Returns:
        Same shape and dtype as ``x``. The mean is computed in float32 (in float64 for float64).

    Raises:
        TypeError: ``x`` or ``residual`` is not floating-point.
        ValueError: ``residual`` differs from ``x`` in shape, dtype or device.
        IndexError: ``x`` has no axis ``dim``.

    Examples:
        >>> rms_norm(torch.tensor([3.0, 4.0]), eps=0.0)
        tensor([0.8485, 1.1314])
    """
    check_tensors("rms_norm", "x", x)  # the residual must have its dtype and device
    if residual is not None and (residual.shape, residual.dtype, residual.device) != (x.shape, x.dtype, x.device):
        raise ValueError(
            "rms_norm: x and residual must agree, but are "
            f"{tuple(x.shape)} {x.dtype} {x.device} and {tuple(residual.shape)} {residual.dtype} {residual.device}"
        )
    chosen = dispatch.select("rms_norm", x)
    if chosen == "reference":
        return rms_norm_reference(x, residual, dim, eps)
    if torch.is_grad_enabled() and (x.requires_grad or (residual is not None and residual.requires_grad)):
        y: Tensor = RMSNormFunction.apply(x, residual, dim, eps, chosen)[0]
        return y
    y, _ = kernels(chosen).rms_norm_fwd.default(x, residual, dim, eps)
    return y


def rms_norm_reference(x: Tensor, residual: Tensor | None = None, dim: int = -1, eps: float = 1e-5) -> Tensor:
    total = accumulate(x) if residual is None else accumulate(x) + accumulate(residual)
    return (total * torch.rsqrt(total.square().mean(dim, keepdim=True) + eps)).to(x.dtype)


class RMSNormFunction(torch.autograd.Function):
    """Returns the statistics, too: they connect a second derivative with the inputs, which are not saved."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, residual: Tensor | None, dim: int, eps: float, chosen: str
    ) -> tuple[Tensor, Tensor]:
        y, rstd = kernels(chosen).rms_norm_fwd.default(x, residual, dim, eps)
        ctx.save_for_backward(y, rstd)
        ctx.dim, ctx.backend = dim, chosen
        ctx.set_materialize_grads(False)
        return y, rstd

    @staticmethod
    def backward(ctx: Any, dy: Tensor | None, drstd: Tensor | None) -> tuple[Tensor | None, ...]:
        y, rstd = ctx.saved_tensors
        if dy is None or plain_backward(dy, drstd) or not (drstd is None or torch.compiler.is_compiling()):
            dx = _plain_gradient(dy, drstd, y, rstd, ctx.dim)
        else:  # in a compiled function drstd is zero
            dx = kernels(ctx.backend).rms_norm_bwd.default(dy, y, rstd, ctx.dim)
        return dx, dx if ctx.needs_input_grad[1] else None, None, None, None


def _plain_gradient(dy: Tensor | None, drstd: Tensor | None, y: Tensor, rstd: Tensor, dim: int) -> Tensor:
    """The gradient of x from those of y and rstd, in operations that can be differentiated again."""
    wide = accumulate(y)
    dx = torch.zeros_like(wide)
    if dy is not None:
        d = accumulate(dy)
        dx = rstd * (d - wide * (d * wide).mean(dim, keepdim=True))
    if drstd is not None:
        dx = dx - drstd * rstd.square() * wide / y.shape[dim]
    return dx.to(y.dtype)


def _fwd_fake(x: Tensor, residual: Tensor | None, dim: int, eps: float) -> tuple[Tensor, Tensor]:
    shape = list(x.shape)
    shape[dim] = 1
    statistics = torch.float64 if x.dtype == torch.float64 else torch.float32
    return x.new_empty(x.shape), x.new_empty(shape, dtype=statistics)


register(
    Op(
        rms_norm,
        rms_norm_reference,
        kernels={"cpp": CPU_FLOATS, "triton": GPU_FLOATS, "cuda": GPU_FLOATS},
        schemas={
            "rms_norm_fwd(Tensor x, Tensor? residual, int dim, float eps) -> (Tensor y, Tensor rstd)": _fwd_fake,
            "rms_norm_bwd(Tensor dy, Tensor y, Tensor rstd, int dim) -> Tensor": lambda dy, y, *_: y.new_empty(y.shape),
        },
        cases=[
            Case([(3, 7, 64), (3, 7, 64)], 2, lambda op, x, r: op(x, r)),
            Case([(3, 7, 33)], 1, lambda op, x: op(x)),
            Case([(2, 97, 40), (2, 97, 40)], 2, lambda op, x, r: op(x, r, dim=1)),
            Case([(2, 19, 33)], 1, lambda op, x: op(x, dim=1)),
        ],
        timed=lambda batch: Case([(batch, 97, 512)] * 2, 2, lambda op, x, r: op(x, r)),
    )
)
