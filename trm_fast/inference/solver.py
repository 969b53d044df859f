"""The solver: questions in, answers out. Each row thinks until its halting logit says it is done."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from trm_fast.errors import UserError
from trm_fast.nn import TRM
from trm_fast.tasks.base import Question, Task

DEFAULT_STEPS = 16
"""Supervision steps at most, as published, also for models trained with fewer: hard rows profit, the others halt."""


@dataclass(frozen=True)
class Step:
    """One supervision step of a trajectory: the answer so far (as text, and as ``tokens`` (L,)) and how sure it is."""

    step: int
    solution: str
    confidence: float
    tokens: npt.NDArray[np.int64] = field(repr=False, compare=False)

    def to_json(self) -> dict[str, Any]:
        return {"step": self.step, "solution": self.solution, "confidence": self.confidence}


@dataclass(frozen=True)
class Answer:
    """What every interface returns. ``converged``: halted by itself; ``valid``: the task's rules, None without any."""

    solution: str
    confidence: float
    steps: int
    converged: bool
    valid: bool | None
    tokens: npt.NDArray[np.int64] = field(repr=False, compare=False)
    trajectory: list[Step] | None = None

    def to_json(self) -> dict[str, Any]:
        names = ("solution", "confidence", "steps", "converged", "valid")
        result = {name: getattr(self, name) for name in names}
        return result if self.trajectory is None else result | {"trajectory": [s.to_json() for s in self.trajectory]}


@dataclass(frozen=True)
class Solver:
    """A model and a task joined for inference.

    A row halts when its halting logit says that the answer is right, and, in a task with rules, the answer obeys them:
    a model that is sure of an impossible answer thinks on. ``max_steps``: supervision steps at most, by default 16 or
    as many as in training; ``halt=False`` always runs them all, as published; ``min_steps`` before a row may halt;
    ``batch_size`` rows at a time.
    """

    model: TRM
    task: Task
    max_steps: int | None = None
    min_steps: int = 1
    halt: bool = True
    batch_size: int = 64

    def __post_init__(self) -> None:
        if self.model.config.seq_len != self.task.seq_len or self.model.config.vocab_size != self.task.vocab_size:
            raise UserError(
                f"the model reads {self.model.config.seq_len} tokens of {self.model.config.vocab_size} kinds, "
                f"the task {self.task.name} has {self.task.seq_len} of {self.task.vocab_size}"
            )

    def run(
        self, inputs: np.ndarray, puzzle_ids: np.ndarray | None = None, *, return_trajectory: bool = False
    ) -> dict[str, Any]:
        """``TRM.solve`` on encoded rows (B, L), on the model's device."""
        device = self.model.z_init.device
        return self.model.solve(
            torch.from_numpy(np.ascontiguousarray(inputs)).to(device),
            self.max_steps or max(DEFAULT_STEPS, self.model.config.max_supervision_steps),
            halt=self.halt,
            min_steps=self.min_steps,
            accept=self._obeys,
            puzzle_ids=None if puzzle_ids is None else torch.from_numpy(puzzle_ids).to(device),
            return_trajectory=return_trajectory,
        )

    def _obeys(self, inputs: torch.Tensor, answers: torch.Tensor) -> torch.Tensor:
        valid = self.task.verify(inputs.cpu().numpy(), answers.cpu().numpy())
        ok = torch.ones(len(inputs), dtype=torch.bool) if valid is None else torch.from_numpy(valid)
        return ok.to(inputs.device)

    def solve(self, question: str | Question, *, return_trajectory: bool = False) -> Answer:
        """One question; text is parsed by the task."""
        parsed = self.task.parse(question) if isinstance(question, str) else question
        return next(self.answers([parsed], return_trajectory=return_trajectory))[1]

    def answers(
        self, questions: Iterable[Question], *, return_trajectory: bool = False
    ) -> Iterator[tuple[Question, Answer]]:
        """Each question with its answer, in order, a batch at a time; never reads further ahead than that."""
        stream = iter(questions)
        while batch := list(islice(stream, self.batch_size)):
            yield from zip(batch, self._answer(batch, return_trajectory), strict=True)

    def _answer(self, questions: Sequence[Question], return_trajectory: bool) -> Iterator[Answer]:
        inputs = np.stack([q.tokens for q in questions])
        result = self.run(inputs, return_trajectory=return_trajectory)
        solutions = result["solution"].cpu().numpy()
        valid = self.task.verify(inputs, solutions)
        for row, question in enumerate(questions):
            steps = int(result["steps"][row])
            yield Answer(
                solution=self.task.format(question, solutions[row]),
                confidence=float(result["confidence"][row]),
                steps=steps,
                converged=bool(result["converged"][row]),
                valid=None if valid is None else bool(valid[row]),
                tokens=solutions[row],
                trajectory=[self._step(question, s, row) for s in result["trajectory"][:steps]]
                if return_trajectory
                else None,
            )

    def _step(self, question: Question, step: dict[str, Any], row: int) -> Step:
        tokens = step["solution"][row].cpu().numpy()
        return Step(step["step"], self.task.format(question, tokens), float(step["confidence"][row]), tokens)


Progress = Callable[[int, int], None]
"""Called with (done, all) now and then."""
