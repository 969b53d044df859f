"""The maze task: data sets and their splits, scoring, symmetries and drawing."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError
from rich.console import Console

from trm_fast.errors import UserError
from trm_fast.tasks import hub
from trm_fast.tasks.base import DataConfig, Examples, Question
from trm_fast.tasks.loading import load_or_generate
from trm_fast.tasks.maze import Maze, generate, read, write
from trm_fast.tasks.maze.mazes import Mazes, default_distance
from trm_fast.tasks.maze.task import MazeConfig
from trm_fast.tasks.tables import Table

MAZE = ["S #.", "  #G", "    "]
SHORTEST = ["S #.", "o #G", "oooo"]
OTHER_SHORTEST = ["S #.", "oo#G", " ooo"]
TOKENS = {c: i + 1 for i, c in enumerate("# SGo")} | {".": 2}


def maze(size: Any = (3, 4), **keys: Any) -> Maze:
    return Maze(MazeConfig(size=size, **keys))


def encoded(*grids: list[str]) -> np.ndarray:
    return np.array([[TOKENS[c] for c in "".join(grid)] for grid in grids], dtype=np.int32)


def mazes_of(examples: Examples, shape: tuple[int, int]) -> Mazes:
    grids = examples.inputs.astype(np.uint8), examples.labels.astype(np.uint8)
    return Mazes(shape, *grids, np.zeros(len(examples), dtype=np.int32))


def test_dataset_is_generated_split_and_deterministic() -> None:
    task = maze(9, train_count=200, test_count=60)
    data, again = task.dataset(DataConfig(), 7), task.dataset(DataConfig(), 7)
    more, other = maze(9, train_count=300, test_count=60).dataset(DataConfig(), 7), task.dataset(DataConfig(), 8)
    assert (len(data.train), len(data.test)) == (200, 60)
    train, test = mazes_of(data.train, (9, 9)).classes(), mazes_of(data.test, (9, 9)).classes()
    assert len(set(train) | set(test)) == 260
    np.testing.assert_array_equal(data.train.inputs, again.train.inputs)
    np.testing.assert_array_equal(data.test.labels, more.test.labels)
    assert not np.array_equal(data.test.inputs, other.test.inputs)
    for examples in (data.train, data.test):
        assert task.verify(examples, examples.labels).all()
        assert examples.inputs.dtype == examples.labels.dtype == np.int32
        assert (examples.labels == 5).sum(axis=1).min() >= default_distance((9, 9)) - 1
    mazes = generate((9, 9), 60, 7)
    assert not set(mazes.classes()) & set(test), "a file made with the same seed must not hold the test set"


def test_too_few_different_mazes_are_an_error() -> None:
    with pytest.raises(UserError, match=r"of 1000 different mazes of 2x2 .* lower train_count"):
        maze(2, train_count=900, test_count=100).dataset(DataConfig(), 0)


def test_a_file_is_held_out_by_classes_and_leaks_are_left_out(tmp_path: Path) -> None:
    task, mazes = maze(8), generate((8, 8), 80, 1)
    turned = mazes.questions.reshape(-1, 8, 8)[:40].swapaxes(1, 2).reshape(40, 64)
    turned_answers = mazes.answers.reshape(-1, 8, 8)[:40].swapaxes(1, 2).reshape(40, 64)
    both = Mazes(
        (8, 8),
        np.concatenate([mazes.questions, turned]),
        np.concatenate([mazes.answers, turned_answers]),
        np.concatenate([mazes.ratings, mazes.ratings[:40]]),
    )
    write(tmp_path / "m.csv.gz", both)
    back = read(tmp_path / "m.csv.gz", (8, 8))
    for name in ("questions", "answers", "ratings"):
        np.testing.assert_array_equal(getattr(back, name), getattr(both, name))
    data = task.dataset(DataConfig(source=str(tmp_path / "m.csv.gz"), holdout=0.25), 0)
    assert len(data.train) + len(data.test) == 120
    train, test = mazes_of(data.train, (8, 8)).classes(), mazes_of(data.test, (8, 8)).classes()
    assert not set(train) & set(test)
    assert len(set(test)) == 20
    write(tmp_path / "train.csv", mazes.take(slice(0, 30)))
    write(tmp_path / "test.csv", both.take(slice(70, 100)))
    sources = DataConfig(source=str(tmp_path / "train.csv"), test=str(tmp_path / "test.csv"))
    data = task.dataset(sources, 0)
    assert len(data.test) == 10
    assert data.notes == ["20 of 30 test puzzles are equivalent to a training puzzle and were left out"]
    assert len(maze(8, train_count=5, test_count=4).dataset(sources, 0).train) == 5


def test_hub_rows_are_not_stripped_and_a_missing_hub_falls_back(monkeypatch: pytest.MonkeyPatch) -> None:
    mazes = generate((6, 6), 20, 3, distance=4)
    lines = [
        ["".join("?# SGo"[t] for t in row) for row in grids.tolist()] for grids in (mazes.questions, mazes.answers)
    ]
    assert any(line != line.strip() for line in lines[0])
    halves = {"train": slice(0, 12), "test": slice(12, 20)}

    def load(source: str, split: str, limit: int | None = None) -> Table:
        rows = halves[split]
        return Table(lines[0][rows], lines[1][rows], [], [f"{source} row {i}" for i in range(20)][rows])

    monkeypatch.setattr(hub, "load", load)
    data = maze(6).dataset(DataConfig(source="hf:somebody/mazes"), 0)
    np.testing.assert_array_equal(data.train.inputs, mazes.questions[:12])
    np.testing.assert_array_equal(data.test.labels, mazes.answers[12:])

    def unreachable(source: str, split: str, limit: int | None = None) -> Table:
        raise hub.Unavailable("no hub here")

    monkeypatch.setattr(hub, "load", unreachable)
    used, data = load_or_generate(maze(6, train_count=12, test_count=4), DataConfig(source="hf:somebody/mazes"), 0)
    assert used.source is None
    assert data.notes == ["no hub here; generated mazes are used instead"]
    assert len(data.train) == 12


@pytest.mark.parametrize("shape", [(7, 7), (5, 8)])
def test_augmentation_turns_mazes_and_makes_or_turns_answers(shape: tuple[int, int]) -> None:
    mazes = generate(shape, 1, 5, distance=8)
    one = Examples(mazes.questions.astype(np.int32), mazes.answers.astype(np.int32), np.zeros(1, dtype=np.int32))
    copies = one.repeat(400)
    same = maze(shape).augment(copies, np.random.default_rng(0))
    assert same is copies
    remade = maze(shape, augment=True).augment(copies, np.random.default_rng(0))
    turned = maze(shape, augment=True, remake=False).augment(copies, np.random.default_rng(0))
    np.testing.assert_array_equal(remade.inputs, turned.inputs)
    seen, counts = np.unique(remade.inputs, axis=0, return_counts=True)
    assert len(seen) == (8 if shape[0] == shape[1] else 4)
    assert counts.min() > 0.6 * 400 / len(seen)
    grids, answers = one.inputs.reshape(shape), one.labels.reshape(shape)
    images: dict[bytes, bytes] = {}
    for k in range(0, 4, 1 if shape[0] == shape[1] else 2):
        question, answer = np.rot90(grids, k), np.rot90(answers, k)
        images[question.tobytes()] = answer.tobytes()
        images[question[:, ::-1].tobytes()] = answer[:, ::-1].tobytes()
    for inputs, labels in zip(turned.inputs, turned.labels, strict=True):
        assert images[inputs.tobytes()] == labels.tobytes()
    for examples in (remade, turned):
        assert maze(shape).verify(examples, examples.labels).all()
    assert (remade.labels != turned.labels).any(), "the rule has directions"


@pytest.mark.parametrize(("shape", "group"), [((7, 7), 8), ((5, 8), 4)])
def test_images_are_the_same_maze_and_come_back(shape: tuple[int, int], group: int) -> None:
    task, mazes = maze(shape), generate(shape, 9, 5, distance=6)
    inputs, labels = mazes.questions.astype(np.int32), mazes.answers.astype(np.int32)
    images, undo = task.images(Examples.of_questions(inputs), group, np.random.default_rng(0))
    answers, _ = task.images(Examples.of_questions(labels), group, np.random.default_rng(0))
    seen = images.inputs.reshape(9, group, -1)
    np.testing.assert_array_equal(seen[:, 0], inputs)
    assert len({row.tobytes() for row in seen[0]}) == group
    assert task.verify(images, answers.inputs).all()
    back = undo(answers.inputs.reshape(9, group, -1))
    np.testing.assert_array_equal(back, np.repeat(labels[:, None], group, axis=1))
    with pytest.raises(UserError, match=f"has {group} symmetric images"):
        task.images(Examples.of_questions(inputs), group + 1, np.random.default_rng(0))


JUDGED = {
    "the rule's": (SHORTEST, True, True),
    "another shortest": (OTHER_SHORTEST, True, True),
    "nothing": (MAZE, False, False),
    "a gap": (["S #.", "o #G", "o oo"], False, False),
    "a mark beside it": (["S #o", "o #G", "oooo"], False, False),
    "a wall walked through": (["Soo.", "  #G", "    "], False, False),
    "a wall taken down": (["S  .", "o #G", "oooo"], False, False),
    "the goal moved": (["S #G", "o #o", "oooo"], False, False),
    "two starts": (["S #S", "o #G", "oooo"], False, False),
}


@pytest.mark.parametrize(("answer", "valid", "shortest"), JUDGED.values(), ids=JUDGED.keys())
def test_answers_are_judged(answer: list[str], valid: bool, shortest: bool) -> None:
    task, questions = maze(), Examples.of_questions(encoded(MAZE, MAZE))
    answers = encoded(answer, SHORTEST).astype(np.int64)
    assert task.metrics(questions, answers) == {"valid_path": (valid + 1) / 2, "shortest_path": (shortest + 1) / 2}
    assert task.verify(questions, answers).tolist() == [shortest, True]


def test_a_detour_is_valid_but_not_shortest() -> None:
    task = maze((3, 3))
    questions = Examples.of_questions(encoded(["S.G", "...", "..."]))
    detour = encoded(["S.G", "o.o", "ooo"])
    assert task.metrics(questions, detour) == {"valid_path": 1.0, "shortest_path": 0.0}
    winding = encoded(["SoG", "oo.", "..."])  # touches itself
    assert task.metrics(questions, winding) == {"valid_path": 0.0, "shortest_path": 0.0}


def test_foreign_tokens_are_no_answer_and_no_question() -> None:
    task = maze()
    questions = Examples.of_questions(encoded(MAZE))
    for token in (0, 6, -1, 300):
        answer = encoded(SHORTEST).astype(np.int64)
        answer[0, 3] = token
        assert not task.verify(questions, answer).any()
    for empty in (np.ones((2, 12), dtype=np.int32), np.zeros((2, 12), dtype=np.int32)):
        assert not task.verify(Examples.of_questions(empty), np.tile(encoded(SHORTEST), (2, 1))).any()


@pytest.mark.parametrize(
    "keys",
    [{"size": 65}, {"size": 0}, {"size": [3]}, {"densities": [0.6, 0.4]}, {"distance": 0}, {"size": 5, "distance": 25}],
    ids=str,
)
def test_configurations_that_make_no_mazes_are_refused(keys: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        MazeConfig(**keys)


def test_fresh_questions_depend_on_the_seed() -> None:
    task = maze((6, 9), densities=[0.2, 0.3], distance=9)
    first, again, other = (task.generate(seed) for seed in (1, 1, 2))
    assert first.text == again.text != other.text
    assert [len(row) for row in first.text.split("\n")] == [9] * 6
    solution = generate((6, 9), 1, 1, densities=(0.2, 0.3), distance=9).answers[0]
    assert task.verify(Question.rows([first]), solution[None]).all()


def drawn(color: bool, answer: list[str] | None) -> list[str]:
    task = maze()
    console = Console(file=io.StringIO(), force_terminal=color, color_system="truecolor" if color else None, width=80)
    question = task.parse("\n".join(MAZE))
    console.print(task.draw(question, None if answer is None else encoded(answer)[0]))
    return console.file.getvalue().splitlines()  # type: ignore[attr-defined]


def test_drawing_with_and_without_color() -> None:
    assert drawn(False, None) == [row.replace(".", " ") for row in MAZE]
    assert drawn(False, SHORTEST) == [row.replace(".", " ") for row in SHORTEST]
    assert drawn(False, ["S  .", "o #G", "oooo"])[0] == "S x "
    colored = drawn(True, SHORTEST)
    assert len(colored) == 2
    assert all(line.count("▀") == 4 for line in colored)
    assert "38;2;30;160;60;48;2;60;120;230" in colored[0]  # the start over a cell of the path


def test_picture_has_the_path_and_marks_a_changed_maze() -> None:
    task = maze()
    question = task.parse("\n".join(MAZE))
    picture = task.picture(question, encoded(["S  .", "o #G", "oooo"])[0])
    assert picture.dtype == np.uint8
    block = picture.shape[1] // 4
    assert picture.shape == (3 * block, 4 * block, 3)
    cells = picture[block // 2 :: block, block // 2 :: block]
    assert cells[0].tolist() == [[30, 160, 60], [255, 255, 255], [255, 0, 255], [255, 255, 255]]
    assert cells[1, 0].tolist() == [60, 120, 230]
    assert task.picture(question).shape == picture.shape
