"""Modules of the Tiny Recursive Model, built on ``trm_fast.ops``. Nothing here knows a task."""

from trm_fast.nn.block import Block, Network, State, cycle
from trm_fast.nn.config import TRMConfig
from trm_fast.nn.heads import HEADS, QHead, TokenHead, ValueHead
from trm_fast.nn.loss import IGNORE, Loss, supervision_loss
from trm_fast.nn.model import TRM, Output
from trm_fast.nn.optim import AdamATan2
from trm_fast.nn.thinking import Thought, think

__all__ = [
    "HEADS",
    "IGNORE",
    "TRM",
    "AdamATan2",
    "Block",
    "Loss",
    "Network",
    "Output",
    "QHead",
    "State",
    "TRMConfig",
    "Thought",
    "TokenHead",
    "ValueHead",
    "cycle",
    "supervision_loss",
    "think",
]
