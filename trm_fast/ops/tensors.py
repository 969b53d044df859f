"""Helpers that several ops share: checks of tensors, the dtype of statistics, and notices of in-place writes."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor


def check_tensors(op: str, names: str, *tensors: Tensor | None) -> None:
    """Checks that the tensors of an op are real floating-point numbers on one device.

    Args:
        op: the name of the op, for the message.
        names: the names of the tensors, separated by spaces. If there are more tensors, the last one is a list's.
        tensors: the tensors; None for those that are not given.

    Raises:
        TypeError: one is no tensor, or has integers, booleans or complex numbers.
        ValueError: their devices differ.

    Examples:
        >>> check_tensors("mlp", "h weights", torch.zeros(2), torch.zeros(2), torch.zeros(2, dtype=torch.int64))
        Traceback (most recent call last):
        TypeError: mlp: weights[1] must be floating-point, but is torch.int64
    """
    first: Tensor | None = None
    for i, tensor in enumerate(tensors):
        if tensor is None:
            continue
        if not isinstance(tensor, Tensor):
            raise TypeError(f"{op}: {_name(names, i, len(tensors))} must be a tensor, not {type(tensor).__name__}")
        if not tensor.is_floating_point():
            raise TypeError(f"{op}: {_name(names, i, len(tensors))} must be floating-point, but is {tensor.dtype}")
        if first is None:
            first = tensor
        elif tensor.device != first.device:
            raise ValueError(
                f"{op}: {_name(names, i, len(tensors))} is on {tensor.device}, but must be on {first.device} like the "
                "others"
            )


def _name(names: str, index: int, count: int) -> str:
    """The name of one of ``count`` tensors."""
    words = names.split()
    if count <= len(words) or index < len(words) - 1:
        return words[index]
    return f"{words[-1]}[{index - len(words) + 1}]"


def is_scalar(value: object) -> bool:
    """Whether ``value`` is a real 0-dim tensor."""
    return isinstance(value, Tensor) and value.dim() == 0 and not value.is_complex()


def accumulate(x: Tensor) -> Tensor:
    """``x`` in the dtype of sums and statistics: float64 if it is float64, otherwise float32."""
    return x if x.dtype == torch.float64 else x.float()


def mark_written(tensors: Iterable[Tensor]) -> None:
    """Tells autograd that ``tensors`` were written in place, which it cannot see if an op has no autograd kernel."""
    if not torch.compiler.is_compiling():  # the compiler takes it from the schema
        torch.autograd.graph.increment_version([tensor for tensor in tensors if not tensor.is_inference()])
