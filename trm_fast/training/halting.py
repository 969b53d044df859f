"""Halting in training: the model's rule between a slot's least steps (exploration) and its most."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from trm_fast.tasks.base import IntArray


def exploration_steps(rng: np.random.Generator, batch_size: int, share: float, max_steps: int) -> IntArray:
    """For each slot the steps it may not halt before: mostly 0, for a ``share`` of them 2..max_steps."""
    explores = rng.random(batch_size) < share
    return (explores * rng.integers(min(2, max_steps), max_steps + 1, batch_size)).astype(np.int32)


def halts(should_halt: Tensor, steps: Tensor, min_steps: Tensor, max_steps: int) -> Tensor:
    """bool (B,): which slots halt after ``steps`` int (B,): at ``max_steps`` or where the rule says so, bool (B,), but
    never before ``min_steps`` (B,)."""
    return ((steps >= max_steps) | should_halt) & (steps >= min_steps)
