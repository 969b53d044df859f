"""Reads and writes text files. Names that end in ``.gz`` are compressed with gzip.

Every failure is a UserError that names the file.
"""

from __future__ import annotations

import gzip
from pathlib import Path

from trm_fast.texts import open_text as open_text
from trm_fast.texts import parse_json as parse_json
from trm_fast.texts import read_text as read_text
from trm_fast.texts import split_lines as split_lines
from trm_fast.writing import write_bytes


def write_text(path: Path, text: str) -> None:
    """Writes a file completely or not at all. The same text gives the same bytes.

    Raises:
        UserError: the file cannot be written.
    """
    content = text.encode()
    write_bytes(path, gzip.compress(content, mtime=0) if path.suffix == ".gz" else content)
