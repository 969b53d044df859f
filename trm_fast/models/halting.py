"""Halting rules, which decide which rows halt after a supervision step. Each is a class registered under a name.

``model.halting`` names the rule that training, ``TRM.train_step`` and the solver apply.
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
    """The base class of halting rules.

    Attributes:
        threshold: confidence in (0, 1) above which a row halts.
        logit: the threshold as a halting logit, exactly 0 for 0.5.
    """

    memory_size: ClassVar[int] = 0
    """How many numbers the rule keeps for each row between supervision steps."""

    whole_batch: ClassVar[bool] = False
    """Whether all rows of a batch halt at the same step, so that rows cannot enter or leave it one by one."""

    def __init__(self, threshold: float = 0.5) -> None:
        self.threshold = threshold
        self.logit = math.log(threshold / (1 - threshold))

    def memory(self, rows: int, device: torch.device) -> Tensor:
        """The initial memory of rows: zeros, float64 (rows, memory_size)."""
        return torch.zeros(rows, self.memory_size, dtype=torch.float64, device=device)

    @abstractmethod
    def should_halt(self, q: Tensor, steps: Tensor, answers: Callable[[], Tensor], memory: Tensor) -> Tensor:
        """Decides which rows halt. It is called once after each supervision step.

        It is part of a captured step, so it must not copy values to the host, and must change ``memory`` in place.

        Args:
            q: halting logits float32 (B,).
            steps: number of supervision steps that each row has taken, int (B,).
            answers: computes the rows' answers, such as tokens (B, L), when it is called.
            memory: the numbers that the rule keeps for each row, float64 (B, memory_size).

        Returns:
            bool (B,), True for rows that halt.
        """


@register("row")
class RowHalting(HaltingRule):
    """A row halts when its confidence exceeds the threshold, as published."""

    def should_halt(self, q: Tensor, steps: Tensor, answers: Callable[[], Tensor], memory: Tensor) -> Tensor:
        return q > self.logit


@register("batch")
class BatchHalting(HaltingRule):
    """All rows of a batch halt when the mean of their confidences exceeds the threshold."""

    whole_batch = True

    def should_halt(self, q: Tensor, steps: Tensor, answers: Callable[[], Tensor], memory: Tensor) -> Tensor:
        return (q.sigmoid().mean() > self.threshold).expand(q.shape)


@register("never")
class NoHalting(HaltingRule):
    """No row halts before the maximum number of supervision steps: adaptive computation time (ACT) is off."""

    def should_halt(self, q: Tensor, steps: Tensor, answers: Callable[[], Tensor], memory: Tensor) -> Tensor:
        return torch.zeros_like(q, dtype=torch.bool)


def halting_rule(name: str, threshold: float) -> HaltingRule:
    """Creates the rule that is registered under ``name``.

    Examples:
        >>> q = torch.tensor([-1.0, 2.0])
        >>> rule = halting_rule("row", 0.5)
        >>> rule.should_halt(q, torch.ones(2), lambda: q, rule.memory(2, q.device)).tolist()
        [False, True]
    """
    return RULES[name](threshold)
