"""The base class of AdamATan2 and AdamW, whose whole update is one fused op."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor, nn

from trm_fast import ops
from trm_fast.training.optimizers.base import Optimizer

T = TypeVar("T")


class FusedAdam(Optimizer):
    """Updates the parameters, or those at ``indices``, with ``ops.adam_atan2_``: one pass over memory per rate."""

    variant: Literal["adam_atan2", "adamw"]

    def __init__(
        self,
        params: Iterable[nn.Parameter],
        *arguments: Any,
        indices: Sequence[int] | None = None,
        **keywords: Any,
    ) -> None:
        super().__init__(params, *arguments, **keywords)
        self.fused_decay = self.weight_decay
        weights = self.weights
        fused = range(len(weights)) if indices is None else indices
        rates_used = dict.fromkeys(self.rates[i] for i in fused)
        self.passes = {rate: [i for i in fused if self.rates[i] == rate] for rate in rates_used}
        for slot in ("exp_avg", "exp_avg_sq"):
            moments: list[Tensor | None] = [None] * len(weights)
            for i in fused:
                moments[i] = torch.zeros_like(weights[i])
            self.slots[slot] = moments

    def _update(self, weights: list[Tensor], grads: list[Tensor], grad_scale: Tensor | None) -> None:
        for rate, indices in self.passes.items():
            ops.adam_atan2_(
                _select(indices, weights), _select(indices, grads),
                self._moments("exp_avg", indices), self._moments("exp_avg_sq", indices),
                self.lr if rate == 1 else self.lr * rate, self.step_count,
                betas=self.betas, weight_decay=self.fused_decay,
                ema=self.ema and _select(indices, self.ema), ema_decay=self.ema_decay or 0.0,
                grad_scale=grad_scale, variant=self.variant,
                copies=self.copies and _select(indices, self.copies),
                interleave=self.interleave and _select(indices, self.interleave),
            )  # fmt: skip

    def _moments(self, slot: str, indices: list[int]) -> list[Tensor]:
        return [t for i in indices if (t := self.slots[slot][i]) is not None]


def _select(indices: list[int], values: Sequence[T]) -> list[T]:
    return [values[i] for i in indices]
