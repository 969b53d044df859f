"""Sequences: generated numbers, scaling, and text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from trm_fast.errors import UserError
from trm_fast.tasks.base import DataConfig
from trm_fast.tasks.sequence import KINDS, Sequence, SequenceConfig, sequence_scale, sequences
from trm_fast.training import make_config, read_preset


def make(**changes: Any) -> Sequence:
    return Sequence(SequenceConfig(**{"length": 8, "horizon": 3, "train_count": 60, "test_count": 30, **changes}))


def test_each_kind_obeys_its_law() -> None:
    kinds = np.repeat(np.arange(3, dtype=np.int32), 50)
    numbers = sequences(kinds, 12, 4, 1.5, np.random.default_rng(0))
    arithmetic, geometric, periodic = numbers[:50], numbers[50:100], numbers[100:]
    np.testing.assert_allclose(np.diff(arithmetic, n=2), 0, atol=1e-12)
    quotients = geometric[:, 1:] / geometric[:, :-1]
    np.testing.assert_allclose(quotients, quotients[:, :1].repeat(11, axis=1))
    assert np.abs(quotients).max() <= 1.5
    assert np.abs(quotients).min() >= 1 / 1.5
    assert {-1.0, 1.0} == set(np.sign(quotients[:, 0]).tolist())
    periods = [next(p for p in range(1, 6) if np.allclose(row[p:], row[:-p])) for row in periodic]
    assert set(periods) == {2, 3, 4}


def test_examples_contain_seen_and_predicted_numbers() -> None:
    data = make().dataset(DataConfig(), 0)
    assert data.train.inputs.shape == (60, 3, 8)
    assert data.train.labels.shape == (60, 3, 1)
    assert np.bincount(data.train.extra["kind"]).tolist() == [20, 20, 20]
    np.testing.assert_allclose(np.abs(data.train.inputs[:, 0]).max(axis=1), 1, rtol=1e-6)
    np.testing.assert_array_equal(data.train.inputs[:, 0], data.train.inputs[:, 2])
    rows = data.train.extra["kind"] == 0  # labels continue the inputs
    whole = np.concatenate([data.train.inputs[rows, 0], data.train.labels[rows, :, 0]], axis=1)
    np.testing.assert_allclose(np.diff(whole, n=2), 0, atol=1e-5)
    assert not {r.tobytes() for r in data.train.inputs} & {r.tobytes() for r in data.test.inputs}
    only = make(kinds=["periodic"]).dataset(DataConfig(), 0).train
    assert set(only.extra["kind"].tolist()) == {KINDS.index("periodic")}


def test_augmentation_negates_sequences() -> None:
    task = make()
    train = task.dataset(DataConfig(), 0).train
    moved = task.augment(train, np.random.default_rng(0))
    sign = (moved.inputs / train.inputs)[:, :1, :1]
    assert set(sign.ravel().tolist()) == {-1.0, 1.0}
    np.testing.assert_array_equal(moved.labels, train.labels * sign)


def test_metrics_by_kind() -> None:
    task = make()
    test = task.dataset(DataConfig(), 0).test
    answers = test.labels + np.where(test.extra["kind"] == 1, 0.11, 0.09)[:, None, None]
    metrics = task.metrics(test, answers)
    assert metrics.pop("mean_absolute_error") == pytest.approx((0.11 + 2 * 0.09) / 3)
    assert metrics == {"exact_accuracy_arithmetic": 1, "exact_accuracy_geometric": 0, "exact_accuracy_periodic": 1}


@pytest.mark.parametrize("scale", [1e-6, 1.0, 25.0, 1e7])
def test_answers_have_the_scale_of_the_question(scale: float) -> None:
    task = make()
    values = scale * np.arange(1, 12)
    text = ", ".join(f"{v:.9g}" for v in values[:8])
    question = task.parse(text)
    assert question.inputs.max() == 1
    answer = (values[8:] / values[7])[:, None]
    written = task.format(question, answer)
    np.testing.assert_allclose([float(v) for v in written.split(", ")], values[8:], rtol=1e-4)
    assert task.draw(question, answer).plain.endswith(written.replace(",", ""))
    assert task.draw(question).plain.count(" ") == 7


def test_zeros_have_a_scale() -> None:
    assert sequence_scale(np.zeros((2, 3))).tolist() == [[1.0], [1.0]]
    assert make().format(make().parse("0 0 0 0 0 0 0 0"), np.zeros((3, 1))) == "0 0 0"


def test_files(tmp_path: Path) -> None:
    task, path = make(), tmp_path / "s.csv"
    path.write_text("\n".join(",".join(str(a + i) for i in range(11)) for a in range(4)))
    examples = task.read(str(path))
    assert examples.labels.shape == (4, 3, 1)
    assert set(examples.extra["kind"].tolist()) == {-1}
    assert set(task.metrics(examples, examples.labels)) == {"mean_absolute_error"}
    (first, *_) = task.questions(path)  # a data file's rows are questions, too: what follows is left out
    np.testing.assert_array_equal(first.inputs, examples.inputs[0])
    data = task.dataset(DataConfig(source=str(path), holdout=0.5), 0)
    assert (len(data.train), len(data.test)) == (2, 2)
    path.write_text("1 2 3\n")
    for read in (lambda: task.read(str(path)), lambda: list(task.questions(path))):
        with pytest.raises(UserError, match=r"s.csv:1: found 3 numbers, expected .*11"):
            read()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"kinds": []}, "task.kinds"),
        ({"kinds": ["cubic"]}, "task.kinds"),
        ({"kinds": ["periodic", "periodic"]}, "kinds has duplicates"),
        ({"length": 3}, "task.length"),
        ({"ratio": 1.0}, "task.ratio"),
    ],
)
def test_wrong_configurations(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        make_config({"task": {"name": "sequence", **changes}}, "x.yaml")


def test_the_preset_fits_its_task() -> None:
    config = make_config(read_preset("sequence"), "sequence")
    assert (config.model.input_width, config.model.seq_len) == (8, config.make_task().seq_len)
