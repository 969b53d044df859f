"""Accuracy of a solver on examples whose answers are known."""

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
    """``interval``: 95 % Wilson interval of the exact accuracy; ``valid``: share that obeys the task's rules;
    ``metrics``: what else the task measures; ``solved``: all that was answered to each example."""

    exact_accuracy: float
    cell_accuracy: float
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
        """Flat: the task's own measures stand beside the others."""
        flat = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in ("metrics", "solved")}
        return flat | self.metrics


def evaluate(solver: Solver, examples: Examples, progress: Progress | None = None) -> Evaluation:
    """Solves every example; exact means that every labelled cell is right."""
    if not len(examples):
        raise UserError("there is nothing to evaluate: the data has no rows")
    start = time.perf_counter()
    solved = solver.run(examples, progress=progress)
    return score(solver, examples, solved, time.perf_counter() - start)


def score(solver: Solver, examples: Examples, solved: Solved, seconds: float) -> Evaluation:
    """What answers are worth that took ``seconds``."""
    labels, task = examples.labels, solver.task
    labelled = ~np.isnan(labels) if labels.dtype.kind == "f" else labels != IGNORE
    right, wanted = (
        cells.reshape(len(labels), -1).sum(-1) for cells in (labelled & task.right(labels, solved.solution), labelled)
    )
    exact, n = int((right == wanted).sum()), len(examples)
    return Evaluation(
        exact_accuracy=exact / n,
        cell_accuracy=float((right / np.maximum(1, wanted)).mean()),
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
