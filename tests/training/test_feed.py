"""The feed: every example once an epoch, the same order for the same seed, and a position that can be kept."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from trm_fast.tasks.base import Examples
from trm_fast.training.feed import Feed

COUNT = 11


class Counting:
    """A task whose augmentation leaves a random number beside each example."""

    def augment(self, examples: Examples, rng: np.random.Generator) -> Examples:
        labels = rng.integers(0, 1000, examples.labels.shape, dtype=np.int32)
        return Examples(examples.inputs, labels, examples.puzzle_ids)


def make(seed: int = 0, count: int = COUNT) -> Feed:
    numbers = np.arange(count, dtype=np.int32)
    task: Any = Counting()
    return Feed(task, Examples(numbers[:, None], numbers[:, None], numbers), seed)


def draw(feed: Feed, counts: list[int]) -> list[tuple[int, int]]:
    drawn = []
    for count in counts:
        examples = feed.draw(count)
        assert len(examples) == count
        assert (examples.inputs[:, 0] == examples.puzzle_ids).all()
        drawn += list(zip(examples.inputs[:, 0].tolist(), examples.labels[:, 0].tolist(), strict=True))
    return drawn


@pytest.mark.parametrize("counts", [[1] * 44, [4] * 11, [11] * 4, [7, 30, 2, 5], [44]])
def test_every_example_once_an_epoch(counts: list[int]) -> None:
    numbers = [n for n, _ in draw(make(), counts)]
    epochs = [numbers[i : i + COUNT] for i in range(0, 44, COUNT)]
    assert all(sorted(epoch) == list(range(COUNT)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 4, "epochs are shuffled anew"


def test_the_seed_decides() -> None:
    assert draw(make(3), [5, 9]) == draw(make(3), [5, 9])
    assert [n for n, _ in draw(make(3), [11])] != [n for n, _ in draw(make(4), [11])]


@pytest.mark.parametrize("before", [[], [4], [11], [5, 6], [30]])
def test_a_restored_feed_goes_on_with_the_next_example(before: list[int]) -> None:
    feed = make(7)
    draw(feed, before)
    feed.minimum_steps(3, 0.5, 16)
    state = json.loads(json.dumps(feed.state()))
    want = draw(feed, [3, 9, 20]), feed.minimum_steps(9, 0.5, 16).tolist()
    other = make(7)
    draw(other, [13])
    other.restore(state)
    assert (draw(other, [3, 9, 20]), other.minimum_steps(9, 0.5, 16).tolist()) == want


def test_exploration_draws_minima() -> None:
    minima = make().minimum_steps(20_000, 0.1, 16)
    assert minima.dtype == np.int32
    drawn = minima[minima > 0]
    assert len(drawn) / 20_000 == pytest.approx(0.1, abs=0.01)
    assert sorted(set(drawn.tolist())) == list(range(2, 17))
    assert np.bincount(drawn)[2:].min() > 0.7 * len(drawn) / 15  # evenly
    assert not make().minimum_steps(99, 0.0, 16).any()
    assert (make().minimum_steps(99, 1.0, 2) == 2).all()
    assert (make().minimum_steps(99, 1.0, 1) == 1).all()
