"""Columns of tables by any of their names, delimiters, ratings, and rows in JSON."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from trm_fast.errors import UserError
from trm_fast.tasks.columns import read_header
from trm_fast.tasks.maze import read as read_mazes
from trm_fast.tasks.sudoku import files, read
from trm_fast.tasks.symbols import Symbols
from trm_fast.tasks.tables import question_column, read_table

QUESTION, ANSWER = "1.....1..1..4.21", "1234341221434321"


@pytest.mark.parametrize(
    ("line", "columns"),
    [
        ("question,answer", (0, 1)),
        ("quizzes,solutions", (0, 1)),
        ("id,Puzzle,SOLUTION,clues,difficulty", (1, 2)),
        ('"Question" ; "Answer"', (0, 1)),
        ("rating\tsudoku\tsolved", (1, 2)),
        ("puzzle,question,answer", (1, 2)),
        ("source,answer", (None, 1)),
    ],
)
def test_columns_are_known_by_several_names(line: str, columns: tuple[int | None, int | None]) -> None:
    header = read_header(line, "")
    assert (header.question, header.answer) == columns


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_delimiters(tmp_path: Path, delimiter: str) -> None:
    rows = [["id", "Quizzes", "Solutions", "Rating"], ["7", QUESTION, ANSWER, "1.5"], ["8", QUESTION, ANSWER, "2"]]
    content = "# a comment\n\n" + "\r\n".join(delimiter.join(row) for row in rows) + "\r\n" + delimiter * 3 + "\r\n"
    (tmp_path / "a.csv").write_bytes(content.encode("utf-8-sig"))
    puzzles = read(tmp_path / "a.csv", 4)
    assert files.as_lines(puzzles.questions) == [QUESTION] * 2
    assert puzzles.ratings is not None
    assert puzzles.ratings.tolist() == [1.5, 2.0]
    assert read_table(tmp_path / "a.csv").names == [f"{tmp_path / 'a.csv'}:{line}" for line in (4, 5)]


@pytest.mark.parametrize(
    ("ratings", "expected"),
    [
        (["3", "0"], [3, 0]),
        (["3.0", " 0"], [3, 0]),
        (["2.2", "0.0"], [2.2, 0]),
        (["1,2", "3,4"], [1.2, 3.4]),
        (["9999999999", "1"], [9999999999, 1]),
        (["", "3"], None),
        (["hard", "easy"], None),
        (["nan", "3"], None),
    ],
)
def test_ratings_are_numbers_or_unknown(tmp_path: Path, ratings: list[str], expected: list[float] | None) -> None:
    rows = "".join(f"{QUESTION};{ANSWER};{rating}\n" for rating in ratings)
    (tmp_path / "a.csv").write_text(f"question;answer;rating\n{rows}")
    puzzles = read(tmp_path / "a.csv", 4)
    if expected is None:
        assert puzzles.ratings is None
        return
    assert puzzles.ratings is not None
    np.testing.assert_allclose(puzzles.ratings, expected)
    files.write(tmp_path / "b.csv", puzzles)
    np.testing.assert_array_equal(read(tmp_path / "b.csv", 4).ratings, puzzles.ratings)


def test_puzzles_in_fields_have_any_format(tmp_path: Path) -> None:
    grid = "\n".join(QUESTION[i : i + 4] for i in range(0, 16, 4))
    numbers = json.dumps([[0 if c == "." else int(c) for c in row] for row in grid.split("\n")])
    row = f'"{grid}","{" ".join(ANSWER)}"\n"{numbers}",{ANSWER}\n{QUESTION.replace(".", "-")},{ANSWER}\n'
    (tmp_path / "a.csv").write_text(f"puzzle,solution\n{row}")
    objects = [
        {"Quiz": json.loads(numbers), "solution": ANSWER, "rating": 4},
        {"puzzle": QUESTION, "answer": [*ANSWER]},
    ]
    objects[1]["rating"] = 5
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in objects))
    (tmp_path / "a.json").write_text(json.dumps(objects, indent=1))
    for name, count in (("a.csv", 3), ("a.jsonl", 2), ("a.json", 2)):
        puzzles = read(tmp_path / name, 4)
        assert files.as_lines(puzzles.questions) == [QUESTION] * count
        assert files.as_lines(puzzles.answers) == [ANSWER] * count
    assert puzzles.ratings is not None
    assert puzzles.ratings.tolist() == [4, 5]


def test_mazes_in_fields_and_objects(tmp_path: Path) -> None:
    question, answer = ["S #.", "  #G", "    "], ["S #.", "o #G", "oooo"]
    newline = "\n"
    (tmp_path / "a.csv").write_text(f'maze,solution\n"{newline.join(question)}","{newline.join(answer)}"\n')
    objects = {"maze": [[*row] for row in question], "solution": answer}
    (tmp_path / "a.jsonl").write_text(json.dumps(objects) + "\n")
    for name in ("a.csv", "a.jsonl"):
        mazes = read_mazes(tmp_path / name, (3, 4))
        assert mazes.questions.tolist() == [[3, 2, 1, 2, 2, 2, 1, 4, 2, 2, 2, 2]]
        assert mazes.answers.tolist() == [[3, 2, 1, 2, 5, 2, 1, 4, 5, 5, 5, 5]]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (
            f"puzzle,quiz,answer\n{QUESTION},{QUESTION},{ANSWER}\n",
            "a.csv:1: puzzle and quiz could both be the question",
        ),
        (f"puzzle,id\n{QUESTION},3\n", "no column 'answer' in the header (puzzle, id)"),
        (f"{QUESTION},{ANSWER}\n", "no column 'question' in the header"),
        (f"question,answer\n{QUESTION.replace('.', '')},{ANSWER}\n", "a.csv:2: the question has 6 characters"),
        (
            f"question,answer\n\n1.5E+15,{ANSWER}\n",
            "a.csv:3: the question has 7 characters, expected 16; a spreadsheet",
        ),
        (
            f"question,answer\n00010010040021,{ANSWER}\n",
            "14 characters, expected 16; if a spreadsheet has lost leading",
        ),
        (f'question,answer\n"[[1,0],[2]]",{ANSWER}\n', "a.csv:2: row 1 has 2 cells, expected 4"),
        (f"question,answer\n{QUESTION}٣,{ANSWER}\n"[:33].replace("1٣", "٣"), "1 fields, the header has 2"),
        (json.dumps({"puzzle": QUESTION}), "the object has no answer but puzzle"),
        (json.dumps([QUESTION]), "row 1: there is no answer: use objects with a question and an answer"),
    ],
)
def test_malformed_tables_are_explained(tmp_path: Path, content: str, words: str) -> None:
    (tmp_path / "a.csv").write_text(content, encoding="utf-8")
    with pytest.raises(UserError) as caught:
        read(tmp_path / "a.csv", 4)
    assert words in str(caught.value)


@pytest.mark.parametrize("first", ["sep=;\n", "\ufeffsep=;\r\n", '"sep=;"\n'])
def test_the_line_with_the_delimiter_and_spaces_around_cells_are_left_out(tmp_path: Path, first: str) -> None:
    (tmp_path / "a.csv").write_text(f"{first}question; answer\n {QUESTION} ; {ANSWER} \n", encoding="utf-8", newline="")
    assert files.as_lines(read(tmp_path / "a.csv", 4).questions) == [QUESTION]
    assert [q.where for q in files.questions(tmp_path / "a.csv", 4)] == [f"{tmp_path / 'a.csv'}:3"]


def test_every_task_skips_a_header(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("id;Question\n1;abcdefghabcdefgh\n")
    (question,) = Symbols().questions(tmp_path / "a.csv")
    assert (question.text, question.where) == ("abcdefghabcdefgh", f"{tmp_path / 'a.csv'}:2")


@pytest.mark.parametrize("text", ["3" * 200_000, "[" * 200_000, "question,answer\n" + "1" * 200_000 + ",2\n"])
def test_a_field_without_end_is_explained(tmp_path: Path, text: str) -> None:
    """The csv module takes fields of at most 131,072 characters."""
    (tmp_path / "long.csv").write_text(text)
    with pytest.raises(UserError, match=r"long\.csv"):
        read(tmp_path / "long.csv", 4)
    with pytest.raises(UserError, match="larger than field limit"):
        list(question_column(text, "") or ())


def test_a_clear_name_comes_before_a_general_one() -> None:
    header = read_header("input,quiz,output,solution", "")
    assert (header.question, header.answer) == (1, 3)
    header = read_header("output,input", "")
    assert (header.question, header.answer) == (1, 0)
    with pytest.raises(UserError, match="input and problem could both be the question"):
        read_header("input,problem,answer", "")
