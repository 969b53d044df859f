"""Lines of files end at a line feed, with or without a carriage return before it, and at no other character."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from trm_fast.errors import UserError
from trm_fast.run_folder import METRICS
from trm_fast.tasks.files import split_lines
from trm_fast.tasks.numbers import read_lines
from trm_fast.tasks.symbols import Symbols, SymbolsConfig
from trm_fast.tasks.tool_calling import load, write
from trm_fast.training.folder import read_metrics

SEPARATORS = "\u2028\u2029\u0085\v\f\x1c\x1d\x1e"


def test_split_lines() -> None:
    assert split_lines("") == []
    assert split_lines("\n\na") == ["", "", "a"]
    assert split_lines("a\r\nb\r\r\n\rc\n") == ["a", "b\r", "\rc"]
    assert split_lines(f"a{SEPARATORS}b\n") == [f"a{SEPARATORS}b"]


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_json_lines_hold_separators(tmp_path: Path, end: str) -> None:
    path = tmp_path / "rows.jsonl"
    # JSON allows these three unescaped in a text.
    row = {"messages": [{"role": "user", "content": "a\u2028b\u2029c\u0085d"}]}
    path.write_bytes(end.join([json.dumps(row, ensure_ascii=False)] * 2).encode())
    loaded = load(path)
    assert [c.query for c in loaded.conversations] == ["a\u2028b\u2029c\u0085d"] * 2
    assert [c.where for c in loaded.conversations] == [f"{path}:1", f"{path}:2"]
    write(path, [row, row])
    assert [c.query for c in load(path).conversations] == ["a\u2028b\u2029c\u0085d"] * 2


def test_rows_of_other_tasks_hold_separators(tmp_path: Path) -> None:
    path = tmp_path / "rows.txt"
    path.write_bytes("1 2\u20283\r\n\n4\n".encode())
    assert list(read_lines(path)) == [("1 2\u20283", f"{path}:1"), ("4", f"{path}:3")]
    path.write_bytes("abc\r\n\nab\u2028c\n".encode())
    questions = Symbols(SymbolsConfig(length=3)).questions(path)
    assert next(questions).text == "abc"
    with pytest.raises(UserError, match=r"rows\.txt:3: '\\u2028'"):
        next(questions)


def test_the_unfinished_last_line_of_metrics_is_ignored(tmp_path: Path) -> None:
    (tmp_path / METRICS).write_text('{"step": 1, "note": "a\u2028b"}\n{"step": 2}\n{"st', encoding="utf-8")
    assert [record["step"] for record in read_metrics(tmp_path)] == [1, 2]
