"""Helpers that several ops share: the dtype of statistics, and a notice of in-place writes for autograd."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor


def accumulate(x: Tensor) -> Tensor:
    """``x`` in the dtype of sums and statistics: float64 if it is float64, otherwise float32."""
    return x if x.dtype == torch.float64 else x.float()


def mark_written(tensors: Iterable[Tensor]) -> None:
    """Tells autograd that ``tensors`` were written in place, which it cannot see if an op has no autograd kernel."""
    if not torch.compiler.is_compiling():  # the compiler takes it from the schema
        torch.autograd.graph.increment_version([tensor for tensor in tensors if not tensor.is_inference()])
