"""Layers, the network and the recursion of the Tiny Recursive Model, built on ``trm_fast.ops``."""

from trm_fast.nn.recursion import State

__all__ = ["State"]
