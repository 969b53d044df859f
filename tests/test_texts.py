"""Text, JSON and YAML: what is read, what is refused, and how soon."""

from __future__ import annotations

import gzip
import json
import random
from pathlib import Path
from typing import Any

import pytest

from trm_fast import memory, texts
from trm_fast.errors import LINE, MESSAGE, UserError, in_lines, shown


def zipped(path: Path, block: bytes, count: int) -> Path:
    with gzip.open(path, "wb", 1) as stream:
        for _ in range(count):
            stream.write(block)
    return path


@pytest.mark.parametrize("ending", ["\n", "\r\n"])
def test_lines(ending: str, tmp_path: Path) -> None:
    path, lines = tmp_path / "a.txt", ["one", "", "two\u2028three", "four\rfive"]
    path.write_bytes("\ufeff".encode() + ending.join(lines).encode())
    assert list(texts.read_lines(path)) == lines == texts.split_lines(texts.read_text(path))


@pytest.mark.parametrize("name", ["/dev/zero", "/dev/full"])
def test_endless_files(name: str) -> None:
    with pytest.raises(UserError, match=f"{name} is not UTF-8 text: it has zero bytes"):
        texts.read_text(name)


def test_large_files_are_refused_before_they_are_read(tmp_path: Path) -> None:
    path = tmp_path / "large.csv"
    with path.open("wb") as stream:
        stream.truncate(1 << 40)
    with pytest.raises(UserError, match=r"large\.csv has 1\.0 TiB: text of more than"):
        next(texts.read_lines(path))


def test_long_texts_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.txt"
    path.write_text("12345\n" * 1000)
    assert len(texts.read_text(path, 6000)) == 6000
    with pytest.raises(UserError, match="text of more than 5,999 bytes"):
        texts.read_text(path, 5999)
    monkeypatch.setattr(texts, "free_memory", lambda: 8000)
    with pytest.raises(UserError, match="text of more than 2,000 bytes"):
        texts.read_text(path)


def test_long_lines_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(texts, "BLOCK", 16)
    path, rng = tmp_path / "a.txt", random.Random(0)
    for _ in range(20):
        lines = ["x" * rng.randrange(20_000) for _ in range(20)] + ["y" * 15_000]
        path.write_text("".join(f"{line}\n" for line in lines))
        longest = max(map(len, lines))
        with texts.open_text(path, line_limit=longest) as stream:
            assert [line[:-1] for line in stream] == lines
        with (
            pytest.raises(UserError, match=r"a\.txt has a line of more than"),
            texts.open_text(path, line_limit=longest - 1) as stream,
        ):
            list(stream)


def test_compressed_files_that_expand_too_far(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(texts, "RATIO_FROM", 1 << 20)
    bomb = zipped(tmp_path / "bomb.csv.gz", b"a,b\n" * (1 << 18), 8)
    with pytest.raises(UserError, match=r"bomb\.csv\.gz expands to more than 200 times its size"):
        texts.read_text(bomb)
    rows = "".join(f"{random.Random(i).randrange(10**80)}\n" for i in range(30_000)).encode()
    text = zipped(tmp_path / "text.csv.gz", rows, 1)
    assert len(texts.read_text(text)) == len(rows) > 1 << 20


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[" * 100_000, "more than 100 deep"),
        ("[" * 101 + "]" * 101, "more than 100 deep"),
        ('{"a":' * 300 + "1" + "}" * 300, "more than 100 deep"),
        ("9" * 5000, "a number has too many digits"),
        ("{", "not valid JSON"),
        ("", "not valid JSON"),
        ('{"a": 1, "b": 2, "a": 1}', "the key 'a' occurs twice"),
    ],
)
def test_json_that_is_refused(text: str, words: str) -> None:
    with pytest.raises(UserError, match=f"^f.json: .*{words}"):
        texts.parse_json(text, "f.json: ")


def test_json_that_is_read() -> None:
    for value in (None, [], {}, 1.5, "\u2028", json.loads("[" * 100 + "]" * 100), [{"a": [1, {"b": None}]}] * 3):
        assert texts.parse_json(json.dumps(value), "") == value


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[" * 3000, "more than 100 deep"),
        ("{a: " * 3000, "more than 100 deep"),
        ("- " * 5000 + "x", "more than 100 deep"),
        ("\n".join(" " * i + "a:" for i in range(110)), "more than 100 deep"),
        ("9" * 5000, "too many digits"),
        ("2024-13-45", "cannot be read"),
        ("!!int x", "cannot be read"),
        ("!!python/object:os.system {}", "not valid YAML"),
        ("a: &a [*a]", "stands for more than"),
        ("a: &a {b: *a}", "stands for more than"),
        ("a: 1\n\t- b", "line 2, column 1"),
    ],
)
def test_yaml_that_is_refused(text: str, words: str) -> None:
    with pytest.raises(UserError, match=f"^f.yaml.*{words}") as error:
        texts.parse_yaml(text, "f.yaml")
    assert error.value.usage_error


def test_yaml_that_is_read() -> None:
    assert texts.parse_yaml("a: &a [1, 2]\nb: *a\nc: '[[['", "f") == {"a": [1, 2], "b": [1, 2], "c": "[[["}
    assert texts.parse_yaml("[" * 100 + "]" * 100, "f")


def test_json_has_no_numbers_that_are_not_finite() -> None:
    value = {"a": [float("nan"), (1, float("-inf"))], "b": "NaN", "c": 0.5}
    assert json.loads(texts.json_text(value), parse_constant=pytest.fail) == {
        "a": [None, [1, None]],
        "b": "NaN",
        "c": 0.5,
    }


@pytest.mark.parametrize(
    "value", ["x" * 10**6, [[1] * 1000] * 1000, {str(i): i for i in range(10_000)}, b"x" * 10**6, None]
)
def test_values_are_shortened(value: Any) -> None:
    assert len(shown(value)) <= 80
    assert shown(10**5000) == "a number of about 5000 digits"


def test_messages_are_short_and_printable() -> None:
    for text in ("x" * 10**5, "a b " * 10**5, "é" * 1000, "f\x1b[31m\r.csv: " + "1 " * 1000):
        message = in_lines(f"error: {UserError(text)}")
        assert len(message) <= 2 * MESSAGE
        assert all(len(line) <= LINE and line.isprintable() for line in message.split("\n"))
    assert in_lines("one: two\n  three") == "one: two\n  three"


def test_memory_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    memory.require_memory(1, "a byte", "take less")
    monkeypatch.setattr(memory, "free_memory", lambda: 3 << 29)
    with pytest.raises(UserError, match=r"a table needs 2\.0 GiB of memory, and 1\.5 GiB is free: take less"):
        memory.require_memory(2 << 30, "a table", "take less")


def test_limits_of_containers_and_of_the_process_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    free = memory.free_memory()
    (tmp_path / "memory.max").write_text("5000\n")
    (tmp_path / "memory.current").write_text("3000\n")
    (tmp_path / "memory.stat").write_text("anon 10\ninactive_file 700\nactive_file 300\n")
    monkeypatch.setattr(memory, "CGROUPS", tmp_path)
    assert memory.free_memory() == 3000
    (tmp_path / "memory.max").write_text("max\n")
    assert memory.free_memory() == pytest.approx(free, rel=0.5)
    resource = pytest.importorskip("resource")
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (10, 10))
    assert memory.free_memory() == 0
