"""The dtype in which ops keep their statistics."""

from __future__ import annotations

import torch
from torch import Tensor


def accumulate(x: Tensor) -> Tensor:
    """In float32; float64 stays what it is."""
    return x if x.dtype == torch.float64 else x.float()
