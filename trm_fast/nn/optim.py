"""The optimizer of the recipe as a ``torch.optim.Optimizer``, its whole update one fused op."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor, nn

from trm_fast import ops

T = TypeVar("T")
_STATE = ("lr", "step_count", "exp_avg", "exp_avg_sq", "ema")


class AdamATan2(torch.optim.Optimizer):
    """AdamATan2 (or AdamW) with decoupled decay and an optional average of the weights, in one pass over memory.

    ``p *= 1 - lr wd``, then ``p -= lr / (1 - b1^t) atan2(m, sqrt(v) / sqrt(1 - b2^t))`` (arXiv 2407.05872).
    The learning rate and the step are 0-dim tensors, so that a captured step reads their current values:
    write ``optimizer.lr.fill_(...)``. ``ema`` holds the averaged weights in the order of the parameters; ``copies`` and
    ``interleave``, where set, are the low-precision copies that ``ops.adam_atan2_`` writes, in the same order.
    ``rates``: what each parameter's learning rate is times ``lr``, 1 where it is not given; one pass for each rate.
    """

    def __init__(
        self,
        params: Iterable[nn.Parameter],
        lr: float = 1e-4,
        betas: tuple[float, float] = (0.9, 0.95),
        weight_decay: float = 1.0,
        ema_decay: float | None = None,
        variant: Literal["adam_atan2", "adamw"] = "adam_atan2",
        rates: Sequence[float] | None = None,
    ) -> None:
        weights = list(params)
        rates = [1.0] * len(weights) if rates is None else list(rates)
        if len(rates) != len(weights):
            raise ValueError(f"{len(rates)} rates for {len(weights)} parameters")
        self.passes = {rate: [i for i, r in enumerate(rates) if r == rate] for rate in dict.fromkeys(rates)}
        super().__init__(weights, {})
        device = weights[0].device
        self.lr = torch.tensor(lr, dtype=torch.float32, device=device)
        self.step_count = torch.zeros((), dtype=torch.float32, device=device)
        self.exp_avg = [torch.zeros_like(w) for w in self.weights]
        self.exp_avg_sq = [torch.zeros_like(w) for w in self.weights]
        self.ema = [w.clone() for w in self.weights] if ema_decay is not None else None
        self.betas, self.weight_decay, self.ema_decay, self.variant = betas, weight_decay, ema_decay, variant
        self.copies: list[Tensor | None] | None = None
        self.interleave: list[int] | None = None

    @property
    def weights(self) -> list[Tensor]:
        """Views of the parameters: the op writes where autograd does not look."""
        return [p.detach() for p in self.param_groups[0]["params"]]

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__.copy()  # torch's own would leave all of the above out of a copied model

    @torch.no_grad()
    def step(self, closure: None = None, *, grad_scale: Tensor | None = None) -> None:  # type: ignore[override]
        """Updates every weight from its ``grad`` (none counts as zero), scaled by ``grad_scale`` where given."""
        params = self.param_groups[0]["params"]
        grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in params]
        self.step_count += 1
        weights = self.weights
        for rate, mine in self.passes.items():
            of = partial(_picked, mine)
            ops.adam_atan2_(
                of(weights), of(grads), of(self.exp_avg), of(self.exp_avg_sq),
                self.lr if rate == 1 else self.lr * rate, self.step_count,
                betas=self.betas, weight_decay=self.weight_decay,
                ema=self.ema and of(self.ema), ema_decay=self.ema_decay if self.ema_decay is not None else 0.0,
                grad_scale=grad_scale, variant=self.variant,
                copies=self.copies and of(self.copies), interleave=self.interleave and of(self.interleave),
            )  # fmt: skip

    def state_dict(self) -> dict[str, Any]:
        """All of the state, ``ema`` included; ``load_state_dict`` copies it into an optimizer of the same weights."""
        return {name: _copied(getattr(self, name)) for name in _STATE}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        for name in _STATE:
            mine, theirs = getattr(self, name), state_dict[name]
            if (mine is None) != (theirs is None):
                raise ValueError("one of the optimizers averages weights and the other does not")
            for tensor, value in zip(*([t] if isinstance(t, Tensor) else t or [] for t in (mine, theirs)), strict=True):
                tensor.copy_(value)

    def tensors(self, names: Iterable[str]) -> dict[str, Tensor]:
        """Everything that a checkpoint must keep but the average, under the parameters' names."""
        kept = {"step": self.step_count}
        for name, m, v in zip(names, self.exp_avg, self.exp_avg_sq, strict=True):
            kept |= {f"exp_avg/{name}": m, f"exp_avg_sq/{name}": v}
        return kept


def _picked(places: list[int], values: Sequence[T]) -> list[T]:
    return [values[i] for i in places]


def _copied(value: Tensor | list[Tensor] | None) -> Any:
    if isinstance(value, Tensor):
        return value.clone()
    return value and [tensor.clone() for tensor in value]
