"""The network of a Tiny Recursive Model, its configuration and its heads. Nothing here knows a task or a loop."""

from trm_fast.models.config import Depth, TRMConfig
from trm_fast.models.heads import HEADS, QHead, TokenHead, ValueHead
from trm_fast.models.loss import Loss, supervision_loss
from trm_fast.models.trm import ForwardOptions, Output, TRMModel

__all__ = [
    "HEADS",
    "Depth",
    "ForwardOptions",
    "Loss",
    "Output",
    "QHead",
    "TRMConfig",
    "TRMModel",
    "TokenHead",
    "ValueHead",
    "supervision_loss",
]
