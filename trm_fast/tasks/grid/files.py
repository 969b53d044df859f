"""Reads the questions of a file: a table, JSON, an array of numpy, or text."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from trm_fast.errors import UserError, shown
from trm_fast.tasks.files import split_lines
from trm_fast.tasks.grid.cells import list_in
from trm_fast.tasks.grid.layout import Field, Layout, read_board, size
from trm_fast.tasks.tables import question_column
from trm_fast.tasks.values import is_value, question_in, read_puzzles, values_of


def questions(source: str | Path, layout: Layout) -> Iterator[tuple[str, str]]:
    """The text of each question of a file, with its file and line.

    Raises:
        UserError: the file cannot be read, or has no questions.
    """
    text = read_puzzles(source)
    values = _values(text, str(source)) if is_value(text) else None
    if values is not None:
        for location, value in values:
            yield from _of_value(value, location, layout)
    elif column := question_column(text, str(source)):
        yield from column
    else:
        yield from _of_text(text, source, layout)


def _values(text: str, where: str) -> list[tuple[str, Any]] | None:
    """The values of JSON or JSON Lines; None if the text starts like JSON because brackets are symbols."""
    try:
        return list(values_of(text, where))
    except UserError:
        if text.lstrip().startswith(("{", "[{")) or all(list_in(line) is not None for line in split_lines(text)[:1]):
            raise
        return None


def _of_value(value: Any, where: str, layout: Layout) -> Iterator[tuple[str, str]]:
    value = question_in(value, where)
    if isinstance(value, str):
        yield value, where
        return
    if not isinstance(value, list) or not value:
        raise UserError(f"{where}: {shown(value)} is no question: a question is a text or a list of cells")
    if _fits(value, where, layout) or not isinstance(value[0], list | dict | str):
        yield json.dumps(value), where
        return
    for number, item in enumerate(value, 1):
        location = f"{where}, question {number}"
        item = question_in(item, location)
        yield item if isinstance(item, str) else json.dumps(item), location


def _fits(value: list[Any], where: str, layout: Layout) -> bool:
    """Whether a list is one question, by its number of cells."""
    try:
        board = read_board(Field(json.dumps(value), "question", where), layout.separator)
    except UserError:
        return False
    return len(board.cells) == size(layout.question)


def _of_text(text: str, source: str | Path, layout: Layout) -> Iterator[tuple[str, str]]:
    """Questions on a line each, or grids of rows, with or without empty lines between them."""
    shape, cells = layout.question, size(layout.question)
    rows: list[str] = []
    has_questions = False
    for number, line in enumerate([*split_lines(text), ""], 1):
        in_rows = len(shape) == 2 and shape[0] > 1 and _width(line, layout) != cells
        if line and in_rows:
            rows.append(line)
            if len(rows) < shape[0]:
                continue
        if rows:
            has_questions = True
            yield "\n".join(rows), f"{source}:{number + (1 if line and in_rows else 0) - len(rows)}"
            rows = []
        if line and not in_rows:
            has_questions = True
            yield line, f"{source}:{number}"
    if not has_questions:
        raise UserError(f"{source} has no puzzles")


def _width(line: str, layout: Layout) -> int:
    try:
        return len(read_board(Field(line, "question", ""), layout.separator, size(layout.question)).cells)
    except UserError:
        return -1
