"""Halting rules: which rows stop after a supervision step. A new rule is one class here, registered by its name.

Training, ``TRM.train_step`` and the solver ask the same rule; ``model.halting`` names it.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor

from trm_fast.registry import Registry

RULES: Registry[type[HaltingRule]] = Registry("halting rule")
register = RULES.register


class HaltingRule(ABC):
    """``threshold``: the probability of being right, in (0, 1), above which a row halts; ``logit``: the same as a
    halting logit, exactly 0 for one half."""

    memory_size: ClassVar[int] = 0
    """Numbers that the rule keeps for each row from one supervision step to the next."""

    whole_batch: ClassVar[bool] = False
    """Whether rows that are computed together halt together: none leaves or enters a batch before."""

    def __init__(self, threshold: float = 0.5) -> None:
        self.threshold = threshold
        self.logit = math.log(threshold / (1 - threshold))

    def memory(self, rows: int, device: torch.device) -> Tensor:
        """What rows remember before their first step: zeros, float64 (rows, memory_size)."""
        return torch.zeros(rows, self.memory_size, dtype=torch.float64, device=device)

    @abstractmethod
    def should_halt(self, q: Tensor, steps: Tensor, answers: Callable[[], Tensor], memory: Tensor) -> Tensor:
        """bool (B,): which of the rows halt after a supervision step, asked once a step.

        It is part of a captured step: no value may go to the host, and ``memory`` is changed in place.

        Args:
            q: halting logits (B,).
            steps: supervision steps behind each row, int (B,).
            answers: gives the rows' answers as the head gives them, such as tokens (B, L); made only if asked for.
            memory: what the rule keeps of each row, float64 (B, memory_size).
        """


@register("row")
class RowHalting(HaltingRule):
    """Each row by its own logit, as published."""

    def should_halt(self, q: Tensor, steps: Tensor, answers: Callable[[], Tensor], memory: Tensor) -> Tensor:
        return q > self.logit


@register("batch")
class BatchHalting(HaltingRule):
    """All rows that are computed together, when the mean of their probabilities exceeds the threshold."""

    whole_batch = True

    def should_halt(self, q: Tensor, steps: Tensor, answers: Callable[[], Tensor], memory: Tensor) -> Tensor:
        return (q.sigmoid().mean() > self.threshold).expand(q.shape)


def halting_rule(name: str, threshold: float) -> HaltingRule:
    """The rule registered under a name."""
    return RULES[name](threshold)
