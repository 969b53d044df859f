"""The solver: answers questions with a trained model, with as many supervision steps as each question needs."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import islice
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from trm_fast.errors import UserError, shown
from trm_fast.inference.capture import graphs_on
from trm_fast.inference.incremental import Incremental
from trm_fast.inference.options import Select, SolverConfig, Start, check_start, meets, merged_options, stored_options
from trm_fast.inference.steps import Accept, StepResult, run_steps
from trm_fast.inference.tries import Chosen, Solved, Tries, check_memory
from trm_fast.models import TRMModel
from trm_fast.models.config import MAX_SIZE, MAX_STEPS, check_kinds
from trm_fast.tasks.base import Array, Candidates, DataConfig, Examples, Question, Task
from trm_fast.tasks.values import text_of

DEFAULT_STEPS = 16
"""Maximum number of supervision steps, as published. It also applies to models trained with fewer steps: hard questions
benefit, and the others halt."""

MAX_SECONDS = 1e9
"""The largest budget."""

CHUNK = 16
"""Number of batches of questions that ``answers`` reads at a time and puts into one queue."""

Progress = Callable[[int, int], None]
"""Called after each step with (number of finished questions, number of questions)."""


@dataclass(frozen=True)
class Step:
    """The answer after one supervision step: ``solution`` is its text, and ``raw`` the model's output."""

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
        solution: the answer as text; None if the solver ran out of time before the first step, or if the answer does
            not meet ``answer_only_if``.
        confidence: sigmoid of the halting logit, 0 to 1.
        steps: number of supervision steps over all tries.
        converged: whether a valid answer or, for a task without rules, the halting rule ended the try before the
            maximum number of steps.
        valid: whether the solution obeys the task's rules; None for a task without rules.
        raw: the model's output, such as tokens int64 (L,).
        candidates: the distinct answers of all tries.
        trajectory: the answer after each step, if requested.
    """

    solution: str | None
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

    @property
    def shown(self) -> Array | None:
        """``raw``, or None if there is no solution: what a drawing of the answer shows."""
        return None if self.solution is None else self.raw

    def describe(self) -> str:
        """One line of text: the confidence, the steps, and whether the solution obeys the task's rules."""
        if not self.steps:
            return "no answer: the time was over before the first step"
        end = "halted after" if self.converged else "did not halt within"
        steps = f"{self.steps} step{'s' * (self.steps != 1)}"
        rules = {True: "; the rules hold", False: "; the answer breaks the rules", None: ""}[self.valid]
        line = f"confidence {100 * self.confidence:.2f} %; {end} {steps}{rules}"
        return f"no answer: {line}" if self.solution is None else line


@dataclass(frozen=True)
class Solver:
    """Answers a task's questions with a model.

    If the task has rules, a row halts when its answer obeys them, whatever the halting logit. Otherwise the halting
    rule decides when it halts. An option that is None takes the value stored with the model, or else its default.

    Args:
        model: the trained model.
        task: the task that it was trained on.
        max_steps: maximum number of supervision steps per try. The default is 16, or that of training if it is larger.
        min_steps: minimum number of supervision steps before a row may halt.
        halt: if False, every row runs all steps, as published.
        batch_size: number of rows computed at a time; queued rows replace finished ones.
        rollouts: number of tries per question and symmetric image, by default 1. The first has no noise; the others
            add Gaussian noise to the latent state before every step (arXiv 2605.19943), or differ by ``start`` or
            ``hints``.
        noise: standard deviation of that noise, by default 0. Without rollouts, it is added to the symmetric images.
        symmetries: number of symmetric images to try per question, including the question itself, by default 1.
        start: the latent state that tries with noise start from: ``fixed`` (the default), the model's initial state;
            ``random``, Gaussian noise of its size; ``last``, the state in which the previous rollout ended; ``each``,
            for a model with several initial states, each of them in turn.
        resample_every: interval in steps at which the rollouts of an image exchange states, each drawn with a
            probability proportional to the odds that its answer is right; 0 (the default): never.
        hints: number of open cells in which each further rollout reads tokens of the first rollout's answer, as if
            they were given; 0 (the default): none. The cells are drawn at random, the tokens are the model's own. For
            tasks whose questions show part of the answer.
        select: how the answer is chosen. ``rules``: the first answer that obeys the task's rules, which ends the tries;
            ``confidence``: the most confident; ``majority``: the most frequent; ``first``: that of the try which halts
            in the fewest steps. ``auto`` (the default) is rules if the task has rules, majority if the task votes, and
            confidence otherwise.
        budget: seconds for all questions of a call. Questions whose tries have not ended by then get the best answer so
            far.
        answer_only_if: ``valid`` or ``confidence>=X``. Questions whose answer does not meet this condition get none.
        seed: seed of noise and symmetries.
        graph: whether steps are captured and replayed on a GPU.

    With ``rollouts``, ``symmetries`` and ``noise`` 1, 1 and 0 there is one plain try, from the
    initial state and in the question's orientation, whatever options are stored with the model.

    Raises:
        UserError: the model does not fit the task, options contradict each other, or the options stored with the
            model are not valid.
    """

    model: TRMModel
    task: Task
    max_steps: int | None = None
    min_steps: int = 1
    halt: bool = True
    batch_size: int = 64
    rollouts: int | None = None
    noise: float | None = None
    symmetries: int | None = None
    start: Start | None = None
    resample_every: int | None = None
    hints: int | None = None
    select: Select | None = None
    budget: float | None = None
    answer_only_if: str | None = None
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
        try:
            check_kinds(config, task.name, task.model_keys(DataConfig()))
        except ValueError as error:
            raise UserError(str(error)) from None
        limits = {"min_steps": (1, MAX_STEPS), "batch_size": (1, MAX_SIZE), "budget": (0, MAX_SECONDS)}
        for name, (least, most) in limits.items():
            value = getattr(self, name)
            if value is not None and not least <= value <= most:  # NaN is not either
                raise UserError(
                    f"{name.replace('_', '-')} must be from {least} to {most:,}, not {shown(value)}", usage_error=True
                )
        if self.options.select == "rules" and not task.has_rules:
            raise UserError(f"select rules: the task {task.name} has no rules", usage_error=True)
        if self.options.hints and task.open_token is None:
            raise UserError(
                f"hints: the questions of the task {task.name} show no part of the answer", usage_error=True
            )
        if self.options.start == "random" and not bool(self.model.z_init.any()):
            raise UserError("start random: this model's initial state is zero; use noise", usage_error=True)
        check_start(self.options, self.model.config.initial_states)
        if self.answer_only_if is not None:
            none = np.zeros(0, dtype=np.float32)
            meets(self.answer_only_if, none, none if task.has_rules else None)

    @cached_property
    def options(self) -> SolverConfig:
        """The options of the search: those stored with the model, changed by the given ones."""
        fields = {name: getattr(self, name) for name in SolverConfig.model_fields}
        changes = {name: value for name, value in fields.items() if value is not None}
        return merged_options(stored_options(self.model), changes)

    @property
    def models(self) -> tuple[TRMModel, ...]:
        """The models that make the tries."""
        return (self.model,)

    @property
    def _selection(self) -> Chosen:
        if self.options.select != "auto":
            return self.options.select
        if self.task.has_rules:
            return "rules"
        return "majority" if self.task.majority else "confidence"

    @property
    def _max_steps(self) -> int:
        trained = self.model.config.max_supervision_steps
        return self.options.max_steps or (max(DEFAULT_STEPS, trained) if self.task.more_steps_help else trained)

    def run(
        self,
        examples: Examples,
        *,
        only: npt.NDArray[np.int64] | None = None,
        progress: Progress | None = None,
        watch: Callable[[StepResult], None] | None = None,
    ) -> Solved:
        """Answers encoded questions.

        Args:
            examples: the questions; labels are ignored.
            only: the numbers of those to answer, in order; their noise, images and hints are those among all questions.
            progress: called after each step of the batch.
            watch: called with the result of each step of the batch.
        """
        end = None if self.budget is None else time.perf_counter() + self.budget
        N, device, options = len(examples), self.model.z_init.device, self.options
        check_memory(examples, options, self.model, self.batch_size)
        tries = Tries(self.task, examples, options, np.random.default_rng(self.seed))
        select = self._selection
        numbers = np.arange(N) if only is None else only
        left = options.tries * np.isin(np.arange(N), numbers)  # tries that have not ended
        plan = tries.plan(select, device, self.model.config.initial_states)
        plan = plan.limited(torch.from_numpy(left[tries.owner] > 0).to(device))
        for result in self._run_steps(
            tries.rows,
            self._accept(tries),
            batch_size=self.batch_size,
            noise=torch.from_numpy(options.noise * tries.varied).to(device) if options.noise else None,
            plan=plan,
        ):
            tries.record(result)
            if watch is not None:
                watch(result)
            if progress is not None:
                owner = tries.owner[result.rows.cpu().numpy()]
                halted, steps = result.halted.cpu().numpy(), result.steps.cpu().numpy()
                np.subtract.at(left, owner[halted | (steps >= self._max_steps)], 1)
                if plan.problem is not None and not plan.race:
                    left[owner[halted]] = 0
                progress(int((left[numbers] <= 0).sum()), len(numbers))
            if end is not None and time.perf_counter() >= end:
                break
        solved = tries.best(select) if only is None else tries.best(select).take(only)
        if self.answer_only_if is not None:
            solved.answered &= meets(self.answer_only_if, solved.confidence, solved.valid)
        return solved

    def _accept(self, tries: Tries) -> Accept | None:
        """Returns a function that halts the rows whose answers obey the rules, or None for a task without rules."""
        if not self.task.has_rules:
            return None

        def accept(rows: Tensor, answers: Tensor, _: Tensor) -> Tensor:
            return torch.from_numpy(tries.obeys(rows.cpu().numpy(), answers.cpu().numpy())).to(answers.device)

        return accept

    def _run_steps(self, examples: Examples, accept: Accept | None, **queue: Any) -> Iterator[StepResult]:
        """``run_steps`` with this solver's model and halting. ``queue``: its other arguments."""
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
        question: Any,
        *,
        return_trajectory: bool = False,
        callback: Callable[[Step], None] | None = None,
    ) -> Answer:
        """Answers one question.

        Args:
            question: a ``Question``; or text that the task parses, or a list of rows or an array in place of it.
            return_trajectory: whether to return the answers after all steps, too.
            callback: called with each step of the first try.

        Raises:
            UserError: the text is not a valid question, or a trajectory of several tries was requested.
        """
        parsed = question if isinstance(question, Question) else self.task.parse(text_of(question))
        solver = self._with_one_try() if return_trajectory else self
        return next(solver._answer([parsed], return_trajectory, callback))

    def stream(self, question: Any, callback: Callable[[Step], None] | None = None) -> Iterator[Step]:
        """Yields the answer to one question, as ``solve`` takes it, after each step of one plain try, after calling
        ``callback`` with it.

        Raises:
            UserError: the text is not a valid question.
        """
        parsed = question if isinstance(question, Question) else self.task.parse(text_of(question))
        encoded = Question.rows([parsed])
        plain = Tries(self.task, encoded, SolverConfig(), np.random.default_rng(self.seed))
        for result in self._run_steps(encoded, self._accept(plain)):
            step = self._step(parsed, result, 0)
            if callback is not None:
                callback(step)
            yield step

    def incremental(self) -> Incremental:
        """Starts decoding one row token by token with a causal text model.

        Raises:
            ValueError: the model is not causal, has no text head, or has a prefix or learned positions.
        """
        return Incremental(self.model)

    def answers(
        self, questions: Iterable[Question], *, return_trajectory: bool = False
    ) -> Iterator[tuple[Question, Answer]]:
        """Yields each question with its answer, in order. It reads ``CHUNK`` batches at a time to keep batches full.
        With a ``budget``, it reads all questions, so that each has its first try before any has a second.

        Raises:
            UserError: trajectories of several tries were requested.
        """
        solver = self._with_one_try() if return_trajectory else self
        stream = iter(questions)
        ahead = CHUNK * self.batch_size if self.budget is None else None
        while chunk := list(islice(stream, ahead)):
            yield from zip(chunk, solver._answer(chunk, return_trajectory), strict=True)

    def _with_one_try(self) -> Solver:
        """This solver without the tries that the model's stored options ask for."""
        if (self.rollouts or 1) * (self.symmetries or 1) > 1:
            raise UserError("a trajectory shows one try: leave out rollouts and symmetries", usage_error=True)
        return replace(self, rollouts=1, symmetries=1, noise=None, start=None, resample_every=None, hints=None)

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
                solution=self.task.format(question, solved.solution[row]) if solved.answered[row] else None,
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
    """The arrays that a model reads, by name: all except the labels."""
    return {name: torch.from_numpy(a).to(device) for name, a in examples.arrays().items() if name != "labels"}
