"""Finds how many parts a batch needs to fit into memory, by measuring what is saved for the backward of a row."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from trm_fast.memory import free_memory
from trm_fast.models import ForwardOptions, TRMModel
from trm_fast.nn.recursion import Recursion, read_answer
from trm_fast.tasks.base import Examples
from trm_fast.training.batch import Batch

SHARE = 0.6
"""Share of the free memory that activations may use. The rest is for temporaries, data and other programs."""


def free_bytes(device: torch.device) -> int:
    """Bytes that can currently be allocated on ``device``."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else free_memory()


def bytes_per_row(model: TRMModel, example_spec: Examples, *, recompute: bool = False) -> int:
    """Bytes that autograd saves per row of a supervision step: the difference between two rows and one.

    With ``recompute``, autograd saves the inputs of all applications of the network, and in the backward the
    activations of one application at a time.
    """
    kept = _saved_bytes(model, example_spec, 2, recompute) - _saved_bytes(model, example_spec, 1, recompute)
    if recompute:
        kept += _application_bytes(model, 2) - _application_bytes(model, 1)
    return kept


def _application_bytes(model: TRMModel, count: int) -> int:
    h = read_answer(model.net, model.initial_state(count)).detach().clone().requires_grad_()
    with _count_saved(h.device) as kept:
        Recursion(model.net, h, None, model.config.n_latent_steps).apply(h)
        return sum(kept.values())


@contextmanager
def _count_saved(device: torch.device) -> Iterator[dict[int, int]]:
    """Yields the bytes that autograd saves, by storage, and restores the random state at the end."""
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        # Not the tensor itself: the result of an operation would form a cycle with the graph and never be freed. The
        # graph also holds the parameters' gradient accumulators, which belong to the current stream, so that a step
        # could not be captured on another stream.
        return tensor.detach()

    random_state = torch.random.fork_rng([device] if device.type == "cuda" else [])
    with random_state, torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield kept


def _saved_bytes(model: TRMModel, example_spec: Examples, count: int, recompute: bool) -> int:
    batch = Batch.zeros(example_spec, count, model.z_init.device)
    options = ForwardOptions(recompute=recompute, static_shapes=True)  # full length, although all rows are padding
    with _count_saved(batch.inputs.device) as kept:
        puzzle_rows = model.puzzle_rows(batch.puzzle_ids, count)
        out = model(batch.inputs, model.initial_state(count), puzzle_rows, options=options, **batch.extra)
        model.loss(out, batch.labels, **batch.extra)
        return sum(kept.values())


def parts_that_fit(batch_size: int, row_bytes: int, device: torch.device) -> int:
    """The smallest number of parts, at most ``batch_size``, at which the activations of a part, ``row_bytes`` per row,
    fit into the free memory."""
    rows = max(1, int(SHARE * free_bytes(device) // max(1, row_bytes)))
    return -(-batch_size // min(rows, batch_size))
