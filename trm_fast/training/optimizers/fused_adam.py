"""What AdamATan2 and AdamW share: their whole update is one fused op."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal, TypeVar

import torch
from torch import Tensor, nn

from trm_fast import ops
from trm_fast.training.optimizers.base import Optimizer

T = TypeVar("T")


class FusedAdam(Optimizer):
    """``ops.adam_atan2_`` of all parameters, or of those at ``places``: one pass over memory for each rate."""

    variant: Literal["adam_atan2", "adamw"]

    def __init__(
        self,
        params: Iterable[nn.Parameter],
        lr: float = 1e-4,
        betas: tuple[float, float] = (0.9, 0.95),
        weight_decay: float = 1.0,
        ema_decay: float | None = None,
        *,
        rates: Sequence[float] | None = None,
    ) -> None:
        super().__init__(params, lr, betas, weight_decay, ema_decay, rates=rates)
        self._add_moments(range(len(self.rates)))

    def _add_moments(self, places: Iterable[int]) -> None:
        weights, chosen = self.weights, list(places)
        rates = [self.rates[i] for i in chosen]
        self.passes = {r: [i for i in chosen if self.rates[i] == r] for r in dict.fromkeys(rates)}
        for slot in ("exp_avg", "exp_avg_sq"):
            moments: list[Tensor | None] = [None] * len(weights)
            for i in chosen:
                moments[i] = torch.zeros_like(weights[i])
            self.slots[slot] = moments

    def _update(self, weights: list[Tensor], grads: list[Tensor], grad_scale: Tensor | None) -> None:
        for rate, places in self.passes.items():
            ops.adam_atan2_(
                _picked(places, weights), _picked(places, grads),
                self._moments("exp_avg", places), self._moments("exp_avg_sq", places),
                self.lr if rate == 1 else self.lr * rate, self.step_count,
                betas=self.betas, weight_decay=self.weight_decay,
                ema=self.ema and _picked(places, self.ema), ema_decay=self.ema_decay or 0.0,
                grad_scale=grad_scale, variant=self.variant,
                copies=self.copies and _picked(places, self.copies),
                interleave=self.interleave and _picked(places, self.interleave),
            )  # fmt: skip

    def _moments(self, slot: str, places: list[int]) -> list[Tensor]:
        return [t for i in places if (t := self.slots[slot][i]) is not None]


def _picked(places: list[int], values: Sequence[T]) -> list[T]:
    return [values[i] for i in places]
