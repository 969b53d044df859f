"""Questions and answers as JSON that the page draws: grids of symbols, lists of numbers, or text."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from trm_fast import ops
from trm_fast.tasks.base import Array, Question, Task
from trm_fast.tasks.maze.cells import CHARACTERS, FREE, PATH
from trm_fast.tasks.numbers import read_numbers
from trm_fast.tasks.sudoku.rules import breaking

GRIDS = ("sudoku", "maze", "arc")
NUMBERS = ("copy", "sequence")


def task_view(task: Task) -> dict[str, Any]:
    """How the page shows a task.

    ``kind`` is ``grid``, ``numbers`` or ``text``. A grid has ``rows``, ``columns``, ``box`` (rows and columns of a
    box, or None), ``symbols`` (the text of each token) and ``palette``: ``digits``, ``maze`` or ``colors``.
    """
    view: dict[str, Any] = {
        "task": task.name, "noun": task.noun, "has_rules": task.has_rules, "kind": "text",
        "open_token": task.open_token, "generates": can_generate(task),
    }  # fmt: skip
    if task.name in NUMBERS:
        return view | {"kind": "numbers"}
    if task.name not in GRIDS or task.grid_shape is None:
        return view
    rows, columns = task.grid_shape
    view |= {"kind": "grid", "rows": rows, "columns": columns, "box": None}
    if task.name == "sudoku":
        digits = [str(digit) for digit in range(1, rows + 1)]
        return view | {"box": task.box_shape, "symbols": ["", "", *digits], "palette": "digits"}
    if task.name == "maze":
        return view | {"symbols": ["?", *CHARACTERS], "palette": "maze"}
    return view | {"symbols": ["", "", *map(str, range(10))], "palette": "colors"}


def can_generate(task: Task) -> bool:
    """Whether the task makes questions of its own."""
    return type(task).generate is not Task.generate


def question_view(task: Task, question: Question) -> dict[str, Any]:
    """A question: its text, its cells (tokens or numbers), and the name of its line or file."""
    cells: list[Any] | None = None
    if task.name in GRIDS:
        cells = question.inputs.tolist()
    elif task.name in NUMBERS:
        cells = read_numbers(question.text).tolist()
    return {"text": question.text, "cells": cells, "where": question.where}


def answer_cells(task: Task, question: Question, answer: Array) -> list[Any] | None:
    """The cells of an answer (L,) or (L, F): tokens or numbers; None if the page shows its text."""
    if task.name in NUMBERS:
        return read_numbers(task.format(question, answer)).tolist()
    return answer.tolist() if task.name in GRIDS else None


def cell_confidence(prediction: Any, row: int) -> list[int] | None:
    """The probability of each cell's token in percent, by the stablemax that the model was trained with; None for
    predictions that are no logits (A, L, V)."""
    if not isinstance(prediction, Tensor) or prediction.ndim != 3 or prediction.shape[-1] < 2:
        return None
    with torch.no_grad():
        most: Tensor = ops.stablemax(prediction[row].float()).amax(-1)
    return (100 * most).round().int().tolist()


def conflicts(task: Task, question: Question, answer: Array) -> list[int]:
    """The cells of an answer (L,) that break the task's rules by themselves."""
    inputs = question.inputs
    if task.name == "sudoku" and task.grid_shape is not None:
        changed = (inputs > 1) & (inputs != answer)
        return _where(breaking(np.maximum(answer - 1, 0), task.grid_shape[0]) | changed)
    if task.name == "maze":
        marked = (inputs == FREE) & (answer == PATH)
        return _where((inputs != answer) & ~marked)
    return []


def valid(task: Task, question: Question, answer: Array) -> bool | None:
    """Whether an answer obeys the task's rules; None for a task without rules."""
    return bool(task.verify(Question.rows([question]), answer[None])[0]) if task.has_rules else None


def _where(mask: npt.NDArray[np.bool_]) -> list[int]:
    return np.flatnonzero(mask).tolist()
