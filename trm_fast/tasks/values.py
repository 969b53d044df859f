"""Puzzles as values: JSON, lists in Python's spelling, arrays, and the objects that contain them."""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from trm_fast.errors import UserError
from trm_fast.memory import size_text
from trm_fast.tasks.columns import ANSWER, QUESTION, RATING, check_rules, find_column
from trm_fast.tasks.files import parse_json, read_text, split_lines
from trm_fast.texts import MAX_TEXT

MAX_LITERAL = 1 << 20
"""The longest text, in characters, that is tried as a Python literal."""


def text_of(puzzle: Any) -> str:
    """A puzzle as text: a text as it is; lists, objects, and arrays of numpy, torch or pandas as JSON.

    Raises:
        UserError: the puzzle is something else.

    Examples:
        >>> import numpy as np
        >>> text_of([np.int64(3), None])
        '[3, null]'
    """
    if isinstance(puzzle, str):
        return puzzle
    if hasattr(puzzle, "to_numpy"):
        puzzle = puzzle.to_numpy()
    if not isinstance(puzzle, list | tuple | Mapping) and not hasattr(puzzle, "tolist"):
        raise UserError(f"the puzzle must be text or a list of rows, not {type(puzzle).__name__}", usage_error=True)
    return json.dumps(puzzle, default=_plain)


def _plain(value: Any) -> Any:
    """A value that JSON can hold, for one that it cannot."""
    if hasattr(value, "tolist"):
        return value.tolist()
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, bytes):
        return value.decode("latin-1")
    raise UserError(f"a puzzle cannot contain a {type(value).__name__}", usage_error=True)


def read_puzzles(path: str | Path) -> str:
    """The text of a file of puzzles; the JSON of an array that numpy saved (.npy).

    Raises:
        UserError: the file cannot be read, or the array has objects.
    """
    if Path(path).suffix != ".npy":
        return read_text(path)
    try:
        if Path(path).stat().st_size > MAX_TEXT:
            raise UserError(f"{path} has more than {size_text(MAX_TEXT)}: split it")
        return text_of(np.load(path, mmap_mode="r", allow_pickle=False))  # a mapped file cannot be larger than it says
    except UserError:
        raise
    except (ValueError, EOFError) as error:
        raise UserError(f"{path} is not an array of numpy without objects: {error}") from None
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error


def parse_value(text: str, prefix: str) -> Any:
    """The value of a text in JSON or in Python's spelling, such as ``[['5', None], ...]``.

    Raises:
        UserError: it is neither. The message starts with ``prefix``.

    Examples:
        >>> parse_value("[['5', None], (1, 2)]", "")
        [['5', None], [1, 2]]
    """
    if len(text) <= MAX_LITERAL and not _is_json(text):
        with suppress(ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
            tree = ast.parse(text.strip(), mode="eval")
            if not any(isinstance(node, ast.Dict) and _has_twins(node) for node in ast.walk(tree)):
                return json.loads(json.dumps(ast.literal_eval(tree)))
    return parse_json(text, prefix)


def _has_twins(node: ast.Dict) -> bool:
    """Whether a dictionary in a program has two equal keys, of which Python would keep the last."""
    keys = [key and ast.dump(key) for key in node.keys]
    return len(set(keys)) < len(keys)


def values_of(text: str, where: str) -> Iterator[tuple[str, Any]]:
    """The values of a text: of JSON Lines, each with the number of its line; otherwise the only value.

    Raises:
        UserError: a text or line is neither JSON nor a Python literal. The message starts with ``where``.
    """
    lines = [(number, line) for number, line in enumerate(split_lines(text), 1) if line.strip()]
    if len(lines) < 2 or not _is_json(lines[0][1]):
        yield where, parse_value(text, f"{where}: " if where else "")
        return
    for number, line in lines:
        location = f"{where}:{number}" if where else f"line {number}"
        yield location, parse_value(line, f"{location}: ")


def is_value(text: str) -> bool:
    """Whether a text looks like JSON or a Python literal."""
    return text.lstrip().startswith(("[", "{", "("))


def question_in(value: Any, where: str) -> Any:
    """The puzzle in an object, under a key such as puzzle or question; other values unchanged.

    Raises:
        UserError: the object has no such key, or several, or a key with other rules, such as cages.
    """
    while isinstance(value, dict):
        key = find_column(list(value), QUESTION, where)
        if key is None:
            prefix = f"{where}: " if where else ""
            names = ", ".join(map(str, value))[:80]
            raise UserError(f"{prefix}an object needs a key {' or '.join(QUESTION[:3])}; this one has: {names}")
        check_rules(list(value), list(value.values()), where)
        value = list(value.values())[key]
    return value


def rows_with_answers(text: str, path: str, unread: list[str]) -> Iterator[tuple[str, str, str, str | None]]:
    """The location, question, answer and rating of each object in JSON Lines or a JSON list. The names of other keys
    are added to ``unread``.

    Raises:
        UserError: a value is no object with a question and an answer.
    """
    for location, value in values_of(text, path):
        several = isinstance(value, list)
        for number, row in enumerate(value if several else [value], 1):
            where = f"{location}, row {number}" if several else location
            if not isinstance(row, dict):
                raise UserError(
                    f"{where}: there is no answer: use objects with a question and an answer, or a CSV file with a "
                    "header line such as question,answer"
                )
            names, fields = list(row), list(row.values())
            question, answer = question_in(row, where), find_column(names, ANSWER, where)
            if answer is None:
                raise UserError(f"{where}: the object has no answer but {', '.join(map(str, row))[:80]}")
            rating = find_column(names, RATING, where)
            used = (find_column(names, QUESTION, where), answer, rating)
            unread += [name for i, name in enumerate(names) if i not in used and name not in unread]
            yield (
                where, as_text(question), as_text(fields[answer]), None if rating is None else as_text(fields[rating]),
            )  # fmt: skip


def as_text(value: Any) -> str:
    """A field of an object or a table as text."""
    return value if isinstance(value, str) else json.dumps(value)


def _is_json(text: str) -> bool:
    try:
        return isinstance(json.loads(text), list | dict)
    except (ValueError, RecursionError):
        return False
