"""The solver: answers questions with a trained model, each for as many supervision steps as it needs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from trm_fast.errors import UserError
from trm_fast.inference.capture import graphs_on
from trm_fast.inference.incremental import Incremental
from trm_fast.inference.steps import Accept, StepResult, run_steps
from trm_fast.inference.tries import Select, Solved, Tries
from trm_fast.models import TRMModel
from trm_fast.tasks.base import Array, Candidates, Examples, Question, Task

DEFAULT_STEPS = 16
"""Largest number of supervision steps, as published, also for models trained with fewer: hard questions profit, and
the others halt."""

CHUNK = 16
"""Number of batches of questions that ``answers`` reads at a time; their rows share a queue."""

Progress = Callable[[int, int], None]
"""Called after each step with (finished questions, all questions)."""


@dataclass(frozen=True)
class Step:
    """The answer after one supervision step: as text, its confidence, and ``raw`` as the model makes it."""

    step: int
    solution: str
    confidence: float
    raw: Array = field(repr=False, compare=False)

    def to_json(self) -> dict[str, Any]:
        """The step as JSON values."""
        return {"step": self.step, "solution": self.solution, "confidence": self.confidence}


@dataclass(frozen=True)
class Answer:
    """The answer to a question, the same in Python, JSON and every other interface.

    Attributes:
        solution: the answer as text.
        confidence: sigmoid of the halting logit, 0 to 1.
        steps: supervision steps over all tries.
        converged: whether the halting rule stopped it, before the largest number of steps.
        valid: whether the solution obeys the task's rules; None for a task without rules.
        raw: the answer as the model makes it, such as tokens int64 (L,).
        candidates: the distinct answers of all tries.
        trajectory: the answer after each step, if requested.
    """

    solution: str
    confidence: float
    steps: int
    converged: bool
    valid: bool | None
    raw: Array = field(repr=False, compare=False)
    candidates: Candidates = field(repr=False, compare=False)
    trajectory: list[Step] | None = None

    def to_json(self) -> dict[str, Any]:
        """The answer as JSON values, without ``raw`` and ``candidates``."""
        names = ("solution", "confidence", "steps", "converged", "valid")
        result = {name: getattr(self, name) for name in names}
        return result if self.trajectory is None else result | {"trajectory": [s.to_json() for s in self.trajectory]}

    def describe(self) -> str:
        """A line for people: the confidence, the steps, and whether the solution obeys the task's rules."""
        end = "halted after" if self.converged else "did not halt within"
        steps = f"{self.steps} step{'s' * (self.steps != 1)}"
        rules = {True: "; the rules hold", False: "; the answer breaks the rules", None: ""}[self.valid]
        return f"confidence {100 * self.confidence:.2f} %; {end} {steps}{rules}"


@dataclass(frozen=True)
class Solver:
    """Answers a task's questions with a model.

    A row halts if the halting rule stops it and its answer obeys the task's rules, if there are any. A row with an
    invalid answer continues, whatever its confidence.

    Args:
        model: the trained model.
        task: the task that it was trained on.
        max_steps: largest number of supervision steps; by default 16, or that of training if it is larger.
        min_steps: supervision steps before a row may halt.
        halt: False always runs all steps, as published.
        batch_size: number of rows computed at a time; queued rows take the places of finished ones.
        rollouts: tries at each question. The first has no noise; the others add Gaussian noise to the latent state
            before every step (arXiv 2605.19943).
        noise: standard deviation of that noise.
        symmetries: number of symmetric images of each question that are tried, the question itself included.
        select: the answer that is chosen: ``rules``: the first that obeys the task's rules, after which no further try
            is made; ``confidence``: the most confident; ``majority``: the most frequent. ``auto`` is rules if the task
            has them, majority if the task votes, and otherwise confidence.
        seed: of noise and symmetries.
        graph: on a GPU, capture steps once and replay them.

    Raises:
        UserError: the model does not fit the task, or options contradict each other.
    """

    model: TRMModel
    task: Task
    max_steps: int | None = None
    min_steps: int = 1
    halt: bool = True
    batch_size: int = 64
    rollouts: int = 1
    noise: float = 0.0
    symmetries: int = 1
    select: Literal["auto"] | Select = "auto"
    seed: int = 0
    graph: bool = True

    def __post_init__(self) -> None:
        config, task = self.model.config, self.task
        tokens = config.inputs != "values"
        if config.seq_len != task.seq_len or (tokens and config.vocab_size != task.vocab_size):
            raise UserError(
                f"the model reads {config.seq_len} tokens of {config.vocab_size} kinds, "
                f"the task {task.name} has {task.seq_len} of {task.vocab_size}"
            )
        if self.rollouts > 1 and not self.noise > 0:
            raise UserError("rollouts differ only by their noise: give a noise above 0, such as 0.3", usage_error=True)
        if self.rollouts == 1 and self.noise:
            raise UserError("noise needs rollouts, because the first try has none", usage_error=True)
        if self.select == "rules" and not self.task.has_rules:
            raise UserError(f"select rules: the task {task.name} has no rules", usage_error=True)

    @property
    def _selection(self) -> Select:
        if self.select != "auto":
            return self.select
        if self.task.has_rules:
            return "rules"
        return "majority" if self.task.majority else "confidence"

    @property
    def _max_steps(self) -> int:
        trained = self.model.config.max_supervision_steps
        return self.max_steps or (max(DEFAULT_STEPS, trained) if self.task.more_steps_help else trained)

    def run(
        self,
        examples: Examples,
        *,
        progress: Progress | None = None,
        watch: Callable[[StepResult], None] | None = None,
    ) -> Solved:
        """Answers encoded questions.

        Args:
            examples: the questions; labels are ignored.
            progress: called after each step of the batch.
            watch: called with the result of each step of the batch.
        """
        N, device = len(examples), self.model.z_init.device
        tries = Tries(self.task, examples, self.rollouts, self.symmetries, np.random.default_rng(self.seed))
        owner = torch.from_numpy(tries.owner).to(device)
        select = self._selection
        finished = np.zeros(N, dtype=np.bool_)

        def accept(rows: Tensor, answers: Tensor) -> Tensor:
            return torch.from_numpy(tries.obeys(rows.cpu().numpy(), answers.cpu().numpy())).to(device)

        for result in self._run_steps(
            tries.rows,
            accept,
            batch_size=self.batch_size,
            noise=torch.from_numpy(self.noise * tries.noisy).to(device) if self.noise else None,
            groups=owner if select == "rules" and len(owner) > N else None,
        ):
            tries.record(result)
            if watch is not None:
                watch(result)
            if progress is not None:
                ended = result.rows[result.halted | (result.steps >= self._max_steps)]
                finished[tries.owner[ended.cpu().numpy()]] = True
                progress(int(finished.sum()), N)
        return tries.best(select)

    def _run_steps(self, examples: Examples, accept: Accept, **queue: Any) -> Iterator[StepResult]:
        """``run_steps`` with this solver's model and halting; ``queue`` are its further arguments."""
        device = self.model.z_init.device
        rows = _tensors(examples, device)
        return run_steps(
            self.model,
            rows.pop("inputs"),
            self._max_steps,
            min_steps=self.min_steps,
            halt=self.halt,
            accept=accept,
            puzzle_ids=rows.pop("puzzle_ids"),
            extra=rows,
            seed=self.seed,
            runner=graphs_on(device) if self.graph and device.type == "cuda" else None,
            **queue,
        )

    def solve(
        self,
        question: str | Question,
        *,
        return_trajectory: bool = False,
        callback: Callable[[Step], None] | None = None,
    ) -> Answer:
        """Answers one question.

        Args:
            question: a question, or text that the task parses.
            return_trajectory: also return the answer after each step.
            callback: called with each step of the first try.

        Raises:
            UserError: the text is not a valid question, or a trajectory of several tries was requested.
        """
        parsed = self.task.parse(question) if isinstance(question, str) else question
        if return_trajectory:
            self._check_one_try()
        return next(self._answer([parsed], return_trajectory, callback))

    def stream(self, question: str | Question, callback: Callable[[Step], None] | None = None) -> Iterator[Step]:
        """Yields the answer to one question after each step, in one plain try. ``callback`` is called with it first.

        Raises:
            UserError: the text is not a valid question.
        """
        parsed = self.task.parse(question) if isinstance(question, str) else question
        encoded = Question.rows([parsed])

        def accept(_: Tensor, answers: Tensor) -> Tensor:
            valid = not self.task.has_rules or self.task.verify(encoded, answers.cpu().numpy())[0]
            return torch.tensor([bool(valid)], device=answers.device)

        for result in self._run_steps(encoded, accept):
            step = self._step(parsed, result, 0)
            if callback is not None:
                callback(step)
            yield step

    def incremental(self) -> Incremental:
        """Decodes one row token by token with a causal text model.

        Raises:
            ValueError: the model is not causal, has no text head, or has a prefix or learned positions.
        """
        return Incremental(self.model)

    def answers(
        self, questions: Iterable[Question], *, return_trajectory: bool = False
    ) -> Iterator[tuple[Question, Answer]]:
        """Yields each question with its answer, in order. It reads ``CHUNK`` batches ahead to keep batches full.

        Raises:
            UserError: trajectories of several tries were requested.
        """
        if return_trajectory:
            self._check_one_try()
        stream = iter(questions)
        while chunk := list(islice(stream, CHUNK * self.batch_size)):
            yield from zip(chunk, self._answer(chunk, return_trajectory), strict=True)

    def _check_one_try(self) -> None:
        if self.rollouts * self.symmetries > 1:
            raise UserError("a trajectory shows one try: leave out rollouts and symmetries", usage_error=True)

    def _answer(
        self, questions: Sequence[Question], return_trajectory: bool, callback: Callable[[Step], None] | None = None
    ) -> Iterator[Answer]:
        trajectories: list[list[Step]] = [[] for _ in questions]

        def watch(result: StepResult) -> None:
            for i, row in enumerate(result.rows.tolist()):
                if row < len(questions):  # later rows are further tries
                    trajectories[row].append(self._step(questions[row], result, i))
                    if callback is not None:
                        callback(trajectories[row][-1])

        watched = return_trajectory or callback is not None
        solved = self.run(Question.rows(questions), watch=watch if watched else None)
        for row, question in enumerate(questions):
            yield Answer(
                solution=self.task.format(question, solved.solution[row]),
                confidence=float(solved.confidence[row]),
                steps=int(solved.steps[row]),
                converged=bool(solved.converged[row]),
                valid=None if solved.valid is None else bool(solved.valid[row]),
                raw=solved.solution[row],
                trajectory=trajectories[row] if return_trajectory else None,
                candidates=solved.candidates(row),
            )

    def _step(self, question: Question, result: StepResult, i: int) -> Step:
        raw = result.answers[i].cpu().numpy()
        return Step(int(result.steps[i]), self.task.format(question, raw), float(result.confidence[i]), raw)


def _tensors(examples: Examples, device: torch.device) -> dict[str, Tensor]:
    """The arrays that a model reads, by name: all but the labels."""
    return {name: torch.from_numpy(a).to(device) for name, a in examples.arrays().items() if name != "labels"}
