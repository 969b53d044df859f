"""``trm-fast solve``: answers to puzzles, as drawings, JSON, pictures or a competition's file."""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from trm_fast.cli import console
from trm_fast.cli.console import check_outputs, counting, out, percent, pick_device, step_number, write_lines
from trm_fast.cli.models import make_solver
from trm_fast.errors import UserError
from trm_fast.memory import size_text
from trm_fast.texts import MAX_TEXT, json_text
from trm_fast.writing import is_stream, write_bytes

if TYPE_CHECKING:
    from trm_fast.inference import Answer
    from trm_fast.interchange.locate import Located
    from trm_fast.tasks.base import Question, Task

STDIN = "standard input"
FILE_TYPES = (
    ".csv", ".tsv", ".gz", ".txt", ".json", ".jsonl", ".npy", ".png", ".sdk", ".sdm", ".ss", ".xml", ".opensudoku",
)  # fmt: skip


def solve(
    model: console.Model,
    puzzle: Annotated[
        str | None,
        typer.Argument(
            metavar="PUZZLE|FILE|-",
            help=f"A puzzle as text, a file of puzzles, or - for standard input. {console.DASHES}",
        ),
    ] = None,
    task: Annotated[
        str | None,
        typer.Option(help="The puzzle's task, such as sudoku or maze; without a model, one that ships is used."),
    ] = None,
    trajectory: Annotated[bool, typer.Option("--trajectory", help="Show each supervision step.")] = False,
    also: console.Also = None,
    max_steps: console.MaxSteps = None,
    min_steps: console.MinSteps = 1,
    halt: console.Halt = True,
    rollouts: console.Rollouts = None,
    noise: console.Noise = None,
    symmetries: console.Symmetries = None,
    start: console.Start = None,
    resample_every: console.ResampleEvery = None,
    hints: console.Hints = None,
    select: console.Select = None,
    budget: console.Budget = None,
    answer_only_if: console.AnswerOnlyIf = None,
    seed: console.SolverSeed = 0,
    submission: console.Submission = None,
    batch_size: console.BatchSize = 64,
    from_step: console.FromStep = None,
    device: console.Device = "auto",
    trust_code: console.TrustCode = False,
    json_output: console.Json = False,
    output: Annotated[Path | None, typer.Option(help="Write one JSON object per puzzle to a file.")] = None,
    png: Annotated[
        Path | None, typer.Option(help="Draw the answer as a picture; several puzzles give FILE-1.png, FILE-2.png...")
    ] = None,
) -> None:
    """
    Solves puzzles with a trained model.

    [bold]Examples[/bold]

      trm-fast solve sudoku-4x4 3.......4.3...42

      trm-fast solve runs/mine puzzles.csv --output answers.jsonl

      trm-fast solve runs/arc1 challenges.json --symmetries 32 --submission submission.json

      trm-fast solve sudoku-cpu puzzles.csv --max-steps 64 --rollouts 16 --noise 0.3

      trm-fast solve sudoku-cpu puzzles.csv --rollouts 32 --hints 3

      trm-fast solve sudoku-cpu puzzles.csv --symmetries 64 --budget 60 --answer-only-if valid

      trm-fast solve maze-small maze.png --png solved.png

      trm-fast solve --task sudoku puzzles.csv --json

      cat puzzle.txt | trm-fast solve sudoku-6x6 - --trajectory
    """
    began = time.perf_counter()  # loading torch and the model is a part of the budget
    from trm_fast.interchange import locate
    from trm_fast.tasks.base import Question

    if puzzle is None and task is None:
        raise UserError("solve needs a model and a puzzle, or --task NAME and a puzzle", usage_error=True)
    check_outputs(output=output, submission=submission, png=png)
    with _readable(model if puzzle is None else puzzle) as source:
        if puzzle is None:
            located, questions = _shipped(str(task), source, pick_device(device))
        else:
            located = locate(model, from_step=step_number(from_step), device=pick_device(device), trust_code=trust_code)
            if task not in (None, located.task.name):
                raise UserError(f"--task {task}: {model} is a model for {located.task.name}", usage_error=True)
            questions = _questions(located.task, source)
    if "-" in (puzzle, model):
        questions = [replace(q, where=q.where.replace(source, STDIN)) for q in questions]
    if not questions:
        raise UserError(f"{puzzle or model} contains no puzzle")
    if submission is not None:
        located.task.submission(Question.rows(questions[:1]).take(slice(0)), [])  # fails now if the task has none
    solver = make_solver(
        located, also, pick_device(device), trust_code,
        max_steps=max_steps, min_steps=min_steps, halt=halt, batch_size=batch_size,
        rollouts=rollouts, noise=noise, symmetries=symmetries, start=start, resample_every=resample_every, hints=hints,
        select=select, answer_only_if=answer_only_if, seed=seed,
        budget=None if budget is None else max(0.0, budget - time.perf_counter() + began),
    )  # fmt: skip
    answers: list[Answer] = []
    with counting("solving") as progress:
        for question, answer in solver.answers(questions, return_trajectory=trajectory):
            answers.append(answer)
            progress(len(answers), len(questions))
            if not json_output and output is None:
                _show(located.task, question, answer, numbered=len(questions) > 1)
    if png is not None:
        _write_pictures(located.task, png, questions, answers)
    if submission is not None:
        ranked = [answer.candidates for answer in answers]
        write_lines(submission, [json_text(located.task.submission(Question.rows(questions), ranked))])
    lines = [json_text(answer.to_json()) for answer in answers]
    if output is not None:
        write_lines(output, lines)
        solved = sum(answer.solution is not None and answer.valid is not False for answer in answers)
        if not json_output:
            out.print(f"{solved:,} of {len(answers):,} solved; answers in {output}")
    if json_output:
        typer.echo("\n".join(lines))


@contextmanager
def _readable(puzzle: str) -> Iterator[str]:
    """The text or the file of the puzzle. Standard input (``-``) becomes a temporary file, because several models may
    have to read it."""
    if puzzle != "-":
        yield puzzle
        return
    with tempfile.NamedTemporaryFile(suffix=".txt") as copy:
        content = sys.stdin.buffer.read(MAX_TEXT + 1)
        if len(content) > MAX_TEXT:
            raise UserError(f"{STDIN} has more than {size_text(MAX_TEXT)}")
        copy.write(content)
        copy.flush()
        try:
            yield copy.name
        except UserError as error:
            raise UserError(str(error).replace(copy.name, STDIN)) from None


def _shipped(kind: str, puzzle: str, device: str) -> tuple[Located, list[Question]]:
    """The first model that ships for the task and can read the puzzle, and the questions that it reads."""
    from trm_fast.interchange import bundled_names, locate
    from trm_fast.interchange.locate import bundled_task
    from trm_fast.tasks import get_task

    get_task(kind)  # reports an unknown name
    names = [name for name in bundled_names() if bundled_task(name) == kind]
    if not names:
        raise UserError(f"no model for the task {kind} ships; train one and give its run", usage_error=True)
    problems = []
    for name in names:
        located = locate(name, device=device)
        try:
            return located, _questions(located.task, puzzle)
        except UserError as error:
            problems.append(f"{name}: {error}")
    raise UserError("\n  ".join([f"no model that ships for the task {kind} can read this:", *problems]))


def _questions(task: Task, puzzle: str) -> list[Question]:
    """All questions of a text or a file. They are read before any is solved, so that a malformed row gives an error and
    no partial output."""
    path = Path(puzzle)
    try:
        is_file = bool(puzzle) and path.exists()
    except OSError:  # the puzzle cannot be a file name; it is too long, for example
        is_file = False
    if is_file:
        return list(task.questions(path))
    try:
        return [task.parse(puzzle)]
    except UserError as error:
        hint = f" (and the file {puzzle} does not exist)" if path.suffix in FILE_TYPES or "/" in puzzle else ""
        raise UserError(f"{error}{hint}") from None


def _write_pictures(task: Task, path: Path, questions: list[Question], answers: list[Answer]) -> None:
    from trm_fast.tasks.pictures import png_bytes, write_png

    pictures = [task.picture(question, answer.shown) for question, answer in zip(questions, answers, strict=True)]
    if len(pictures) > 1 and is_stream(path):
        write_bytes(path, b"".join(map(png_bytes, pictures)))
        return
    for number, picture in enumerate(pictures, 1):
        write_png(path.with_name(f"{path.stem}-{number}{path.suffix}") if len(pictures) > 1 else path, picture)


def _show(task: Task, question: Question, answer: Answer, *, numbered: bool) -> None:
    if numbered:
        out.print(question.where, style="bold")
    for step in answer.trajectory or []:
        out.print(f"step {step.step}: confidence {percent(step.confidence)}")
        out.print(task.draw(question, step.raw))
    if not answer.trajectory:
        out.print(task.draw(question, answer.shown))
    line = Text(answer.describe())
    line.highlight_words(["the rules hold"], "green")
    line.highlight_words(["the answer breaks the rules"], "red")
    out.print(line)
