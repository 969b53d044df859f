"""The batch: conversions, views, copies and replacement of examples."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from trm_fast.tasks.base import Examples
from trm_fast.training import Batch

from .small import make_examples

EXAMPLES = replace(make_examples(5, puzzles=3), extra={"mask": np.eye(5, 6, dtype=bool)})


def test_a_batch_holds_the_arrays_of_examples_under_their_names() -> None:
    batch = Batch.from_examples(EXAMPLES)
    assert len(batch) == 5
    assert batch.tensors().keys() == EXAMPLES.arrays().keys() == {"inputs", "labels", "puzzle_ids", "mask"}
    for name, array in EXAMPLES.arrays().items():
        assert np.array_equal(batch.tensors()[name].numpy(), array)


def test_zeros_have_the_shapes_and_dtypes_of_the_examples() -> None:
    batch = Batch.zeros(EXAMPLES.take(slice(0)), 7, torch.device("cpu"))
    for name, tensor in Batch.from_examples(EXAMPLES).tensors().items():
        zeros = batch.tensors()[name]
        assert (zeros.shape, zeros.dtype) == ((7, *tensor.shape[1:]), tensor.dtype)
        assert not zeros.any()


def test_parts_are_views_and_indexed_examples_are_copies() -> None:
    batch = Batch.from_examples(EXAMPLES)
    part, picked = batch.take(slice(1, 3)), batch.index(torch.tensor([4, 1]))
    assert picked.inputs.tolist() == [batch.inputs[4].tolist(), batch.inputs[1].tolist()]
    batch.inputs.zero_()
    assert not part.inputs.any()
    assert picked.inputs.any()


def test_only_marked_examples_are_replaced() -> None:
    first, second = Batch.from_examples(EXAMPLES), Batch.from_examples(make_like(1))
    original = first.map(torch.clone)
    first.replace_(torch.tensor([1, 0, 0, 1, 0]).bool(), second)
    for name, tensor in first.tensors().items():
        for i in range(5):
            assert torch.equal(tensor[i], (second if i in (0, 3) else original).tensors()[name][i])
    first.copy_(second)
    assert all(torch.equal(t, second.tensors()[name]) for name, t in first.tensors().items())


def make_like(seed: int) -> Examples:
    return replace(make_examples(5, seed, puzzles=3), extra={"mask": np.ones((5, 6), dtype=bool)})
