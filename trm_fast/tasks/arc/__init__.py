"""The task arc, for ARC-AGI: each augmentation of each ARC task has its own row of the puzzle embedding."""

from __future__ import annotations

from trm_fast.tasks.arc.files import read
from trm_fast.tasks.arc.parsing import ARCTask, Pair
from trm_fast.tasks.arc.task import ARC

__all__ = ["ARC", "ARCTask", "Pair", "read"]
