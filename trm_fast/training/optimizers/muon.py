"""The optimizer Muon: updates hidden matrices with orthogonalized momentum, and all other weights with AdamW or
AdamATan2.

Keller Jordan, "Muon: An optimizer for hidden layers in neural networks" (2024), with the weight decay and the update
size from "Muon is scalable for LLM training" (arXiv 2502.16982), so that one learning rate suits both kinds of weights.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor
from typing_extensions import Self

from trm_fast.models import TRMModel
from trm_fast.training.optimizers import base
from trm_fast.training.optimizers.base import register
from trm_fast.training.optimizers.fused_adam import FusedAdam
from trm_fast.training.optimizers.part import Part

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
        params: Iterable[Any],
        lr: float | Tensor = 1e-3,
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
        **keywords: Any,
    ) -> None:
        self.variant, self.scale = others, scale
        self.momentum, self.nesterov, self.iterations = momentum, nesterov, iterations
        self.others_learning_rate, self.others_weight_decay = others_learning_rate, others_weight_decay
        self._hidden = None if hidden is None else {id(w) for w in hidden}
        super().__init__(params, lr, betas, weight_decay, *arguments, **keywords)

    @classmethod
    def for_model(cls, model: TRMModel, lr: float, **keywords: Any) -> Self:
        """Creates an optimizer with Muon for the network's matrices and ``others`` for the other weights."""
        return cls(model.parameters(), lr, hidden=model.net.parameters(), **keywords)

    def _is_hidden(self, p: Tensor) -> bool:
        return p.ndim == 2 and (self._hidden is None or id(p) in self._hidden)

    def _default_rate(self, p: Tensor, lr: float | Tensor) -> float:
        if self.others_learning_rate is None or self._is_hidden(p):
            return 1.0
        if not lr:
            raise ValueError("others_learning_rate is a multiple of lr, which must not be 0")
        return self.others_learning_rate / float(lr)

    def _new_state(self, p: Tensor) -> dict[str, Tensor]:
        if self._is_hidden(p):
            return {"momentum": torch.zeros_like(p)}
        return super()._new_state(p)

    def _update(self, part: Part) -> None:
        matrices = [i for i, state in enumerate(part.states) if "momentum" in state]
        others = part.select([i for i in range(len(part.states)) if i not in matrices])
        decay = part.weight_decay if self.others_weight_decay is None else self.others_weight_decay
        super()._update(replace(others, weight_decay=decay))
        shapes = [part.weights[i].shape for i in matrices]
        for shape in dict.fromkeys(shapes):  # matrices of the same shape are computed as one batch
            self._update_matrices(part.select([i for i, s in zip(matrices, shapes, strict=True) if s == shape]))

    def _update_matrices(self, part: Part) -> None:
        """Updates matrices of the same shape."""
        grad, momenta = torch.stack(list(part.grads)), part.state("momentum")
        if part.grad_scale is not None:
            grad = grad * part.grad_scale
        for momentum, g in zip(momenta, grad.unbind(), strict=True):
            momentum.lerp_(g, 1 - self.momentum)
        direction = torch.stack(momenta)
        if self.nesterov:
            direction = grad.lerp(direction, self.momentum)
        rows, columns = grad.shape[1:]
        size = RMS * max(rows, columns) ** 0.5 if self.scale == "rms" else max(1, rows / columns) ** 0.5
        for weight, step in zip(part.weights, orthogonal(direction, self.iterations).unbind(), strict=True):
            weight.mul_(1 - part.lr * part.weight_decay).sub_(part.lr * size * step)
        part.finish()


def orthogonal(matrices: Tensor, iterations: int = 5) -> Tensor:
    """Matrices (N, rows, columns) with the same singular vectors, and singular values close to 1; very small ones stay
    smaller.

    Examples:
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
