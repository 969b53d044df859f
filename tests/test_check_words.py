"""scripts/check_words.py: which names and texts it refuses."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))
import check_words


@pytest.mark.parametrize(
    ("file", "content", "starts"),
    [
        ("a.py", "def think(x): ...\n", ["1: the name think: "]),
        ("a.py", "x = 1\ntidy_rows = x\n", ["2: the name tidy_rows: "]),
        ("a.py", "# The model " + "goes" + " on.\n", ["1: 'goes" + " on': "]),
        ("a.cu", "int i;  // computed " + "an" + "ew\n", ["1: 'an" + "ew': "]),
        ("a.md", "The model " + "goes" + " on.\n", ["1: 'goes" + " on': "]),
        ("a.py", "def determine(before_last):  # computed again\n    return before_last\n", []),
        ("a.h", "int determined;  // computed again\n", []),
    ],
)
def test_retired_names_and_texts_are_found(tmp_path: Path, file: str, content: str, starts: list[str]) -> None:
    path = tmp_path / file
    path.write_text(content)
    faults = list(check_words.faults(path, *check_words.retired()))
    assert len(faults) == len(starts)
    assert all(fault.startswith(start) for fault, start in zip(faults, starts, strict=True))
