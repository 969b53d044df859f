"""Reads and writes rows of JSON: lists, JSON Lines, gzip files, and data sets of the Hugging Face hub."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from trm_fast.errors import UserError
from trm_fast.tasks.files import read_text, split_lines, write_text
from trm_fast.tasks.hub import PREFIX, load_split
from trm_fast.tasks.tool_calling.data.refused import Refused


def records(source: str | Path, split: str = "train") -> Iterator[tuple[str, Any]]:
    """Each row of a source with its file and line. A line that is not JSON is yielded as a ``Refused``."""
    if str(source).startswith(PREFIX):
        for number, row in enumerate(load_split(str(source), split), 1):
            yield f"{source} ({split}), row {number}", dict(row)
        return
    text = read_text(source)
    if text.lstrip()[:1] == "[":
        yield from _list_items(text, source)
        return
    if (whole := _one_object(text)) is not None:  # a file with one JSON object on several lines
        yield f"{source}:1", whole
        return
    for number, line in enumerate(split_lines(text), 1):
        if line.strip():
            try:
                yield f"{source}:{number}", json.loads(line)
            except (ValueError, RecursionError) as error:
                yield f"{source}:{number}", Refused("row", f"not valid JSON ({error})")


def write(path: Path, rows: Iterable[Any]) -> None:
    """Writes rows to a file: JSON Lines if its name has ``.jsonl``, else a JSON list; gzip if it ends in ``.gz``.

    The file is written completely or not at all. The same rows give the same bytes.
    """
    lines = [json.dumps(row, ensure_ascii=False) for row in rows]
    jsonl = ".jsonl" in path.suffixes
    text = "".join(f"{line}\n" for line in lines) if jsonl else "[\n" + ",\n".join(lines) + "\n]\n"
    write_text(path, text)


def _list_items(text: str, source: str | Path) -> Iterator[tuple[str, Any]]:
    decoder, position, row, line, counted = json.JSONDecoder(), text.index("[") + 1, 0, 1, 0
    while True:
        while position < len(text) and text[position] in " \t\r\n,":
            position += 1
        if position >= len(text):
            raise UserError(f"{source}: the JSON list ends without a ] after row {row}")
        if text[position] == "]":
            if rest := text[position + 1 :].strip():
                raise UserError(f"{source}: after the JSON list there is more: {rest[:40]!r}; a file has one list")
            return
        line, counted, row = line + text.count("\n", counted, position), position, row + 1
        try:
            value, position = decoder.raw_decode(text, position)
        except (ValueError, RecursionError) as error:
            raise UserError(f"{source}:{line}: row {row} is not valid JSON ({error})") from None
        yield f"{source}:{line} (row {row})", value


def _one_object(text: str) -> Any:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None
