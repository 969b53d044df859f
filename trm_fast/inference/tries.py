"""Several tries per question, with noise and symmetries: their order, and the choice among their answers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from trm_fast.inference.options import SolverConfig
from trm_fast.inference.queue import Plan
from trm_fast.inference.steps import StepResult
from trm_fast.memory import require_memory
from trm_fast.models import TRMModel
from trm_fast.tasks.base import Array, Candidates, Examples, Task

Chosen = Literal["rules", "confidence", "majority", "first"]


@dataclass
class Solved:
    """Answers to N questions.

    Attributes:
        solution: (N, ...), such as tokens int64 (N, L).
        confidence: float32 (N,).
        steps: int64 (N,), number of supervision steps over all tries at a question.
        converged: bool (N,), whether a valid answer or the halting rule ended the chosen try.
        valid: bool (N,), whether the answer obeys the task's rules; None for a task without rules.
        tries: (N, K, ...), the answers of all K tries.
        try_confidence: float32 (N, K), the confidences of all K tries; -1 for tries that were not run.
        answered: bool (N,), False if no try was run, or if the answer does not meet the solver's condition.
    """

    solution: Array
    confidence: npt.NDArray[np.float32]
    steps: npt.NDArray[np.int64]
    converged: npt.NDArray[np.bool_]
    valid: npt.NDArray[np.bool_] | None
    tries: Array = field(repr=False)
    try_confidence: npt.NDArray[np.float32] = field(repr=False)
    answered: npt.NDArray[np.bool_]

    @classmethod
    def joined(cls, parts: Sequence[Solved]) -> Solved:
        """Concatenates the answers to several sets of questions."""
        columns: dict[str, Any] = {f.name: [getattr(part, f.name) for part in parts] for f in fields(cls)}
        joined: dict[str, Any] = {name: None if c[0] is None else np.concatenate(c) for name, c in columns.items()}
        return cls(**joined)

    def take(self, numbers: npt.NDArray[np.int64]) -> Solved:
        """The answers to some of the questions."""
        columns: dict[str, Any] = {f.name: getattr(self, f.name) for f in fields(self)}
        taken: dict[str, Any] = {n: None if column is None else column[numbers] for n, column in columns.items()}
        return Solved(**taken)

    def with_further(self, rows: npt.NDArray[np.int64], further: Solved) -> Solved:
        """These answers and those of further tries at the questions ``rows``, which have no valid answer yet. A valid
        answer is chosen or, if there is none, the most confident."""
        assert further.valid is not None
        better = further.valid | (further.confidence > self.confidence[rows])
        names = ("solution", "confidence", "converged", "valid", "answered")
        chosen = {name: getattr(self, name).copy() for name in names}
        for name, column in chosen.items():
            column[rows[better]] = getattr(further, name)[better]
        steps = self.steps.copy()
        steps[rows] += further.steps
        tries = np.zeros((len(steps), *further.tries.shape[1:]), dtype=self.tries.dtype)
        confidence = np.full((len(steps), further.tries.shape[1]), -1.0, dtype=np.float32)
        tries[rows], confidence[rows] = further.tries, further.try_confidence
        return Solved(
            **chosen,
            steps=steps,
            tries=np.concatenate((self.tries, tries), axis=1),
            try_confidence=np.concatenate((self.try_confidence, confidence), axis=1),
        )

    @property
    def ranked(self) -> Iterator[Candidates]:
        """The candidates of each question, computed one at a time."""
        return map(self.candidates, range(len(self.try_confidence)))

    def candidates(self, row: int) -> Candidates:
        """The distinct answers to a question, ordered by votes and then by mean confidence."""
        finished = np.flatnonzero(self.try_confidence[row] >= 0)
        first, _, votes, mean = _ranked(self.tries[row, finished], self.try_confidence[row, finished])
        return Candidates(self.tries[row, finished[first]], votes, mean)


class Tries:
    """N questions, each tried ``rollouts`` x ``symmetries`` times, as one queue of M rows.

    The queue starts with the plain tries at all questions: without noise or symmetry, from the fixed initial state. If
    the task's rules accept such an answer, the question's other tries are not run.

    Args:
        task: the task.
        questions: the N encoded questions.
        options: how often and how each question is tried.
        rng: chooses the symmetries.

    Attributes:
        rows: the M encoded questions.
        owner: int (M,), the question of each row.
        varied: bool (M,), whether noise and a random start apply to the row. They apply to all rollouts except the
            first or, without rollouts, to all symmetric images except the question itself.
    """

    def __init__(self, task: Task, questions: Examples, options: SolverConfig, rng: np.random.Generator) -> None:
        self.task, self.questions = task, questions
        N, rollouts, symmetries = len(questions), options.rollouts, options.symmetries
        self.options = options
        self.shape = (rollouts, symmetries, N)
        images, self.undo = questions, _unchanged
        if symmetries > 1:
            images, self.undo = task.images(questions, symmetries, rng)
        first_rollout = np.arange(N * symmetries).reshape(N, symmetries).T.ravel()
        self.rows = images.take(np.tile(first_rollout, rollouts))
        self.owner = np.tile(np.arange(N), rollouts * symmetries)
        self.varied = np.arange(len(self.rows)) >= (len(first_rollout) if rollouts > 1 else N)
        self.solution: Array | None = None  # allocated when the first answers arrive
        self.confidence = np.full(len(self.rows), -1.0, dtype=np.float32)  # -1: not run
        self.steps = np.zeros(len(self.rows), dtype=np.int64)
        self.converged = np.zeros(len(self.rows), dtype=np.bool_)

    undo: Callable[[Array], Array]

    def plan(self, select: Chosen, device: torch.device, initial_states: int = 1) -> Plan:
        """How the rows depend on each other, and where they start. ``initial_states``: how many the model has."""
        _, symmetries, N = self.shape
        number, images, options = np.arange(len(self.rows)), N * symmetries, self.options
        # Where an answer can end the search, further tries wait until the first one has failed.
        after = np.where((number >= N) & (select == "rules"), self.owner, -1)
        warm = (number >= images) & (options.start == "last")
        after = np.where(warm, number - images, after)
        hinted = (number >= images) & (options.hints > 0)
        hints_from = np.where(hinted, number % images, -1)
        after = np.where(hinted, np.maximum(after, hints_from), after)

        def tensor(array: Array, used: object) -> Tensor | None:
            return torch.from_numpy(array).to(device) if used else None

        # Rollouts of one image exchange states, so they enter the batch together.
        by_image = np.concatenate([number[:N], N + np.lexsort((number[N:], number[N:] % images))])
        particles = np.where(number >= N, number % max(1, images), -1)
        return Plan(
            problem=tensor(self.owner, select in ("rules", "first") and len(number) > N),
            race=select == "first",
            after=tensor(after, (after >= 0).any()),
            order=tensor(by_image, options.resample_every),
            initial_state=tensor(number // max(1, images) % initial_states, options.start == "each"),
            random_start=tensor(self.varied, options.start == "random"),
            warm_start=tensor(warm, warm.any()),
            particles=tensor(particles, options.resample_every),
            resample_every=options.resample_every,
            hints_from=tensor(hints_from, hinted.any()),
            hints=options.hints,
            open_token=self.task.open_token or 0,
        )

    def obeys(self, rows: npt.NDArray[np.int64], answers: Array) -> npt.NDArray[np.bool_]:
        """Whether the answers to rows obey the task's rules, bool (A,). Symmetries preserve the rules."""
        if not self.task.has_rules:
            return np.ones(len(rows), dtype=np.bool_)
        return self.task.verify(self.rows.take(rows), answers)

    def record(self, result: StepResult) -> None:
        """Stores the answers of a supervision step."""
        at, answers = result.rows.cpu().numpy(), result.answers.cpu().numpy()
        if self.solution is None:
            self.solution = np.zeros((len(self.rows), *answers.shape[1:]), dtype=answers.dtype)
        self.solution[at], self.confidence[at] = answers, result.confidence.cpu().numpy()
        self.steps[at], self.converged[at] = result.steps.cpu().numpy(), result.halted.cpu().numpy()

    def best(self, select: Chosen) -> Solved:
        """The chosen answer to each question."""
        rollouts, symmetries, N = self.shape
        answers = np.zeros(self.questions.inputs.shape, dtype=np.int64) if self.solution is None else self.solution
        by_rollout = answers.reshape(rollouts, symmetries, N, *answers.shape[1:]).swapaxes(1, 2)
        tries: Array = np.concatenate([self.undo(images) for images in by_rollout], axis=1)  # (N, K, L)
        tries = self.task.normalized(tries.reshape(len(self.rows), *answers.shape[1:])).reshape(tries.shape)
        confidence, steps, converged = (
            a.reshape(rollouts * symmetries, N).T for a in (self.confidence, self.steps, self.converged)
        )
        valid = None
        if self.task.has_rules:
            repeated = self.questions.repeat(rollouts * symmetries)
            flat = tries.reshape(len(repeated), *answers.shape[1:])
            valid = self.task.verify(repeated, flat).reshape(confidence.shape) & (confidence >= 0)
        score = confidence
        if select == "rules" and valid is not None:
            score = np.where(valid, 2.0, confidence)  # the first valid one, or the most confident if none is valid
        elif select == "first":
            score = np.where(converged, 2.0 + 1.0 / np.maximum(1, steps), confidence)
        elif select == "majority" and tries.dtype.kind == "f":  # real numbers are rarely equal
            finished = confidence >= 0
            votes = (self._agreement(tries) & finished[:, None]).sum(-1)
            score = np.where(finished, votes + 0.5 * confidence, -1.0)
        elif select == "majority":
            score = np.stack([_majority_scores(*pair) for pair in zip(tries, confidence, strict=True)])
        pick = (np.arange(N), score.argmax(axis=1))
        return Solved(
            solution=tries[pick],
            confidence=np.maximum(0, confidence[pick]),
            steps=steps.sum(axis=1),
            converged=converged[pick],
            valid=None if valid is None else valid[pick],
            tries=tries,
            try_confidence=confidence,
            answered=confidence[pick] >= 0,
        )

    def _agreement(self, tries: Array) -> npt.NDArray[np.bool_]:
        """Which tries (N, K, ...) at the same question agree by the task's comparison, bool (N, K, K)."""
        N, K, *shape = tries.shape
        pairs = [np.broadcast_to(t, (N, K, K, *shape)).reshape(-1, *shape) for t in (tries[:, :, None], tries[:, None])]
        agree = self.task.right(*pairs).reshape(N, K * K, -1)
        return np.asarray(agree.all(axis=2)).reshape(N, K, K)


def check_memory(questions: Examples, options: SolverConfig, model: TRMModel, batch_size: int) -> None:
    """Checks that the queue of all tries, and on a CPU the state of a batch, fit into memory.

    Raises:
        UserError: they do not.
    """
    N, tries, config = len(questions), options.tries, model.config
    if tries > 1:
        answers = 8 * questions.inputs.size  # bytes of int64
        advice = "lower --rollouts or --symmetries, or solve fewer at a time"
        require_memory(3 * tries * answers, f"{tries:,} tries at each of {N:,} questions", advice)
    if model.z_init.device.type == "cpu":
        rows = min(batch_size, N * tries)
        state = 16 * rows * config.total_tokens * config.hidden_size  # two states and two temporaries of float32
        require_memory(state, f"the state of a batch of {rows:,} rows", "lower --batch-size")


def _ranked(answers: Array, confidence: npt.NDArray[np.float32]) -> tuple[Any, Any, Any, Any]:
    """Ranks the distinct answers among K by votes and then by mean confidence, as the published evaluation does.

    Returns:
        The index of each distinct answer's first occurrence; the rank of each of the K answers; the votes and the mean
        confidence of each distinct answer.
    """
    if not len(answers):
        return np.zeros(0, np.intp), np.zeros(0, np.intp), np.zeros(0, np.int64), np.zeros(0, np.float32)
    flat = np.ascontiguousarray(answers.reshape(len(answers), -1))
    keys = flat.view(np.dtype((np.void, flat.dtype.itemsize * flat.shape[1]))).ravel()
    _, first, same, votes = np.unique(keys, return_index=True, return_inverse=True, return_counts=True)
    mean = (np.bincount(same, weights=confidence) / votes).astype(np.float32)
    order = np.lexsort((first, -mean, -votes))
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    return first[order], rank[same], votes[order], mean[order]


def _majority_scores(answers: Array, confidence: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """A score for each try (K,). The most confident try with the first-ranked answer has the highest score."""
    finished = confidence >= 0
    _, rank, _, _ = _ranked(answers[finished], confidence[finished])
    score = np.full(len(confidence), -1.0)
    score[finished] = np.where(rank == 0, confidence[finished], -1.0)
    return score


def _unchanged(answers: Array) -> Array:
    return answers
