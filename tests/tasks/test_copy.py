"""Copying vectors: data, symmetries, text, and a model that learns it through the trainer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from trm_fast.errors import UserError
from trm_fast.tasks.base import DataConfig
from trm_fast.tasks.copy import Copy, CopyConfig
from trm_fast.training import apply_settings, make_config, read_preset


def make(**changes: Any) -> Copy:
    return Copy(CopyConfig(**{"train_count": 30, "test_count": 40, **changes}))


def test_examples_are_their_own_labels() -> None:
    data = make().dataset(DataConfig(), 3)
    assert data.train.inputs.shape == (30, 5, 1)
    assert data.test.inputs.shape == (40, 5, 1)
    for part in (data.train, data.test):
        assert part.inputs.dtype == part.labels.dtype == np.float32
        np.testing.assert_array_equal(part.inputs, part.labels)
        assert np.abs(part.inputs).max() <= 1
        assert abs(part.inputs.mean()) < 0.15
        assert abs(part.inputs.var() - 1 / 3) < 0.1
    assert not set(data.train.inputs.ravel().tolist()) & set(data.test.inputs.ravel().tolist())
    again, other = (make().dataset(DataConfig(), seed).train.inputs for seed in (3, 4))
    np.testing.assert_array_equal(again, data.train.inputs)
    assert not np.array_equal(other, again)
    more = make(train_count=60).dataset(DataConfig(), 3)  # the test set does not depend on the training set's size
    np.testing.assert_array_equal(more.test.inputs, data.test.inputs)


def test_symmetries_keep_a_vector_s_magnitudes() -> None:
    rng = np.random.default_rng(0)
    examples = make().dataset(DataConfig(), 0).train
    moved = make().augment(examples, rng)
    np.testing.assert_array_equal(moved.inputs, moved.labels)
    np.testing.assert_array_equal(np.sort(np.abs(moved.inputs), axis=1), np.sort(np.abs(examples.inputs), axis=1))
    assert not np.array_equal(moved.inputs, examples.inputs)
    assert make(symmetries=False).augment(examples, rng) is examples


def test_answers_to_images_become_answers_to_the_question() -> None:
    task = make()
    examples = task.dataset(DataConfig(), 0).train
    images, undo = task.images(examples, 4, np.random.default_rng(0))
    np.testing.assert_array_equal(images.inputs[::4], examples.inputs)
    assert not np.array_equal(images.inputs[1::4], examples.inputs)
    back = undo(images.inputs.reshape(len(examples), 4, 5, 1))  # a perfect copy of each image
    np.testing.assert_array_equal(back, np.repeat(examples.inputs[:, None], 4, axis=1))


def test_right_is_within_the_tolerance() -> None:
    labels = np.array([0.0, 0.5, 1.0, -1.0], dtype=np.float32)
    answers = np.array([0.09, 0.61, 1.0, np.nan], dtype=np.float32)
    assert make().right(labels, answers).tolist() == [True, False, True, False]
    assert make(tolerance=0.2).right(labels, answers).tolist() == [True, True, True, False]
    error = make().metrics(make().dataset(DataConfig(), 0).train, np.zeros((30, 5, 1)))["mean_absolute_error"]
    assert error == pytest.approx(0.5, abs=0.06)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("0.1 0.2 0.3 0.4", "found 4 numbers, expected 5"),
        ("0.1 0.2 0.3 0.4 0.5 0.6", "found 6 numbers"),
        ("0 0 0 0 1.5", "1.5 is out of range"),
        ("0 0 0 0 x", "item 5 is 'x'"),
    ],
)
def test_bad_questions(text: str, words: str) -> None:
    with pytest.raises(UserError, match=f"f:1: {words}"):
        make().parse(text, "f:1")


def test_questions_and_answers_as_text(tmp_path: Path) -> None:
    task = make()
    (tmp_path / "v.json").write_text("[[0.1, -0.2, 0.3, 0.4, 1], [0, 0, 0, 0, 0]]")
    first, second = task.questions(tmp_path / "v.json")
    assert first.inputs.dtype == np.float32
    assert task.format(first, first.inputs) == "[0.1, -0.2, 0.3, 0.4, 1]"
    assert second.where.endswith("row 2")
    (tmp_path / "v.csv").write_text("a,b,c,d,e\n0.1,-0.2,0.3,0.4,1\n")
    (row,) = task.questions(tmp_path / "v.csv")
    assert task.format(row, row.inputs) == "0.1, -0.2, 0.3, 0.4, 1"
    assert task.read(str(tmp_path / "v.csv")).labels.shape == (1, 5, 1)
    assert task.draw(row, row.inputs).row_count == 2
    assert task.draw(row).row_count == 1


def test_files_are_split_and_never_shared(tmp_path: Path) -> None:
    path = tmp_path / "v.txt"
    path.write_text("\n".join(f"{i / 20} 0 0 0 0" for i in range(20)))
    data = make().dataset(DataConfig(source=str(path), holdout=0.25), 0)
    assert (len(data.train), len(data.test)) == (15, 5)
    assert sorted([*data.train.inputs[:, 0, 0], *data.test.inputs[:, 0, 0]]) == pytest.approx(
        [i / 20 for i in range(20)]
    )
    both = make().dataset(DataConfig(source=str(path), test=str(path)), 0)
    assert (len(both.train), len(both.test)) == (20, 20)
    path.write_text("0 0 0 0 0")
    with pytest.raises(UserError, match="one row"):
        make().dataset(DataConfig(source=str(path)), 0)


def test_the_preset_is_a_model_of_values() -> None:
    config = make_config(read_preset("copy"), "copy")
    assert (config.model.inputs, config.model.head.kind, config.model.seq_len) == ("values", "values", 5)
    assert config.task.train_count == 80  # type: ignore[attr-defined]
    with pytest.raises(UserError, match=r"model.head.tolerance = 0.3 contradicts task copy, which needs 0.1"):
        make_config(apply_settings(read_preset("copy"), ["model.tolerance=0.3"]), "copy")
