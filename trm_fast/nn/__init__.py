"""Layers, blocks and the recursion of the Tiny Recursive Model, built on ``trm_fast.ops``."""

from trm_fast.nn.block import Block, Network, State, cycle

__all__ = ["Block", "Network", "State", "cycle"]
