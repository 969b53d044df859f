"""The optimizer AdamW."""

from __future__ import annotations

from trm_fast.training.optimizers.base import register
from trm_fast.training.optimizers.fused_adam import FusedAdam


@register("adamw")
class AdamW(FusedAdam):
    """Adam with decoupled weight decay (arXiv 1711.05101), in the same fused pass as AdamATan2."""

    variant = "adamw"
