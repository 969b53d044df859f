"""Reads sudokus in every format that people have, and refuses what is not a puzzle with a reason."""

from __future__ import annotations

import json
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from trm_fast.errors import UserError
from trm_fast.tasks.sudoku import Sudoku
from trm_fast.tasks.sudoku.task import SudokuConfig

PUZZLE = "3.......4.3...42"
SOLUTION = "3124241342311342"
ROWS = [PUZZLE[i : i + 4] for i in range(0, 16, 4)]
SOLVED = [SOLUTION[i : i + 4] for i in range(0, 16, 4)]
GRID = "\n".join(ROWS)
NUMBERS = [[0 if c == "." else int(c) for c in row] for row in ROWS]
NONES = [[number or None for number in row] for row in NUMBERS]
SOLVED_NUMBERS = [[int(c) for c in row] for row in SOLVED]
TASK = Sudoku(SudokuConfig(size=4))
FRAME = "+--+--+\n|3.|..|\n|..|..|\n+--+--+\n|4.|3.|\n|..|42|\n+--+--+"


def cells(text: str, blank: str = ".", gap: str = " ") -> str:
    return "\n".join(gap.join(blank if c == "." else c for c in row) for row in text.split("\n"))


TEXTS = {
    **{f"{blank!r} for a blank": (PUZZLE.replace(".", blank), SOLUTION) for blank in ".0_-*?xX·"},
    "rows of dashes": (GRID.replace(".", "-"), "\n".join(SOLVED)),
    "rows of stars in a frame of dashes": (FRAME.replace(".", "*"), FRAME.replace("|3.|..|", "|31|24|")),
    "rows of dashes in a frame": (FRAME.replace(".", "-"), None),
    "a rule as long as a row": ("3...\n....\n----\n4.3.\n..42", "3124\n2413\n----\n4231\n1342"),
    "dashes for blanks and a rule": ("3-|--\n--|--\n-----\n4-|3-\n--|42", "31|24\n24|13\n-----\n42|31\n13|42"),
    "Simple Sudoku": ("*-----*\n" + FRAME[8:-8] + "\n*-----*\nSimple Sudoku\n Version 4.2n", None),
    "corners of dots": (".--.--.\n" + FRAME[8:-8].replace("+", ":") + "\n'--'--'", None),
    "lines of a box": ("┌──┬──┐\n│3.│..│\n│..│..│\n├──┼──┤\n│4.│3.│\n│..│42│\n└──┴──┘", None),
    "a table of Markdown": (
        "| 3 |   |   |   |\n|---|---|---|---|\n|   |   |   |   |\n| 4 |   | 3 |   |\n|   |   | 4 | 2 |",
        "| 3 | 1 | 2 | 4 |\n|---|---|---|---|\n| 2 | 4 | 1 | 3 |\n| 4 | 2 | 3 | 1 |\n| 1 | 3 | 4 | 2 |",
    ),
    "minus ones": (cells(GRID, "-1"), cells("\n".join(SOLVED))),
    "minus ones on one line": (" ".join("-1" if c == "." else c for c in PUZZLE), " ".join(SOLUTION)),
    "commas": (cells(GRID, "0", ","), cells("\n".join(SOLVED), gap=",")),
    "empty fields": (cells(GRID, "", ","), cells("\n".join(SOLVED), gap=",")),
    "empty fields and more columns": (
        "\r\n".join(f"{row};;" for row in cells(GRID, "", ";").split("\n")) + "\r\n;;;;;\r\n",
        "\r\n".join(f"{row};;" for row in cells("\n".join(SOLVED), gap=";").split("\n")),
    ),
    "tabs": (cells(GRID, "", "\t"), cells("\n".join(SOLVED), gap="\t")),
    "fields in quotes": (
        "\n".join(",".join(f'"{c if c != "." else ""}"' for c in row) for row in ROWS),
        "\n".join(",".join(f'"{c}"' for c in row) for row in SOLVED),
    ),
    "floats of a data frame": ("3.0,,,\n,,,\n4.0,,3.0,\n,,4.0,2.0", "3,1,2,4\n2,4,1,3\n4,2,3,1\n1,3,4,2"),
    "empty lines between bands": (GRID.replace(ROWS[1], ROWS[1] + "\n"), "3124\n2413\n\n4231\n1342"),
    "empty lines everywhere": ("\n\n".join(ROWS), "\n\n".join(SOLVED)),
    "rows on one line": (" ".join(ROWS), " ".join(SOLVED)),
    "numpy": ("[[3 0 0 0]\n [0 0 0 0]\n [4 0 3 0]\n [0 0 4 2]]", "[3 1 2 4]\n [2 4 1 3]\n [4 2 3 1]\n [1 3 4 2]"),
    "numpy with nan": ("[[ 3. nan nan nan]\n [nan nan nan nan]\n [ 4. nan  3. nan]\n [nan nan  4.  2.]]", None),
    "an array of C": ("{{3,0,0,0},{0,0,0,0},{4,0,3,0},{0,0,4,2}}", None),
    "a matrix of Matlab": ("[3 0 0 0; 0 0 0 0; 4 0 3 0; 0 0 4 2]", "[3 1 2 4; 2 4 1 3; 4 2 3 1; 1 3 4 2]"),
    "numbers": (json.dumps(NUMBERS), json.dumps(SOLVED_NUMBERS)),
    "null": (json.dumps(NONES), json.dumps(SOLVED_NUMBERS)),
    "None": (str(NONES), json.dumps(SOLVED_NUMBERS)),
    "NaN": (json.dumps([[cell or float("nan") for cell in row] for row in NUMBERS]), json.dumps(SOLVED_NUMBERS)),
    "minus ones in JSON": (json.dumps(NUMBERS).replace("0", "-1"), json.dumps(SOLVED_NUMBERS)),
    "one list": (json.dumps([*chain(*NUMBERS)]), json.dumps([*chain(*SOLVED_NUMBERS)])),
    "characters": (json.dumps([[*row] for row in ROWS]), json.dumps([[*row] for row in SOLVED])),
    "empty texts": (json.dumps([[*row] for row in ROWS]).replace(".", ""), json.dumps([[*row] for row in SOLVED])),
    "texts": (json.dumps(ROWS), json.dumps(SOLVED)),
    "an object": (json.dumps({"id": 7, "Puzzle": NUMBERS}), json.dumps(SOLVED_NUMBERS)),
    "an object with text": (json.dumps({"board": PUZZLE}), SOLUTION),
    "an object in Python's spelling": (str({"quiz": NONES}), json.dumps(SOLVED_NUMBERS)),
    "a list on each line": ("\n".join(map(str, NUMBERS)), "\n".join(map(str, SOLVED_NUMBERS))),
    "a comment and a caption": (f"# hard\nPuzzle 1\n{GRID} # last row\n", "\n".join(SOLVED)),
    "SadMan Sudoku": (f"[Puzzle]\n#AJane Doe\n{GRID}\n[State]\n" + "\n".join(SOLVED), "\n".join(SOLVED)),
    "OpenSudoku": (f'<?xml version="1.0"?><opensudoku><name>x</name><game data="{PUZZLE}" /></opensudoku>', SOLUTION),
}


@pytest.mark.parametrize(("text", "solution"), TEXTS.values(), ids=TEXTS)
def test_puzzles_are_read_and_solutions_have_their_format(text: str, solution: str | None) -> None:
    question = TASK.parse(text)
    assert "".join(".1234"[token - 1] for token in question.inputs) == PUZZLE
    written = TASK.format(question, np.array([int(digit) + 1 for digit in SOLUTION]))
    again = TASK.parse(written).inputs
    np.testing.assert_array_equal(again, [int(digit) + 1 for digit in SOLUTION])
    if solution is not None and "|31|24|" not in solution:
        assert written == solution


REFUSED = {
    "ragged lists": ("[[4,1,0,3,0],[0,1,0],[0,4,0,1],[0,0,0,0]]", "row 1 has 5 cells, expected 4"),
    "a short list": (json.dumps([NUMBERS[0], [0, 0, 0], *NUMBERS[2:]]), "row 2 has 3 cells, expected 4"),
    "two rows of eight": ("3.......\n4.3...42", "row 1 has 8 cells, expected 4"),
    "two lists of eight": (json.dumps(["3.......", "4.3...42"]), "row 1 has 8 cells, expected 4"),
    "short rows": ("3..\n....\n4.3.\n...42", "row 1 has 3 cells, expected 4"),
    "a short row of fields": ("3,,,\n,,\n4,,3,\n,,4,2", "row 2 has 3 cells, expected 4"),
    "a field too many": ("3,,,\n,,,\n4,,,3,\n,,4,2", "row 3 has 5 fields, the others do not"),
    "a bar too many": ("|3| | | |\n| | | | |\n|4| ||3| |\n| | |4|2|", "row 3 has 5 fields, the others do not"),
    "a comma too many in a list": (
        '["3","","",""],["","","",""],["4","",,"3",""],["","","4","2"]',
        "row 3 has 5 fields",
    ),
    "a field too many on one line": (",".join(PUZZLE.replace("...", ".")) + ",,", "cells, expected 16"),
    "a frame with another character": (FRAME.replace(".", "-")[:-1] + ",", "'+' (line 7, character 1) is not a cell"),
    "uneven groups": ("3...., ..., 4.3., ..42", "groups of different lengths: 5, 3, 4, 4"),
    "too few rows": ("\n".join(ROWS[:3]), "found 3 rows of 4 cells, expected 4"),
    "too many rows": (GRID + "\n....", "found 5 rows of 4 cells, expected 4"),
    "a grid in unequal parts": (GRID.replace(ROWS[0], ROWS[0] + "\n"), "found 4 cells, expected 16"),
    "too few rows in JSON": (json.dumps(NUMBERS[:3]), "found 3 rows of 4 cells, expected 4"),
    "lost commas": ("3 4,3 4,2", "found 5 cells, expected 16"),
    "0 and null": (json.dumps([NUMBERS[0], *NONES[1:]]), "blanks are written in two ways, '0' (row 1, column 2)"),
    "0 and dots": ("30" + PUZZLE[2:], "blanks are written in two ways, '0' (character 2) and '.' (character 3)"),
    "dashes and dots": ("3.-" + PUZZLE[3:], "blanks are written in two ways"),
    "spaces for blanks": (PUZZLE.replace(".", " ")[:4], "found 1 cell, expected 16"),
    "no-break spaces": (GRID.replace(".", "\xa0"), "there are no-break spaces: write . or 0 for a blank"),
    "pencil marks": (cells(GRID, "12"), "'12' (line 1, character 3) is not one cell: pencil marks are not read"),
    "pencil marks in JSON": (
        json.dumps([[3, [1, 2], 0, 0], *NUMBERS[1:]]),
        "'[1, 2]' (row 1, column 2) is not one cell",
    ),
    "all pencil marks": ("1234" * 16, "found 64 cells, expected 16 (pencil marks are not read"),
    "true": (json.dumps([[3, True, 0, 0], *NUMBERS[1:]]), "'true' (row 1, column 2) is not a cell"),
    "two puzzles": (f"{PUZZLE}\n{PUZZLE}", "found 2 puzzles, expected one: save them to a file"),
    "an object without a puzzle": ('{"a": 1}', "an object needs a key question or puzzle or quiz; this one has: a"),
    "two puzzles in an object": (json.dumps({"puzzle": PUZZLE, "board": PUZZLE}), "puzzle and board could both be"),
    "a key twice": (f'{{"puzzle": "{PUZZLE}", "puzzle": ""}}', "the key 'puzzle' occurs twice"),
    "a key twice in Python": (f"{{'puzzle': '{PUZZLE}', 'puzzle': ''}}", "not valid JSON"),
    "a number": ("3", "found 1 cell, expected 16"),
    "an empty list": ("[]", "a puzzle is a text or a list of rows, not []"),
    "a line of words among puzzles": (f"{PUZZLE}\nsolve: abc\n{PUZZLE}", "'s' (line 2, character 1) is not a cell"),
    "a name and a puzzle": (f"Easy: {PUZZLE}", "'E' (character 1) is not a cell"),
    "a broken list": ("[[3,0", "not valid JSON"),
    "words": ("hello", "'h' (character 1) is not a cell of a 4x4 puzzle"),
    "a line of dashes": ("-" * 16, "either a rule or a puzzle without givens"),
    "an unknown section": (f"[Grid]\n{GRID}\n[State]\n{GRID}", "unknown section [Grid]"),
    "no section for the puzzle": (f"[State]\n{GRID}", "there is no section [Puzzle]"),
    "entities": ('<!DOCTYPE a [<!ENTITY b "c">]><opensudoku/>', "XML with a document type is not read"),
    "an undeclared entity": ('<opensudoku><game data="&b;"/></opensudoku>', "not valid XML: undefined entity"),
    "other XML": ("<svg/>", "this XML has no sudokus"),
    "a game in progress": ('<opensudoku><game data="version: 3 0|0|1|"/></opensudoku>', "this is a game in progress"),
}


@pytest.mark.parametrize(("text", "words"), REFUSED.values(), ids=REFUSED)
def test_what_is_no_puzzle_is_explained(text: str, words: str) -> None:
    with pytest.raises(UserError) as caught:
        TASK.parse(text, "here")
    assert words in str(caught.value)
    assert str(caught.value).startswith("here")


FILES = {
    "lines.sdm": (f"{PUZZLE}\n{PUZZLE.replace('.', '-')}\n{PUZZLE.replace('.', '0')}  # easy\n", [":1", ":2", ":3"]),
    "euler.txt": (f"Grid 01\n{GRID}\nPuzzle 2 (easy)\n{GRID}\n", [":2", ":7"]),
    "stacked.txt": (f"{GRID}\n{GRID}", [":1", ":5"]),
    "apart.txt": (f"{GRID}\n\n\n{GRID}\n\n{PUZZLE}\n", [":1", ":7", ":12"]),
    "frames.txt": (f"{FRAME}\n{FRAME}\n\n{FRAME}", [":2", ":9", ":17"]),
    "two.sdk": (f"[Puzzle]\r\n{GRID}\r\n[State]\r\n{GRID}\r\n[Puzzle]\r\n{GRID}\r\n", [":2", ":12"]),
    "book.opensudoku": (f'<a>\n<game data="{PUZZLE}"/>\n<folder><game data="{PUZZLE}"/></folder></a>', [":2", ":3"]),
    "list.json": (json.dumps([PUZZLE, {"question": NUMBERS}, ROWS]), [", puzzle 1", ", puzzle 2", ", puzzle 3"]),
    "object.json": (json.dumps({"puzzles": [NUMBERS, NONES]}, indent=1), [", puzzle 1", ", puzzle 2"]),
    "objects.jsonl": (json.dumps({"puzzle": PUZZLE}) + "\n" + json.dumps({"puzzle": NUMBERS}) + "\n", [":1", ":2"]),
    "lists.jsonl": (f"{NUMBERS}\n{json.dumps(NONES)}\n", [":1", ":2"]),
    "kaggle.csv": (f"id,Quizzes,Solutions\n1,{PUZZLE},{SOLUTION}\n2,{PUZZLE},\n", [":2", ":3"]),
    "semicolons.csv": (f"# mine\nrating;puzzle\n1,5;{PUZZLE}\n", [":3"]),
    "one column.csv": (f"Puzzle\n{PUZZLE}\n{PUZZLE}\n", [":2", ":3"]),
    "grid.csv": ("\ufeff" + cells(GRID, "", ","), [":1"]),
}


@pytest.mark.parametrize("name", FILES)
def test_files_of_puzzles(tmp_path: Path, name: str) -> None:
    content, wheres = FILES[name]
    (tmp_path / name).write_bytes(content.encode())
    questions = list(TASK.questions(tmp_path / name))
    assert [question.where.removeprefix(str(tmp_path / name)) for question in questions] == wheres
    for question in questions:
        np.testing.assert_array_equal(question.inputs, TASK.parse(PUZZLE).inputs)
        assert TASK.format(question, np.array([int(digit) + 1 for digit in SOLUTION]))


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("lost.txt", "\n".join(ROWS[:3]) + f"\n\n{GRID}", "lost.txt:1: found 3 rows of 4 cells"),
        ("short.sdm", f"{PUZZLE}\n{PUZZLE[1:]}\n{PUZZLE}\n", "short.sdm:2: found 15 cells, expected 16"),
        ("row.txt", f"{GRID}\n\n{GRID[:-1]}", "row.txt:9: row 4 has 3 cells, expected 4"),
        ("z.txt", f"{GRID}\n\n{GRID.replace('42', '4z')}", "z.txt:6: 'z' (line 9, character 4) is not a cell"),
        ("bare.csv", f"{PUZZLE},{SOLUTION}\n", "bare.csv:1: this looks like a row of a table"),
        ("other.csv", f"left,right\n{PUZZLE},{SOLUTION}\n", "other.csv:2: this looks like a row of a table"),
        (
            "numbered.csv",
            "0,1,2,3\n" + cells(GRID, "0", ","),
            "found 5 rows of 4 cells, expected 4 (write a grid without",
        ),
        ("bad.jsonl", f'{{"puzzle": "{PUZZLE}"}}\n{{"puzzle": "1"}}\n', "bad.jsonl:2: found 1 cell, expected 16"),
        ("bad.json", json.dumps([PUZZLE, 7]), "bad.json, puzzle 2: a puzzle is a text or a list of rows, not 7"),
        ("zip.xlsx", b"PK\x03\x04 and more", "not UTF-8 text but a ZIP archive or an .xlsx file"),
        ("wide.csv", f"question\n{PUZZLE}\n".encode("utf-16"), "not UTF-8 text but UTF-16: save it as UTF-8"),
        ("packed", b"\x1f\x8b\x08", "give it a name that ends in .gz"),
        ("none.npy", b"3 4", "none.npy is not an array of numpy"),
    ],
)
def test_malformed_files_are_explained(tmp_path: Path, name: str, content: str | bytes, words: str) -> None:
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError) as caught:
        list(TASK.questions(tmp_path / name))
    assert words in str(caught.value)


def test_arrays_of_numpy_are_read(tmp_path: Path) -> None:
    arrays = np.array(NUMBERS), np.array([NONES] * 2, dtype=float), np.array([[*row] for row in ROWS])
    for array in arrays:
        np.save(tmp_path / "a.npy", array)
        questions = list(TASK.questions(tmp_path / "a.npy"))
        assert len(questions) == (2 if array.ndim == 3 else 1)
        for question in questions:
            np.testing.assert_array_equal(question.inputs, TASK.parse(PUZZLE).inputs)


def test_a_nine_row_grid_of_zeros_from_eight_digits_is_refused() -> None:
    """Digits from 0 to 8 with null for blanks: 0 must not become another blank."""
    zero_based: list[list[int | None]] = [[None] * 9 for _ in range(9)]
    zero_based[0][:3] = [0, 1, 8]
    with pytest.raises(UserError, match="digits from 1 to 9"):
        Sudoku(SudokuConfig(size=9)).parse(json.dumps(zero_based))


@pytest.mark.parametrize("rules", [{"cages": [[0, 1]]}, {"Regions": "AAB"}, {"variant": "killer"}, {"diagonal": True}])
def test_a_puzzle_with_other_rules_is_refused(tmp_path: Path, rules: dict[str, Any]) -> None:
    (name,) = rules
    (tmp_path / "p.csv").write_text(f"puzzle,{name}\n{PUZZLE},x\n")
    for read in (
        lambda: TASK.parse(json.dumps({"puzzle": PUZZLE} | rules)),
        lambda: TASK.questions(tmp_path / "p.csv"),
    ):
        with pytest.raises(UserError, match=f"{name} gives the puzzle other rules"):
            list(read())
    usual = json.dumps({"puzzle": PUZZLE, "cages": [], "variant": "Classic", "diagonal": False})
    np.testing.assert_array_equal(TASK.parse(usual).inputs, TASK.parse(PUZZLE).inputs)


def test_an_array_with_a_plane_for_each_digit_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.array(NUMBERS)[..., None] == np.arange(1, 1 + len(NUMBERS)))
    planes = (np.array(NUMBERS)[..., None] == np.arange(1, 1 + len(NUMBERS))).astype(int)
    np.save(tmp_path / "b.npy", planes)
    for name in ("a.npy", "b.npy"):
        with pytest.raises(UserError, match="a 0 or 1 for each cell and digit"):
            list(TASK.questions(tmp_path / name))


def test_lines_without_separators_are_read_as_with_them(tmp_path: Path) -> None:
    """Plain lines take a shorter way: a space at the end of one of them takes the other."""
    (tmp_path / "plain.txt").write_text(f"{PUZZLE}\r\n\r\n{PUZZLE}\r\n")
    (tmp_path / "spaced.txt").write_text(f"{PUZZLE} \r\n\r\n{PUZZLE}\r\n")
    plain, spaced = (list(TASK.questions(tmp_path / f"{name}.txt")) for name in ("plain", "spaced"))
    assert [q.where.rpartition(":")[2] for q in plain] == [q.where.rpartition(":")[2] for q in spaced] == ["1", "3"]
    assert [q.text.strip() for q in plain] == [q.text.strip() for q in spaced]
    for a, b in zip(plain, spaced, strict=True):
        np.testing.assert_array_equal(a.inputs, b.inputs)
