"""What an optimizer updates at once: parameters that share their settings and their number of steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor
from typing_extensions import Self

from trm_fast.ops.packing import interleaved_rows


@dataclass(frozen=True)
class Part:
    """Parameters of one group that have a gradient, with the settings of their update. All tensors are detached, and
    are updated in place; the lists have one entry for each parameter.

    Attributes:
        weights, grads: the parameters and their gradients.
        states: their state, as ``Optimizer.state`` holds it.
        lr: learning rate (), with the parameters' factor.
        step: number of this step (), 1 in the first one; steps that the parameters missed don't count.
        betas, weight_decay: those of the group.
        grad_scale: multiplies the gradients, (); or None.
        ema_decay: decay of the averaged weights ``states[i]["ema"]``; None: no average.
        copies: low-precision copies of the weights, or None for parameters without copy.
        interleave: how rows of the copies alternate (``ops.adam_atan2_``).
    """

    weights: Sequence[Tensor]
    grads: Sequence[Tensor]
    states: Sequence[dict[str, Tensor]]
    lr: Tensor
    step: Tensor
    betas: tuple[float, float]
    weight_decay: float
    grad_scale: Tensor | None
    ema_decay: float | None
    copies: Sequence[Tensor | None]
    interleave: Sequence[int]

    @property
    def ema(self) -> list[Tensor] | None:
        """The averaged weights, or None."""
        return None if self.ema_decay is None else self.state("ema")

    def state(self, name: str) -> list[Tensor]:
        """One state tensor of each parameter."""
        return [state[name] for state in self.states]

    def scaled_grads(self) -> Sequence[Tensor]:
        """The gradients, multiplied by ``grad_scale``."""
        return self.grads if self.grad_scale is None else [grad * self.grad_scale for grad in self.grads]

    def select(self, positions: Sequence[int]) -> Self:
        """The parameters at these positions."""
        names = ("weights", "grads", "states", "copies", "interleave")
        lists: dict[str, Any] = {name: [getattr(self, name)[i] for i in positions] for name in names}
        return replace(self, **lists)

    def finish(self) -> None:
        """Updates the averages and the copies, after the weights."""
        for i, weight in enumerate(self.weights):
            if self.ema_decay is not None:
                self.states[i]["ema"].lerp_(weight, 1 - self.ema_decay)
            copy = self.copies[i]
            if copy is not None:
                rows = interleaved_rows(len(weight), self.interleave[i], weight.device)
                copy[rows, : weight.shape[1]] = weight.to(copy.dtype)
