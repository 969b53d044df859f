"""Evaluates a solver on examples with known answers."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np

from trm_fast.errors import UserError
from trm_fast.inference.solver import Progress, Solver
from trm_fast.inference.tries import Solved
from trm_fast.tasks.base import IGNORE, Examples
from trm_fast.tasks.statistics import wilson_interval


@dataclass(frozen=True)
class Evaluation:
    """The result of an evaluation. Accuracies and shares are between 0 and 1.

    Attributes:
        exact_accuracy: share of examples that have an answer in which all labeled cells are right.
        cell_accuracy: share of labeled cells that are right, averaged over examples.
        coverage: share of examples that have an answer; less than 1 with a solver's ``answer_only_if`` or ``budget``.
        answered_accuracy: exact accuracy on the examples that have an answer; None if there are none.
        count: number of examples.
        mean_steps: mean number of supervision steps per example, summed over its tries.
        converged: share of examples with an answer that obeys the rules or whose try the halting rule stopped.
        valid: share of answers that obey the task's rules; None for a task without rules.
        interval: 95 % Wilson interval of the exact accuracy.
        metrics: the task's further measures by name.
        solved: the answers.
    """

    exact_accuracy: float
    cell_accuracy: float
    coverage: float
    answered_accuracy: float | None
    count: int
    mean_steps: float
    converged: float
    valid: float | None
    interval: tuple[float, float]
    seconds: float
    puzzles_per_second: float
    metrics: dict[str, float]
    solved: Solved = field(repr=False, compare=False)

    def to_json(self) -> dict[str, Any]:
        """The result as one flat dictionary without the answers."""
        flat = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in ("metrics", "solved")}
        return flat | self.metrics


def evaluate(solver: Solver, examples: Examples, progress: Progress | None = None) -> Evaluation:
    """Solves all examples and scores the answers.

    Raises:
        UserError: there are no examples.
    """
    if not len(examples):
        raise UserError("there is nothing to evaluate: the data has no rows")
    start = time.perf_counter()
    solved = solver.run(examples, progress=progress)
    return score(solver, examples, solved, time.perf_counter() - start)


def score(solver: Solver, examples: Examples, solved: Solved, seconds: float) -> Evaluation:
    """Scores answers to examples. ``seconds``: the time that solving took."""
    labels, task = examples.labels, solver.task
    labeled = ~np.isnan(labels) if labels.dtype.kind == "f" else labels != IGNORE
    right, total = (
        cells.reshape(len(labels), -1).sum(-1) for cells in (labeled & task.right(labels, solved.solution), labeled)
    )
    answered = int(solved.answered.sum())
    exact, n = int(((right == total) & solved.answered).sum()), len(examples)
    return Evaluation(
        exact_accuracy=exact / n,
        coverage=answered / n,
        answered_accuracy=exact / answered if answered else None,
        cell_accuracy=float((right / np.maximum(1, total)).mean()),
        count=n,
        mean_steps=float(solved.steps.mean()),
        converged=float(solved.converged.mean()),
        valid=None if solved.valid is None else float(solved.valid.mean()),
        interval=wilson_interval(exact, n),
        seconds=seconds,
        puzzles_per_second=n / seconds,
        metrics=task.measures(solver, examples, solved.solution) | task.ranked_metrics(examples, solved.ranked),
        solved=solved,
    )
