"""Helpers of several ops: the dtype of statistics, and telling autograd of in-place writes."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor


def accumulate(x: Tensor) -> Tensor:
    """``x`` in the dtype of statistics: float64 stays float64, every other dtype becomes float32."""
    return x if x.dtype == torch.float64 else x.float()


def mark_written(tensors: Iterable[Tensor]) -> None:
    """Tells autograd that ``tensors`` were written in place; it cannot see this in an op without an autograd kernel."""
    if not torch.compiler.is_compiling():  # the compiler reads it in the schema
        torch.autograd.graph.increment_version([tensor for tensor in tensors if not tensor.is_inference()])
