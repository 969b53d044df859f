"""The feed: every example once per epoch, the same sequence for the same seed, chunks in any order."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from trm_fast.tasks.base import Examples
from trm_fast.training.feed import Feed

COUNT = 11


class Counting:
    """A task whose augmentation writes random labels."""

    def augment(self, examples: Examples, rng: np.random.Generator) -> Examples:
        labels = rng.integers(0, 1000, examples.labels.shape, dtype=np.int32)
        return Examples(examples.inputs, labels, examples.puzzle_ids)


def make(seed: int = 0, count: int = COUNT) -> Feed:
    numbers = np.arange(count, dtype=np.int32)
    task: Any = Counting()
    return Feed(task, Examples(numbers[:, None], numbers[:, None], numbers), seed)


def draw(feed: Feed, chunks: list[int], size: int) -> list[tuple[int, int]]:
    """The number and the random label of each example of some chunks."""
    drawn = []
    for chunk in chunks:
        examples = feed.chunk(chunk, size)
        assert len(examples) == size
        assert (examples.inputs[:, 0] == examples.puzzle_ids).all()
        drawn += list(zip(examples.inputs[:, 0].tolist(), examples.labels[:, 0].tolist(), strict=True))
    return drawn


@pytest.mark.parametrize("size", [1, 4, 11, 22, 44])
def test_every_example_comes_once_per_epoch(size: int) -> None:
    numbers = [n for n, _ in draw(make(), list(range(44 // size)), size)]
    epochs = [numbers[i : i + COUNT] for i in range(0, 44, COUNT)]
    assert all(sorted(epoch) == list(range(COUNT)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 4, "each epoch has its own order"


def test_the_seed_determines_the_sequence() -> None:
    assert draw(make(3), [0, 1], 7) == draw(make(3), [0, 1], 7)
    assert [n for n, _ in draw(make(3), [0], 11)] != [n for n, _ in draw(make(4), [0], 11)]


def test_chunks_can_be_made_in_any_order() -> None:
    want = {n: draw(make(7), [n], 5) for n in range(9)}
    feed = make(7)
    for n in (8, 0, 3, 3, 7, 1):
        assert draw(feed, [n], 5) == want[n]
    assert len({label for drawn in want.values() for _, label in drawn}) > 30, "each chunk has its own augmentation"


@pytest.mark.parametrize("size", [1, 5, 64])
def test_easy_examples_come_first(size: int) -> None:
    """Example i has difficulty 99 - i."""
    numbers = np.arange(100, dtype=np.int32)
    task: Any = Unchanged()
    examples = Examples(numbers[:, None], numbers[:, None], numbers)
    whole, again = (Feed(task, examples, 0, difficulty=99 - numbers, easy_first=640) for _ in range(2))
    rows = np.concatenate([whole.chunk(n, size).puzzle_ids for n in range(-(-840 // size))])
    assert rows[:7].min() >= 89, "about the easiest tenth"
    assert rows[300:340].min() >= 40
    assert rows[300:340].min() < 60, "about half of them in the middle"
    assert rows[540:640].min() < 15
    assert sorted(rows[640:740]) == sorted(rows[740:840]) == list(range(100)), "then passes over all examples"
    for n in (3, 0, 7):
        assert (again.chunk(n, size).puzzle_ids == whole.chunk(n, size).puzzle_ids).all()


def test_exploration_draws_minima_uniformly() -> None:
    minima = make().minimum_steps(1, 20_000, 0.1, 16)
    assert minima.dtype == np.int32
    drawn = minima[minima > 0]
    assert len(drawn) / 20_000 == pytest.approx(0.1, abs=0.01)
    assert sorted(set(drawn.tolist())) == list(range(2, 17))
    assert np.bincount(drawn)[2:].min() > 0.7 * len(drawn) / 15  # uniformly
    assert (minima == make().minimum_steps(1, 20_000, 0.1, 16)).all()
    assert (minima != make().minimum_steps(2, 20_000, 0.1, 16)).any()
    assert not make().minimum_steps(1, 99, 0.0, 16).any()
    assert (make().minimum_steps(1, 99, 1.0, 2) == 2).all()
    assert (make().minimum_steps(1, 99, 1.0, 1) == 1).all()


class Unchanged:
    def augment(self, examples: Examples, rng: np.random.Generator) -> Examples:
        return examples


def test_examples_with_a_mask_are_sorted_by_length_within_each_batch() -> None:
    lengths = np.array([5, 1, 4, 2, 3, 6, 1, 2])
    mask = np.arange(6) < lengths[:, None]
    inputs = np.arange(8, dtype=np.int32)[:, None] * np.ones(6, dtype=np.int32)
    examples = Examples(inputs, inputs, np.zeros(8, dtype=np.int32), {"mask": mask})
    task: Any = Unchanged()
    whole, sorted_ = Feed(task, examples, 0), Feed(task, examples, 0, 4)
    plain, batches = whole.chunk(0, 8), sorted_.chunk(0, 8)
    for batch in (slice(0, 4), slice(4, 8)):
        assert sorted(plain.inputs[batch, 0]) == sorted(batches.inputs[batch, 0])  # the same rows in each batch
        assert (np.diff(batches.extra["mask"][batch].sum(1)) >= 0).all()
