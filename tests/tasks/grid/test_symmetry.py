"""Symmetries of puzzles of any alphabet: they move question and answer alike, and data that contradict them are
refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from trm_fast.errors import UserError
from trm_fast.tasks.base import IGNORE, DataConfig
from trm_fast.tasks.grid import GridConfig
from trm_fast.tasks.grid.symmetry import Symmetries
from trm_fast.tasks.grid.task import Grid

from .test_reading import HEADER, load


def images_by_hand(grid: np.ndarray, names: set[str]) -> set[bytes]:
    """All images of a grid, one by one."""
    images = {grid.tobytes(): grid}
    pending = [grid]
    square = grid.shape[0] == grid.shape[1]
    while pending:
        one = pending.pop()
        further = [np.rot90(one) if square else one[::-1, ::-1]] if "rotate" in names else []
        further += [one[:, ::-1], one[::-1]] if "reflect" in names else []
        further += [one.T] if "transpose" in names else []
        for image in map(np.ascontiguousarray, further):
            if image.tobytes() not in images:
                images[image.tobytes()] = image
                pending.append(image)
    return set(images)


@pytest.mark.parametrize(
    ("shape", "names", "count"),
    [
        ((3, 3), (), 1), ((3, 3), ("rotate",), 4), ((3, 3), ("reflect",), 4), ((3, 3), ("transpose",), 2),
        ((3, 3), ("rotate", "reflect"), 8), ((2, 3), ("rotate",), 2), ((2, 3), ("rotate", "reflect"), 4),
        ((5,), ("reflect",), 2), ((5,), ("rotate", "reflect"), 2),
    ],
)  # fmt: skip
def test_the_images_are_those_made_by_hand(shape: tuple[int, ...], names: tuple[str, ...], count: int) -> None:
    group = Symmetries(names, shape, shape)
    cells = np.arange(np.prod(shape)).reshape(shape if len(shape) == 2 else (1, *shape))
    expected = images_by_hand(cells, set(names))
    assert group.count == len(expected) == count
    assert {cells.ravel()[table].tobytes() for table in group.tables[0]} == expected
    assert group.tables[0][0].tolist() == cells.ravel().tolist()
    assert (group.tables[0] == group.tables[1]).all()


def test_question_and_answer_of_different_shapes_move_together() -> None:
    group = Symmetries(("rotate", "reflect"), (2, 2), (3, 3))
    assert group.count == 8
    for question, answer in zip(*group.tables, strict=True):
        corners = answer.reshape(3, 3)[::2, ::2].ravel()  # the answer's corners move like the question's cells
        assert [[0, 1, 2, 3][q] for q in question] == [{0: 0, 2: 1, 6: 2, 8: 3}[c] for c in corners]


def task_of(**keys: object) -> Grid:
    return Grid(GridConfig.model_validate({"vocabulary": ".abc", "separator": "", **keys}))


def test_augmentation_and_votes_keep_the_puzzle() -> None:
    """The puzzle: a becomes the symbol of the opposite corner. It has all symmetries of the square, and of letters."""
    task = task_of(shape="2x2", symmetries="rotate reflect", exchangeable="abc")
    rng = np.random.default_rng(0)
    question = rng.integers(2, 5, (50, 4)).astype(np.int32)
    answers = question[:, ::-1].copy()
    examples = task.encode(_boards(task, question, answers))
    changed = task.augment(examples, rng)
    assert (changed.labels == changed.inputs[:, ::-1]).all()
    assert (changed.inputs != examples.inputs).any()
    images, undo = task.images(examples, 6, rng)
    assert (images.inputs.reshape(50, 6, 4)[:, 0] == examples.inputs).all()
    restored = undo(images.inputs[:, ::-1].reshape(50, 6, 4))
    assert (restored == answers[:, None]).all()
    with pytest.raises(UserError, match=r"4 by task\.symmetries"):
        task_of(shape="2x2", symmetries="rotate").images(examples, 5, rng)
    plain = task_of(shape="2x2")
    assert plain.augment(examples, rng) is examples


def _boards(task: Grid, questions: np.ndarray, answers: np.ndarray):
    from trm_fast.tasks.grid.boards import Boards

    return Boards(task.group, questions.astype(np.uint8), answers.astype(np.uint8))


def test_padding_stays_behind_the_cells() -> None:
    task = task_of(shape=4, answer_shape=2, symmetries="reflect", exchangeable="ab")
    examples = task.encode(_boards(task, np.array([[1, 2, 3, 4]]), np.array([[2, 3]])))
    assert examples.labels.tolist() == [[2, 3, IGNORE, IGNORE]]
    rng = np.random.default_rng(0)
    seen = {
        (tuple(e.inputs[0].tolist()), tuple(e.labels[0].tolist()))
        for e in (task.augment(examples, rng) for _ in range(50))
    }
    assert seen == {
        ((1, 2, 3, 4), (2, 3, IGNORE, IGNORE)), ((4, 3, 2, 1), (3, 2, IGNORE, IGNORE)),
        ((1, 3, 2, 4), (3, 2, IGNORE, IGNORE)), ((4, 2, 3, 1), (2, 3, IGNORE, IGNORE)),
    }  # fmt: skip
    assert task.normalized(np.array([[2, 3, 4, 4]])).tolist() == [[2, 3, 0, 0]]
    assert task.format(task.parse(".abc"), np.array([2, 3, 4, 4])) == "ab"


@pytest.mark.parametrize(
    ("rows", "keys", "words"),
    [
        ("ab..,abba\n..ba,baba\n", {"symmetries": "rotate", "shape": "2x2"}, ":3: by the symmetries .*:2,"),
        ("a..a,abca\n", {"symmetries": "rotate", "shape": "2x2"}, ":2: a symmetry .* leaves the question as it is"),
        ("ab.,abc\n", {"exchangeable": "abcd", "vocabulary": ".abcd"}, ":2: a symmetry .* leaves the question"),
        ("ab.,abc\nba.,bca\n", {"exchangeable": "abc"}, ":3: by the symmetries"),
    ],
)
def test_data_that_contradict_a_symmetry_are_refused(
    rows: str, keys: dict[str, str], words: str, tmp_path: Path
) -> None:
    load(tmp_path / "fine.csv", HEADER + rows, **{k: v for k, v in keys.items() if k in ("shape", "vocabulary")})
    with pytest.raises(UserError, match=words):
        load(tmp_path / "mine.csv", HEADER + rows, **keys)


def test_no_test_puzzle_is_equivalent_to_a_training_puzzle(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    group = Symmetries(("rotate", "reflect"), (2, 2), (2, 2))
    rows = []
    for cells in rng.integers(0, 3, (40, 4)):
        rows += [
            ("".join("abc"[c] for c in cells[table]), "".join("abc"[c] for c in cells[table]))
            for table in group.tables[0]
        ]
    text = HEADER + "".join(f"{q},{a}\n" for q, a in rows)
    task, dataset = load(tmp_path / "a.csv", text, 0.3, shape="2x2", symmetries="rotate reflect")
    orbits = [
        {min(row[table].tobytes() for table in group.tables[0]) for row in part.inputs}
        for part in (dataset.train, dataset.test)
    ]
    assert orbits[0]
    assert orbits[1]
    assert not orbits[0] & orbits[1]
    assert any("held out" in note for note in dataset.notes)

    (tmp_path / "train.csv").write_text(f"{HEADER}abcc,abcc\nbbbb,bbbb\n")
    (tmp_path / "test.csv").write_text(f"{HEADER}bacc,bacc\nccca,ccca\n")
    data = DataConfig(source=str(tmp_path / "train.csv"), test=str(tmp_path / "test.csv"))
    assert len(task.dataset(data, 0).test) == 1
    (tmp_path / "test.csv").write_text(f"{HEADER}abcc,abcb\nccca,ccca\n")
    with pytest.raises(UserError, match=r"test.csv, puzzle 1: the question of the training data, puzzle 1 again"):
        task.dataset(data, 0)
