"""The optimizer SGD: stochastic gradient descent with momentum."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar

import torch
from torch import Tensor

from trm_fast.training.optimizers import base
from trm_fast.training.optimizers.base import Optimizer, register
from trm_fast.training.optimizers.part import Part


class Options(base.Options):
    """Options of SGD."""

    nesterov: bool = False
    """Whether momentum is Nesterov's."""


@register("sgd")
class SGD(Optimizer):
    """``m = betas[0] m + g``, ``p *= 1 - lr wd``, ``p -= lr m`` (with ``nesterov``: ``lr (g + betas[0] m)``).

    Weight decay is decoupled, as in all optimizers here (SGDW, arXiv 1711.05101).
    """

    options_type: ClassVar[type[base.Options]] = Options

    def __init__(
        self,
        params: Iterable[Any],
        lr: float | Tensor = 1e-2,
        betas: tuple[float, float] = (0.9, 0.95),
        weight_decay: float = 0.0,
        *arguments: Any,
        nesterov: bool = False,
        **keywords: Any,
    ) -> None:
        self.nesterov = nesterov
        super().__init__(params, lr, betas, weight_decay, *arguments, **keywords)

    def _new_state(self, p: Tensor) -> dict[str, Tensor]:
        return {"momentum": torch.zeros_like(p)}

    def _update(self, part: Part) -> None:
        beta, lr = part.betas[0], part.lr
        for weight, grad, momentum in zip(part.weights, part.scaled_grads(), part.state("momentum"), strict=True):
            momentum.mul_(beta).add_(grad)
            step = grad + beta * momentum if self.nesterov else momentum
            weight.mul_(1 - lr * part.weight_decay).sub_(lr * step)
        part.finish()
