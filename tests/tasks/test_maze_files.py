"""Reads and writes mazes as text, JSON, PNG and CSV, and checks the messages for wrong ones."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from trm_fast.errors import UserError
from trm_fast.tasks.base import Question
from trm_fast.tasks.maze import Maze, generate, read, write
from trm_fast.tasks.maze.engine import engine
from trm_fast.tasks.maze.task import MazeConfig
from trm_fast.tasks.pictures import read_png, write_png

ROWS = ["S #.", "  #G", "    "]
ANSWER = ["S #.", "o #G", "oooo"]
NUMBERS = [[3, 2, 1, 2], [2, 2, 1, 4], [2, 2, 2, 2]]
SOLVED_NUMBERS = [[3, 2, 1, 2], [5, 2, 1, 4], [5, 5, 5, 5]]


def task_of(*shape: int) -> Maze:
    return Maze(MazeConfig(size=shape or (3, 4)))


def solved(question: Question, *shape: int) -> np.ndarray:
    return engine.solve(question.inputs[None].astype(np.uint8), *(shape or (3, 4)))[0][0].astype(np.int64)


SPELLINGS = {
    "grid": ("\n".join(ROWS), "\n".join(ANSWER)),
    "grid with line ends of Windows": ("\r\n".join(ROWS) + "\r\n", "\r\n".join(ANSWER)),
    "one line": ("".join(ROWS), "".join(ANSWER)),
    "dots": ("S.#.\n..#G\n....", "S.#.\no.#G\noooo"),
    "a path drawn in": ("So#.\n o#G\n ooo", "S #.\no #G\noooo"),
    "strings": (json.dumps(ROWS), json.dumps(["S # ", "o #G", "oooo"])),
    "numbers": (json.dumps(NUMBERS), json.dumps(SOLVED_NUMBERS)),
    "floats": (json.dumps([[float(cell) for cell in row] for row in NUMBERS]), json.dumps(SOLVED_NUMBERS)),
    "a list of one maze": (json.dumps([ROWS]), json.dumps(["S # ", "o #G", "oooo"])),
    "object": (json.dumps({"question": ROWS}), json.dumps(["S # ", "o #G", "oooo"])),
    "object with text": (json.dumps({"maze": "\n".join(ROWS)}), "\n".join(ANSWER)),
    "characters": (json.dumps([[*row] for row in ROWS]), json.dumps([[*row] for row in ("S # ", "o #G", "oooo")])),
    "Python's quotes": (str([[*row] for row in ROWS]), json.dumps([[*row] for row in ("S # ", "o #G", "oooo")])),
    "blocks and small letters": ("s █.\n  █g\n    ", "s █.\no █g\noooo"),
    "E for the goal": ("S #.\n  #E\n    ", "S #.\no #E\noooo"),
}


@pytest.mark.parametrize(("text", "answer"), SPELLINGS.values(), ids=SPELLINGS.keys())
def test_spellings_are_read_and_written_back(text: str, answer: str) -> None:
    task = task_of()
    question = task.parse(text)
    assert question.inputs.reshape(3, 4).tolist() == NUMBERS
    assert question.inputs.dtype == np.int32
    assert task.format(question, solved(question)) == answer


def test_unknown_tokens_are_shown() -> None:
    task = task_of()
    question, spoiled = task.parse("\n".join(ROWS)), np.zeros(12, dtype=np.int64)
    assert task.format(question, spoiled) == "????\n????\n????"
    assert json.loads(task.format(task.parse(json.dumps(NUMBERS)), spoiled)) == [[0] * 4] * 3
    spoiled[:] = -7
    assert task.format(question, spoiled) == "????\n????\n????"


BAD = {
    "unknown character": ("S #.\n  xG\n    ", "'x' (row 2, character 3) is not a cell of a maze"),
    "ragged": ("S #.\n  #G\n   ", "row 1 has 4 cells, row 3 has 3; if spaces at line ends or empty lines were lost"),
    "no start": ("  #.\n  #G\n    ", "the maze has no start (S)"),
    "no goal": ("S #.\n  # \n    ", "the maze has no goal (G)"),
    "two starts": ("S #.\n  #G\n   S", "expected one start (S), found 2: row 1, column 1 and row 3, column 4"),
    "two goals": ("S #G\n  #G\n    ", "expected one goal (G), found 2"),
    "no path": ("S #.\n  #G\n  # ", "the maze has no path from S to G"),
    "another size": ("S#\n G", "this maze has 2x2 cells, but the model takes 3x4 (task.size)"),
    "one line of another size": ("S#  G", "this maze has 1x5 cells, but the model takes 3x4"),
    "nothing": ("", "this maze has 1x0 cells"),
    "ill-formed JSON": ('["S #.",', "not valid JSON"),
    "JSON of something else": ('{"walls": 3}', "needs a key question or puzzle or quiz; this one has: walls"),
    "two mazes": (json.dumps([ROWS, ROWS]), "found 2 mazes, expected one: save them to a file"),
    "two JSON keys": ('{"puzzle": [], "Maze": []}', "puzzle and Maze could both be the question"),
    "JSON row of something else": ("[3, 4]", "row 1 is 3: a row is a string, or a list of characters or numbers"),
    "0 and 1": ("[[2, 0, 1, 0], [0, 0, 1, 3]]", "0 (row 1, column 2) is not a cell of a maze: write 1 for a wall, 2"),
    "0 and 1 in numpy": ("[[2, 0, 1, 0], [0, 0, 1, 3]]", "np.where(maze == 1, 1, 2)"),
    "0, 1 and letters": ('[["S", 1, 1, 1]]', '"S" (row 1, column 1) is not a cell of a maze: write 1 for a wall'),
    "0 and 1 in text": ("S010\n001G\n0000", "replace the walls by # and the free cells by ."),
    "lost rows": ("S #.\n  #G", "2x4 cells, but the model takes 3x4 (task.size); if spaces at line ends"),
    "E besides G": ("S #E\n  #G\n    ", "'E' (row 1, character 4) is not a cell"),
    "stars": ("S *.\n  *G\n    ", "'*' (row 1, character 3) is not a cell"),
    "empty JSON": ("[]", "a maze in JSON is a list of rows"),
    "unknown number": ("[[3, 0, 1, 2]]", "0 (row 1, column 2) is not a cell of a maze: write 1 for a wall"),
    "JSON true": ("[[3, true, 1, 2]]", "true (row 1, column 2) is not a cell"),
    "unknown character in JSON": ('["S #?"]', "'?' (row 1, character 4)"),
    "ragged JSON": ('["S #.", "  #"]', "row 1 has 4 cells, row 2 has 3"),
}


@pytest.mark.parametrize(("text", "words"), BAD.values(), ids=BAD.keys())
def test_wrong_maze_is_explained(text: str, words: str) -> None:
    with pytest.raises(UserError) as caught:
        task_of().parse(text, "here")
    assert str(caught.value).startswith("here: ")
    assert words in str(caught.value)


FILES: dict[str, tuple[str, list[str]]] = {
    "one.txt": ("\n".join(ROWS) + "\n", ["1"]),
    "several.txt": ("\n".join(ROWS) + "\n\n\n" + "\n".join(ROWS), ["1", "6"]),
    "lines.txt": ("".join(ROWS) + "\n" + "".join(ROWS) + "\n", ["1", "2"]),
    "one.json": (json.dumps(ROWS, indent=1), [""]),
    "many.json": (json.dumps([ROWS, NUMBERS]), [", maze 1", ", maze 2"]),
    "objects.json": (json.dumps([{"question": ROWS}, {"maze": NUMBERS}]), [", maze 1", ", maze 2"]),
    "named.json": (json.dumps({"mazes": [ROWS]}), [", maze 1"]),
    "lines.jsonl": (json.dumps(ROWS) + "\n" + json.dumps({"question": NUMBERS}) + "\n", ["1", "2"]),
    "texts.json": (json.dumps(["".join(ROWS), "\n".join(ROWS)]), [", maze 1", ", maze 2"]),
    "semicolons.csv": ("id;Maze;Solution\n1;" + "".join(ROWS) + ";x\n", ["2"]),
    "table.csv": ("question,note\n" + "".join(ROWS) + ",x\n\n" + "".join(ROWS) + ",y\n", ["2", "4"]),
}


@pytest.mark.parametrize("name", FILES)
def test_files_of_mazes(tmp_path: Path, name: str) -> None:
    content, positions = FILES[name]
    path = tmp_path / name
    path.write_text(content)
    questions = list(task_of().questions(path))
    expected = [f"{path}{':' if position.isdigit() else ''}{position}" for position in positions]
    assert [question.where for question in questions] == expected
    for question in questions:
        assert question.inputs.reshape(3, 4).tolist() == NUMBERS
        assert json.dumps(question.text), "the text serves as an answer's format"
        task_of().format(question, solved(question))
    with gzip.open(tmp_path / (name + ".gz"), "wt") as stream:
        stream.write(content)
    assert len(list(task_of().questions(tmp_path / (name + ".gz")))) == len(questions)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("none.txt", "\n\n", "none.txt has no mazes"),
        ("stripped.txt", "S #\n  #G\n\n", "stripped.txt:3: this row has no cells; if spaces at line ends"),
        ("start.txt", "\n  S#\n   G", "start.txt:1: this row has no cells; if spaces"),
        ("object.npy", b"\x93NUMPY", "object.npy is not an array of numpy"),
        ("bad.txt", "\n".join(ROWS) + "\n\nS#\n G\n", "bad.txt:5: this maze has 2x2"),
        ("bad.jsonl", json.dumps(ROWS) + "\n{]\n", "bad.jsonl:2: not valid JSON"),
        ("bad.json", json.dumps([ROWS, ["S"]]), "bad.json, maze 2: this maze has 1x1"),
        ("bad.csv", "note,question\nx\n", "bad.csv:2: the question is missing"),
        ("bytes.txt", b"\xff\xfe\x00", "is not UTF-8 text"),
        ("bad.png", "no picture", "bad.png is not a PNG file"),
        ("cut.png", b"\x89PNG\r\n\x1a\n\x00\x00", "cut.png is not a PNG file"),
        (
            "huge.png",
            b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\xea\x60\0\0\xea\x60",
            "huge.png is 60,000 pixels wide or high",
        ),
        ("deep.json", "[" * 50_000 + "\n" + "[" * 50_000, "deep.json: lists and objects are nested more than 100 deep"),
        ("long.json", "[[" + "1" * 5000 + "]]", "long.json: not valid JSON"),
    ],
)
def test_wrong_file_is_explained(tmp_path: Path, name: str, content: str | bytes, words: str) -> None:
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError) as caught:
        list(task_of().questions(tmp_path / name))
    assert words in str(caught.value)


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot read"):
        list(task_of().questions(tmp_path / "nothing.txt"))


@pytest.mark.parametrize("shape", [(9, 9), (5, 12)])
def test_a_written_picture_is_read_back(tmp_path: Path, shape: tuple[int, int]) -> None:
    mazes, task = generate(shape, 3, 4), task_of(*shape)
    for maze, answer in zip(mazes.questions, mazes.answers, strict=True):
        question = Question("", maze.astype(np.int32))
        for path_drawn in (None, answer):  # a path drawn into the question is removed
            write_png(tmp_path / "m.png", task.picture(question, path_drawn))
            (back,) = task.questions(tmp_path / "m.png")
            np.testing.assert_array_equal(back.inputs, maze)
        grid = task.format(back, answer).split("\n")
        assert [len(row) for row in grid] == [shape[1]] * shape[0]
        assert "".join(grid).count("o") == (answer == 5).sum()


def paint(rows: list[str], colors: dict[str, Any], block: int) -> np.ndarray:
    cells = np.array([[colors[c] for c in row] for row in rows], dtype=np.uint8)
    return cells.repeat(block, axis=0).repeat(block, axis=1)


PLAIN = {"#": (0, 0, 0), " ": (255, 255, 255), ".": (255, 255, 255), "S": (0, 255, 0), "G": (255, 0, 0)}
DULL = {"#": (30, 28, 33), " ": (230, 228, 240), ".": (210, 210, 210), "S": (20, 120, 40), "G": (180, 30, 60)}


@pytest.mark.parametrize("block", [1, 2, 7])
@pytest.mark.parametrize("colors", [PLAIN, DULL], ids=["plain", "dull"])
@pytest.mark.parametrize("path", [(0, 0, 255), (90, 130, 240), (128, 128, 128)], ids=["blue", "light blue", "gray"])
def test_pictures_with_other_colors_are_read(tmp_path: Path, block: int, colors: dict[str, Any], path: Any) -> None:
    write_png(tmp_path / "m.png", paint(ANSWER, {**colors, "o": path}, block))
    (question,) = task_of().questions(tmp_path / "m.png")
    assert question.inputs.reshape(3, 4).tolist() == NUMBERS


@pytest.mark.parametrize("mode", ["gray", "transparent"])
def test_other_kinds_of_png(tmp_path: Path, mode: str) -> None:
    from matplotlib.image import imsave

    pixels = np.zeros((2, 2, 4), dtype=np.uint8)
    pixels[0, 0] = (0, 255, 0, 255)
    pixels[1, 1, 3] = 255
    if mode == "gray":
        imsave(tmp_path / "m.png", np.array([[0.0, 1.0]]), cmap="gray")
        assert read_png(tmp_path / "m.png").tolist() == [[[0, 0, 0], [255, 255, 255]]]
    else:
        imsave(tmp_path / "m.png", pixels)
        pixels = read_png(tmp_path / "m.png").tolist()
        assert pixels == [[[0, 255, 0], [255, 255, 255]], [[255, 255, 255], [0, 0, 0]]]


def test_wrong_picture_is_explained(tmp_path: Path) -> None:
    def refused(picture: np.ndarray) -> str:
        write_png(tmp_path / "m.png", picture)
        with pytest.raises(UserError) as caught:
            list(task_of().questions(tmp_path / "m.png"))
        return str(caught.value)

    good = paint(ROWS, PLAIN, 4)
    yellow = good.copy()
    yellow[5, 2] = (255, 255, 0)
    assert "the color #ffff00 (pixel row 6, column 3) has no meaning in a maze" in refused(yellow)
    assert "shows 6x8 cells of 2 pixels, but the model takes 3x4" in refused(
        paint(["S" + " " * 7] + ["# # #  G"] * 5, PLAIN, 2)
    )
    assert "13x16 pixels" in refused(np.concatenate([good, good[-1:]]))
    assert "the maze has no start" in refused(paint(["  #.", *ROWS[1:]], PLAIN, 4))
    assert "no path" in refused(paint(["S #.", "  #G", "  # "], PLAIN, 4))


def test_tables_keep_their_spaces(tmp_path: Path) -> None:
    mazes = generate((4, 5), 200, 0, distance=4)
    for name in ("m.csv", "m.csv.gz"):
        write(tmp_path / name, mazes)
        back = read(tmp_path / name, (4, 5))
        np.testing.assert_array_equal(back.questions, mazes.questions)
        np.testing.assert_array_equal(back.answers, mazes.answers)
        np.testing.assert_array_equal(back.ratings, mazes.ratings)
    assert b"\n" in (tmp_path / "m.csv").read_bytes()
    assert len(task_of(4, 5).read(str(tmp_path / "m.csv"))) == 200


GOOD = "".join(ROWS), "".join(ANSWER)
BAD_ROWS = {
    "short": ((GOOD[0].rstrip(), GOOD[1]), "the question has 8 characters, expected 12 for 3x4 cells"),
    "empty": ((GOOD[0], ""), "the answer is missing"),
    "unknown": ((GOOD[0], GOOD[1].replace("S", "s")), "'s' in the answer (row 1, column 1) is not a cell"),
    "no start": ((GOOD[0].replace("S", " "), GOOD[1].replace("S", " ")), "the question has 0 cells S, expected 1"),
    "moved wall": ((GOOD[0], "S  .o #Goooo"), "the answer has ' ' at row 1, column 3, the question '#'"),
    "no answer": ((GOOD[0], GOOD[0]), "the answer is not a path from S to G"),
    "a detour": (("S G" + " " * 9, "S GooooooooX"[:3] + "o o ooo  "), "is not a path from S to G"),
    "long way": (("S  G" + " " * 8, "S  Go  ooooo"), "the answer is a path, but not a shortest path"),
    "walled in": (("S # ## G    ", "S # ## G    "), "the maze has no path from S to G"),
}


@pytest.mark.parametrize(("row", "words"), BAD_ROWS.values(), ids=BAD_ROWS.keys())
def test_bad_rows_are_refused_with_their_line(tmp_path: Path, row: tuple[str, str], words: str) -> None:
    lines = ["question,answer", ",".join(GOOD), ",".join(row), ",".join(GOOD)]
    (tmp_path / "m.csv").write_text("\n".join(lines) + "\n")
    with pytest.raises(UserError) as caught:
        read(tmp_path / "m.csv", (3, 4))
    assert str(caught.value).startswith(f"{tmp_path / 'm.csv'}:3: ")
    assert words in str(caught.value)


@pytest.mark.parametrize("position", [[0, 0], {"row": 0, "column": 1}, "(0, 1)", "3,4"])
@pytest.mark.parametrize("name", ["start", "Goal", "exit"])
def test_ends_beside_the_cells_are_refused(tmp_path: Path, name: str, position: object) -> None:
    """They could contradict the S and the G of the maze."""
    (tmp_path / "maze.json").write_text(json.dumps({"maze": ROWS, name: position}))
    with pytest.raises(UserError, match=rf"maze\.json.*: {name} gives a position"):
        list(task_of().questions(tmp_path / "maze.json"))
