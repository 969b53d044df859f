"""ARC-AGI: tasks of a few example grids, learned with a row of the puzzle embedding for each augmented task."""

from __future__ import annotations

from trm_fast.tasks.arc.files import ARCTask, Pair, read
from trm_fast.tasks.arc.task import ARC

__all__ = ["ARC", "ARCTask", "Pair", "read"]
