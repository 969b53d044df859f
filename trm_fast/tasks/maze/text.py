"""Parses a maze from text or JSON, and writes its solution in the same format."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import numpy.typing as npt

from trm_fast.errors import UserError
from trm_fast.tasks.base import Question
from trm_fast.tasks.files import parse_json
from trm_fast.tasks.maze.cells import CHARACTERS, FREE, GOAL, PATH, START, WALL
from trm_fast.tasks.maze.engine import engine
from trm_fast.tasks.tables import cell_name

Shape = tuple[int, int]

TOKENS = {character: i + 1 for i, character in enumerate(CHARACTERS)} | {".": FREE}
ALLOWED = "write # for a wall, a space or . for a free cell, S for the start and G for the goal"
ALLOWED_NUMBERS = "write 1 for a wall, 2 for a free cell, 3 for the start and 4 for the goal"


def parse(text: str, shape: Shape, where: str = "") -> Question:
    """A question from the text of a maze.

    The text has rows of characters, or all of them in one line: ``#`` for a wall, a space or ``.`` for a free cell,
    ``S`` and ``G``. Or it is JSON: a list of rows, which are strings or lists of tokens. A path in the text is removed.

    Returns:
        The question with inputs int32 (height * width,).

    Raises:
        UserError: the text is malformed, or the maze has another size, not exactly one start and one goal, or no path
            between them. The message starts with ``where``.
    """
    prefix = f"{where}: " if where else ""
    text = text.strip("\r\n")
    if text.lstrip().startswith(("[", "{")):
        return question_from_rows(parse_json_rows(parse_json(text, prefix), prefix), shape, text, where)
    rows = [line.rstrip("\r") for line in text.split("\n")]
    if len(rows) == 1 and len(rows[0]) == shape[0] * shape[1]:
        rows = [rows[0][i : i + shape[1]] for i in range(0, len(rows[0]), shape[1])]
    return question_from_rows([parse_row(row, i, prefix) for i, row in enumerate(rows)], shape, text, where)


def question_from_rows(rows: list[list[int]], shape: Shape, text: str, where: str) -> Question:
    """A question from rows of tokens.

    Raises:
        UserError: the maze is invalid, as in ``parse``.
    """
    prefix = f"{where}: " if where else ""
    _check_shape(rows, shape, prefix)
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
    if text.lstrip().startswith(("[", "{")):
        rows = parse_json_rows(json.loads(text), "", keep=True)
        cells = iter(tokens)
        numbers = [[next(cells) for _ in row] for row in rows]
        if isinstance(rows[0], list):
            return json.dumps(numbers)
        return json.dumps(["".join(_character(n) for n in row) for row in numbers])
    changed = inputs != answer
    characters = list(text)
    positions = [i for i, character in enumerate(text) if character not in "\r\n"]
    for cell, position in enumerate(positions):
        if changed[cell] or text[position] == CHARACTERS[PATH - 1]:
            characters[position] = _character(tokens[cell])
    return "".join(characters)


def parse_row(row: str, number: int, prefix: str) -> list[int]:
    """The tokens of a row of characters."""
    for column, character in enumerate(row):
        if character not in TOKENS:
            raise UserError(
                f"{prefix}{character!r} (row {number + 1}, character {column + 1}) is not a cell of a maze: {ALLOWED}"
            )
    return [TOKENS[character] for character in row]


def parse_json_rows(value: Any, prefix: str, *, keep: bool = False) -> list[Any]:
    """The rows of a maze in JSON as tokens, or unchanged with ``keep``."""
    if isinstance(value, dict):
        candidates = [value[key] for key in ("question", "maze", "puzzle") if key in value]
        if not candidates:
            raise UserError(
                f"{prefix}a maze as a JSON object needs a key question or maze; this one has: {', '.join(value)}"
            )
        value = candidates[0]
    if isinstance(value, str):
        value = value.strip("\r\n").split("\n")
    if not isinstance(value, list) or not value:
        raise UserError(f"{prefix}a maze in JSON is a list of rows: strings, or lists of numbers")
    if keep:
        return value
    return [_parse_json_row(row, number, prefix) for number, row in enumerate(value)]


def _parse_json_row(row: Any, number: int, prefix: str) -> list[int]:
    if isinstance(row, str):
        return parse_row(row, number, prefix)
    if not isinstance(row, list):
        raise UserError(f"{prefix}row {number + 1} is {json.dumps(row)[:40]}: a row is a string or a list of numbers")
    for column, cell in enumerate(row):
        if type(cell) is not int or not WALL <= cell <= PATH:
            raise UserError(
                f"{prefix}{json.dumps(cell)[:40]} (row {number + 1}, column {column + 1}) is not a cell of a maze: "
                f"{ALLOWED_NUMBERS}"
            )
    return row


def _check_shape(rows: list[list[int]], shape: Shape, prefix: str) -> None:
    expected = f"the model takes {shape[0]}x{shape[1]} (task.size)"
    for number, row in enumerate(rows):
        if len(row) != len(rows[0]):
            hint = "; write . for free cells if spaces get lost" if len(row) < len(rows[0]) else ""
            raise UserError(
                f"{prefix}the rows have different lengths: row 1 has {len(rows[0])} cells, row {number + 1} has "
                f"{len(row)}{hint}"
            )
    if (len(rows), len(rows[0])) != shape:
        raise UserError(f"{prefix}this maze has {len(rows)}x{len(rows[0])} cells, but {expected}")


def _character(token: int) -> str:
    return ("?" + CHARACTERS)[token]
