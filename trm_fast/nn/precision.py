"""How products read the weights, which are float32, where the activations are lower: an object handed down the forward.

A weight is rounded where it is used, unless there is a copy. A forward makes copies of its network's weights once
(``cast_scope``); in training the optimizer writes those of all linear maps in the pass that updates the weights
(``WeightCopies``). Gradients arrive at the weights, in float32.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from trm_fast.ops import packing


class Precision:
    """Products in the activations' dtype. ``copies``: of weights by their id; ``packed``: all those of a network, as
    its fused kernels read them. Threads may share one: nothing in it changes during a forward."""

    fuses_channels: ClassVar[bool] = True
    """Whether ops may stand in for linear maps over channels."""

    def __init__(self, copies: Mapping[int, Tensor] | None = None, packed: list[Tensor] | None = None) -> None:
        self.copies, self.packed = copies or {}, packed

    def cached_cast(self, weight: Tensor, dtype: torch.dtype) -> Tensor:
        """``weight.to(dtype)``, without the work where there is a copy."""
        if weight.dtype == dtype or not self.copies:
            return weight.to(dtype)
        copy = self.copies.get(id(weight))
        if copy is None or copy.dtype != dtype:
            return weight.to(dtype)
        if torch.is_grad_enabled() and weight.requires_grad:
            result: Tensor = CastFunction.apply(weight, copy)
            return result
        return copy

    def cast_scope(self, weights: Iterable[Tensor], dtype: torch.dtype) -> Precision:
        """The same with copies of ``weights``, made now where there are none yet."""
        if torch.compiler.is_compiling():
            return self
        made = {id(w): w.detach().to(dtype) for w in weights if w.dtype != dtype and id(w) not in self.copies}
        return Precision({**self.copies, **made}, self.packed) if made else self

    def linear(self, x: Tensor, weight: Tensor) -> Tensor:
        """x (..., n_in) times weight (n_out, n_in), in the dtype of x."""
        return F.linear(x, self.cached_cast(weight, x.dtype))


CAST_AT_USE = Precision()
"""Without copies."""


class WeightCopies(Precision):
    """Copies of ``weights``, those of all linear maps, for an optimizer that keeps them up to date.

    ``z``: a state as the network will see it. ``network``: those of the weights that its kernels read packed.
    """

    def __init__(self, weights: Sequence[Tensor], z: Tensor, network: Sequence[Tensor] = ()) -> None:
        self.weights = [w for w in weights if w.dtype != z.dtype]
        self.network = list(network) if self.weights else []
        self.dtype, self.tokens = z.dtype, z.shape[1]
        self.made = self._rounded()
        packs = {id(w) for w in self.network}
        plain = {key: copy for key, copy in self.made.items() if key not in packs}
        super().__init__(plain, [self.made[id(w)] for w in self.network] or None)
        self.mark_current()

    def _rounded(self) -> dict[int, Tensor]:
        made = {id(w): w.detach().to(self.dtype) for w in self.weights}
        if self.network:
            made |= zip(map(id, self.network), packing.pack_weights(self.network, self.tokens, self.dtype), strict=True)
        return made

    def of_parameters(self, parameters: Iterable[Tensor]) -> tuple[list[Tensor | None], list[int]]:
        """As ``ops.adam_atan2_`` takes them: the copy of each parameter or None, and by how many rows its halves take
        turns."""
        layouts = packing.layouts(self.network, self.tokens) if self.network else []
        groups = {id(w): layout.interleave for w, layout in zip(self.network, layouts, strict=True)}
        ids = [id(p) for p in parameters]
        return [self.made.get(key) for key in ids], [groups.get(key, 0) for key in ids]

    def mark_current(self) -> None:
        """Marks the copies as those of the weights as these are now."""
        self._versions = [w._version for w in self.weights]

    def refresh(self) -> None:
        """Rounds them again, in place, if someone else has written to the weights: a checkpoint was loaded, say. What
        is written through ``.data`` is not seen."""
        if self._versions != [w._version for w in self.weights]:
            for key, copy in self._rounded().items():
                self.made[key].copy_(copy)
            self.mark_current()


class CastFunction(torch.autograd.Function):
    """The copy, whose gradient is its weight's."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, copy: Tensor) -> Tensor:
        ctx.dtype = weight.dtype
        return copy.view_as(copy)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient.to(ctx.dtype), None
