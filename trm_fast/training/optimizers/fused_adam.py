"""The base class of AdamATan2 and AdamW, whose whole update is one fused op."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from trm_fast import ops
from trm_fast.training.optimizers.base import Optimizer
from trm_fast.training.optimizers.part import Part


class FusedAdam(Optimizer):
    """Updates parameters with ``ops.adam_atan2_``: one pass over memory for those that share their settings."""

    variant: Literal["adam_atan2", "adamw"]

    def _new_state(self, p: Tensor) -> dict[str, Tensor]:
        return {name: torch.zeros_like(p) for name in ("exp_avg", "exp_avg_sq")}

    def _update(self, part: Part) -> None:
        ops.adam_atan2_(
            part.weights, part.grads, part.state("exp_avg"), part.state("exp_avg_sq"), part.lr, part.step,
            betas=part.betas, weight_decay=part.weight_decay, ema=part.ema, ema_decay=part.ema_decay or 0.0,
            grad_scale=part.grad_scale, variant=self.variant,
            copies=part.copies if self.copies else None, interleave=part.interleave if self.copies else None,
        )  # fmt: skip
