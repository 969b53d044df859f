"""Tasks that occur twice, and lists of pairs without a task: what is trained on and what is tested on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from trm_fast.errors import UserError
from trm_fast.tasks.arc.data import ARCConfig
from trm_fast.tasks.arc.grids import labels_to_tokens
from trm_fast.tasks.arc.task import ARC
from trm_fast.tasks.base import Candidates, DataConfig, Dataset, Examples

from .arc_data import mirrored, raised, write

TWIN = mirrored(1)
SPLIT = {"training": {"a": TWIN, "c": raised(3)}, "evaluation": {"b": TWIN, "d": mirrored(4)}}


def dataset(source: object, test: object = None, holdout: float = 0.1, **keys: Any) -> tuple[ARC, Dataset]:
    task = ARC(ARCConfig(**{"canvas": 6, "augmentations": 1, **keys}))
    data = DataConfig(source=str(source), test=None if test is None else str(test), holdout=holdout)
    return task, task.dataset(data, 0)


def contents(examples: Examples) -> set[bytes]:
    """The pairs of examples, without their rows of the embedding."""
    both = np.concatenate((examples.inputs, labels_to_tokens(examples.labels)), axis=1)
    return {row.tobytes() for row in both}


def file(path: Path, content: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return write(path, content)


def test_the_test_pair_of_a_task_with_two_names_stays_unseen(tmp_path: Path) -> None:
    for subset, tasks in SPLIT.items():
        for name, content in tasks.items():
            file(tmp_path / subset / f"{name}.json", content)
    both = file(tmp_path / "both.json", SPLIT)
    training, evaluation = tmp_path / "training", tmp_path / "evaluation"
    for task, data in (
        dataset(f"{training},{evaluation}", held_out=["evaluation"]),
        dataset(f"{evaluation},{training}", held_out=["evaluation"]),
        dataset(both, held_out=["evaluation"]),
        dataset(training, test=evaluation),
    ):
        assert (len(data.train), len(data.test)) == (3 + 2 + 1 + 3, 2)
        assert not contents(data.train) & contents(data.test)
        assert data.notes == [
            "b (evaluation) and a (training) are the same task, with equal demonstration pairs: a is left out",
            "1 training pair is left out: equal to held-out test pairs of b",
        ]
        assert "3 tasks" in data.source
        assert task.index is not None
        assert len(task.index.names) == 4  # the rows of the embedding stay
        files = (tmp_path / "training" / "a.json", tmp_path / "evaluation" / "b.json")
        rows = {question.puzzle_id for path in files for question in task.questions(path)}
        assert rows == {2 * task.index.names.index("b")}


def test_a_twin_may_have_its_pairs_in_another_order_or_part(tmp_path: Path) -> None:
    shuffled = {"train": TWIN["train"][::-1], "test": TWIN["test"]}
    resplit = {"train": [TWIN["test"][0], *TWIN["train"][:2]], "test": [TWIN["train"][2]]}
    for twin, left in ((shuffled, 0), (resplit, 3)):
        source = file(tmp_path / "t.json", {"training": {"a": twin}, "evaluation": {"b": TWIN}})
        _, data = dataset(source, held_out=["evaluation"])
        assert len(data.train) == 3 + left  # without the held-out test pair, wherever it is
        assert not contents(data.train) & contents(data.test)
        assert any("equal to held-out test pairs of b" in note for note in data.notes)


def test_test_pairs_of_both_names_are_used(tmp_path: Path) -> None:
    other = TWIN | {"test": [*TWIN["test"], *mirrored(7)["test"]]}
    _, data = dataset(file(tmp_path / "t.json", {"x": {"a": TWIN, "b": other}}))
    assert (len(data.train), len(data.test)) == (3, 2)
    assert set(data.test.puzzle_ids.tolist()) == {0}
    assert data.notes == ["a (x) and b (x) are the same task, with equal demonstration pairs: b is left out"]
    _, data = dataset(file(tmp_path / "t.json", {"x": {"a": TWIN}, "y": {"b": other}}), held_out=["x"])
    assert (len(data.train), len(data.test)) == (4, 1)  # the released pair of b belongs to the same task


def test_a_demonstration_that_is_a_test_pair_of_its_own_task_stays(tmp_path: Path) -> None:
    """It is a part of the question."""
    task = TWIN | {"test": TWIN["train"][:1]}
    _, data = dataset(file(tmp_path / "t.json", {"x": {"a": task, "b": mirrored(5)}}))
    assert (len(data.train), len(data.test)) == (6, 2)
    assert data.notes == ["a demonstration pair equals a test pair of the same task in a"]


def test_a_submission_names_tasks_as_the_file_does(tmp_path: Path) -> None:
    task, data = dataset(file(tmp_path / "t.json", SPLIT), held_out=["evaluation"])
    ranked = [Candidates(labels_to_tokens(data.test.labels[:1]), np.ones(1, np.int64), np.ones(1, np.float32))] * 2
    assert list(task.submission(data.test, ranked)) == ["b", "d"]
    assert list(task.submission(data.test.take(np.array([1])), ranked[:1])) == ["d"]
    questions = list(task.questions(file(tmp_path / "a.json", SPLIT["training"])))
    assert list(task.submission(type(questions[0]).rows(questions), ranked)) == ["a", "c"]
    assert list(task.submission(task.read(str(tmp_path / "a.json")), ranked)) == ["a", "c"]


def test_generated_pairs_are_trained_on(tmp_path: Path) -> None:
    """But not the one that is a held-out test pair."""
    generated = [*mirrored(1)["train"], *mirrored(2, tests=0)["train"], TWIN["test"][0]]
    source = file(tmp_path / "a.json", TWIN), file(tmp_path / "re" / "a.json", generated)
    task, data = dataset(f"{source[0]},{source[1]}")
    assert (len(data.train), len(data.test)) == (3 + 6, 1)
    assert set(data.train.puzzle_ids.tolist()) == {0}
    assert data.notes == ["1 training pair is left out: equal to held-out test pairs of a"]
    assert next(task.questions(source[0])).puzzle_id == 0
    wide = [{"input": [[1] * 7], "output": [[1]]}]
    _, data = dataset(f"{source[0]},{file(source[1], wide)}")
    assert data.notes == ["1 generated pairs have grids larger than 6 x 6 and are left out"]


def test_a_list_of_pairs_has_a_share_held_out(tmp_path: Path) -> None:
    pairs = [pair for seed in range(10) for pair in mirrored(seed)["train"]]
    twice = file(tmp_path / "twice.json", pairs * 2)
    _, data = dataset(twice, holdout=0.5)
    assert not contents(data.train) & contents(data.test)
    assert "equal to held-out test pairs of twice" in data.notes[1]
    source = file(tmp_path / "tasks" / "a.json", pairs)
    task, data = dataset(source.parent)
    assert (len(data.train), len(data.test)) == (27, 3)
    assert data.notes == [
        "3 of 30 pairs of lists without test pairs are held out for testing (data.holdout = 0.1; --holdout 0: none)"
    ]
    assert not contents(data.train) & contents(data.test)
    again = dataset(source.parent)[1]
    np.testing.assert_array_equal(again.test.inputs, data.test.inputs)
    _, whole = dataset(source.parent, holdout=0.0)
    assert (len(whole.train), len(whole.test), whole.notes) == (30, 0, [])
    for read in (task.read, lambda path: list(task.questions(path))):
        with pytest.raises(UserError, match=r"has no test .*, only demonstration pairs"):
            read(str(source))
    with pytest.raises(UserError, match=r"data\.test: .*a\.json is a list of pairs; a test set needs tasks"):
        dataset(file(tmp_path / "b.json", TWIN), test=source)
    with pytest.raises(UserError, match="this is a list of pairs; a task has test inputs to solve"):
        task.parse(json.dumps(pairs))
