"""The solver: questions in, answers out. Each row runs until its halting logit says that it is done."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from trm_fast.errors import UserError
from trm_fast.inference.capture import Runner, graphs_on
from trm_fast.inference.incremental import Incremental
from trm_fast.inference.steps import Accept, StepResult, run_steps
from trm_fast.inference.tries import Select, Solved, Tries
from trm_fast.models import TRMModel
from trm_fast.tasks.base import Array, Candidates, Examples, Question, Task

DEFAULT_STEPS = 16
"""Supervision steps at most, as published, also for models trained with fewer: hard rows profit, the others halt."""

CHUNK = 16
"""Batches of questions that ``answers`` reads at a time: rows of one chunk share a queue."""

Progress = Callable[[int, int], None]
"""Called with (done, all) now and then."""


@dataclass(frozen=True)
class Step:
    """One supervision step of a trajectory: the answer so far (text; ``raw`` as the model gives it), how sure it is."""

    step: int
    solution: str
    confidence: float
    raw: Array = field(repr=False, compare=False)

    def to_json(self) -> dict[str, Any]:
        return {"step": self.step, "solution": self.solution, "confidence": self.confidence}


@dataclass(frozen=True)
class Answer:
    """What every interface returns. ``converged``: halted by itself; ``valid``: the task's rules, None without any;
    ``candidates``: all distinct answers of several tries, as the model gives them."""

    solution: str
    confidence: float
    steps: int
    converged: bool
    valid: bool | None
    raw: Array = field(repr=False, compare=False)
    candidates: Candidates = field(repr=False, compare=False)
    trajectory: list[Step] | None = None

    def to_json(self) -> dict[str, Any]:
        names = ("solution", "confidence", "steps", "converged", "valid")
        result = {name: getattr(self, name) for name in names}
        return result if self.trajectory is None else result | {"trajectory": [s.to_json() for s in self.trajectory]}


@dataclass(frozen=True)
class Solver:
    """A model and a task joined for inference.

    A row halts when its halting logit says that the answer is right, and, in a task with rules, the answer obeys them:
    a row with an impossible answer goes on, however confident the model is.

    Args:
        max_steps: supervision steps at most; by default 16, or as many as in training if those are more.
        min_steps: steps before a row may halt.
        halt: False always runs all steps, as published.
        batch_size: rows computed at a time; finished rows are replaced by queued ones.
        rollouts: tries at each question. The first is undisturbed, the others get Gaussian ``noise`` (a standard
            deviation) on the latent state before every step (arXiv 2605.19943).
        symmetries: images of each question under the task's symmetries that are tried, the question itself included.
        select: which try counts: one that obeys the task's ``rules`` (then no further one is made), the largest
            ``confidence``, or the ``majority`` of equal answers. ``auto`` is rules where the task has them, majority
            where it votes.
        seed: of noise and symmetries.
        graph: on a GPU, steps are captured once and replayed.
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
            raise UserError("rollouts differ by their noise alone: give a noise above 0, such as 0.3", wrong_use=True)
        if self.rollouts == 1 and self.noise:
            raise UserError("noise needs rollouts: the first try is always undisturbed", wrong_use=True)
        if self.select == "rules" and not self.task.has_rules:
            raise UserError(f"select rules: the task {task.name} has none", wrong_use=True)

    @property
    def _selection(self) -> Select:
        if self.select != "auto":
            return self.select
        if self.task.has_rules:
            return "rules"
        return "majority" if self.task.majority else "confidence"

    @property
    def _runner(self) -> Callable[[], Runner] | None:
        device = self.model.z_init.device
        return graphs_on(device) if self.graph and device.type == "cuda" else None

    @property
    def _most_steps(self) -> int:
        trained = self.model.config.max_supervision_steps
        return self.max_steps or (max(DEFAULT_STEPS, trained) if self.task.more_steps_help else trained)

    def run(
        self,
        examples: Examples,
        *,
        progress: Progress | None = None,
        watch: Callable[[StepResult], None] | None = None,
    ) -> Solved:
        """Answers encoded rows. ``watch`` sees the batch after each of its steps."""
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
            noise=torch.from_numpy(self.noise * tries.disturbed).to(device) if self.noise else None,
            groups=owner if select == "rules" and len(owner) > N else None,
        ):
            tries.note(result)
            if watch is not None:
                watch(result)
            if progress is not None:
                ended = result.rows[result.halted | (result.steps >= self._most_steps)]
                finished[tries.owner[ended.cpu().numpy()]] = True
                progress(int(finished.sum()), N)
        return tries.best(select)

    def _run_steps(self, examples: Examples, accept: Accept, **queue: Any) -> Iterator[StepResult]:
        """The rows step by step, as this solver halts; ``queue``: what else ``run_steps`` takes."""
        rows = _tensors(examples, self.model.z_init.device)
        return run_steps(
            self.model,
            rows.pop("inputs"),
            self._most_steps,
            min_steps=self.min_steps,
            halt=self.halt,
            accept=accept,
            puzzle_ids=rows.pop("puzzle_ids"),
            extra=rows,
            seed=self.seed,
            runner=self._runner,
            **queue,
        )

    def solve(
        self,
        question: str | Question,
        *,
        return_trajectory: bool = False,
        callback: Callable[[Step], None] | None = None,
    ) -> Answer:
        """One question; text is parsed by the task. ``callback`` sees each step of the first try step by step."""
        parsed = self.task.parse(question) if isinstance(question, str) else question
        if return_trajectory:
            self._check_one_try()
        return next(self._answer([parsed], return_trajectory, callback))

    def stream(self, question: str | Question, callback: Callable[[Step], None] | None = None) -> Iterator[Step]:
        """One question, undisturbed and as it is: yields (and reports) each step's answer as it is made."""
        parsed = self.task.parse(question) if isinstance(question, str) else question
        asked = Question.rows([parsed])

        def accept(_: Tensor, answers: Tensor) -> Tensor:
            valid = not self.task.has_rules or self.task.verify(asked, answers.cpu().numpy())[0]
            return torch.tensor([bool(valid)], device=answers.device)

        for result in self._run_steps(asked, accept):
            step = self._step(parsed, result, 0)
            if callback is not None:
                callback(step)
            yield step

    def incremental(self) -> Incremental:
        """A row that grows token by token, in a causal text model."""
        return Incremental(self.model)

    def answers(
        self, questions: Iterable[Question], *, return_trajectory: bool = False
    ) -> Iterator[tuple[Question, Answer]]:
        """Each question with its answer, in order; reads a few batches ahead, so that the queue keeps them full."""
        if return_trajectory:
            self._check_one_try()
        stream = iter(questions)
        while chunk := list(islice(stream, CHUNK * self.batch_size)):
            yield from zip(chunk, self._answer(chunk, return_trajectory), strict=True)

    def _check_one_try(self) -> None:
        if self.rollouts * self.symmetries > 1:
            raise UserError("a trajectory is that of one try: leave out rollouts and symmetries", wrong_use=True)

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

        seen = return_trajectory or callback is not None
        solved = self.run(Question.rows(questions), watch=watch if seen else None)
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


def _tensors(asked: Examples, device: torch.device) -> dict[str, Tensor]:
    """What a model reads, by name: everything but the labels."""
    return {name: torch.from_numpy(a).to(device) for name, a in asked.arrays().items() if name != "labels"}
