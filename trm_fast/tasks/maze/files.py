"""Reads and writes files of mazes: CSV with questions and answers; and text, JSON, CSV or PNG with questions only."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt

from trm_fast.errors import UserError
from trm_fast.tasks.base import Question
from trm_fast.tasks.files import split_lines
from trm_fast.tasks.maze.cells import CHARACTERS, FREE, GOAL, START, Grids, as_lines
from trm_fast.tasks.maze.engine import engine
from trm_fast.tasks.maze.mazes import Mazes
from trm_fast.tasks.maze.pictures import parse_picture
from trm_fast.tasks.maze.rules import judge
from trm_fast.tasks.maze.text import (
    ALLOWED,
    STRIPPED,
    TOKENS,
    Shape,
    parse,
    question_from_rows,
    question_from_value,
    read_rows,
    several_mazes,
)
from trm_fast.tasks.pictures import PNG, read_png
from trm_fast.tasks.tables import Table, cell_name, decode_grids, question_column, read_cells, read_table, write_table
from trm_fast.tasks.values import is_value, read_puzzles, values_of

_TOKENS = np.zeros(256, dtype=np.uint8)
_TOKENS[[ord(character) for character in TOKENS]] = list(TOKENS.values())


def read(path: str | Path, shape: Shape) -> Mazes:
    """The mazes of a CSV file, in order. A field has one character for each cell and is not stripped.

    Raises:
        UserError: a row is malformed, or its answer is not a shortest path. The message names file and line.
    """
    return decode_table(read_table(path), shape)


def decode_table(table: Table, shape: Shape) -> Mazes:
    """The mazes of a table; a wrong row is a UserError as in ``read``."""

    def wrong(mazes: Grids, paths: Grids) -> npt.NDArray[np.bool_]:
        return (mazes == 0).any(axis=1) | ~judge(mazes, paths, shape)[1]

    cells = shape[0] * shape[1]
    table = table.mapped(partial(_as_line, shape))
    mazes, paths = decode_grids(table, _TOKENS, cells, wrong, partial(_describe_fault, shape=shape))
    return Mazes(shape, mazes, paths, engine.solve(mazes, *shape)[1])


def _as_line(shape: Shape, text: str, where: str) -> str:
    """The cells of a maze or an answer in any format as one line; the text itself if it is one line of characters."""
    if not (is_value(text) or "\n" in text):
        return text
    return "".join(CHARACTERS[token - 1] for row in read_rows(text, shape, f"{where}: ") for token in row)


def write(path: str | Path, mazes: Mazes, source: str = "trm_fast") -> None:
    """Writes mazes as a CSV file that ``read`` reads; the columns are source, question, answer and rating, the number
    of steps."""
    write_table(path, as_lines(mazes.questions), as_lines(mazes.answers), mazes.ratings, source)


def questions(path: str | Path, shape: Shape) -> Iterator[Question]:
    """The mazes of a file.

    The file is a PNG picture, JSON (a maze, a list of mazes or JSON Lines), CSV with a column question, or text: grids
    with empty lines between them, or one maze on each line.

    Raises:
        UserError: the file cannot be read or has no mazes, or a maze is malformed.
    """
    try:
        with open(path, "rb") as stream:
            head = stream.read(len(PNG))
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error
    if head == PNG or str(path).lower().endswith(".png"):
        yield _from_picture(path, shape)
        return
    text = read_puzzles(path)
    if is_value(text):
        yield from _from_json(text, path, shape)
    elif column := question_column(text, str(path)):
        yield from (parse(maze, shape, where) for maze, where in column)
    else:
        yield from _from_text(text, path, shape)


def _from_picture(path: str | Path, shape: Shape) -> Question:
    rows = parse_picture(read_png(path), shape, f"{path}: ")
    text = "\n".join("".join(CHARACTERS[token - 1] for token in row) for row in rows)
    return question_from_rows(rows, shape, text, str(path))  # parse_picture has checked the shape


def _from_json(text: str, path: str | Path, shape: Shape) -> Iterator[Question]:
    for location, value in values_of(text, str(path)):
        mazes = several_mazes(value, shape, location)
        if mazes is None:
            yield question_from_value(value, shape, location)
            continue
        for number, maze in enumerate(mazes, 1):
            yield question_from_value(maze, shape, f"{location}, maze {number}")


def _from_text(text: str, path: str | Path, shape: Shape) -> Iterator[Question]:
    cells = shape[0] * shape[1]
    lines = split_lines(text)
    if len(lines) == shape[0] and "" in lines and max(map(len, lines)) <= shape[1]:
        raise UserError(f"{path}:{lines.index('') + 1}: this row has no cells{STRIPPED}")
    grid: list[str] = []
    has_mazes = False
    # A line of spaces is a row of free cells. Only an empty line ends a grid.
    for number, line in enumerate([*lines, ""], 1):
        if line and not (len(line) == cells and shape[0] > 1):
            grid.append(line)
            continue
        if grid:
            has_mazes = True
            yield parse("\n".join(grid), shape, f"{path}:{number - len(grid)}")
            grid = []
        if line:
            has_mazes = True
            yield parse(line, shape, f"{path}:{number}")
    if not has_mazes:
        raise UserError(f"{path} has no mazes")


def _describe_fault(question_text: str, answer_text: str, shape: Shape) -> str:
    """Describes what is wrong with a row."""
    cells = shape[0] * shape[1]
    for name, text in (("question", question_text), ("answer", answer_text)):
        if not text:
            return f"the {name} is missing"
        if len(text) != cells:
            return (
                f"the {name} has {len(text)} characters, expected {cells} for {shape[0]}x{shape[1]} cells (task.size); "
                "spaces at both ends count"
            )
        for cell, character in enumerate(text):
            if character not in TOKENS:
                return f"{character!r} in the {name} ({cell_name(cell, shape[1])}) is not a cell of a maze: {ALLOWED}"
    maze, answer = read_cells([question_text, answer_text], _TOKENS, cells)
    for token in (START, GOAL):
        if (maze == token).sum() != 1:
            return f"the question has {(maze == token).sum()} cells {CHARACTERS[token - 1]}, expected 1"
    changed = np.flatnonzero((maze != answer) & (maze != FREE))
    if len(changed):
        cell = int(changed[0])
        return (
            f"the answer has {answer_text[cell]!r} at {cell_name(cell, shape[1])}, the question {question_text[cell]!r}"
        )
    if engine.solve(maze[None], *shape)[1][0] < 0:
        return "the maze has no path from S to G"
    valid = judge(maze[None], answer[None], shape)[0][0]
    return f"the answer is {'a path, but not a shortest path' if valid else 'not a path from S to G'}"
