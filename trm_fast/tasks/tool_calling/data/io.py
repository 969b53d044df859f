"""Reads and writes rows of JSON: lists, JSON Lines, gzip files, and data sets of the Hugging Face hub."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TextIO

from trm_fast.errors import UserError, shown
from trm_fast.tasks.files import write_text
from trm_fast.tasks.hub import PREFIX, load_split
from trm_fast.tasks.tool_calling.data.refused import Refused
from trm_fast.texts import (
    BLOCK,
    DECODER,
    DEEP,
    MAX_FILE,
    MAX_LINE,
    MAX_TEXT,
    is_deep,
    json_problem,
    open_text,
    parse_json,
    split_lines,
)  # fmt: skip


def records(source: str | Path, split: str = "train") -> Iterator[tuple[str, Any]]:
    """Each row of a source with its file and line. A line that is not JSON is yielded as a ``Refused``."""
    if str(source).startswith(PREFIX):
        for number, row in enumerate(load_split(str(source), split), 1):
            yield f"{source} ({split}), row {number}", dict(row)
        return
    with open_text(source, newline="\n", line_limit=MAX_FILE) as stream:  # a list may be a single line
        yield from _rows(stream, source)


def _rows(stream: TextIO, source: str | Path) -> Iterator[tuple[str, Any]]:
    first, number = stream.readline(MAX_LINE), 1
    while first and not first.strip():
        first, number = stream.readline(MAX_LINE), number + 1
    if first.lstrip()[:1] == "[":
        yield from _list_items(first, number, stream, source)
        return
    row = _line(first)
    if isinstance(row, Refused):  # perhaps one JSON object on several lines
        text = first + stream.read(MAX_TEXT)
        if stream.read(1):
            raise UserError(f"{source}:{number}: {row.reason}")
        if (whole := _one_object(text)) is not None:
            yield f"{source}:{number}", whole
            return
        lines = iter(split_lines(text)[1:])
    else:
        lines = (line.removesuffix("\n") for line in stream)
    if first.strip():
        yield f"{source}:{number}", row
    for at, line in enumerate(lines, number + 1):
        if line.strip():
            yield f"{source}:{at}", _line(line)


def _line(text: str) -> Any:
    """The value of a line of JSON, or a ``Refused``."""
    try:
        return parse_json(text, "")
    except UserError as error:
        return Refused("row", str(error))


def write(path: Path, rows: Iterable[Any]) -> None:
    """Writes rows to a file: JSON Lines if its name has ``.jsonl``, else a JSON list; gzip if it ends in ``.gz``.

    The file is written completely or not at all. The same rows give the same bytes.
    """
    lines = [json.dumps(row, ensure_ascii=False) for row in rows]
    jsonl = ".jsonl" in path.suffixes
    text = "".join(f"{line}\n" for line in lines) if jsonl else "[\n" + ",\n".join(lines) + "\n]\n"
    write_text(path, text)


def _list_items(text: str, line: int, stream: TextIO, source: str | Path) -> Iterator[tuple[str, Any]]:
    """Yields the items of a JSON list. ``text`` is its start, in line number ``line``; ``stream`` has the rest, of
    which no more is read than is needed."""
    position, row, counted = text.index("[") + 1, 0, 0

    def read_more() -> bool:
        nonlocal text, position, line, counted
        more = stream.read(max(BLOCK, len(text) - position))  # twice as much each time for a long item
        text, position, line, counted = text[position:] + more, 0, line + text.count("\n", counted, position), 0
        return bool(more)

    while True:
        while position < len(text) and text[position] in " \t\r\n,":
            position += 1
        if position >= len(text):
            if read_more():
                continue
            raise UserError(f"{source}: the JSON list ends without a ] after row {row}")
        if text[position] == "]":
            if rest := (text[position + 1 :] + stream.read(BLOCK)).strip():
                raise UserError(f"{source}: after the JSON list there is more: {shown(rest)}; a file has one list")
            return
        try:
            value, end = DECODER.raw_decode(text, position)
        except ValueError as error:
            if read_more():
                continue
            problem = getattr(error, "msg", json_problem(error))  # without its position, which is that in the buffer
            raise UserError(f"{source}:{line}: row {row + 1} is not valid JSON ({problem})") from None
        except RecursionError:
            raise UserError(f"{source}:{line}: row {row + 1}: {DEEP}") from None
        if is_deep(value):
            raise UserError(f"{source}:{line}: row {row + 1}: {DEEP}")
        if end == len(text) and read_more():  # a number may continue
            continue
        line, counted, row = line + text.count("\n", counted, position), position, row + 1
        position = end
        yield f"{source}:{line} (row {row})", value


def _one_object(text: str) -> Any:
    try:
        value = parse_json(text, "")
    except UserError:
        return None
    return value if isinstance(value, dict) else None
