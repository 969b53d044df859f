"""A batch: examples as tensors, whether fresh from the data, waiting on the device or under way in the carry."""

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
    """B examples, as ``tasks.base.Examples`` has them in arrays: ``inputs`` (B, L) or (B, L, F), ``labels`` (B, ...),
    ``puzzle_ids`` (B,), and ``extra`` (B, ...), what the model's embedding and head take by name, such as ``mask``."""

    inputs: Tensor
    labels: Tensor
    puzzle_ids: Tensor
    extra: Mapping[str, Tensor] = field(default_factory=dict)

    @classmethod
    def of_tensors(cls, tensors: Mapping[str, Tensor]) -> Self:
        """What ``tensors`` gave."""
        extra = {name: t for name, t in tensors.items() if name not in ("inputs", "labels", "puzzle_ids")}
        return cls(tensors["inputs"], tensors["labels"], tensors["puzzle_ids"], extra)

    @classmethod
    def of_examples(cls, examples: Examples, *, pin: bool = False) -> Self:
        """On the host, and with ``pin`` where a GPU can copy it from in the background."""
        return cls.of_tensors({name: host_tensor(array, pin=pin) for name, array in examples.arrays().items()})

    @classmethod
    def zeros(cls, spec: Examples, count: int, device: torch.device) -> Self:
        """Memory for ``count`` examples of the shapes and dtypes of ``spec``."""
        return cls.of_tensors({
            name: torch.zeros((count, *array.shape[1:]), dtype=torch.from_numpy(array).dtype, device=device)
            for name, array in spec.arrays().items()
        })  # fmt: skip

    def __len__(self) -> int:
        return len(self.inputs)

    def tensors(self) -> dict[str, Tensor]:
        """Every tensor by its name."""
        return {"inputs": self.inputs, "labels": self.labels, "puzzle_ids": self.puzzle_ids, **self.extra}

    def map(self, function: Callable[[Tensor], Tensor]) -> Self:
        """The batch of what a function makes of each tensor."""
        return self.of_tensors({name: function(tensor) for name, tensor in self.tensors().items()})

    def take(self, part: slice) -> Self:
        """Examples next to each other, as views."""
        return self.map(lambda tensor: tensor[part])

    def index(self, positions: Tensor) -> Self:
        """The examples at ``positions`` (N,), copied."""
        return self.map(lambda tensor: tensor.index_select(0, positions))

    def copy_(self, other: Batch) -> None:
        """Overwrites all examples, in the background where ``other`` is pinned on the host."""
        theirs = other.tensors()
        for name, tensor in self.tensors().items():
            tensor.copy_(theirs[name], non_blocking=True)

    def replace_(self, where: Tensor, other: Batch) -> None:
        """Overwrites the examples where ``where`` bool (B,) is set by those of another batch at the same positions."""
        theirs = other.tensors()
        for name, tensor in self.tensors().items():
            chosen = where.view(-1, *(1,) * (tensor.dim() - 1))
            tensor.copy_(torch.where(chosen, theirs[name], tensor))


def host_tensor(array: Array, *, pin: bool) -> Tensor:
    """An array as a tensor, pinned if a GPU is to copy it in the background: torch keeps its memory until that is
    done."""
    tensor = torch.from_numpy(np.ascontiguousarray(array))
    return tensor.pin_memory() if pin else tensor
