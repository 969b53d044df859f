"""Puzzles of any alphabet: how texts and lists are read, what is inferred from them, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from trm_fast.errors import UserError
from trm_fast.tasks.base import DataConfig, Dataset
from trm_fast.tasks.grid import Grid, GridConfig

HEADER = "question,answer\n"


def load(path: Path, text: str, holdout: float = 0.0, **keys: Any) -> tuple[Grid, Dataset]:
    path.write_text(text, encoding="utf-8")
    data = DataConfig(source=str(path), holdout=holdout)
    task = Grid(Grid.completed(GridConfig.model_validate(keys), data))
    return task, task.dataset(data, 0)


def lines(*rows: Any) -> str:
    return "".join(json.dumps({"question": q, "answer": a}) + "\n" for q, a in rows)


@pytest.mark.parametrize(
    ("name", "text", "shape", "answer_shape", "separator", "symbols"),
    [
        ("a.csv", f"{HEADER}ab.,abc\nb.a,bca\n", (3,), None, "", ".abc"),
        ("semicolons.csv", "id;PUZZLE;Solution\n1;ab;ba\n2;bb;bb\n", (2,), None, "", "ab"),
        ("marked.csv", f"\ufeff{HEADER}ab,ba\n", (2,), None, "", "ab"),
        ("quoted.csv", f'{HEADER}"a""","""a"\n', (2,), None, "", '"a'),
        ("spaces.csv", f"{HEADER}1 2 3,3 2 1\n3 2 1,1 2 3\n", (3,), None, " ", "123"),
        ("words.csv", f"{HEADER}1 2 10,10 2 1\n33 20 1,1 20 33\n", (3,), None, " ", ["1", "2", "10", "20", "33"]),
        ("commas.csv", f'{HEADER}"1, 2, 10","10, 2, 1"\n"2,,1","1,10,2"\n', (3,), None, ",", ["1", "2", "10", ""]),
        ("rows.csv", f'{HEADER}"ab\nc.\nab","ab\ncd\nab"\n', (3, 2), None, "", ".abcd"),
        ("maze.csv", f"{HEADER}#S  #,#Soo#\n# SG#,# SG#\n#   #,#o o#\n", (5,), None, "", " #GSo"),
        ("brackets.csv", f"{HEADER}[][],1111\n[[]],2222\n", (4,), None, "", ["1", "2", "[", "]"]),
        ("lengths.csv", f"{HEADER}abcd,x\nbcda,y\n", (4,), (1,), "", "abcdxy"),
        ("rows.jsonl", lines(([[1, 0], [0, 2]], [[1, 2], [1, 2]])), (2, 2), None, "", "012"),
        ("words.jsonl", lines((["queen", None], ["rook", "queen"])), (2,), None, " ", ["null", "queen", "rook"]),
        ("numbers.jsonl", lines(([10, -1.0], [0.5, 10])), (2,), None, " ", ["-1", "10", "0.5"]),
        ("input.jsonl", '{"output": [2, 1], "input": [1, 2]}\n', (2,), None, "", "12"),
        ("list.json", "[" + lines((["a"], [["b", "a"]])).strip() + "]", (1,), (1, 2), "", "ab"),
        ("python.csv", f"{HEADER}\"['a', None]\",\"['a', 'b']\"\n", (2,), None, " ", ["a", "b", "null"]),
    ],
)
def test_what_is_inferred(
    name: str, text: str, shape: Any, answer_shape: Any, separator: str, symbols: Any, tmp_path: Path
) -> None:
    task, dataset = load(tmp_path / name, text)
    config = task.config
    assert (config.shape, config.answer_shape, config.separator) == (shape, answer_shape, separator)
    assert config.vocabulary == tuple(symbols)
    assert config.symmetries == config.exchangeable == ()
    assert f"{len(symbols)} symbols" in dataset.notes[0]
    assert "symmetries: none" in dataset.notes[0]


def test_an_accent_is_a_part_of_its_letter_however_it_is_typed(tmp_path: Path) -> None:
    task, dataset = load(tmp_path / "a.csv", f"{HEADER}e\u0301🇩🇪x,🇩🇪\u00e9👨\u200d👩\u200d👧\n♟️xx,x♟️x\n")
    assert set(task.config.vocabulary) == {"\u00e9", "🇩🇪", "x", "♟️", "👨\u200d👩\u200d👧"}
    assert dataset.train.inputs.shape == (2, 3)
    assert task.parse("\u00e9🇩🇪x").inputs.tolist() == dataset.train.inputs[0].tolist()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (f"{HEADER}abc,abc\nab,ab\n", [":3: the question: 2 cells, but 3 cells in", "one length"]),
        (f"{HEADER}abc,abc\nabc,ab\n", [":3: the answer: 2 cells"]),
        (f"{HEADER}ab cd,cd ab\nef gh,gh ef\n", [":2: cells may be characters or words", "task.separator"]),
        (f"{HEADER}[1 2 3],[3 2 1]\n", [":2: the question", "looks like a list", "[1, 2, 3]"]),
        (f"{HEADER},ab\n", [":2: the question is missing"]),
        (f"{HEADER}ab,\n", [":2: the answer is missing"]),
        (f"{HEADER}a\u200bb,abc\n", [":2: the question", "U+200B", "not visible"]),
        (f"{HEADER}a\tb\x07,ab\x07c\n", [":2: ", "U+0007"]),
        (f"{HEADER}ab,ba\nab,ab\n", [":3: the question of ", ":2 again, with another answer"]),
        (f'{HEADER}"ab\nc","ab\ncd"\n', ["the question: row 2 has 1 cell, row 1 has 2"]),
        ("abcd,dcba\nbcda,adcb\n", ["no column 'question'"]),
        (lines(([1, "1"], [1, 2])), ["the question: the cell '1'", "a number", "a text"]),
        (lines(([1], [1]), (["1"], [2])), [":2: the question", "a text", "a number"]),
        (lines((["null"], [2]), ([None], [1])), [":2: the question: the cell 'null'"]),
        (lines(([[1, 2], [1]], [1])), ["row 2 has 1 cell, row 1 has 2"]),
        (lines(([[[1]]], [1])), ["[1] is no cell"]),
        (lines(([1, [2]], [1])), ["[2] stands among cells"]),
        (lines(([{"a": 1}], [1])), ["stands among cells"]),
        ('{"question": [NaN], "answer": [1]}\n', ["no finite number"]),
        (lines((["ab", "cd"], ["cd", "ab"])), ["may be a cell or a row of cells", "task.separator"]),
        ("[[1, 2], [2, 1]]\n", ["objects with a question and an answer"]),
    ],
)
def test_what_is_refused_and_where(text: str, words: list[str], tmp_path: Path) -> None:
    path = tmp_path / "mine.csv"
    with pytest.raises(UserError) as error:
        load(path, text)
    assert str(path) in str(error.value)
    for word in words:
        assert word in str(error.value)


def test_what_is_set_is_kept(tmp_path: Path) -> None:
    task, _ = load(tmp_path / "a.csv", f"{HEADER}ab..,abab\n", shape="2x2", vocabulary=".abc")
    assert (task.config.shape, task.config.vocabulary) == ((2, 2), (".", "a", "b", "c"))
    words, _ = load(tmp_path / "b.csv", f"{HEADER}ab cd,cd ab\nef gh,gh ef\n", separator=" ")
    assert words.config.vocabulary == ("ab", "cd", "ef", "gh")
    rows, _ = load(tmp_path / "c.jsonl", lines((["ab", "cd"], ["cd", "ab"])), separator="")
    assert rows.config.shape == (2, 2)
    with pytest.raises(UserError, match=r":2: the question: 4 cells, expected 2 x 3 cells \(task.shape\)"):
        load(tmp_path / "d.csv", f"{HEADER}ab..,abab\n", shape="2x3")
    with pytest.raises(UserError, match=r":3: the question: 'c' \(cell 2\) is not a symbol of this task: a b"):
        load(tmp_path / "e.csv", f"{HEADER}ab,ba\nac,ca\n", vocabulary="ab")


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"symmetries": "rotat"}, "did you mean rotate"),
        ({"shape": "2x3", "symmetries": "transpose"}, "as many rows as columns"),
        ({"shape": "2x2", "answer_shape": 3, "symmetries": "rotate"}, "both square"),
        ({"vocabulary": "aab"}, "twice"),
        ({"vocabulary": "ab", "exchangeable": "ac"}, "not in the vocabulary"),
        ({"exchangeable": "a"}, "one symbol only"),
        ({"separator": "x"}, "separator"),
        ({"shape": 0}, "greater"),
    ],
)
def test_wrong_keys(keys: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        GridConfig.model_validate(keys)


def test_columns_that_are_not_read_are_named(tmp_path: Path) -> None:
    notes = load(tmp_path / "a.csv", "hint,question,answer,rating\nx,ab,ba,3\ny,ab,ba,4\n")[1].notes
    assert any("not read: hint" in note for note in notes)
    assert any("1 of 2 puzzles are equivalent" in note for note in notes)
    notes = load(tmp_path / "a.jsonl", '{"question": "ab", "answer": "ba", "level": 3}\n')[1].notes
    assert any("not read: level" in note for note in notes)


def test_unknown_symbols_of_another_file_are_refused(tmp_path: Path) -> None:
    task, _ = load(tmp_path / "a.csv", f"{HEADER}ab,ba\n")
    (tmp_path / "b.csv").write_text(f"{HEADER}ab,ba\nbx,xb\n")
    with pytest.raises(UserError, match=r"b.csv:3: the question: 'x' \(cell 2\)"):
        task.read(str(tmp_path / "b.csv"))
    assert len(task.read(str(tmp_path / "b.csv"), 1)) == 1


def test_files_of_questions(tmp_path: Path) -> None:
    task, dataset = load(tmp_path / "a.jsonl", lines(([[1, 2], [3, 4]], [[4, 3], [2, 1]])))
    expected = dataset.train.inputs[0].tolist()
    np.save(tmp_path / "q.npy", np.array([[[1, 2], [3, 4]]] * 3))
    texts = {
        "lines.txt": "1234\n1234\n", "grids.txt": "12\n34\n\n12\n34\n", "dense.txt": "12\n34\n12\n34\n",
        "list.json": "[[[1, 2], [3, 4]], [[1, 2], [3, 4]]]", "one.json": "[[1, 2], [3, 4]]",
        "lines.jsonl": '{"question": [1, 2, 3, 4]}\n{"question": "1234"}\n', "table.csv": "question\n1234\n1234\n",
    }  # fmt: skip
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
        rows = [question.inputs.tolist() for question in task.questions(tmp_path / name)]
        assert rows == [expected] * (1 if name == "one.json" else 2), name
    assert [q.inputs.tolist() for q in task.questions(tmp_path / "q.npy")] == [expected] * 3
    (tmp_path / "short.txt").write_text("12\n34\n\n12\n")
    with pytest.raises(UserError, match=r"short.txt:4: the question: 2 cells, expected 2 x 2"):
        list(task.questions(tmp_path / "short.txt"))


@pytest.mark.parametrize(
    ("question", "solution"),
    [
        ("1234", "4321"), ("12\n34", "43\n21"), ("[[1, 2], [3, 4]]", "[[4, 3], [2, 1]]"),
        ("[1, 2, 3, 4]", "[4, 3, 2, 1]"),
        ('["1", "2", "3", "4"]', '["4", "3", "2", "1"]'), ('["12", "34"]', '["43", "21"]'),
        ('{"puzzle": [1, 2, 3, 4]}', "[4, 3, 2, 1]"),
    ],
)  # fmt: skip
def test_a_solution_has_the_form_of_its_question(question: str, solution: str) -> None:
    task = Grid(GridConfig(shape=(2, 2), vocabulary=tuple("1234"), separator=""))
    parsed = task.parse(question)
    assert parsed.inputs.tolist() == [1, 2, 3, 4]
    assert task.format(parsed, parsed.inputs[::-1]) == solution
    assert task.draw(parsed, np.array([1, 3, 2, 4])).plain == "1 3\n2 4"


def test_symbols_are_composed_characters_in_a_list_too() -> None:
    for vocabulary in ("e\u0301 a", ["e\u0301", "a"], "e\u0301a"):
        assert GridConfig(vocabulary=vocabulary).vocabulary == ("\u00e9", "a")
