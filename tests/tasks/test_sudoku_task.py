"""The sudoku task: data sets and their splits, files, text and drawing."""

from __future__ import annotations

import io
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError
from rich.console import Console

from trm_fast.errors import UserError
from trm_fast.tasks.base import DataConfig, Examples
from trm_fast.tasks.loading import load_or_generate
from trm_fast.tasks.sudoku import Puzzles, Sudoku, files, generate, write
from trm_fast.tasks.sudoku.data import invariants
from trm_fast.tasks.sudoku.engine import engine
from trm_fast.tasks.sudoku.task import SudokuConfig

QUESTION = "1..." + "..1." + ".1.." + "4.21"
ANSWER = "1234" + "3412" + "2143" + "4321"


def sudoku(size: int = 4, **keys: Any) -> Sudoku:
    return Sudoku(SudokuConfig(size=size, **keys))


def puzzles_of(examples: Examples, size: int) -> Puzzles:
    return Puzzles(size, (examples.inputs - 1).astype(np.uint8), (examples.labels - 1).astype(np.uint8))


def solved(task: Sudoku, answer: str) -> np.ndarray:
    return np.array([int(digit) + 1 for digit in answer])


@pytest.mark.parametrize("size", [4, 6, 9])
def test_generated_data_set(size: int) -> None:
    task = sudoku(size, train_count=300, test_count=60)
    data = task.dataset(DataConfig(), seed=7)
    assert (len(data.train), len(data.test)) == (300, 60)
    for examples in (data.train, data.test):
        assert examples.inputs.shape[1:] == (task.seq_len,) == (size * size,)
        assert examples.inputs.dtype == examples.labels.dtype == examples.puzzle_ids.dtype == np.int32
        assert examples.inputs.min() == 1
        assert examples.labels.max() == task.vocab_size - 1
        assert task.verify(examples, examples.labels).all()
    assert not set(puzzles_of(data.train, size).classes()) & set(puzzles_of(data.test, size).classes())
    again, other = task.dataset(DataConfig(), seed=7), task.dataset(DataConfig(), seed=8)
    np.testing.assert_array_equal(data.train.inputs, again.train.inputs)
    np.testing.assert_array_equal(data.test.inputs, again.test.inputs)
    assert not np.array_equal(data.train.inputs, other.train.inputs)


def test_test_set_does_not_depend_on_the_training_count() -> None:
    few, many = (sudoku(6, train_count=n, test_count=50).dataset(DataConfig(), 1) for n in (100, 400))
    np.testing.assert_array_equal(few.test.inputs, many.test.inputs)
    np.testing.assert_array_equal(few.train.inputs, many.train.inputs[:100])


def test_few_classes_are_held_out_whole() -> None:
    data = sudoku(givens=(4, 5), train_count=3000, test_count=300).dataset(DataConfig(), 0)
    train, test = puzzles_of(data.train, 4).classes(), puzzles_of(data.test, 4).classes()
    assert (len(train), len(test)) == (3000, 300)
    assert not set(train) & set(test)
    assert len(set(test)) / len(set(train) | set(test)) == pytest.approx(0.2, abs=0.02)
    assert "classes of such puzzles" in data.notes[0]


def test_file_is_split_by_classes(tmp_path: Path) -> None:
    pool = generate(6, 30, (12, 18), seed=2).take(np.arange(120) % 30).images(np.random.default_rng(0))
    write(tmp_path / "all.csv", pool)
    task = sudoku(6)
    data = task.dataset(DataConfig(source=str(tmp_path / "all.csv"), holdout=0.2), seed=0)
    assert (len(data.train), len(data.test)) == (96, 24)
    assert not set(puzzles_of(data.train, 6).classes()) & set(puzzles_of(data.test, 6).classes())
    limited = sudoku(6, train_count=10, test_count=5)
    data = limited.dataset(DataConfig(source=str(tmp_path / "all.csv"), holdout=0.2), seed=0)
    assert (len(data.train), len(data.test)) == (10, 5)
    assert data.notes[0] == ("24 of 120 puzzles are held out for testing (data.holdout = 0.2; --holdout 0: none)")
    assert [note.split(" of ")[0] for note in data.notes[1:]] == ["a random 10", "a random 5"]
    write(tmp_path / "alike.csv", pool.take(np.arange(0, 120, 30)))
    with pytest.raises(UserError, match="all puzzles are equivalent"):
        task.dataset(DataConfig(source=str(tmp_path / "alike.csv")), seed=0)


def test_holdout_of_zero_trains_on_all_puzzles(tmp_path: Path) -> None:
    write(tmp_path / "one.csv", generate(4, 1, (4, 7), seed=0))
    write(tmp_path / "all.csv", generate(4, 30, (4, 7), seed=2))
    for name, count in (("one.csv", 1), ("all.csv", 30)):
        data = sudoku(4).dataset(DataConfig(source=str(tmp_path / name), holdout=0), seed=0)
        assert (len(data.train), len(data.test), data.notes) == (count, 0, [])
    with pytest.raises(UserError, match="none can be held out"):
        sudoku(4).dataset(DataConfig(source=str(tmp_path / "one.csv")), seed=0)


@pytest.mark.parametrize(("size", "givens"), [(4, (5, 8)), (6, (12, 18)), (9, (34, 40))])
def test_equivalent_puzzles_share_the_cheap_invariant_and_few_others_do(size: int, givens: tuple[int, int]) -> None:
    puzzles, rng = generate(size, 40, givens, seed=3), np.random.default_rng(0)
    numbers = invariants(puzzles)
    assert all(invariants(puzzles.images(rng)) == numbers for _ in range(5))
    assert len(set(numbers)) >= len(set(puzzles.classes())) * 0.8


def test_test_rows_equivalent_to_training_rows_are_dropped(tmp_path: Path) -> None:
    train = generate(6, 20, (12, 18), seed=2)
    fresh = generate(6, 10, (12, 18), seed=3)
    leaked = train.take(np.arange(4)).images(np.random.default_rng(0))
    mixed = Puzzles(
        6, np.concatenate([leaked.questions, fresh.questions]), np.concatenate([leaked.answers, fresh.answers])
    )
    for name, puzzles in (("train", train), ("test", mixed), ("leaked", leaked)):
        write(tmp_path / f"{name}.csv.gz", puzzles)
    source = str(tmp_path / "train.csv.gz")
    data = sudoku(6).dataset(DataConfig(source=source, test=str(tmp_path / "test.csv.gz")), seed=0)
    np.testing.assert_array_equal(data.train.inputs, train.questions + 1)
    np.testing.assert_array_equal(data.test.inputs, fresh.questions + 1)
    assert data.notes == ["4 of 14 test puzzles are equivalent to a training puzzle and were left out"]
    generated = sudoku(6, train_count=30).dataset(DataConfig(test=str(tmp_path / "test.csv.gz")), seed=0)
    assert (len(generated.train), len(generated.test)) == (30, 14)
    with pytest.raises(UserError, match="every test puzzle is equivalent"):
        sudoku(6).dataset(DataConfig(source=source, test=str(tmp_path / "leaked.csv.gz")), seed=0)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Replaces the two packages; the hub's address is not reachable."""
    packages = SimpleNamespace(constants=SimpleNamespace(HF_HUB_OFFLINE=False, ENDPOINT="http://127.0.0.1:9"))
    packages.datasets = SimpleNamespace()
    monkeypatch.setitem(sys.modules, "datasets", packages.datasets)
    monkeypatch.setitem(sys.modules, "huggingface_hub", SimpleNamespace(constants=packages.constants))
    monkeypatch.setitem(sys.modules, "huggingface_hub.constants", packages.constants)
    return packages


def test_generated_puzzles_replace_a_hub_out_of_reach(
    hub: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task, data = sudoku(train_count=20, test_count=5), DataConfig(source="hf:someone/sudoku")
    plain = task.dataset(DataConfig(), 0)
    for reason in ("cannot be reached", r"pip install trm-fast\[data\]"):
        if "pip" in reason:
            monkeypatch.setitem(sys.modules, "datasets", None)
        with pytest.raises(UserError, match=reason):
            task.read("hf:someone/sudoku")
        with pytest.raises(UserError, match=reason):
            task.dataset(data, 0)
        used, fallen = load_or_generate(task, data, 0)
        assert used == DataConfig()
        np.testing.assert_array_equal(fallen.train.inputs, plain.train.inputs)
        assert len(fallen.notes) == len(plain.notes) + 1
        assert "not comparable" in fallen.notes[0]
    files.write(tmp_path / "test.csv", generate(4, 3, (8, 10), 1))
    used, fallen = load_or_generate(task, data.model_copy(update={"test": str(tmp_path / "test.csv")}), 0)
    assert (used.source, used.test, len(fallen.test)) == (None, str(tmp_path / "test.csv"), 3)


def test_hub_data_set_is_loaded_with_its_own_splits(hub: SimpleNamespace) -> None:
    class Table(dict[str, list[Any]]):
        column_names = ("question", "answer", "rating")

    pools = {"train": generate(4, 40, (4, 8), 0), "test": generate(4, 40, (9, 12), 1)}

    def load_dataset(name: str, split: str) -> Table:
        assert name == "someone/sudoku"
        lines = {"question": files.as_lines(pools[split].questions), "answer": files.as_lines(pools[split].answers)}
        return Table(lines, rating=[0] * 40)

    hub.constants.HF_HUB_OFFLINE = True
    hub.datasets.load_dataset = load_dataset
    data = sudoku().dataset(DataConfig(source="hf:someone/sudoku"), 0)
    np.testing.assert_array_equal(data.train.inputs, pools["train"].questions + 1)
    np.testing.assert_array_equal(data.test.inputs, pools["test"].questions + 1)
    np.testing.assert_array_equal(sudoku().read("hf:someone/sudoku").inputs, pools["test"].questions + 1)
    with pytest.raises(
        UserError, match=r"hf:someone/sudoku \(test\), row 0: .*16 characters, expected 81.*task\.size to 4"
    ):
        sudoku(9).read("hf:someone/sudoku")
    del hub.datasets.load_dataset
    hub.constants.HF_HUB_OFFLINE = True
    with pytest.raises(UserError, match="no split 'test' could be loaded"):
        sudoku().read("hf:someone/sudoku")


@pytest.mark.parametrize(
    "keys",
    [
        {"size": 5},
        {"givens": [3, 8]},
        {"givens": [9, 8]},
        {"givens": [4.0, 8]},
        {"reveal": 1.5},
        {"redraw": -0.5},
        {"train_count": 0},
        {"sise": 4},
    ],
)
def test_bad_configuration_is_refused(keys: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        SudokuConfig.model_validate({"name": "sudoku", "size": 4, **keys})
    assert SudokuConfig.model_validate({"name": "sudoku", "size": 4, "givens": [5, 8]}).givens == (5, 8)


def test_augment_keeps_puzzles_valid_and_reveals_the_configured_share() -> None:
    examples = sudoku(6, train_count=400, test_count=1).dataset(DataConfig(), 0).train
    task = sudoku(6)
    plain = task.augment(examples, np.random.default_rng(0))
    assert task.verify(plain, plain.labels).all()
    assert (plain.inputs != examples.inputs).any(axis=1).all()
    np.testing.assert_array_equal((plain.inputs > 1).sum(axis=1), (examples.inputs > 1).sum(axis=1))
    assert plain.inputs.dtype == plain.labels.dtype == np.int32

    revealing = sudoku(6, reveal=0.5).augment(examples, np.random.default_rng(0))
    assert task.verify(revealing, revealing.labels).all()
    more = (revealing.inputs > 1).sum(axis=1) - (examples.inputs > 1).sum(axis=1)
    assert more.min() == 0
    assert 0.4 < (more > 0).mean() < 0.6
    assert len(set(more)) > 10

    redrawn = sudoku(6, redraw=0.5).augment(examples, np.random.default_rng(0))
    assert task.verify(redrawn, redrawn.labels).all()
    np.testing.assert_array_equal(redrawn.labels, plain.labels)
    other = ((redrawn.inputs > 1) != (plain.inputs > 1)).any(axis=1)
    assert 0.4 < other.mean() < 0.6
    assert (redrawn.inputs[other] > 1).sum() < (plain.inputs[other] > 1).sum()


@pytest.mark.parametrize("size", [4, 6, 9])
def test_verify_sees_every_kind_of_fault(size: int) -> None:
    task = sudoku(size, train_count=40, test_count=1)
    examples = task.dataset(DataConfig(), 0).train
    inputs, answers = examples.inputs, examples.labels
    assert task.verify(examples, answers).all()
    rows = np.arange(len(answers))
    blank, padded, wrong, foreign = (answers.copy() for _ in range(4))
    cell = (inputs == 1).argmax(axis=1)
    blank[rows, cell] = 1
    padded[rows, cell] = 0
    wrong[rows, cell] = (answers[rows, cell] - 1) % size + 2
    foreign[rows, cell] = size + 2
    relabeled = (answers - 1) % size + 2  # obeys the rules but changes the givens
    for bad in (blank, padded, wrong, foreign, -answers, relabeled):
        assert not task.verify(examples, bad).any()
    assert task.verify(Examples.of_questions(np.ones_like(inputs)), relabeled).all()


def drawn(color: bool, answer: str | None) -> str:
    task = sudoku()
    console = Console(file=io.StringIO(), force_terminal=color, color_system="standard" if color else None, width=80)
    console.print(task.draw(task.parse(QUESTION), None if answer is None else solved(task, answer)))
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_drawing_sets_givens_apart_with_and_without_color() -> None:
    assert sudoku().parse(drawn(False, None)).inputs.tolist() == sudoku().parse(QUESTION).inputs.tolist()
    plain = drawn(False, ANSWER)
    assert plain.splitlines()[1] == "│[1] 2 │ 3  4 │"
    assert "!" not in plain
    wrong = "1134" + ANSWER[4:]
    assert drawn(False, wrong).splitlines()[1] == "│[1] 1!│ 3  4 │"
    colored = drawn(True, wrong)
    assert "\x1b[1m 1 " in colored
    assert "\x1b[1;31m 1!" in colored
    assert "\x1b[32m 3 " in colored


@pytest.mark.parametrize("size", [4, 6, 9])
def test_images_are_the_same_puzzle(size: int) -> None:
    """Each image is equivalent to its question, and its answer is mapped back to the answer to the question."""
    task = Sudoku(Sudoku.Config(size=size))
    puzzles = generate(size, 12, {4: (4, 7), 6: (12, 18), 9: (28, 32)}[size], seed=5)
    inputs, labels = puzzles.questions.astype(np.int32) + 1, puzzles.answers.astype(np.int64) + 1
    images, undo = task.images(Examples.of_questions(inputs), 7, np.random.default_rng(0))
    answers = task.images(Examples.of_questions(labels.astype(np.int32)), 7, np.random.default_rng(0))[0].inputs
    seen = images.inputs.reshape(12, 7, -1)
    np.testing.assert_array_equal(seen[:, 0], inputs)
    assert (seen[:, 1:] != inputs[:, None]).any(-1).mean() > 0.9  # at 4x4 some are the puzzle itself
    assert task.verify(images, answers).all()
    np.testing.assert_array_equal(undo(answers.reshape(12, 7, -1).astype(np.int64)), np.repeat(labels[:, None], 7, 1))
    repeated = Puzzles(size, images.inputs.astype(np.uint8) - 1, answers.astype(np.uint8) - 1)
    assert repeated.classes() == [c for c in puzzles.classes() for _ in range(7)]


def test_search_limits_the_search_count_of_generated_puzzles() -> None:
    task = sudoku(9, search=[4, 40], train_count=6, test_count=2)
    data = task.dataset(DataConfig(), 0)
    assert "20-26 givens, search count 4-40" in data.source
    assert data.difficulty is not None, "search counts"
    for examples, difficulty in ((data.train, data.difficulty), (data.test, None)):
        questions = (examples.inputs - 1).astype(np.uint8)
        assert set((questions > 0).sum(1).tolist()) <= set(range(22, 27))
        counts = engine.solve(questions, 9)[2]
        assert ((counts >= 4) & (counts <= 40)).all()
        assert difficulty is None or (difficulty == counts).all()
    with pytest.raises(ValidationError, match="must be a minimum and a maximum"):
        sudoku(9, search=[5, 4])


def test_files_without_ratings_have_no_known_difficulty(tmp_path: Path) -> None:
    puzzles = sudoku(6).generated(0).train.take(slice(20))
    for ratings in (puzzles.ratings, None):
        write(tmp_path / "six.csv", replace(puzzles, ratings=ratings))
        data = sudoku(6).dataset(DataConfig(source=str(tmp_path / "six.csv")), 0)
        assert (data.difficulty is None) == (ratings is None)
