"""Reads and writes text files. Names that end in ``.gz`` are compressed with gzip.

Every failure is a UserError that names the file.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from trm_fast.errors import UserError
from trm_fast.writing import write_bytes


@contextmanager
def open_text(path: str | Path) -> Iterator[TextIO]:
    """Opens a UTF-8 file for reading. Errors of gzip, UTF-8 and CSV inside the ``with`` block become UserErrors too.

    Raises:
        UserError: the file cannot be read.
    """
    opener = gzip.open if str(path).endswith(".gz") else open
    try:
        with opener(path, "rb") as binary:
            if problem := _no_text(binary.peek(8)):
                raise UserError(f"{path} is not UTF-8 text{problem}")
            yield io.TextIOWrapper(binary, encoding="utf-8-sig", newline="")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text") from error
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise UserError(f"{path} is not a gzip file, or a damaged one: {error}") from error
    except csv.Error as error:
        raise UserError(f"{path} is not a CSV file: {error}") from error
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error


def _no_text(start: bytes) -> str:
    """What a file is that is no UTF-8 text, from its first bytes, and what to do; empty if that is unknown."""
    if start.startswith(b"PK\x03\x04"):
        return " but a ZIP archive or an .xlsx file: unpack it, or save the sheet as CSV"
    if start.startswith(b"\xd0\xcf\x11\xe0"):
        return " but an .xls file: save the sheet as CSV"
    if start.startswith(b"\x1f\x8b"):
        return " but a gzip file: give it a name that ends in .gz"
    if start.startswith(b"\x93NUMPY"):
        return " but an array of numpy: give it a name that ends in .npy"
    if start.startswith((b"\xff\xfe", b"\xfe\xff")) or b"\0" in start[:4]:
        return " but UTF-16: save it as UTF-8"
    return ""


def read_text(path: str | Path) -> str:
    """The text of a file.

    Raises:
        UserError: the file cannot be read.
    """
    with open_text(path) as stream:
        return stream.read()


def split_lines(text: str) -> list[str]:
    """The lines of a text. Only a line feed ends a line, with or without a carriage return before it; other separators
    of Unicode (U+0085, U+2028) may occur in JSON texts and in puzzles.

    Example:
        >>> split_lines("a\\u2028b\\r\\nc\\n")
        ['a\\u2028b', 'c']
    """
    lines = text.split("\n")
    if not lines[-1]:
        lines.pop()
    return [line.removesuffix("\r") for line in lines]


def parse_json(text: str, prefix: str) -> Any:
    """The value of a JSON text.

    Raises:
        UserError: the text is not JSON, or an object has a key twice. The message starts with ``prefix``.

    Example:
        >>> parse_json("[1, 2]", "file.json: ")
        [1, 2]
    """
    try:
        return json.loads(text.removeprefix("\ufeff"), object_pairs_hook=_object)
    except (ValueError, RecursionError) as error:  # json raises a plain ValueError for numbers with thousands of digits
        raise UserError(f"{prefix}not valid JSON: {error}") from None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object. Python's own reader would keep the last of two equal keys."""
    result = dict(pairs)
    if len(result) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"the key {next(key for key in keys if keys.count(key) > 1)!r} occurs twice in one object")
    return result


def write_text(path: Path, text: str) -> None:
    """Writes a file completely or not at all. The same text gives the same bytes.

    Raises:
        UserError: the file cannot be written.
    """
    content = text.encode()
    write_bytes(path, gzip.compress(content, mtime=0) if path.suffix == ".gz" else content)
