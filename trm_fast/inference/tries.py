"""Several tries at each question, by noise and by symmetry: how they are laid out, and which one counts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from trm_fast.inference.steps import StepResult
from trm_fast.tasks.base import Array, Candidates, Examples, Task

Select = Literal["rules", "confidence", "majority"]


@dataclass
class Solved:
    """Answers to N rows: ``solution`` (N, ...), tokens int64 (N, L) say, ``confidence`` (N,), ``converged``, ``valid``
    bool (N,) or None, and ``steps`` int64 (N,), the supervision steps spent on a row, all its tries together.
    ``tries`` (N, K, ...) and ``sure`` (N, K): every try's answer and confidence, -1 for one that was never made."""

    solution: Array
    confidence: npt.NDArray[np.float32]
    steps: npt.NDArray[np.int64]
    converged: npt.NDArray[np.bool_]
    valid: npt.NDArray[np.bool_] | None
    tries: Array = field(repr=False)
    sure: npt.NDArray[np.float32] = field(repr=False)

    @classmethod
    def joined(cls, parts: Sequence[Solved]) -> Solved:
        """All rows of some answers, in order."""
        columns: dict[str, Any] = {f.name: [getattr(part, f.name) for part in parts] for f in fields(cls)}
        joined: dict[str, Any] = {name: None if c[0] is None else np.concatenate(c) for name, c in columns.items()}
        return cls(**joined)

    @property
    def ranked(self) -> Iterator[Candidates]:
        """All distinct answers to each question, ranked when they are looked at."""
        return map(self.candidates, range(len(self.sure)))

    def candidates(self, row: int) -> Candidates:
        made = np.flatnonzero(self.sure[row] >= 0)
        first, _, votes, mean = _ranked(self.tries[row, made], self.sure[row, made])
        return Candidates(self.tries[row, made[first]], votes, mean)


class Tries:
    """N questions, each tried ``rollouts`` x ``symmetries`` times, as one queue of rows.

    All questions' first tries come first, undisturbed and as they are: where rules can tell that one is solved, its
    other tries are never made. ``rows``: all M of them, ``owner`` (M,) the question of each, ``disturbed`` bool (M,).
    """

    def __init__(self, task: Task, asked: Examples, rollouts: int, symmetries: int, rng: np.random.Generator) -> None:
        self.task, self.asked = task, asked
        N = len(asked)
        self.shape = (rollouts, symmetries, N)
        images, self.undo = asked, _unchanged
        if symmetries > 1:
            images, self.undo = task.images(asked, symmetries, rng)
        once = np.arange(N * symmetries).reshape(N, symmetries).T.ravel()
        self.rows = images.take(np.tile(once, rollouts))
        self.owner = np.tile(np.arange(N), rollouts * symmetries)
        self.disturbed = np.arange(len(self.rows)) >= len(once)
        self.solution: Array | None = None  # of the shape of the first answers that come
        self.confidence = np.full(len(self.rows), -1.0, dtype=np.float32)  # of a try that was never made
        self.steps = np.zeros(len(self.rows), dtype=np.int64)
        self.converged = np.zeros(len(self.rows), dtype=np.bool_)

    undo: Callable[[Array], Array]

    def obeys(self, rows: npt.NDArray[np.int64], answers: Array) -> npt.NDArray[np.bool_]:
        """Whether answers to some rows have nothing against them; a symmetry keeps the rules."""
        if not self.task.has_rules:
            return np.ones(len(rows), dtype=np.bool_)
        return self.task.verify(self.rows.take(rows), answers)

    def note(self, result: StepResult) -> None:
        """What the batch thinks after a step."""
        at, answers = result.rows.cpu().numpy(), result.answers.cpu().numpy()
        if self.solution is None:
            self.solution = np.zeros((len(self.rows), *answers.shape[1:]), dtype=answers.dtype)
        self.solution[at], self.confidence[at] = answers, result.confidence.cpu().numpy()
        self.steps[at], self.converged[at] = result.steps.cpu().numpy(), result.halted.cpu().numpy()

    def best(self, select: Select) -> Solved:
        """The try that counts of each question."""
        rollouts, symmetries, N = self.shape
        given = np.zeros(self.asked.inputs.shape, dtype=np.int64) if self.solution is None else self.solution
        by_rollout = given.reshape(rollouts, symmetries, N, *given.shape[1:]).swapaxes(1, 2)
        tried: Array = np.concatenate([self.undo(answers) for answers in by_rollout], axis=1)  # (N, tries, L)
        tried = self.task.normalized(tried.reshape(len(self.rows), *given.shape[1:])).reshape(tried.shape)
        sure, steps, converged = (
            a.reshape(rollouts * symmetries, N).T for a in (self.confidence, self.steps, self.converged)
        )
        valid = None
        if self.task.has_rules:
            repeated = self.asked.repeat(rollouts * symmetries)
            valid = self.task.verify(repeated, tried.reshape(len(repeated), *given.shape[1:])).reshape(sure.shape)
        score = sure
        if select == "rules" and valid is not None:
            score = np.where(valid, 2.0, sure)  # the first of those that obey, or else the surest
        elif select == "majority" and tried.dtype.kind == "f":  # real numbers are never quite equal
            made = sure >= 0
            votes = (self._alike(tried) & made[:, None]).sum(-1)
            score = np.where(made, votes + 0.5 * sure, -1.0)
        elif select == "majority":
            score = np.stack([_leading(answers, s) for answers, s in zip(tried, sure, strict=True)])
        pick = (np.arange(N), score.argmax(axis=1))
        return Solved(
            solution=tried[pick],
            confidence=sure[pick],
            steps=steps.sum(axis=1),
            converged=converged[pick],
            valid=None if valid is None else valid[pick],
            tries=tried,
            sure=sure,
        )

    def _alike(self, tried: Array) -> npt.NDArray[np.bool_]:
        """(N, K, K): which of the tries (N, K, ...) at a question agree, as the task judges an answer by another."""
        N, K, *shape = tried.shape
        pairs = [np.broadcast_to(t, (N, K, K, *shape)).reshape(-1, *shape) for t in (tried[:, :, None], tried[:, None])]
        agree = self.task.right(*pairs).reshape(N, K * K, -1)
        return np.asarray(agree.all(axis=2)).reshape(N, K, K)


def _ranked(answers: Array, sure: npt.NDArray[np.float32]) -> tuple[Any, Any, Any, Any]:
    """Distinct ones among K answers, by votes and then by mean confidence as in the published evaluation: where each
    comes first, which of them every answer is, their votes, their mean confidence."""
    if not len(answers):
        return np.zeros(0, np.intp), np.zeros(0, np.intp), np.zeros(0, np.int64), np.zeros(0, np.float32)
    flat = np.ascontiguousarray(answers.reshape(len(answers), -1))
    keys = flat.view(np.dtype((np.void, flat.dtype.itemsize * flat.shape[1]))).ravel()
    _, first, same, votes = np.unique(keys, return_index=True, return_inverse=True, return_counts=True)
    mean = (np.bincount(same, weights=sure) / votes).astype(np.float32)
    order = np.lexsort((first, -mean, -votes))
    place = np.empty_like(order)
    place[order] = np.arange(len(order))
    return first[order], place[same], votes[order], mean[order]


def _leading(answers: Array, sure: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """A score of each try (K,), largest for the surest among those that gave the first-ranked answer."""
    made = sure >= 0
    _, same, _, _ = _ranked(answers[made], sure[made])
    score = np.full(len(sure), -1.0)
    score[made] = np.where(same == 0, sure[made], -1.0)
    return score


def _unchanged(answers: Array) -> Array:
    return answers
