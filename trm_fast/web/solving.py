"""Solving for clients: questions from text, files and generators, and answers step by step."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from typing_extensions import Self

from trm_fast.errors import UserError
from trm_fast.inference import Solver
from trm_fast.inference.options import Select, Start
from trm_fast.inference.steps import StepResult
from trm_fast.inference.tries import Solved
from trm_fast.interchange import Located
from trm_fast.models import TRMModel
from trm_fast.tasks.base import Examples, Question, Task
from trm_fast.web import views
from trm_fast.web.batching import Batcher, SharedModel

MAX_TRIES = 128
MAX_STEPS = 256
MAX_SECONDS = 60.0
MAX_WORK = 8192
"""Maximum number of tries times steps of a request."""
MAX_QUESTIONS = 500
"""Number of questions of a file that a client gets."""
SUFFIXES = (".csv", ".json", ".jsonl", ".opensudoku", ".png", ".sdk", ".sdm", ".ss", ".tsv", ".txt", ".xml")
"""The kinds of files that a client can send. Compressed ones are refused, because they may become much larger."""

Emit = Callable[[dict[str, Any]], None]


class Request(BaseModel):
    """The base class of what clients send: unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class SolverOptions(Request):
    """The solver's options, as ``trm-fast solve`` takes them, with upper limits."""

    max_steps: int | None = Field(None, ge=1, le=MAX_STEPS)
    min_steps: int = Field(1, ge=1, le=MAX_STEPS)
    halt: bool = True
    rollouts: int | None = Field(None, ge=1, le=MAX_TRIES)
    noise: float | None = Field(None, ge=0, le=10)
    symmetries: int | None = Field(None, ge=1, le=MAX_TRIES)
    start: Start | None = None
    resample_every: int | None = Field(None, ge=0, le=MAX_STEPS)
    hints: int | None = Field(None, ge=0, le=1000)
    select: Select | None = None
    budget: float = Field(30.0, gt=0, le=MAX_SECONDS)
    answer_only_if: str | None = Field(None, max_length=40)
    seed: int = Field(0, ge=0, lt=2**31)

    @model_validator(mode="after")
    def _bounded(self) -> Self:
        tries = (self.rollouts or 1) * (self.symmetries or 1)
        if tries > MAX_TRIES or tries * (self.max_steps or 16) > MAX_WORK:
            raise ValueError(f"at most {MAX_TRIES} tries and {MAX_WORK:,} tries times steps")
        return self


class SolveRequest(Request):
    """A puzzle for a model."""

    model: str = Field(max_length=200)
    puzzle: str = Field(max_length=1_000_000)
    options: SolverOptions = SolverOptions()


def make_solver(located: Located, model: SharedModel, options: SolverOptions, batch_size: int = 64) -> Solver:
    """The solver of a request."""
    return Solver(cast(TRMModel, model), located.task, batch_size=batch_size, graph=False, **options.model_dump())


def solve(
    located: Located, puzzle: str, options: SolverOptions, batcher: Batcher, emit: Emit, stopped: Callable[[], bool]
) -> None:
    """Solves a puzzle and emits events: ``question``, a ``step`` for each supervision step, and the ``answer``.

    A step has ``try``, the number of the try; ``step``; ``confidence``; ``halted``; ``valid``; and, in the question's
    own orientation, ``cells`` or ``text``, ``cell_confidence`` in percent and ``conflicts``.

    Raises:
        UserError: the puzzle is malformed, or options contradict each other.
        Stopped: the client has left.
    """
    task = located.task
    question = task.parse(puzzle)
    emit({"event": "question", **views.question_view(task, question)})
    model = SharedModel(located.model, batcher, stopped)
    solver = make_solver(located, model, options)
    began = time.perf_counter()
    upright = solver.options.symmetries  # the first try of each rollout is upright

    def watch(result: StepResult) -> None:
        rows, steps = result.rows.tolist(), result.steps.tolist()
        confidence, halted = result.confidence.tolist(), result.halted.tolist()
        for i, row in enumerate(rows):
            event = {"event": "step", "try": row, "step": steps[i], "confidence": confidence[i], "halted": halted[i]}
            if row % upright == 0:
                event |= drawn(task, question, result.answers[i].cpu().numpy())
                event["cell_confidence"] = views.cell_confidence(model.prediction, i)
            emit(event)

    solved = solver.run(Question.rows([question]), watch=watch)
    emit(answer_event(task, question, solved, time.perf_counter() - began))


def drawn(task: Task, question: Question, answer: Any) -> dict[str, Any]:
    """What the page shows of an answer."""
    cells = views.answer_cells(task, question, answer)
    text = task.format(question, answer) if cells is None else None
    return {
        "cells": cells,
        "text": text,
        "valid": views.valid(task, question, answer),
        "conflicts": views.conflicts(task, question, answer),
    }


def answer_event(task: Task, question: Question, solved: Solved, seconds: float) -> dict[str, Any]:
    """The answer in the form that it has everywhere, with its cells and the time that it took."""
    raw, answered = solved.solution[0], bool(solved.answered[0])
    event = {
        "event": "answer",
        "solution": task.format(question, raw) if answered else None,
        "confidence": float(solved.confidence[0]),
        "steps": int(solved.steps[0]),
        "converged": bool(solved.converged[0]),
        "valid": None if solved.valid is None else bool(solved.valid[0]),
        "tries": int((solved.try_confidence[0] >= 0).sum()),
        "seconds": round(seconds, 4),
    }
    shown = drawn(task, question, raw) if answered else {"cells": None, "text": None, "conflicts": []}
    return shown | event


def read_upload(task: Task, name: str, content: bytes) -> list[Question]:
    """The questions of a file that a client sent.

    Raises:
        UserError: the name has another suffix, or the content is malformed.
    """
    with _Upload(name, content) as upload:
        questions = []
        for question in upload.call(lambda: task.questions(upload.path)):
            questions.append(question)
            if len(questions) >= MAX_QUESTIONS:
                break
    return questions


def read_examples(task: Task, name: str, content: bytes) -> Examples:
    """The examples with answers of a file that a client sent; errors as in ``read_upload``."""
    with _Upload(name, content) as upload:
        return cast(Examples, upload.call(lambda: task.read(str(upload.path))))


class _Upload:
    """A temporary file with a name of the server's choice. Messages name it as the client does."""

    def __init__(self, name: str, content: bytes) -> None:
        self.suffix = Path(name).suffix.lower()
        if self.suffix not in SUFFIXES:
            raise UserError(f"a file's name ends in one of {', '.join(SUFFIXES)}", usage_error=True)
        self.name = "".join(c if c.isalnum() or c in "._- " else "_" for c in Path(name).name[:100])
        self.content = content

    def __enter__(self) -> _Upload:
        self.folder = tempfile.TemporaryDirectory(prefix="trm-fast-")
        self.path = Path(self.folder.name) / f"upload{self.suffix}"
        self.path.write_bytes(self.content)
        return self

    def __exit__(self, *error: object) -> None:
        self.folder.cleanup()

    def call(self, read: Callable[[], Any]) -> Any:
        try:
            result = read()
            return list(result) if not isinstance(result, Examples) else result
        except UserError as error:
            raise UserError(str(error).replace(str(self.path), self.name)) from None


def generated(task: Task, seed: int, blanks: int | None = None) -> Question:
    """A question that the task makes, the same for the same seed. For sudoku, ``blanks`` cells are open.

    Raises:
        UserError: the task makes no questions, or none with so many blanks.
    """
    if blanks is None or task.name != "sudoku":
        return task.generate(seed)
    config: Any = task.Config
    givens = task.seq_len - blanks
    section = {**task.config.model_dump(), "givens": (givens, givens), "search": None}
    try:
        return type(task)(config.model_validate(section)).generate(seed)
    except ValidationError as error:
        raise UserError(str(error.errors()[0]["msg"]).removeprefix("Value error, ")) from None
