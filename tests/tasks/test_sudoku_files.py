"""Reads and writes sudokus as files and text, and refuses wrong ones."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest

from trm_fast.errors import UserError
from trm_fast.tasks import tables
from trm_fast.tasks.sudoku import Sudoku, files, generate, read, write
from trm_fast.tasks.sudoku.task import SudokuConfig

QUESTION = "1..." + "..1." + ".1.." + "4.21"
ANSWER = "1234" + "3412" + "2143" + "4321"
GRID = "1 . | . .\n. . | 1 .\n----+----\n. 1 | . .\n4 . | 2 1"
HEADER = "question,answer\n"


def sudoku(size: int = 4) -> Sudoku:
    return Sudoku(SudokuConfig(size=size))


def solved(answer: str) -> np.ndarray:
    return np.array([int(digit) + 1 for digit in answer])


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        (f"{QUESTION[:-1]},{ANSWER}", "question has 15 characters, expected 16"),
        (f"{QUESTION},{ANSWER}1", "answer has 17 characters, expected 16"),
        (f"{'.' * 81},{'1' * 81}", r"81 characters.*9x9 puzzle.*size 4"),
        (f"{QUESTION[:-1]}z,{ANSWER}", r"'z' in the question \(row 4, column 4\)"),
        (f"{QUESTION[:-1]}٣,{ANSWER}", r"'٣' in the question"),
        (f"{QUESTION},{ANSWER[:-1]}5", r"'5' in the answer \(row 4, column 4\)"),
        (f"{QUESTION},", "answer is missing"),
        (f",{ANSWER}", "question is missing"),
        (QUESTION, "1 fields, the header has 2"),
        (f"{QUESTION},{ANSWER},7", "3 fields, the header has 2"),
        (f"{QUESTION},{ANSWER[:-1]}.", "answer leaves row 4, column 4 blank"),
        (
            f"{QUESTION},{'1' + ANSWER[1:-1]}2",
            "breaks the rules: 2 occurs twice in row 4: at row 4, column 3 and row 4, column 4",
        ),
        (f"2...{QUESTION[4:]},{ANSWER}", "answer has 1 at row 1, column 1, where the question has 2"),
    ],
)
def test_malformed_row_is_named(tmp_path: Path, line: str, fault: str) -> None:
    path = tmp_path / "bad.csv"
    path.write_text(f"{HEADER}{QUESTION},{ANSWER}\n\n{line}\n{QUESTION},{ANSWER}\n", encoding="utf-8")
    with pytest.raises(UserError, match=rf"bad\.csv:4: .*{fault}"):
        read(path, 4)


def test_the_first_of_many_bad_rows_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "CHUNK", 4)
    good, short, broken = f"{QUESTION},{ANSWER}\n", f"1,{ANSWER}\n", f"2{QUESTION[1:]},{ANSWER}\n"
    (tmp_path / "a.csv").write_text(HEADER + good * 10)
    assert len(read(tmp_path / "a.csv", 4)) == 10
    for rows, line, fault in (
        (good * 6 + broken + short, 8, "answer has"),
        (good * 5 + short + broken, 7, "characters"),
    ):
        (tmp_path / "a.csv").write_text(HEADER + rows)
        with pytest.raises(UserError, match=rf"a\.csv:{line}: .*{fault}"):
            read(tmp_path / "a.csv", 4)


@pytest.mark.parametrize(
    ("name", "content", "fault"),
    [
        ("missing.csv", None, "cannot read .*No such file"),
        ("", None, "cannot read .*directory"),
        ("a.csv", b"", "is empty"),
        ("a.csv", HEADER.encode(), "header but no puzzles"),
        ("a.csv", f"{QUESTION},{ANSWER}\n".encode(), "no column 'question' in the header"),
        ("a.csv", b"question\n" + QUESTION.encode(), "no column 'answer' in the header"),
        ("a.csv", HEADER.encode() + b"\xff\xfe", "not UTF-8"),
        ("a.csv.gz", HEADER.encode(), "not a gzip file"),
        (
            "a.csv.gz",
            gzip.compress(f"{HEADER}{QUESTION},{ANSWER}\n".encode() * 50, mtime=0)[:-9],
            "not a gzip file, or a damaged one",
        ),
    ],
)
def test_unreadable_file_is_explained(tmp_path: Path, name: str, content: bytes | None, fault: str) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=fault):
        read(tmp_path / name, 4)


@pytest.mark.parametrize("name", ["a.csv", "a.csv.gz"])
def test_written_file_reads_back(tmp_path: Path, name: str) -> None:
    puzzles = generate(9, 20, (26, 40), seed=0)
    write(tmp_path / name, puzzles, source="here")
    first = (tmp_path / name).read_bytes()
    back = read(tmp_path / name, 9)
    assert back.ratings is not None
    assert puzzles.ratings is not None
    np.testing.assert_array_equal(back.questions, puzzles.questions)
    np.testing.assert_array_equal(back.answers, puzzles.answers)
    np.testing.assert_array_equal(back.ratings, puzzles.ratings)
    write(tmp_path / name, back, source="here")
    assert (tmp_path / name).read_bytes() == first
    assert [path.name for path in tmp_path.iterdir()] == [name]
    with pytest.raises(UserError, match="cannot write"):
        write(tmp_path / "nowhere" / name, puzzles)


def test_columns_may_come_in_any_order_with_a_byte_order_mark(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(
        f"rating,answer,note,question\r\n3,{ANSWER},x,{QUESTION.replace('.', '0')}\r\n", "utf-8-sig"
    )
    puzzles = read(tmp_path / "a.csv", 4)
    assert puzzles.ratings is not None
    assert puzzles.ratings.tolist() == [3]
    assert files.as_lines(puzzles.questions) == [QUESTION]


@pytest.mark.parametrize(
    ("text", "written"),
    [
        (QUESTION, ANSWER),
        (QUESTION.replace(".", "0") + "\n", ANSWER),
        (f"  {QUESTION.replace('.', '_')}", f"  {ANSWER}"),
        (GRID, "1 2 | 3 4\n3 4 | 1 2\n----+----\n2 1 | 4 3\n4 3 | 2 1"),
        ("1...\r\n..1.\r\n.1..\r\n4.21\r\n", "1234\r\n3412\r\n2143\r\n4321"),
    ],
)
def test_answer_is_written_like_the_question(text: str, written: str) -> None:
    task = sudoku()
    question = task.parse(text, "here")
    assert question.where == "here"
    assert question.inputs.dtype == np.int32
    assert question.inputs.tolist() == [1 if c == "." else int(c) + 1 for c in QUESTION]
    assert task.format(question, solved(ANSWER)) == written
    assert task.format(question, np.array([0, 1] * 8)).count(".") >= 16


@pytest.mark.parametrize(
    ("size", "text", "fault"),
    [
        (4, "1" * 15, "f: found 15 cells, expected 16$"),
        (4, "." * 36, "found 36 cells, expected 16.*6x6 puzzle.*task.size to 6"),
        (4, "", "found 0 cells"),
        (4, "5...............", r"'5' \(character 1\) is not a cell of a 4x4 puzzle: write 1 to 4"),
        (4, "1...\n..z.\n....\n....", r"'z' \(line 2, character 3\)"),
        (
            4,
            "1..1............",
            "contradict each other: 1 occurs twice in row 1: at row 1, column 1 and row 1, column 4",
        ),
        (4, "1...........1...", "1 occurs twice in column 1: at row 1, column 1 and row 4, column 1"),
        (6, "1......1" + "." * 28, "1 occurs twice in box 1: at row 1, column 1 and row 2, column 2"),
        (4, "12....3.3...4...", "f: the givens break the rules: there is no solution"),
    ],
)
def test_malformed_question_is_explained(size: int, text: str, fault: str) -> None:
    with pytest.raises(UserError, match=fault):
        sudoku(size).parse(text, "f")


@pytest.mark.parametrize(
    ("content", "wheres"),
    [
        (f"# two\n{QUESTION}\n\n   # and\n{QUESTION}\n", [2, 5]),
        (f"# one\n{GRID}\n", [2]),
        (f"source,question,answer\nx,{QUESTION},\nx,{QUESTION},{ANSWER}\n", [2, 3]),
        (f"question\n{QUESTION}\n", [2]),
    ],
)
@pytest.mark.parametrize("name", ["q.txt", "q.txt.gz"])
def test_questions_of_a_file(tmp_path: Path, name: str, content: str, wheres: list[int]) -> None:
    path = tmp_path / name
    path.write_bytes(gzip.compress(content.encode()) if name.endswith("gz") else content.encode())
    task = sudoku()
    questions = list(task.questions(path))
    assert [question.where for question in questions] == [f"{path}:{line}" for line in wheres]
    for question in questions:
        np.testing.assert_array_equal(question.inputs, task.parse(QUESTION).inputs)


def test_questions_before_a_wrong_one_are_returned(tmp_path: Path) -> None:
    (tmp_path / "q.txt").write_text(f"{QUESTION}\n11..............\n")
    stream = sudoku().questions(tmp_path / "q.txt")
    assert next(stream).where.endswith("q.txt:1")
    with pytest.raises(UserError, match=r"q\.txt:2: the givens contradict"):
        next(stream)
    (tmp_path / "q.txt").write_text("# nothing\n\n")
    with pytest.raises(UserError, match="has no puzzles"):
        next(sudoku().questions(tmp_path / "q.txt"))
