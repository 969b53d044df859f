"""Estimates a run's memory (from its tensors) and time (from its matrix FLOP) before it starts."""

from __future__ import annotations

import time
from typing import Any

import torch

from trm_fast.errors import UserError
from trm_fast.memory import size_text
from trm_fast.models import TRMModel
from trm_fast.models.weights import meta_model
from trm_fast.tasks.base import Examples
from trm_fast.training.batch import Batch
from trm_fast.training.carry import Carry
from trm_fast.training.config import RunConfig
from trm_fast.training.memory import bytes_per_row, free_bytes, parts_that_fit
from trm_fast.training.pool import sizes
from trm_fast.training.read_config import make_config, preset_names, read_preset

EFFICIENCY = 0.6
"""Approximate share of the measured matrix rate that a training step reaches."""


def matrix_rate(device: torch.device, dtype: torch.dtype = torch.float32) -> float:
    """Measures the FLOP/s of a large matrix product on ``device``. On a CPU it takes about a tenth of a second."""
    size = 8192 if device.type == "cuda" else 1024
    a = torch.randn(size, size, device=device, dtype=dtype)
    best = 0.0
    for _ in range(4):
        start = time.perf_counter()
        (a @ a)[0, 0].item()
        best = max(best, 2 * size**3 / (time.perf_counter() - start))
    return best


def estimate(config: RunConfig, example_spec: Examples, device: torch.device) -> dict[str, Any]:
    """Estimates what a run on ``device`` needs. It runs supervision steps with one and two rows, and a few large matrix
    products.

    Args:
        config: the configuration of the run.
        example_spec: any number of examples with the shapes and dtypes of the data.
        device: the device on which the run would train.

    Returns:
        Bytes, matrix FLOP and seconds by name. ``weights_bytes`` includes gradients, moments, average and low-precision
        copies; ``carry_bytes`` includes the state and the pool; ``activation_bytes`` is what is saved for the backward
        of one part of the batch.
    """
    training, dtype = config.training, config.compute_dtype(device)
    weights, carry = run_bytes(config, example_spec, device)
    check_run(config, example_spec, device)
    model = TRMModel(config.model, dtype).to(device)
    batch_size, accumulation = training.batch_size, training.gradient_accumulation
    row_bytes = bytes_per_row(model, example_spec, recompute=training.recompute == "latent")
    parts = parts_that_fit(batch_size, row_bytes, device) if accumulation == "auto" else min(accumulation, batch_size)
    activations = row_bytes * -(-batch_size // parts)
    rate = matrix_rate(device, dtype)
    seconds = run_seconds(config, rate)
    return {
        "device": str(device),
        "dtype": str(dtype).removeprefix("torch."),
        "parameters": model.num_parameters(),
        "batch_size": batch_size,
        "parts": parts,
        "recompute": training.recompute,
        "weights_bytes": weights,
        "carry_bytes": carry,
        "activation_bytes": activations,
        "memory_bytes": weights + carry + activations,
        "free_bytes": free_bytes(device),
        "flop_per_step": batch_size * config.step_flop(config.model),
        "flop_per_second": rate,
        "seconds_per_step": seconds / training.steps,
        "steps": training.steps,
        "seconds": seconds,
    }


def run_bytes(config: RunConfig, example_spec: Examples, device: torch.device, processes: int = 1) -> tuple[int, int]:
    """The bytes of a run's tensors in each of its processes, without activations. Nothing is allocated.

    Args:
        config: the configuration of the run.
        example_spec: any number of examples with the shapes and dtypes of the data.
        device: the device on which the run trains.
        processes: number of processes that share the batch.

    Returns:
        The bytes of weights, gradients, optimizer, average and copies in low precision; and the bytes of the carry and
        the pool.

    Raises:
        UserError: they are larger than any memory.
    """
    training, dtype, meta = config.training, config.compute_dtype(device), torch.device("meta")
    model = meta_model(config.model, "model", dtype)
    # The optimizer's tensors include the parameters; the parameters here stand for their gradients.
    weights = [*training.make_optimizer(model).tensors(), *model.parameters(), *model.buffers()]
    copies = sum(w.numel() for w in model.linear_weights()) * dtype.itemsize if dtype != torch.float32 else 0
    carry = [*Carry(model, -(-training.batch_size // processes), example_spec).tensors().values()]
    carry += Batch.zeros(example_spec, sizes(training.batch_size, device)[1], meta).tensors().values()
    return sum(tensor.nbytes for tensor in weights) + copies, sum(tensor.nbytes for tensor in carry)


def check_run(config: RunConfig, example_spec: Examples, device: torch.device, processes: int = 1) -> None:
    """Checks that the tensors of a run fit into memory. The arguments are those of ``run_bytes``.

    Raises:
        UserError: they do not.
    """
    weights, carry = run_bytes(config, example_spec, device, processes)
    if weights + carry > (free := free_bytes(device)):
        raise UserError(
            f"training needs {size_text(weights)} of memory for the weights and the optimizer and {size_text(carry)} "
            f"for a batch of {config.training.batch_size:,}; {size_text(free)} is free on {device}: lower "
            "model.hidden_size or training.batch_size"
        )


def run_seconds(config: RunConfig, rate: float) -> float:
    """Estimated seconds of a whole run if matrix products reach ``rate`` FLOP/s."""
    flop = config.flop()
    if config.training.recompute == "latent":  # the forward of the last cycle is computed twice
        last_cycle = (config.model.gemm_flop(training=True) - config.model.gemm_flop(training=False)) // 2
        steps = config.model.max_supervision_steps if config.training.supervision == "unrolled" else 1
        flop += flop * steps * last_cycle // config.step_flop(config.model)
    return config.training.batch_size * flop / (EFFICIENCY * rate)


def nearest_quick_preset(config: RunConfig, rate: float, limit: float) -> str | None:
    """The preset of the same task that takes less than ``limit`` seconds and has the closest sequence length, or
    None."""
    candidates = []
    for name in preset_names():
        other = make_config(read_preset(name), name)
        if other.task.name == config.task.name and run_seconds(other, rate) < limit:
            candidates.append((-abs(other.model.seq_len - config.model.seq_len), run_seconds(other, rate), name))
    return max(candidates)[2] if candidates else None


def duration(seconds: float) -> str:
    """A duration as text, in the largest suitable unit.

    Examples:
        >>> duration(90), duration(7200)
        ('90 seconds', '2 hours')
    """
    for unit, length in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} seconds"
