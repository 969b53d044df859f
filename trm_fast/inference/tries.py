"""Several tries at each question, by noise and by symmetry: how they are laid out, and which one counts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from trm_fast.nn import Thought
from trm_fast.tasks.base import IntArray, Task

Answers = npt.NDArray[np.int64]
Select = Literal["rules", "confidence", "majority"]


@dataclass
class Solved:
    """Answers to N encoded rows: ``solution`` int64 (N, L), ``confidence`` (N,), ``converged``, ``valid`` bool (N,) or
    None, and ``steps`` int64 (N,), the supervision steps that were spent on a row, all its tries together."""

    solution: Answers
    confidence: npt.NDArray[np.float32]
    steps: npt.NDArray[np.int64]
    converged: npt.NDArray[np.bool_]
    valid: npt.NDArray[np.bool_] | None


class Tries:
    """N questions, each tried ``rollouts`` x ``symmetries`` times, as one queue of rows.

    All questions' first tries come first, undisturbed and as they are: where rules can tell that one is solved, its
    other tries are never made. ``rows`` int32 (M, L), ``owner`` (M,) the question of each, ``disturbed`` bool (M,).
    """

    def __init__(self, task: Task, inputs: IntArray, rollouts: int, symmetries: int, rng: np.random.Generator) -> None:
        self.task, self.inputs = task, inputs
        N, L = inputs.shape
        self.shape = (rollouts, symmetries, N)
        images = inputs[:, None]
        self.undo: Callable[[Answers], Answers] = _unchanged
        if symmetries > 1:
            images, self.undo = task.images(inputs, symmetries, rng)
        once = np.moveaxis(images, 1, 0).reshape(symmetries * N, L)
        self.rows = np.ascontiguousarray(np.tile(once, (rollouts, 1)))
        self.owner = np.tile(np.arange(N), rollouts * symmetries)
        self.disturbed = np.arange(len(self.rows)) >= len(once)
        self.solution = np.zeros(self.rows.shape, dtype=np.int64)
        self.confidence = np.full(len(self.rows), -1.0, dtype=np.float32)  # of a try that was never made
        self.steps = np.zeros(len(self.rows), dtype=np.int64)
        self.converged = np.zeros(len(self.rows), dtype=np.bool_)

    def obeys(self, rows: npt.NDArray[np.int64], answers: Answers) -> npt.NDArray[np.bool_]:
        """Whether answers to some rows have nothing against them; a symmetry keeps the rules."""
        valid = self.task.verify(self.rows[rows], answers)
        return np.ones(len(rows), dtype=np.bool_) if valid is None else valid

    def note(self, now: Thought) -> None:
        """What the batch thinks after a step."""
        at = now.rows.cpu().numpy()
        self.solution[at], self.confidence[at] = now.answers.cpu().numpy(), now.confidence.cpu().numpy()
        self.steps[at], self.converged[at] = now.steps.cpu().numpy(), now.halted.cpu().numpy()

    def best(self, select: Select) -> Solved:
        """The try that counts of each question."""
        rollouts, symmetries, N = self.shape
        by_rollout = self.solution.reshape(rollouts, symmetries, N, self.inputs.shape[1]).swapaxes(1, 2)
        tried = np.concatenate([self.undo(answers) for answers in by_rollout], axis=1)  # (N, tries, L)
        sure, steps, converged = (
            a.reshape(rollouts * symmetries, N).T for a in (self.confidence, self.steps, self.converged)
        )
        repeated = np.repeat(self.inputs, tried.shape[1], axis=0)
        obeyed = self.task.verify(repeated, tried.reshape(repeated.shape))
        valid = None if obeyed is None else obeyed.reshape(sure.shape)
        score = sure
        if select == "rules" and valid is not None:
            score = np.where(valid, 2.0, sure)  # the first of those that obey, or else the surest
        elif select == "majority":
            made = sure >= 0
            votes = ((tried[:, :, None] == tried[:, None]).all(-1) & made[:, None]).sum(-1)
            score = np.where(made, votes + 0.5 * sure, -1.0)
        pick = (np.arange(N), score.argmax(axis=1))
        return Solved(
            solution=tried[pick],
            confidence=sure[pick],
            steps=steps.sum(axis=1),
            converged=converged[pick],
            valid=None if valid is None else valid[pick],
        )


def _unchanged(answers: Answers) -> Answers:
    return answers
