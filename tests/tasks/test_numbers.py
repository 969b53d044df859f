"""Lists of numbers: all formats, and the messages for wrong lists."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from trm_fast.errors import UserError
from trm_fast.tasks.numbers import read_lines, read_numbers, write_numbers


@pytest.mark.parametrize(
    "text", ["1 -2.5 3e-1", "1,-2.5,0.3", " 1;\t-2.5 ; .3\n", "[1, -2.5, 0.3]", "[\n1,-2.5,\n0.3]"]
)
def test_formats(text: str) -> None:
    np.testing.assert_array_equal(read_numbers(text), [1, -2.5, 0.3])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "there are no numbers"),
        ("[]", "there are no numbers"),
        ("1 two 3", "item 2 is 'two', not a number"),
        ("[1, true]", "item 2 is True, not a number"),
        ("[1, [2]]", r"item 2 is \[2\], not a number"),
        ("[1, null]", "item 2 is None"),
        ("1 nan", "item 2 is 'nan': numbers must be finite"),
        ("[1e999]", "item 1 is inf: numbers must be finite"),
        ("0,5;1,5", "commas may be separators or decimal commas"),
        ("0,5 -1,5", "commas may be separators or decimal commas"),
        ("1 2,5 3", "commas may be separators or decimal commas"),
        ("[1, 2", "not valid JSON: .*"),
        ('{"a": 1}', "expected a list of numbers, not an object"),
        ("[" * 100_000, "lists and objects are nested more than 100 deep"),
        ("[" + "9" * 5000 + "]", "not valid JSON"),
        ("[" + "9" * 400 + "]", r"item 1 is 9+\.\.\.9+, not a number"),
    ],
)
def test_wrong_list_is_explained(text: str, words: str) -> None:
    with pytest.raises(UserError, match=f"^x.csv:3: {words}"):
        read_numbers(text, "x.csv:3")


@pytest.mark.parametrize(
    ("like", "want"),
    [("1 2 3", "0.5 -1.2346 0"), ("1,2", "0.5, -1.2346, 0"), ("1; 2", "0.5; -1.2346; 0"), ("[1]", "[0.5, -1.2346, 0]")],
)
def test_numbers_are_written_in_the_format_of_the_question(like: str, want: str) -> None:
    assert write_numbers(np.array([0.5, -1.23456, -0.0]), like) == want


@pytest.mark.parametrize("scale", [1e-7, 1e-3, 1, 1e4, 1e9])
def test_written_numbers_keep_their_size(scale: float) -> None:
    values = np.array([1.23456, -9.87654, 5.0]) * scale
    np.testing.assert_allclose(read_numbers(write_numbers(values, "")), values, rtol=1e-4)


def test_files(tmp_path: Path) -> None:
    for name, content in {
        "a.csv": "x,y\n1,2\n\n3,4\n",
        "a.txt": "1 2\n3 4",
        "a.jsonl": "[1, 2]\n[3, 4]\n",
        "a.json": "[[1, 2], [3, 4]]",
    }.items():
        (tmp_path / name).write_text(content)
        lists = list(read_lines(tmp_path / name))
        assert [read_numbers(text).tolist() for text, _ in lists] == [[1, 2], [3, 4]], name
        assert len({where for _, where in lists}) == 2
        assert all(name in where for _, where in lists)
    assert [where for _, where in read_lines(tmp_path / "a.csv")] == [f"{tmp_path}/a.csv:2", f"{tmp_path}/a.csv:4"]
    (tmp_path / "one.json").write_text("[1, 2]")
    assert [text for text, _ in read_lines(tmp_path / "one.json")] == ["[1, 2]"]


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.txt", "\n \n", "has no numbers"),
        ("a.json", "[", "not valid JSON"),
        ("a.json", "{}", "a list of lists"),
        ("a.json", "[]", "a list of lists"),
        ("a.json", "[[1], 2]", "row 2: expected a list of numbers, not 2"),
        ("a.txt", None, "No such file"),
        ("a.txt", b"\xff\xfe\x00", "is not UTF-8 text"),
    ],
)
def test_bad_files(name: str, content: str | bytes | None, words: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError, match=f"{name}.*{words}"):
        list(read_lines(tmp_path / name))
