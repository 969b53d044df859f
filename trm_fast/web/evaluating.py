"""Evaluations for the page: accuracy with intervals, by difficulty and by compute, confusions, and every example."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import Field

from trm_fast.errors import UserError
from trm_fast.inference import score
from trm_fast.inference.steps import StepResult
from trm_fast.interchange import Located
from trm_fast.tasks.base import IGNORE, Array, Examples, Question, Task
from trm_fast.tasks.loading import load_dataset
from trm_fast.tasks.maze.cells import PATH
from trm_fast.tasks.statistics import wilson_interval
from trm_fast.web import views
from trm_fast.web.batching import Batcher, SharedModel
from trm_fast.web.solving import Emit, Request, SolverOptions, make_solver

BATCH = 16
"""Number of rows that an evaluation computes at a time. More would delay the steps of clients that solve."""
MAX_EXAMPLES = 2000
GROUPS = 6
"""Maximum number of groups by difficulty."""
MAX_SYMBOLS = 16
"""Larger vocabularies get no table of confusions."""


class EvaluationRequest(Request):
    """What to evaluate: a model on its own test examples, or on a file that comes with the request."""

    model: str = Field(max_length=200)
    limit: int = Field(200, ge=1, le=MAX_EXAMPLES)
    options: SolverOptions = SolverOptions(budget=60.0)


def test_examples(located: Located) -> tuple[Examples, str, list[str]]:
    """The test examples of a model, their source, and notes: those of its run, or of its task's generator."""
    dataset = load_dataset(located.task, located.data, located.seed)
    return dataset.test, dataset.source, list(dataset.notes)


def evaluate(
    located: Located,
    examples: Examples,
    source: str,
    request: EvaluationRequest,
    batcher: Batcher,
    emit: Emit,
    stopped: Callable[[], bool],
) -> None:
    """Evaluates and emits ``progress`` events and a ``result``.

    Raises:
        UserError: there are no examples, or the options do not fit the task.
        Stopped: the client has left.
    """
    task = located.task
    examples = examples.take(slice(request.limit))
    if not len(examples):
        raise UserError("there is nothing to evaluate: the data has no rows")
    solver = make_solver(located, SharedModel(located.model, batcher, stopped), request.options, BATCH)
    curve = Curve(task, examples)
    last = 0.0

    def progress(done: int, count: int) -> None:
        nonlocal last
        if time.monotonic() - last > 0.1 or done == count:
            last = time.monotonic()
            emit({"event": "progress", "done": done, "count": count})

    began = time.perf_counter()
    single = solver.options.tries == 1
    solved = solver.run(examples, progress=progress, watch=curve.record if single else None)
    result = score(solver, examples, solved, time.perf_counter() - began)
    right = exactly_right(task, examples, solved.solution) & solved.answered
    difficulty, meaning = difficulties(task, examples)
    emit({
        "event": "result",
        **result.to_json(),
        "source": source,
        "model": located.label,
        "flop_per_step": located.model.config.gemm_flop(training=False),
        "compute": curve.points() if single else None,
        "difficulty": grouped(difficulty, right) if difficulty is not None else None,
        "difficulty_means": meaning,
        "confusion": confusion(task, examples, solved.solution),
        "examples": [
            {
                "number": i + 1,
                "right": bool(right[i]),
                "valid": None if solved.valid is None else bool(solved.valid[i]),
                "confidence": round(float(solved.confidence[i]), 4),
                "steps": int(solved.steps[i]),
                "difficulty": None if difficulty is None else int(difficulty[i]),
                "text": question_text(task, examples, i),
            }
            for i in range(len(examples))
        ],
    })  # fmt: skip


def exactly_right(task: Task, examples: Examples, answers: Array) -> npt.NDArray[np.bool_]:
    """Whether all labeled cells of each answer are right, bool (N,)."""
    labels = examples.labels
    labeled = ~np.isnan(labels) if labels.dtype.kind == "f" else labels != IGNORE
    cells = task.right(labels, answers) | ~labeled
    return np.asarray(cells.reshape(len(labels), -1).all(axis=1))


class Curve:
    """Accuracy with each maximum number of steps, from one run in which the rows halt by themselves."""

    def __init__(self, task: Task, examples: Examples) -> None:
        self.task, self.examples = task, examples
        self.right: list[dict[int, bool]] = [{} for _ in range(len(examples))]

    def record(self, result: StepResult) -> None:
        """Notes which rows are right after a step."""
        rows = result.rows.cpu().numpy()
        right = exactly_right(self.task, self.examples.take(rows), result.answers.cpu().numpy())
        for row, step, is_right in zip(rows.tolist(), result.steps.tolist(), right.tolist(), strict=True):
            self.right[row][step] = is_right

    def points(self) -> list[dict[str, Any]]:
        """Accuracy, its interval and the mean steps, for 1, 2, 3... steps at most."""
        longest = max((max(steps) for steps in self.right if steps), default=0)
        points = []
        for limit in range(1, longest + 1):
            rows = [steps for steps in self.right if steps]
            taken = [min(limit, max(steps)) for steps in rows]
            count = sum(steps[last] for steps, last in zip(rows, taken, strict=True))
            points.append({
                "max_steps": limit, "accuracy": count / len(rows), "interval": wilson_interval(count, len(rows)),
                "mean_steps": sum(taken) / len(rows),
            })  # fmt: skip
        return points


def difficulties(task: Task, examples: Examples) -> tuple[npt.NDArray[np.int64] | None, str]:
    """A number for each example that is larger for harder ones, and what it counts; None if there is none."""
    if task.open_token is not None:
        return (examples.inputs == task.open_token).sum(axis=1), "cells to fill in"
    if task.name == "maze":
        return (examples.labels == PATH).sum(axis=1) + 1, "length of the path"
    return None, ""


def grouped(difficulty: npt.NDArray[np.int64], right: npt.NDArray[np.bool_]) -> list[dict[str, Any]]:
    """Accuracy in up to ``GROUPS`` ranges of difficulty with about equally many examples."""
    edges = np.unique(np.quantile(difficulty, np.linspace(0, 1, GROUPS + 1)[1:]).astype(np.int64))
    groups, first = [], int(difficulty.min())
    for last in edges.tolist():
        inside = (difficulty >= first) & (difficulty <= last)
        if count := int(inside.sum()):
            exact = int(right[inside].sum())
            groups.append({
                "from": first, "to": last, "count": count, "accuracy": exact / count,
                "interval": wilson_interval(exact, count),
            })  # fmt: skip
        first = last + 1
    return groups


def confusion(task: Task, examples: Examples, answers: Array) -> dict[str, Any] | None:
    """How often each symbol was answered where another was right: ``counts[label][answer]``, without given cells."""
    labels = examples.labels
    symbols = views.task_view(task).get("symbols")
    if symbols is None or labels.dtype.kind == "f" or len(symbols) > MAX_SYMBOLS or labels.shape != answers.shape:
        return None
    open_cells = labels != IGNORE
    if task.open_token is not None:
        open_cells = open_cells & (examples.inputs == task.open_token)
    pairs = labels[open_cells].astype(np.int64), np.clip(answers[open_cells], 0, len(symbols) - 1).astype(np.int64)
    counts = np.zeros((len(symbols), len(symbols)), dtype=np.int64)
    np.add.at(counts, pairs, 1)
    used = np.flatnonzero(counts.sum(0) + counts.sum(1))
    names = [symbols[i] or "none" for i in used]
    return {
        "symbols": ["free" if name == " " else name for name in names],
        "counts": counts[np.ix_(used, used)].tolist(),
    }


def question_text(task: Task, examples: Examples, row: int) -> str | None:
    """The text of an example's question, which the page can solve again; None if the example does not hold it."""
    inputs = examples.inputs[row]
    if task.name == "sudoku":
        return "".join("." if token < 2 else str(token - 1) for token in inputs.tolist())
    if task.name == "maze" and task.grid_shape is not None:
        characters = views.task_view(task)["symbols"]
        text = "".join(characters[token] for token in inputs.tolist()).replace(" ", ".")
        columns = task.grid_shape[1]
        return "\n".join(text[i : i + columns] for i in range(0, len(text), columns))
    if task.name in views.NUMBERS:
        numbers = inputs[0] if task.name == "sequence" else inputs[:, 0]
        return ", ".join(f"{value:.6g}" for value in numbers.tolist())
    if task.name == "symbols":
        return task.format(Question("", inputs), inputs)
    return None
