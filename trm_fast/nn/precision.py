"""Precision: how products use the float32 weights if activations have lower precision.

A forward passes a ``Precision`` to its layers. A weight without a copy in low precision is rounded at each use. A
forward copies its network's weights once (``cast_scope``). In training, the optimizer writes the copies of all linear
maps while it updates the weights (``WeightCopies``). Gradients of weights are float32.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from trm_fast.ops import packing
from trm_fast.ops._core import dispatch, selection


def auto_dtype(device: torch.device, *, real_numbers: bool = False) -> torch.dtype:
    """The dtype of activations that is the fastest on a device: bfloat16 on a GPU, and on a CPU with fast products in
    bfloat16; otherwise float32. A model that reads or writes ``real_numbers`` stays in float32 on a CPU, because
    bfloat16 doubles its error."""
    fast_cpu = device.type == "cpu" and not real_numbers and selection.cpu_prefers_bfloat16()
    low_precision = device.type == "cuda" or fast_cpu
    return torch.bfloat16 if low_precision else torch.float32


class Precision:
    """Computes products in the activations' dtype. Threads may share an object, because a forward does not change it.

    Args:
        copies: copies of weights in low precision, by the ids of the weights.
        packed: all weights of a network, packed for the fused kernels.
    """

    fuses_channels: ClassVar[bool] = True
    """Whether fused ops may replace linear maps over channels."""

    def __init__(self, copies: Mapping[int, Tensor] | None = None, packed: list[Tensor] | None = None) -> None:
        self.copies, self.packed = copies or {}, packed

    def cached_cast(self, weight: Tensor, dtype: torch.dtype) -> Tensor:
        """``weight.to(dtype)``, or its copy if there is one."""
        if weight.dtype == dtype or not self.copies:
            return weight.to(dtype)
        copy = self.copies.get(id(weight))
        if copy is None or copy.dtype != dtype:
            return weight.to(dtype)
        if dispatch.transformed():  # a copy would be a constant to torch.func's transforms
            return weight.to(dtype)
        if torch.is_grad_enabled() and weight.requires_grad:
            result: Tensor = CastFunction.apply(weight, copy)
            return result
        return copy

    def cast_scope(self, weights: Iterable[Tensor], dtype: torch.dtype) -> Precision:
        """This precision with copies of all ``weights``; it makes the missing ones."""
        if torch.compiler.is_compiling():
            return self
        new = {id(w): w.detach().to(dtype) for w in weights if w.dtype != dtype and id(w) not in self.copies}
        return Precision({**self.copies, **new}, self.packed) if new else self

    def linear(self, x: Tensor, weight: Tensor) -> Tensor:
        """x (..., n_in) times the transpose of weight (n_out, n_in), in the dtype of x."""
        return F.linear(x, self.cached_cast(weight, x.dtype))


CAST_AT_USE = Precision()
"""The precision without copies."""


class WeightCopies(Precision):
    """Copies of the weights of all linear maps, for an optimizer that keeps them up to date.

    Args:
        weights: the weights of all linear maps.
        z: a latent state of the shape and dtype that the network will process.
        network: the weights among them that fused kernels read packed.

    Attributes:
        all_copies: all copies, packed or not, by the ids of the weights.
    """

    def __init__(self, weights: Sequence[Tensor], z: Tensor, network: Sequence[Tensor] = ()) -> None:
        self.weights = [w for w in weights if w.dtype != z.dtype]
        self.network = list(network) if self.weights else []
        self.dtype, self.tokens = z.dtype, z.shape[1]
        self.all_copies = self._rounded()
        packed_ids = {id(w) for w in self.network}
        plain = {key: copy for key, copy in self.all_copies.items() if key not in packed_ids}
        super().__init__(plain, [self.all_copies[id(w)] for w in self.network] or None)
        self.mark_current()

    def _rounded(self) -> dict[int, Tensor]:
        copies = {id(w): w.detach().to(self.dtype) for w in self.weights}
        if self.network:
            packed = packing.pack_weights(self.network, self.tokens, self.dtype)
            copies |= zip(map(id, self.network), packed, strict=True)
        return copies

    def copies_for(self, parameters: Iterable[Tensor]) -> tuple[list[Tensor | None], list[int]]:
        """The arguments ``copies`` and ``interleave`` of ``ops.adam_atan2_``: for each parameter its copy or None, and
        the number of rows after which the halves of the copy alternate."""
        layouts = packing.layouts(self.network, self.tokens) if self.network else []
        groups = {id(w): layout.interleave for w, layout in zip(self.network, layouts, strict=True)}
        ids = [id(p) for p in parameters]
        return [self.all_copies.get(key) for key in ids], [groups.get(key, 0) for key in ids]

    def mark_current(self) -> None:
        """Marks the copies as up to date."""
        self._versions = [w._version for w in self.weights]

    def refresh(self) -> None:
        """Rounds the weights again, in place, if anything but the optimizer has changed them, such as loading a
        checkpoint. It does not notice changes through ``.data``."""
        if self._versions != [w._version for w in self.weights]:
            for key, copy in self._rounded().items():
                self.all_copies[key].copy_(copy)
            self.mark_current()


class CastFunction(torch.autograd.Function):
    """Returns the copy, and passes the copy's gradient on to the weight."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, copy: Tensor) -> Tensor:
        ctx.dtype = weight.dtype
        return copy.view_as(copy)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient.to(ctx.dtype), None
