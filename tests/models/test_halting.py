"""Halting rules: the two that ship, and new ones with and without memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from trm_fast.inference.steps import run_steps
from trm_fast.models import TRMConfig
from trm_fast.models.halting import RULES, HaltingRule, halting_rule, register
from trm_fast.training import TrainingConfig, TrainStep
from trm_fast.training.carry import halts
from trm_fast.training.optimizers import AdamATan2
from trm_fast.training.optimizers.sgd import SGD

from .small import model, tokens

STEPS = torch.tensor([1, 2, 3], dtype=torch.int32)


def decision(rule: HaltingRule, q: Tensor) -> Tensor:
    """The decision of a rule that reads only logits and steps."""

    def answers() -> Tensor:
        raise AssertionError("this rule needs no answers")

    return rule.should_halt(q, STEPS[: len(q)], answers, rule.memory(len(q), q.device))


def test_the_halting_logit() -> None:
    assert halting_rule("row", 0.5).logit == 0
    assert torch.tensor(halting_rule("row", 0.8).logit).sigmoid().item() == pytest.approx(0.8)


def test_row_halting_decides_by_each_rows_logit() -> None:
    q = torch.tensor([-0.1, 0.0, 0.1])
    assert decision(halting_rule("row", 0.5), q).tolist() == [False, False, True]
    assert decision(halting_rule("row", 0.4), q).tolist() == [True, True, True]


def test_batch_halting_decides_by_the_mean_confidence() -> None:
    rule, q = halting_rule("batch", 0.6), torch.tensor([-9.0, 9.0, 9.0])
    assert decision(rule, q).tolist() == [True] * 3
    assert decision(rule, q[:2]).tolist() == [False] * 2


def test_training_halts_between_the_minimum_and_the_maximum_of_steps() -> None:
    confident = torch.full((3,), 9.0)
    rule, minimum = halting_rule("row", 0.5), torch.tensor([0.0, 3.0, 0.0])
    assert halts(decision(rule, confident), STEPS, minimum, 3).tolist() == [True, False, True]
    assert halts(decision(rule, -confident), STEPS, minimum, 3).tolist() == [False, False, True]


@pytest.fixture
def new_rule() -> Iterator[Callable[[type[HaltingRule]], type[HaltingRule]]]:
    """A decorator that registers a rule as "new" until the test ends."""
    yield register("new")
    RULES.pop("new", None)


class Source:
    def chunk(self, number: int, size: int) -> object:
        from trm_fast.tasks.base import Examples

        tokens = np.random.default_rng(number).integers(1, 6, (size, 6), dtype=np.int32)
        return Examples(tokens, tokens, np.zeros(size, dtype=np.int32))

    @property
    def example_spec(self) -> object:
        return self.chunk(0, 0)


def test_a_new_rule_halts_in_training_and_in_solving(new_rule) -> None:
    @new_rule
    class AtTheSecondStep(HaltingRule):
        def should_halt(self, q: Tensor, steps: Tensor, answers: Callable[[], Tensor], memory: Tensor) -> Tensor:
            return steps >= 2

    trm, puzzles = model(halting="new"), tokens(5)
    assert trm.solve(puzzles)["steps"].tolist() == [2] * 5
    assert trm.train_step(puzzles, puzzles)["steps"] == 2
    step = TrainStep(trm, AdamATan2(trm.parameters()), TrainingConfig(batch_size=5), Source())
    for halted in (False, True):
        step.run(1e-3, np.zeros(5, dtype=np.int32))
        assert step.carry.halted.tolist() == [halted] * 5


def test_a_rule_with_a_memory_halts_in_training_and_in_solving(new_rule) -> None:
    """A model's answers never change, so its rows halt at their third step: in training, where slots are refilled, and
    in solving, where rows enter a running batch."""

    @new_rule
    class SameAnswerThreeTimes(HaltingRule):
        memory_size = 2

        def should_halt(self, q: Tensor, steps: Tensor, answers: Callable[[], Tensor], memory: Tensor) -> Tensor:
            total = answers().sum(1).double() + 1
            memory[:, 1] = torch.where(total == memory[:, 0], memory[:, 1] + 1, 0)
            memory[:, 0] = total
            return memory[:, 1] >= 2

    trm, puzzles = model(halting="new", max_supervision_steps=5), tokens(7)
    trm.head.linear.weight.data.zero_()
    steps = [(r.rows.tolist(), r.halted.tolist()) for r in run_steps(trm, puzzles, 5, batch_size=3)]
    assert [rows for rows, _ in steps] == [[0, 1, 2]] * 3 + [[3, 4, 5]] * 3 + [[6]] * 3
    assert [all(halted) for _, halted in steps] == [False, False, True] * 3
    assert trm.solve(puzzles)["steps"].tolist() == [3] * 7
    step = TrainStep(trm, SGD(trm.parameters(), lr=0.0), TrainingConfig(batch_size=5), Source())
    assert step.carry.tensors()["halting_memory"].shape == (5, 2)
    for halted in (False, False, True, False, False, True):
        step.run(0.0, np.zeros(5, dtype=np.int32))
        assert step.carry.halted.tolist() == [halted] * 5


def test_a_memory_follows_its_row(new_rule) -> None:
    """Rows leave a batch at different steps, and others take their places. Each halts as it would alone."""

    @new_rule
    class SumOfTheFirstToken(HaltingRule):
        memory_size = 1

        def should_halt(self, q: Tensor, steps: Tensor, answers: Callable[[], Tensor], memory: Tensor) -> Tensor:
            memory += answers()[:, :1]
            return memory[:, 0] >= 12

    trm = model(halting="new", max_supervision_steps=12)
    numbers = torch.tensor([2, 5, 1, 4, 3, 5, 2, 1])
    trm.head.answers = lambda prediction: prediction  # the head's output is the answer
    trm.head.forward = lambda answer, *, inputs, **extra: inputs
    last: dict[int, int] = {}
    for result in run_steps(trm, numbers[:, None].repeat(1, 6), 12, batch_size=3):
        last |= zip(result.rows.tolist(), result.steps.tolist(), strict=True)
    assert [last[row] for row in range(8)] == [-(-12 // n) for n in numbers.tolist()]


def test_an_unknown_rule_is_rejected_with_the_known_ones() -> None:
    with pytest.raises(ValidationError, match="unknown halting rule 'rarely'; choose one of: batch, never, row"):
        TRMConfig(halting="rarely")
