"""What ops have in common in how they treat tensors."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor


def accumulate(x: Tensor) -> Tensor:
    """In the dtype of statistics: float32; float64 stays what it is."""
    return x if x.dtype == torch.float64 else x.float()


def mark_written(tensors: Iterable[Tensor]) -> None:
    """Tells autograd of an in-place write, which it does not see in an op without an autograd kernel."""
    if not torch.compiler.is_compiling():  # the compiler knows from the schema
        torch.autograd.graph.increment_version([tensor for tensor in tensors if not tensor.is_inference()])
