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


@pytest.mark.parametrize(
    ("content", "count", "status"), [("def think(thought): ...\n", 2, 1), ("def step(x): ...\n", 0, 0)]
)
def test_the_exit_status_says_whether_a_word_was_found(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    content: str,
    count: int,
    status: int,
) -> None:
    file, clean = tmp_path / "a.py", tmp_path / "clean.md"
    file.write_text(content)
    clean.write_text("The model runs.\n")
    monkeypatch.setattr(check_words, "ROOT", tmp_path)
    monkeypatch.setattr(sys, "argv", ["check_words.py", str(file), str(clean)])
    assert check_words.main() == status
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(": ")[0] for line in lines] == ["a.py:1"] * count
