"""The optimizer Muon: updates hidden matrices with orthogonalized momentum, and all other weights with AdamW or
AdamATan2.

Keller Jordan, "Muon: An optimizer for hidden layers in neural networks" (2024), with the weight decay and the update
size from "Muon is scalable for LLM training" (arXiv 2502.16982), so that one learning rate suits both kinds of weights.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from typing_extensions import Self

from trm_fast.models import TRMModel
from trm_fast.training.optimizers import base
from trm_fast.training.optimizers.base import register
from trm_fast.training.optimizers.fused_adam import FusedAdam

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Jordan's quintic polynomial, which is steep at 0, so that a few iterations bring singular values close to 1."""

RMS = 0.2
"""Root mean square of an update at learning rate 1, about that of AdamW (arXiv 2502.16982, section 2.2)."""


class Options(base.Options):
    """Options of Muon."""

    momentum: float = Field(0.95, ge=0, lt=1)
    """Momentum of the matrices."""
    nesterov: bool = True
    """Whether that momentum is Nesterov's."""
    iterations: int = Field(5, ge=1)
    """Number of Newton-Schulz iterations."""
    others: Literal["adamw", "adam_atan2"] = "adamw"
    """The optimizer of all other weights, which uses ``training.betas``."""
    others_learning_rate: float | None = Field(None, gt=0)
    """Learning rate of the other weights; None: that of the matrices."""
    others_weight_decay: float | None = Field(None, ge=0)
    """Weight decay of the other weights; None: that of the matrices."""
    scale: Literal["rms", "spectral"] = "rms"
    """Size of an update at learning rate 1: ``rms``, about that of AdamW, or ``spectral``, Jordan's: singular values of
    about the root of rows / columns, at least 1."""


@register("muon")
class Muon(FusedAdam):
    """Momentum orthogonalized by Newton-Schulz iterations.

    ``hidden`` are the matrices that Muon updates, by default all two-dimensional parameters. ``for_model`` uses the
    network's matrices; embedding and heads learn better with the other optimizer.
    """

    options_type: ClassVar[type[base.Options]] = Options

    def __init__(
        self,
        params: Iterable[nn.Parameter],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.95),
        weight_decay: float = 0.1,
        *arguments: Any,
        hidden: Iterable[Tensor] | None = None,
        momentum: float = 0.95,
        nesterov: bool = True,
        iterations: int = 5,
        others: Literal["adamw", "adam_atan2"] = "adamw",
        others_learning_rate: float | None = None,
        others_weight_decay: float | None = None,
        scale: Literal["rms", "spectral"] = "rms",
        rates: Sequence[float] | None = None,
        **keywords: Any,
    ) -> None:
        parameters = list(params)
        hidden_ids = {id(w) for w in (parameters if hidden is None else hidden)}
        matrices = [i for i, p in enumerate(parameters) if p.ndim == 2 and id(p) in hidden_ids]
        fused = [i for i in range(len(parameters)) if i not in matrices]
        rates = [1.0] * len(parameters) if rates is None else list(rates)
        if others_learning_rate is not None:
            ratio = others_learning_rate / lr
            rates = [ratio if i in fused and rate == 1 else rate for i, rate in enumerate(rates)]
        super().__init__(parameters, lr, betas, weight_decay, *arguments, indices=fused, rates=rates, **keywords)
        self.variant, self.scale = others, scale
        if others_weight_decay is not None:
            self.fused_decay = others_weight_decay
        self.momentum, self.nesterov, self.iterations = momentum, nesterov, iterations
        weights = self.weights
        self.buffers = {i: torch.zeros_like(weights[i]) for i in matrices}
        self.slots["momentum"] = [self.buffers.get(i) for i in range(len(parameters))]
        shapes = [tuple(weights[i].shape) for i in matrices]
        self.groups = [[i for i in matrices if tuple(weights[i].shape) == shape] for shape in dict.fromkeys(shapes)]

    @classmethod
    def for_model(cls, model: TRMModel, lr: float, **keywords: Any) -> Self:
        """Creates an optimizer with Muon for the network's matrices and ``others`` for the other weights."""
        return cls(model.parameters(), lr, hidden=model.net.parameters(), **keywords)

    def _update(self, weights: list[Tensor], grads: list[Tensor], grad_scale: Tensor | None) -> None:
        super()._update(weights, grads, grad_scale)
        for indices in self.groups:  # matrices of the same shape are computed as one batch
            grad = torch.stack([grads[i] for i in indices])
            if grad_scale is not None:
                grad = grad * grad_scale
            for i, g in zip(indices, grad.unbind(), strict=True):
                self.buffers[i].lerp_(g, 1 - self.momentum)
            direction = torch.stack([self.buffers[i] for i in indices])
            if self.nesterov:
                direction = grad.lerp(direction, self.momentum)
            rows, columns = grad.shape[1:]
            size = RMS * max(rows, columns) ** 0.5 if self.scale == "rms" else max(1, rows / columns) ** 0.5
            for i, step in zip(indices, orthogonal(direction, self.iterations).unbind(), strict=True):
                lr = self._rate(i)
                weights[i].mul_(1 - lr * self.weight_decay).sub_(lr * size * step)
        self._finish(weights, self.buffers)


def orthogonal(matrices: Tensor, iterations: int = 5) -> Tensor:
    """Matrices (N, rows, columns) with the same singular vectors, and singular values close to 1; very small ones stay
    smaller.

    Example:
        >>> values = torch.linalg.svdvals(orthogonal(torch.diag(torch.tensor([3.0, 1.0]))[None]))
        >>> bool((values - 1).abs().max() < 0.4)
        True
    """
    a, b, c = COEFFICIENTS
    tall = matrices.shape[-2] > matrices.shape[-1]
    x = matrices.mT if tall else matrices
    x = x / (torch.linalg.vector_norm(x, dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(iterations):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.mT if tall else x
