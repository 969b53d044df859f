"""Reads text files, JSON and YAML within bounds, and writes JSON.

A file may be an endless device, expand a thousandfold, or be nested a million times. Every such case, and every other
failure, is a UserError that names the file. Files whose names end in ``.gz`` are compressed with gzip.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import math
import os
import re
import stat
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import accumulate
from pathlib import Path
from typing import Any, BinaryIO, TextIO

from trm_fast.errors import UserError, shown
from trm_fast.memory import free_memory, size_text

MAX_FILE = 2 << 30
"""The largest number of bytes of a file that is read line by line, after decompression."""

MAX_TEXT = 256 << 20
"""The same for a file that is read at once, which takes several times as much memory."""

MAX_CONFIG = 256 << 10
"""The same for a configuration."""

MAX_LINE = 64 << 20
"""The largest number of bytes in a line, checked for lines that are longer than a block."""

MAX_RATIO, RATIO_FROM = 200, 64 << 20
"""How many times its size a compressed file may expand to, checked from so many bytes on. Text expands up to 20 times,
a bomb 1,000 times."""

MAX_DEPTH = 100
"""How deep lists and objects may be nested."""

DEEP = f"lists and objects are nested more than {MAX_DEPTH} deep"

MAX_VALUES = 100_000
"""The largest number of values in YAML. A few aliases of aliases can stand for billions."""

BLOCK = 1 << 20


@contextmanager
def open_text(
    path: str | Path, limit: int = MAX_FILE, line_limit: int = MAX_LINE, newline: str = ""
) -> Iterator[TextIO]:
    """Opens a UTF-8 file for reading. Errors of gzip, UTF-8 and CSV inside the ``with`` block become UserErrors too.

    Args:
        path: the file.
        limit: the largest number of bytes, after decompression; a quarter of the free memory if that is less.
        line_limit: the largest number of bytes in a line.
        newline: what ends a line, as in ``open``.

    Raises:
        UserError: the file cannot be read, is no text, or exceeds a limit.
    """
    limit = min(limit, free_memory() // 4)
    try:
        with open(path, "rb", buffering=0) as file:
            status = os.fstat(file.fileno())
            if stat.S_ISREG(status.st_mode) and status.st_size > limit:
                raise UserError(f"{path} has {size_text(status.st_size)}: {_too_large(limit)}")
            packed = str(path).endswith(".gz")
            content: Any = gzip.GzipFile(fileobj=file) if packed else file
            bounded = _Bounded(content, path, limit, line_limit, file if packed and file.seekable() else None)
            with io.TextIOWrapper(io.BufferedReader(bounded, BLOCK), encoding="utf-8-sig", newline=newline) as stream:
                yield stream
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text") from error
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise UserError(f"{path} is not a gzip file, or a damaged one: {error}") from error
    except csv.Error as error:
        raise UserError(f"{path} is not a CSV file: {error}") from error
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error


def read_text(path: str | Path, limit: int = MAX_TEXT) -> str:
    """The text of a file.

    Raises:
        UserError: the file cannot be read, is no text, or has more than ``limit`` bytes.
    """
    with open_text(path, limit, line_limit=limit) as stream:
        return stream.read()


def read_lines(path: str | Path) -> Iterator[str]:
    """Yields the lines of a file, as ``split_lines`` separates them. The rest of the file is not read.

    Raises:
        UserError: the file cannot be read, or is no text.
    """
    with open_text(path, newline="\n") as stream:
        for line in stream:
            yield line.removesuffix("\n").removesuffix("\r")


def read_rest(stream: TextIO, path: str | Path) -> str:
    """The rest of the text of an open file.

    Raises:
        UserError: it has more than ``MAX_TEXT`` characters.
    """
    text = stream.read(MAX_TEXT)
    if stream.read(1):
        raise UserError(f"{path}: {_too_large(MAX_TEXT)}")
    return text


class _Bounded(io.RawIOBase):
    """The bytes of a stream, checked block by block.

    Args:
        stream: where the bytes come from.
        path: the file, for messages.
        limit: the largest number of bytes.
        line_limit: the largest number of bytes in a line.
        compressed: the compressed file that ``stream`` expands, if there is one.
    """

    def __init__(self, stream: BinaryIO, path: str | Path, limit: int, line_limit: int, compressed: Any | None) -> None:
        self.stream, self.path, self.limit, self.line_limit = stream, path, limit, line_limit
        self.compressed = compressed
        self.count = self.line = 0  # bytes, and bytes of the current line

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        block = self.stream.read(len(buffer)) or b""
        buffer[: len(block)] = block
        self.count += len(block)
        if self.count == len(block) and (kind := _kind(block[:8])):
            raise UserError(f"{self.path} is not UTF-8 text but {kind}")
        if b"\0" in block:
            raise UserError(f"{self.path} is not UTF-8 text: it has zero bytes")
        if self.count > self.limit:
            raise UserError(f"{self.path}: {_too_large(self.limit)}")
        ends = [end for end in (block.find(b"\n"), block.find(b"\r")) if end >= 0]
        if self.line + (min(ends) if ends else len(block)) > self.line_limit:
            raise UserError(f"{self.path} has a line of more than {size_text(self.line_limit)}: is it a text file?")
        last = max(block.rfind(b"\n"), block.rfind(b"\r"))
        self.line = self.line + len(block) if last < 0 else len(block) - 1 - last
        if self.compressed is not None and self.count > max(RATIO_FROM, MAX_RATIO * self.compressed.tell()):
            raise UserError(
                f"{self.path} expands to more than {MAX_RATIO} times its size, which is no text; decompress it if it is"
            )
        return len(block)


def _kind(start: bytes) -> str:
    """What a file is that is no UTF-8 text, from its first bytes, and what to do; empty if that is unknown."""
    if start.startswith(b"PK\x03\x04"):
        return "a ZIP archive or an .xlsx file: unpack it, or save the sheet as CSV"
    if start.startswith(b"\xd0\xcf\x11\xe0"):
        return "an .xls file: save the sheet as CSV"
    if start.startswith(b"\x1f\x8b"):
        return "a gzip file: give it a name that ends in .gz"
    if start.startswith(b"\x93NUMPY"):
        return "an array of numpy: give it a name that ends in .npy"
    if start.startswith((b"\xff\xfe", b"\xfe\xff")) or (b"\0" in start[:4] and start[:4].strip(b"\0")):
        return "UTF-16: save it as UTF-8"
    return ""


def _too_large(limit: int) -> str:
    return f"text of more than {size_text(limit)} is not read here; split the file"


def split_lines(text: str) -> list[str]:
    """The lines of a text. Only a line feed ends a line, with or without a carriage return before it; other separators
    of Unicode (U+0085, U+2028) may occur in JSON texts and in puzzles.

    Examples:
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
        UserError: the text is not JSON, is nested too deeply, or an object has a key twice. The message starts with
            ``prefix``.

    Examples:
        >>> parse_json("[1, 2]", "file.json: ")
        [1, 2]
    """
    try:
        value = DECODER.decode(text.removeprefix("\ufeff"))
    except ValueError as error:  # also for numbers with thousands of digits
        raise UserError(f"{prefix}not valid JSON: {json_problem(error)}") from None
    except RecursionError:
        raise UserError(f"{prefix}{DEEP}") from None
    if is_deep(value):
        raise UserError(f"{prefix}{DEEP}")
    return value


def json_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object from its pairs. Python's own reader would keep the last of two equal keys."""
    result = dict(pairs)
    if len(result) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"the key {shown(twice)} occurs twice in one object")
    return result


DECODER = json.JSONDecoder(object_pairs_hook=json_object)
"""Python's reader of JSON, except that it raises a ValueError for an object with a key twice."""


def json_problem(error: ValueError) -> str:
    """What is wrong with a JSON text, from the exception of ``json.loads``. Python's advice on long numbers is left
    out."""
    return "a number has too many digits" if "integer string" in str(error) else str(error)


def is_deep(value: Any) -> bool:
    """Whether a JSON value is nested more than ``MAX_DEPTH`` deep."""
    level = [value]
    for _ in range(MAX_DEPTH):
        parts = (v.values() if isinstance(v, dict) else v for v in level if isinstance(v, dict | list))
        level = [item for part in parts for item in part if isinstance(item, dict | list)]
        if not level:
            return False
    return True


def parse_yaml(text: str, where: str) -> Any:
    """The value of a YAML text.

    Args:
        text: the text.
        where: the file or the option that it comes from, for messages.

    Raises:
        UserError: the text is not YAML, nested too deeply, or stands for too many values.

    Examples:
        >>> parse_yaml("{size: 4}", "--task")
        {'size': 4}
    """
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    if _open_brackets(text) > MAX_DEPTH:  # the parser takes minutes to notice
        raise UserError(f"{where}: {DEEP}", usage_error=True)
    try:
        value = YAML(typ="safe", pure=True).load(text)
    except YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}, column {mark.column + 1}" if mark and "\n" in text.strip() else ""
        problem = " ".join(str(getattr(error, "problem", None) or error).split())
        raise UserError(f"{where}{line}: not valid YAML: {problem}", usage_error=True) from None
    except RecursionError:
        raise UserError(f"{where}: {DEEP}", usage_error=True) from None
    except Exception as error:  # constructors of numbers, dates and tags raise any kind
        problem = json_problem(error) if isinstance(error, ValueError) else str(error)
        raise UserError(f"{where}: a value of the YAML cannot be read: {problem}", usage_error=True) from None
    values, depth = _extent(value, {})
    if values > MAX_VALUES:
        raise UserError(f"{where}: the YAML stands for more than {MAX_VALUES:,} values", usage_error=True)
    if depth > MAX_DEPTH:
        raise UserError(f"{where}: {DEEP}", usage_error=True)
    return value


def _open_brackets(text: str) -> int:
    """The largest number of brackets that are open at a time, those in strings and comments included."""
    changes = ({"[": 1, "{": 1}.get(bracket, -1) for bracket in re.findall(r"[\[\]{}]", text))
    return max(accumulate(changes), default=0)


def _extent(value: Any, extents: dict[int, tuple[float, float]]) -> tuple[float, float]:
    """The number of values in a YAML value, with aliases written out, and the depth. Both are infinite if it contains
    itself. ``extents``: those of the lists and sections visited so far."""
    if not isinstance(value, dict | list | tuple | set):
        return 1, 0
    if id(value) not in extents:
        extents[id(value)] = math.inf, math.inf  # until all parts are known
        parts = [_extent(part, extents) for part in (value.values() if isinstance(value, dict) else value)]
        extents[id(value)] = 1 + sum(count for count, _ in parts), 1 + max((depth for _, depth in parts), default=0)
    return extents[id(value)]


def read_yaml_file(path: Path) -> Any:
    """The value of a YAML file.

    Raises:
        UserError: it cannot be read, or is not YAML.
    """
    return parse_yaml(read_text(path, MAX_CONFIG), str(path))


def json_text(value: Any, **options: Any) -> str:
    """A value as JSON. Numbers that are not finite, which JSON does not have, become null.

    Args:
        value: the value.
        options: those of ``json.dumps``, such as ``indent``.

    Examples:
        >>> json_text({"f1": float("nan"), "loss": 0.5})
        '{"f1": null, "loss": 0.5}'
    """
    try:
        return json.dumps(value, allow_nan=False, **options)
    except ValueError:
        return json.dumps(_finite(value), allow_nan=False, **options)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
