"""Layers, blocks and the recursion of the Tiny Recursive Model, built on ``trm_fast.ops``."""

from trm_fast.nn.block import Block, Network
from trm_fast.nn.config import NetworkConfig
from trm_fast.nn.precision import Precision, WeightCopies
from trm_fast.nn.recursion import Recursion, State

__all__ = ["Block", "Network", "NetworkConfig", "Precision", "Recursion", "State", "WeightCopies"]
