"""Several tries at each question, by noise and by symmetry: how they are laid out, and which one counts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from trm_fast.nn import Thought
from trm_fast.tasks.base import Array, Examples, Task

Select = Literal["rules", "confidence", "majority"]


@dataclass
class Solved:
    """Answers to N rows: ``solution`` (N, ...), tokens int64 (N, L) say, ``confidence`` (N,), ``converged``, ``valid``
    bool (N,) or None, and ``steps`` int64 (N,), the supervision steps spent on a row, all its tries together."""

    solution: Array
    confidence: npt.NDArray[np.float32]
    steps: npt.NDArray[np.int64]
    converged: npt.NDArray[np.bool_]
    valid: npt.NDArray[np.bool_] | None

    @classmethod
    def joined(cls, parts: Sequence[Solved]) -> Solved:
        """All rows of some answers, in order."""
        columns: dict[str, Any] = {f.name: [getattr(part, f.name) for part in parts] for f in fields(cls)}
        joined: dict[str, Any] = {name: None if c[0] is None else np.concatenate(c) for name, c in columns.items()}
        return cls(**joined)


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

    def note(self, now: Thought) -> None:
        """What the batch thinks after a step."""
        at, answers = now.rows.cpu().numpy(), now.answers.cpu().numpy()
        if self.solution is None:
            self.solution = np.zeros((len(self.rows), *answers.shape[1:]), dtype=answers.dtype)
        self.solution[at], self.confidence[at] = answers, now.confidence.cpu().numpy()
        self.steps[at], self.converged[at] = now.steps.cpu().numpy(), now.halted.cpu().numpy()

    def best(self, select: Select) -> Solved:
        """The try that counts of each question."""
        rollouts, symmetries, N = self.shape
        given = np.zeros(self.asked.inputs.shape, dtype=np.int64) if self.solution is None else self.solution
        by_rollout = given.reshape(rollouts, symmetries, N, *given.shape[1:]).swapaxes(1, 2)
        tried = np.concatenate([self.undo(answers) for answers in by_rollout], axis=1)  # (N, tries, L)
        sure, steps, converged = (
            a.reshape(rollouts * symmetries, N).T for a in (self.confidence, self.steps, self.converged)
        )
        valid = None
        if self.task.has_rules:
            repeated = self.asked.repeat(tried.shape[1])
            valid = self.task.verify(repeated, tried.reshape(-1, *tried.shape[2:])).reshape(sure.shape)
        score = sure
        if select == "rules" and valid is not None:
            score = np.where(valid, 2.0, sure)  # the first of those that obey, or else the surest
        elif select == "majority":
            made = sure >= 0
            flat = tried.reshape(*tried.shape[:2], -1)
            votes = ((flat[:, :, None] == flat[:, None]).all(-1) & made[:, None]).sum(-1)
            score = np.where(made, votes + 0.5 * sure, -1.0)
        pick = (np.arange(N), score.argmax(axis=1))
        return Solved(
            solution=tried[pick],
            confidence=sure[pick],
            steps=steps.sum(axis=1),
            converged=converged[pick],
            valid=None if valid is None else valid[pick],
        )


def _unchanged(answers: Array) -> Array:
    return answers
