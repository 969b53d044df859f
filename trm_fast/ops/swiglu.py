"""The op ``swiglu``: the gated activation of a SwiGLU layer."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from trm_fast.ops._core import dispatch
from trm_fast.ops._core.registry import CPU_FLOATS, GPU_FLOATS, Case, Op, register
from trm_fast.ops.axis import run_along_axis
from trm_fast.ops.tensors import check_tensors


def swiglu(gate_up: Tensor, dim: int = -1) -> Tensor:
    """``silu(gate) * up``. The first half of ``gate_up`` along ``dim`` is the gate, the second half is up.

    The backward recomputes the activation from ``gate_up``. Source: arXiv 2002.05202.

    Args:
        gate_up: any shape with an even size along ``dim``, floating point.
        dim: the axis that is split into gate and up.

    Returns:
        The shape of ``gate_up`` with the size along ``dim`` halved, same dtype.

    Raises:
        TypeError: ``gate_up`` is not floating-point.
        ValueError: the size along ``dim`` is odd.
        IndexError: ``gate_up`` has no axis ``dim``.

    Examples:
        >>> import torch
        >>> swiglu(torch.tensor([0.0, 1.0, 5.0, 2.0]))
        tensor([0.0000, 1.4621])
    """
    check_tensors("swiglu", "gate_up", gate_up)
    if gate_up.shape[dim] % 2:
        raise ValueError(f"swiglu: axis {dim} of {tuple(gate_up.shape)} holds gate and up, its size must be even")
    chosen = dispatch.select("swiglu", gate_up)
    if chosen == "reference":
        return swiglu_reference(gate_up, dim)
    return run_along_axis("swiglu", chosen, gate_up, dim)


def swiglu_reference(gate_up: Tensor, dim: int = -1) -> Tensor:
    gate, up = gate_up.chunk(2, dim=dim)
    return F.silu(gate) * up


def _fwd_fake(gate_up: Tensor, dim: int) -> Tensor:
    shape = list(gate_up.shape)
    shape[dim] = shape[dim] // 2
    return gate_up.new_empty(shape)


register(
    Op(
        swiglu,
        swiglu_reference,
        kernels={"cpp": CPU_FLOATS, "triton": GPU_FLOATS, "cuda": GPU_FLOATS},
        schemas={
            "swiglu_fwd(Tensor gate_up, int dim) -> Tensor": _fwd_fake,
            "swiglu_bwd(Tensor dout, Tensor gate_up, int dim) -> Tensor": lambda dout, x, dim: x.new_empty(x.shape),
        },
        cases=[
            Case([(3, 5, 64)], 1, lambda op, x: op(x)),
            Case([(3, 6, 33)], 1, lambda op, x: op(x, dim=1)),
        ],
        timed=lambda batch: Case([(batch, 97, 3072)], 1, lambda op, x: op(x)),
    )
)
