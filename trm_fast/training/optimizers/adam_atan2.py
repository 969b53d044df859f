"""The optimizer AdamATan2, which the published recipe uses."""

from __future__ import annotations

from trm_fast.training.optimizers.base import register
from trm_fast.training.optimizers.fused_adam import FusedAdam


@register("adam_atan2")
class AdamATan2(FusedAdam):
    """Adam with an arctangent instead of a division, so that it needs no epsilon (arXiv 2407.05872):
    ``p *= 1 - lr wd``, then ``p -= lr / (1 - b1^t) atan2(m, sqrt(v) / sqrt(1 - b2^t))``."""

    variant = "adam_atan2"
