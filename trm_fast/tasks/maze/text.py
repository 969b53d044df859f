"""Parses a maze from text or JSON, and writes its solution in the same format."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from trm_fast.errors import UserError
from trm_fast.tasks.base import Question
from trm_fast.tasks.maze.cells import CHARACTERS, FREE, GOAL, PATH, START, WALL
from trm_fast.tasks.maze.engine import engine
from trm_fast.tasks.tables import cell_name
from trm_fast.tasks.values import is_value, parse_value, question_in

Shape = tuple[int, int]

TOKENS = {character: i + 1 for i, character in enumerate(CHARACTERS)} | {".": FREE}
SYNONYMS = {"█": "#", "▓": "#", "s": "S", "g": "G"}
"""Characters of other programs that can mean only one thing. ``E`` and ``e`` are the goal of a maze without ``G``."""

ALLOWED = "write # for a wall, a space or . for a free cell, S for the start and G for the goal"
ALLOWED_NUMBERS = "write 1 for a wall, 2 for a free cell, 3 for the start and 4 for the goal"
FROM_ZERO = (
    f"{ALLOWED_NUMBERS}. In numpy, np.where(maze == 1, 1, 2) does so for an array with 1 for a wall and 0 for a free "
    "cell; then set the start to 3 and the goal to 4"
)
STRIPPED = "; if spaces at line ends or empty lines were lost, write . for free cells"


def parse(text: str, shape: Shape, where: str = "") -> Question:
    """A question from the text of a maze.

    The text has rows of characters, or all of them in one line: ``#`` for a wall, a space or ``.`` for a free cell,
    ``S`` and ``G``. Or it is JSON or a Python list: rows, which are strings, lists of characters or lists of tokens,
    or an object with a key such as maze. A path in the text is removed.

    Returns:
        The question with inputs int32 (height * width,).

    Raises:
        UserError: the text is malformed, or the maze has another size, not exactly one start and one goal, or no path
            between them. The message starts with ``where``.
    """
    text = text.strip("\r\n")
    prefix = f"{where}: " if where else ""
    if is_value(text):
        value = parse_value(text, prefix)
        mazes = several_mazes(value, shape, where) or [value]
        if len(mazes) > 1:
            raise UserError(f"{prefix}found {len(mazes)} mazes, expected one: save them to a file to solve all")
        return question_from_value(mazes[0], shape, where)
    return question_from_rows(read_rows(text, shape, prefix), shape, text, where)


def read_rows(text: str, shape: Shape, prefix: str) -> list[list[int]]:
    """The tokens of a maze or an answer in any format that ``parse`` reads.

    Raises:
        UserError: a character is unknown, or the rows have another shape.
    """
    if is_value(text):
        value = question_in(parse_value(text, prefix), prefix.removesuffix(": "))
        if not isinstance(value, str):
            return _with_shape(parse_json_rows(value, prefix), shape, prefix)
        text = value
    rows = [line.rstrip("\r") for line in text.strip("\r\n").split("\n")]
    if len(rows) == 1 and len(rows[0]) == shape[0] * shape[1]:
        rows = [rows[0][i : i + shape[1]] for i in range(0, len(rows[0]), shape[1])]
    return _with_shape(parse_rows(rows, prefix), shape, prefix)


def question_from_value(value: Any, shape: Shape, where: str) -> Question:
    """A question from a maze in JSON.

    Raises:
        UserError: the maze is invalid, as in ``parse``.
    """
    value = question_in(value, where)
    if isinstance(value, str):
        return parse(value, shape, where)
    prefix = f"{where}: " if where else ""
    rows = _with_shape(parse_json_rows(value, prefix), shape, prefix)
    return question_from_rows(rows, shape, json.dumps(value), where)


def several_mazes(value: Any, shape: Shape, where: str) -> list[Any] | None:
    """The mazes in a JSON value; None if the value is a single maze."""
    if isinstance(value, dict):
        value = question_in(value, where)
    if not isinstance(value, list) or not value:
        return None
    first = value[0]
    if isinstance(first, str):
        several = "\n" in first or (len(first) == shape[0] * shape[1] and shape[0] > 1)
    else:
        item = first[0] if isinstance(first, list) and first else None
        several = isinstance(first, dict) or isinstance(item, list) or (isinstance(item, str) and len(item) > 1)
    return value if several else None


def question_from_rows(rows: list[list[int]], shape: Shape, text: str, where: str) -> Question:
    """A question from rows of tokens with the right shape.

    Raises:
        UserError: the maze is invalid, as in ``parse``.
    """
    prefix = f"{where}: " if where else ""
    maze = np.array(rows, dtype=np.uint8).reshape(1, -1)
    maze[maze == PATH] = FREE
    for token, name in ((START, "start (S)"), (GOAL, "goal (G)")):
        cells = np.flatnonzero(maze[0] == token)
        if not len(cells):
            raise UserError(f"{prefix}the maze has no {name}")
        if len(cells) > 1:
            spots = " and ".join(cell_name(int(cell), shape[1]) for cell in cells[:2])
            raise UserError(f"{prefix}expected one {name}, found {len(cells)}: {spots}")
    if engine.solve(maze, *shape)[1][0] < 0:
        raise UserError(f"{prefix}the maze has no path from S to G")
    return Question(text, maze[0].astype(np.int32), where)


def fill_in(text: str, inputs: npt.NDArray[Any], answer: npt.NDArray[Any]) -> str:
    """The text of a question with its cells replaced by the answer's tokens (cells,).

    A cell that the answer does not change keeps its character. An unknown token becomes ``?``, or 0 in lists of
    numbers.
    """
    tokens = np.where((answer >= WALL) & (answer <= PATH), answer, 0).tolist()
    if is_value(text):
        cells = iter(tokens)
        return json.dumps([_filled_row(row, cells) for row in json.loads(text)])
    changed = inputs != answer
    characters = list(text)
    positions = [i for i, character in enumerate(text) if character not in "\r\n"]
    for cell, position in enumerate(positions):
        if changed[cell] or text[position] == CHARACTERS[PATH - 1]:
            characters[position] = _character(tokens[cell])
    return "".join(characters)


def _filled_row(row: Any, tokens: Iterator[int]) -> Any:
    """A row in JSON, a text or a list, with the next tokens in its cells."""
    if isinstance(row, str):
        return "".join(_character(next(tokens)) for _ in row)
    return [_character(next(tokens)) if isinstance(cell, str) else next(tokens) for cell in row]


def parse_rows(rows: Sequence[Sequence[str]], prefix: str) -> list[list[int]]:
    """The tokens of rows of characters."""
    synonyms = dict(SYNONYMS)
    if not any(cell in "Gg" for row in rows for cell in row):
        synonyms |= {"E": "G", "e": "G"}
    for number, row in enumerate(rows, 1):
        for column, cell in enumerate(row, 1):
            if synonyms.get(cell, cell) not in TOKENS:
                digits = "; in a maze of 0 and 1, replace the walls by # and the free cells by ." * (cell in "01")
                raise UserError(
                    f"{prefix}{cell!r} (row {number}, character {column}) is not a cell of a maze: {ALLOWED}{digits}"
                )
    return [[TOKENS[synonyms.get(cell, cell)] for cell in row] for row in rows]


def parse_json_rows(value: Any, prefix: str) -> list[list[int]]:
    """The tokens of a maze in JSON: of a list of texts, of lists of characters or of lists of numbers."""
    if not isinstance(value, list) or not value:
        raise UserError(f"{prefix}a maze in JSON is a list of rows: strings, or lists of characters or numbers")
    for number, row in enumerate(value, 1):
        if not isinstance(row, str | list):
            raise UserError(
                f"{prefix}row {number} is {json.dumps(row)[:40]}: a row is a string, or a list of characters or numbers"
            )
    if all(isinstance(cell, str) for row in value for cell in row):
        return parse_rows(value, prefix)
    value = [[int(cell) if isinstance(cell, float) and cell.is_integer() else cell for cell in row] for row in value]
    for number, row in enumerate(value, 1):
        for column, cell in enumerate(row, 1):
            if type(cell) is not int or not WALL <= cell <= PATH:
                raise UserError(
                    f"{prefix}{json.dumps(cell)[:40]} (row {number}, column {column}) is not a cell of a maze: "
                    f"{FROM_ZERO if _counts_from_zero(value) else ALLOWED_NUMBERS}"
                )
    return value


def _counts_from_zero(rows: list[Any]) -> bool:
    """Whether rows have the numbers 0 and 1, or marks among numbers."""
    return any(isinstance(cell, str) or cell in (0, False) for row in rows for cell in row)


def _with_shape(rows: list[list[int]], shape: Shape, prefix: str) -> list[list[int]]:
    """The rows, if they have this shape.

    Raises:
        UserError: they have another.
    """
    expected = f"the model takes {shape[0]}x{shape[1]} (task.size)"
    for number, row in enumerate(rows, 1):
        if len(row) != len(rows[0]):
            raise UserError(
                f"{prefix}the rows have different lengths: row 1 has {len(rows[0])} cells, row {number} has "
                f"{len(row)}{STRIPPED}"
            )
    if (len(rows), len(rows[0])) != shape:
        lost = STRIPPED if len(rows) <= shape[0] and len(rows[0]) <= shape[1] else ""
        raise UserError(f"{prefix}this maze has {len(rows)}x{len(rows[0])} cells, but {expected}{lost}")
    return rows


def _character(token: int) -> str:
    return ("?" + CHARACTERS)[token]
