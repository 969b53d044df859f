"""Text files, gzip where the name ends in ``.gz``: whatever goes wrong is a UserError that names the file."""

from __future__ import annotations

import csv
import gzip
import json
import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from trm_fast.errors import UserError


@contextmanager
def open_text(path: str | Path) -> Iterator[TextIO]:
    """A UTF-8 file, open for reading. Errors of decompression, decoding and CSV are UserErrors, too."""
    opener = gzip.open if str(path).endswith(".gz") else open
    try:
        with opener(path, "rt", encoding="utf-8-sig", newline="") as stream:
            yield stream
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text") from error
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise UserError(f"{path} is not a gzip file, or a damaged one: {error}") from error
    except csv.Error as error:
        raise UserError(f"{path} is not a CSV file: {error}") from error
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error


def read_text(path: str | Path) -> str:
    """The whole of a file."""
    with open_text(path) as stream:
        return stream.read()


def parse_json(text: str, prefix: str) -> Any:
    """The value of a JSON text; ``prefix`` starts the message where it is malformed."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:  # ValueError also for numbers with thousands of digits
        raise UserError(f"{prefix}not valid JSON: {error}") from None


def write_text(path: Path, text: str) -> None:
    """Writes a file whole or not at all; the same text gives the same bytes."""
    content = text.encode()
    if path.suffix == ".gz":
        content = gzip.compress(content, mtime=0)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with open(temporary, "wb") as stream:
            stream.write(content)
            os.fsync(stream.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        temporary.unlink(missing_ok=True)
