"""A batch: examples as tensors, the form in which the pool and the carry hold them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor
from typing_extensions import Self

from trm_fast.tasks.base import Array, Examples


@dataclass(frozen=True)
class Batch:
    """B examples as tensors; ``tasks.base.Examples`` holds the same data as NumPy arrays.

    Attributes:
        inputs: tokens int (B, L), or values (B, L, F).
        labels: (B, ...), as the model's head takes them.
        puzzle_ids: int (B,), rows of the puzzle embedding.
        extra: further tensors (B, ...) that the model's embedding and head take by name, such as ``mask``.
    """

    inputs: Tensor
    labels: Tensor
    puzzle_ids: Tensor
    extra: Mapping[str, Tensor] = field(default_factory=dict)

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> Self:
        """Builds a batch from the result of ``tensors()``."""
        extra = {name: t for name, t in tensors.items() if name not in ("inputs", "labels", "puzzle_ids")}
        return cls(tensors["inputs"], tensors["labels"], tensors["puzzle_ids"], extra)

    @classmethod
    def from_examples(cls, examples: Examples, *, pin: bool = False) -> Self:
        """Converts examples to tensors on the host, with ``pin`` in pinned memory, which a GPU can copy in the
        background."""
        return cls.from_tensors({name: host_tensor(array, pin=pin) for name, array in examples.arrays().items()})

    @classmethod
    def zeros(cls, spec: Examples, count: int, device: torch.device) -> Self:
        """``count`` examples of zeros, with the shapes and dtypes of ``spec``."""
        return cls.from_tensors({
            name: torch.zeros((count, *array.shape[1:]), dtype=torch.from_numpy(array).dtype, device=device)
            for name, array in spec.arrays().items()
        })  # fmt: skip

    def __len__(self) -> int:
        return len(self.inputs)

    def tensors(self) -> dict[str, Tensor]:
        """All tensors by name."""
        return {"inputs": self.inputs, "labels": self.labels, "puzzle_ids": self.puzzle_ids, **self.extra}

    def map(self, function: Callable[[Tensor], Tensor]) -> Self:
        """Applies a function to each tensor."""
        return self.from_tensors({name: function(tensor) for name, tensor in self.tensors().items()})

    def take(self, part: slice) -> Self:
        """Consecutive examples, as views."""
        return self.map(lambda tensor: tensor[part])

    def index(self, positions: Tensor) -> Self:
        """Copies of the examples at ``positions`` int (N,)."""
        return self.map(lambda tensor: tensor.index_select(0, positions))

    def copy_(self, other: Batch) -> None:
        """Overwrites all examples. A copy from pinned memory runs in the background."""
        sources = other.tensors()
        for name, tensor in self.tensors().items():
            tensor.copy_(sources[name], non_blocking=True)

    def replace_(self, mask: Tensor, other: Batch) -> None:
        """Overwrites the examples at which ``mask`` bool (B,) is True with those at the same positions in ``other``."""
        sources = other.tensors()
        for name, tensor in self.tensors().items():
            replaced = mask.view(-1, *(1,) * (tensor.dim() - 1))
            tensor.copy_(torch.where(replaced, sources[name], tensor))


def host_tensor(array: Array, *, pin: bool) -> Tensor:
    """Converts an array to a tensor on the host. ``pin`` copies it to pinned memory, which torch keeps until background
    copies from it have ended."""
    tensor = torch.from_numpy(np.ascontiguousarray(array))
    return tensor.pin_memory() if pin else tensor
