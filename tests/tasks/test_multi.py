"""Several tasks in one model: rows belong to their task, padding never counts, and a question is read by its task."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from trm_fast.api import TRM
from trm_fast.errors import UserError
from trm_fast.inference import Solver, evaluate
from trm_fast.models import TRMConfig
from trm_fast.tasks.base import IGNORE, DataConfig, Question
from trm_fast.tasks.multi import Multi, MultiConfig
from trm_fast.tasks.symbols import Symbols, SymbolsConfig
from trm_fast.training import make_config, read_preset

SECTIONS: list[dict[str, Any]] = [
    {"name": "sudoku", "size": 4, "givens": [8, 10], "train_count": 20, "test_count": 12},
    {"name": "symbols", "label": "copy", "length": 5, "symbols": 4, "train_count": 15, "test_count": 9},
    {"name": "symbols", "label": "back", "length": 7, "symbols": 9, "order": "reversed", "train_count": 10,
     "test_count": 6},
]  # fmt: skip
PUZZLE = "3.......4.3...42"


def make(mask: bool = True) -> Multi:
    return Multi(MultiConfig(tasks=SECTIONS, mask=mask))


def test_all_tasks_share_a_length_and_a_vocabulary() -> None:
    task = make()
    assert (task.seq_len, task.vocab_size) == (16, 10)
    assert task.model_keys(DataConfig()) == {"vocab_size": 10, "seq_len": 16, "num_puzzles": 3}
    data = task.dataset(DataConfig(), 0)
    assert (len(data.train), len(data.test)) == (45, 27)
    assert np.bincount(data.train.puzzle_ids).tolist() == [20, 15, 10]
    lengths = np.array([16, 5, 7])[data.train.puzzle_ids]
    beyond = np.arange(16) >= lengths[:, None]
    assert (data.train.inputs[beyond] == 0).all()
    assert (data.train.labels[beyond] == IGNORE).all()
    assert (data.train.labels[~beyond] > 0).all()
    np.testing.assert_array_equal(data.train.extra["mask"], ~beyond)
    assert not make(mask=False).dataset(DataConfig(), 0).train.extra
    assert len(set(data.test.take(slice(9)).puzzle_ids.tolist())) == 3  # even a few test rows contain all tasks


def test_rows_are_augmented_by_their_own_task() -> None:
    task = make()
    train = task.dataset(DataConfig(), 0).train
    train = train.take(np.random.default_rng(1).permutation(len(train)))
    moved = task.augment(train, np.random.default_rng(0))
    np.testing.assert_array_equal(moved.puzzle_ids, train.puzzle_ids)
    np.testing.assert_array_equal(moved.extra["mask"], train.extra["mask"])
    assert not np.array_equal(moved.inputs, train.inputs)
    assert task.verify(moved, np.where(moved.labels == IGNORE, 0, moved.labels)).all()
    blanks = train.inputs == 1
    assert (((moved.inputs == 1).sum(1) == blanks.sum(1)) | (train.puzzle_ids > 0)).all()


def test_wrong_answers_are_counted_by_task() -> None:
    task = make()
    test = task.dataset(DataConfig(), 0).test
    answers = np.where(test.labels == IGNORE, 9, test.labels)  # any token on padding is ignored
    assert task.verify(test, answers).all()
    assert task.metrics(test, answers) == {f"exact_accuracy_{label}": 1.0 for label in ("sudoku", "copy", "back")}
    answers[test.puzzle_ids == 1, 0] = 0
    assert task.verify(test, answers).tolist() == (test.puzzle_ids != 1).tolist()
    assert task.metrics(test, answers)["exact_accuracy_copy"] == 0
    assert task.metrics(test, answers)["exact_accuracy_back"] == 1


def test_images_come_back() -> None:
    task = make()
    test = task.dataset(DataConfig(), 0).test
    images, undo = task.images(test, 3, np.random.default_rng(0))
    assert len(images) == 3 * len(test)
    np.testing.assert_array_equal(images.inputs[::3], test.inputs)
    back = undo(images.inputs.reshape(len(test), 3, 16).astype(np.int64))
    np.testing.assert_array_equal(back, np.repeat(test.inputs[:, None], 3, axis=1))


def test_a_question_finds_its_task() -> None:
    task = make()
    for text, label, task_text in [
        (PUZZLE, "sudoku", PUZZLE),
        ("sudoku: " + PUZZLE, "sudoku", PUZZLE),
        ("abcda", "copy", "abcda"),
        ("back:abcdefg", "back", "abcdefg"),
    ]:
        question = task.parse(text)
        assert (question.text, question.puzzle_id) == (task_text, task.labels.index(label))
        assert question.inputs.shape == question.extra["mask"].shape == (16,)
        answer = np.where(question.inputs == 1, 2, question.inputs)
        assert len(task.format(question, answer)) == len(task_text)
    rows = Question.rows([task.parse(PUZZLE), task.parse("abcda")])
    assert rows.extra["mask"].sum(1).tolist() == [16, 5]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("abc", r"no task of this model can parse this \(sudoku: .*; copy: found 3 letters, expected 5"),
        ("copy: abcdefg", "'e' is not one of the letters abcd"),
        ("", "no task of this model"),
    ],
)
def test_question_that_no_task_can_parse(text: str, words: str) -> None:
    with pytest.raises(UserError, match=f"f:2: {words}"):
        make().parse(text, "f:2")


def test_a_question_for_two_tasks() -> None:
    twins = [{**SECTIONS[1], "label": "a"}, {**SECTIONS[1], "label": "b"}]
    with pytest.raises(UserError, match="this could be for 'a' or 'b': start it with the name"):
        Multi(MultiConfig(tasks=twins)).parse("abcda")


def test_files(tmp_path: Path) -> None:
    task, path = make(), tmp_path / "q.txt"
    path.write_text(f"copy: abcda\n\n{PUZZLE}\nback: abcdefg\n")
    questions = list(task.questions(path))
    assert [task.labels[q.puzzle_id] for q in questions] == ["copy", "sudoku", "back"]
    assert questions[1].where == f"{path}:3"
    path.write_text("abcda\nbbbbb\n")
    assert [q.puzzle_id for q in task.questions(path)] == [1, 1]
    assert task.read(f"copy:{path}").labels[0].tolist() == [1, 2, 3, 4, 1, *[IGNORE] * 11]
    for bad in (str(path), f"maze:{path}"):
        with pytest.raises(UserError, match="sudoku:FILE or copy:FILE or back:FILE"):
            task.read(bad)
    with pytest.raises(UserError, match="cannot read"):
        list(task.questions(tmp_path / "none"))
    with pytest.raises(UserError, match="reads no data itself"):
        task.dataset(DataConfig(source="x.csv"), 0)
    sections = [SECTIONS[0], SECTIONS[1] | {"data": {"source": str(path)}}]
    assert "q.txt" in Multi(MultiConfig(tasks=sections)).dataset(DataConfig(), 0).source


@pytest.mark.parametrize(
    ("sections", "words"),
    [
        ([], "at least 1 item"),
        ([{"name": "multi"}], "does not name a task"),
        ([{"size": 4}], "does not name a task"),
        ([{"name": "sodoku"}], "did you mean 'sudoku'"),
        ([{"name": "sudoku", "size": 5}], "sudoku: size = 5"),
        ([{"name": "sudoku"}, {"name": "sudoku", "size": 4}], "two tasks are called sudoku"),
        ([{"name": "copy"}], "copy: only tasks with token"),
    ],
)
def test_invalid_sections_are_refused(sections: list[dict[str, Any]], words: str) -> None:
    with pytest.raises(UserError, match=words):
        make_config({"task": {"name": "multi", "tasks": sections}}, "x.yaml")


@pytest.mark.parametrize("mixing", ["mlp", "attention"])
def test_what_padding_holds_never_reaches_an_answer(mixing: Any) -> None:
    torch.manual_seed(0)
    task = make()
    keys = task.model_keys(DataConfig())
    model = TRM(
        TRMConfig(**keys, hidden_size=16, num_heads=2, inner_multiple=8, mixing=mixing, T_cycles=1, n_latent_steps=1,
                  prefix_tokens=1, puzzle_embedding_size=16)
    ).eval()  # fmt: skip
    assert model.puzzle_embedding is not None
    model.puzzle_embedding.normal_()
    test = task.dataset(DataConfig(), 0).test
    solver = Solver(model, task, max_steps=2)
    clean = solver.run(test).solution
    test.inputs[~test.extra["mask"]] = 3
    dirty = solver.run(test).solution
    np.testing.assert_array_equal(clean[test.extra["mask"]], dirty[test.extra["mask"]])
    result = evaluate(solver, test)
    assert set(result.metrics) == {"exact_accuracy_sudoku", "exact_accuracy_copy", "exact_accuracy_back"}
    question = task.parse("abcda")
    answer = solver.solve(question)
    assert len(answer.solution) == 5
    assert task.draw(question, answer.raw).plain == f"abcda -> {answer.solution}"


def test_the_task_embedding_changes_the_answer() -> None:
    """The same letters are different examples for the tasks copy and reverse."""
    torch.manual_seed(0)
    both = Multi(MultiConfig(tasks=({**SECTIONS[1], "label": "a"}, {**SECTIONS[1], "label": "b", "order": "reversed"})))
    a, b = both.parse("a: abcda"), both.parse("b: abcda")
    np.testing.assert_array_equal(a.inputs, b.inputs)
    assert (a.puzzle_id, b.puzzle_id) == (0, 1)
    rows = Question.rows([a, b])
    reversed_ = np.stack([a.inputs, b.inputs[::-1]])
    assert both.verify(rows, reversed_).tolist() == [True, True]
    assert both.verify(rows, np.stack([a.inputs, b.inputs])).tolist() == [True, False]


def test_symbols() -> None:
    task = Symbols(SymbolsConfig(length=4, symbols=3, order="reversed", train_count=20, test_count=10))
    data = task.dataset(DataConfig(), 0)
    np.testing.assert_array_equal(data.train.labels, data.train.inputs[:, ::-1])
    assert not {r.tobytes() for r in data.train.inputs} & {r.tobytes() for r in data.test.inputs}
    question = task.parse("abca")
    assert task.format(question, np.array([1, 0, 3, 9])) == "a?c?"
    few = Symbols(SymbolsConfig(length=1, symbols=2)).dataset(DataConfig(), 0)
    assert (len(few.train), len(few.test)) == (1, 1)


def test_the_preset_fits_its_tasks() -> None:
    config = make_config(read_preset("multi"), "multi")
    assert config.model.num_puzzles == len(config.make_task().labels)  # type: ignore[attr-defined]
    assert make_config(config.model_dump(mode="json"), "again") == config
