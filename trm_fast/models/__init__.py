"""The Tiny Recursive Model, its configuration and its heads. They do not depend on tasks or training."""

from trm_fast.models.config import Depth, TRMConfig
from trm_fast.models.heads import HEADS, Head, HeadConfig
from trm_fast.models.loss import Loss, supervision_loss
from trm_fast.models.trm import ForwardOptions, Output, TRMModel

__all__ = [
    "HEADS",
    "Depth",
    "ForwardOptions",
    "Head",
    "HeadConfig",
    "Loss",
    "Output",
    "TRMConfig",
    "TRMModel",
    "supervision_loss",
]
