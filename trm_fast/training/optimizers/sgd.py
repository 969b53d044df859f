"""The optimizer SGD: stochastic gradient descent with momentum."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from trm_fast.training.optimizers import base
from trm_fast.training.optimizers.base import Optimizer, register


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
        params: Iterable[nn.Parameter],
        lr: float = 1e-2,
        betas: tuple[float, float] = (0.9, 0.95),
        weight_decay: float = 0.0,
        *arguments: Any,
        nesterov: bool = False,
        **keywords: Any,
    ) -> None:
        super().__init__(params, lr, betas, weight_decay, *arguments, **keywords)
        self.nesterov = nesterov
        self.momentum = [torch.zeros_like(w) for w in self.weights]
        self.slots["momentum"] = [*self.momentum]

    def _update(self, weights: list[Tensor], grads: list[Tensor], grad_scale: Tensor | None) -> None:
        beta = self.betas[0]
        for i, (weight, grad, momentum) in enumerate(zip(weights, grads, self.momentum, strict=True)):
            lr, grad = self._rate(i), grad if grad_scale is None else grad * grad_scale
            momentum.mul_(beta).add_(grad)
            step = grad + beta * momentum if self.nesterov else momentum
            weight.mul_(1 - lr * self.weight_decay).sub_(lr * step)
        self._finish(weights, range(len(weights)))
