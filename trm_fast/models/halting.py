"""Halting rules: which rows stop after a supervision step. A new rule is one class here, registered by its name.

Training, ``TRM.train_step`` and the solver ask the same rule; ``model.halting`` names it.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar, TypeVar

from torch import Tensor

RULES: dict[str, type[HaltingRule]] = {}
R = TypeVar("R", bound="type[HaltingRule]")


def register(name: str) -> Callable[[R], R]:
    """Makes a class the rule that ``model.halting: name`` stands for."""

    def add(rule: R) -> R:
        RULES[name] = rule
        return rule

    return add


class HaltingRule(ABC):
    """``threshold``: the probability of being right, in (0, 1), above which a row halts; ``logit``: the same as a
    halting logit, exactly 0 for one half."""

    whole_batch: ClassVar[bool] = False
    """Whether rows that are computed together halt together: none leaves or enters a batch before."""

    def __init__(self, threshold: float = 0.5) -> None:
        self.threshold = threshold
        self.logit = math.log(threshold / (1 - threshold))

    @abstractmethod
    def should_halt(self, q: Tensor, steps: Tensor) -> Tensor:
        """bool (B,): which of the rows halt, by their halting logits q (B,) and the supervision steps behind each,
        int (B,). It is part of a captured step: no value may go to the host."""


@register("row")
class RowHalting(HaltingRule):
    """Each row by its own logit, as published."""

    def should_halt(self, q: Tensor, steps: Tensor) -> Tensor:
        return q > self.logit


@register("batch")
class BatchHalting(HaltingRule):
    """All rows that are computed together, when the mean of their probabilities exceeds the threshold."""

    whole_batch = True

    def should_halt(self, q: Tensor, steps: Tensor) -> Tensor:
        return (q.sigmoid().mean() > self.threshold).expand(q.shape)


def halting_rule(name: str, threshold: float) -> HaltingRule:
    """The rule registered under a name."""
    return RULES[name](threshold)
