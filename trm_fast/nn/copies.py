"""Copies of the weights in the activations' dtype, made once a step, where every product would round its weight again.

Weights are float32. In training the optimizer writes the copies in the pass that updates the weights (``Copies``);
elsewhere a supervision step makes those of its network (``once``). Gradients arrive at the weights, in float32.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from trm_fast.ops import packed

if TYPE_CHECKING:
    from trm_fast.models.trm import TRMModel

_plain: dict[int, Tensor] = {}
_packed: dict[int, list[Tensor]] = {}
"""What is in use now: the copy of a weight by its id, and all those of a network by the id of its first weight."""


class Copies:
    """Of every linear map's weight, for an optimizer of ``model.parameters()`` that keeps them up to date.

    ``z``: a state as the network will see it. Where its kernels read packed weights, the network's copies are packed.
    """

    def __init__(self, model: TRMModel, z: Tensor) -> None:
        self.weights = [w for w in model.linear_weights() if w.dtype != z.dtype]
        self.network = model.net.weights() if self.weights and model.net.packs(z) else []
        self.dtype, self.tokens = z.dtype, z.shape[1]
        self.made = self._anew()
        layouts = packed.layouts(self.network, self.tokens) if self.network else []
        groups = {id(w): layout.interleave for w, layout in zip(self.network, layouts, strict=True)}
        # As the optimizer takes them: one for each parameter, or None.
        self.of_parameters = [self.made.get(id(p)) for p in model.parameters()]
        self.interleave = [groups.get(id(p), 0) for p in model.parameters()]
        self.mark()

    def _anew(self) -> dict[int, Tensor]:
        made = {id(w): w.detach().to(self.dtype) for w in self.weights}
        if self.network:
            made |= zip(map(id, self.network), packed.pack_weights(self.network, self.tokens, self.dtype), strict=True)
        return made

    def mark(self) -> None:
        """Says that they are those of the weights as these are now."""
        self._versions = [w._version for w in self.weights]

    def refresh(self) -> None:
        """Makes them anew, in place, if someone else has written to the weights: a checkpoint was loaded, say. What is
        written through ``.data`` is not seen."""
        if self._versions != [w._version for w in self.weights]:
            for key, copy in self._anew().items():
                self.made[key].copy_(copy)
            self.mark()

    @contextmanager
    def used(self) -> Iterator[None]:
        """Products inside, and in the backward of products inside, take the copies."""
        network = {id(w) for w in self.network}
        with _taken({key: copy for key, copy in self.made.items() if key not in network}):
            if not self.network:
                yield
                return
            _packed[id(self.network[0])] = [self.made[id(w)] for w in self.network]
            try:
                yield
            finally:
                del _packed[id(self.network[0])]


def packed_of(weights: Sequence[Tensor]) -> list[Tensor] | None:
    """The packed copies of a network's weights, where there are some."""
    return None if torch.compiler.is_compiling() else _packed.get(id(weights[0]))


@contextmanager
def once(weights: Sequence[Tensor], dtype: torch.dtype) -> Iterator[None]:
    """Copies of ``weights`` for the block inside, where there are none yet."""
    if torch.compiler.is_compiling():
        weights = ()
    with _taken({id(w): w.detach().to(dtype) for w in weights if w.dtype != dtype and id(w) not in _plain}):
        yield


@contextmanager
def _taken(copies: Mapping[int, Tensor]) -> Iterator[None]:
    """A thread that uses the same model meanwhile finds these copies, or rounds for itself: both is right."""
    _plain.update(copies)
    try:
        yield
    finally:
        for key in copies:
            _plain.pop(key, None)


def low(weight: Tensor, dtype: torch.dtype) -> Tensor:
    """``weight.to(dtype)``, without the work where there is a copy."""
    copy = None if weight.dtype == dtype or torch.compiler.is_compiling() else _plain.get(id(weight))
    if copy is None or copy.dtype != dtype:
        return weight.to(dtype)
    if torch.is_grad_enabled() and weight.requires_grad:
        result: Tensor = Rounded.apply(weight, copy)
        return result
    return copy


class Rounded(torch.autograd.Function):
    """The copy, whose gradient is its weight's."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, copy: Tensor) -> Tensor:
        ctx.dtype = weight.dtype
        return copy.view_as(copy)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient.to(ctx.dtype), None
