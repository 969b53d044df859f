"""What a run will take, before it starts: memory by what it keeps, time by its matrix FLOP and this machine's rate."""

from __future__ import annotations

import time
from typing import Any

import torch

from trm_fast.models import TRMModel
from trm_fast.tasks.base import Examples
from trm_fast.training.batch import Batch
from trm_fast.training.carry import Carry
from trm_fast.training.config import RunConfig
from trm_fast.training.memory import bytes_per_row, free_bytes, parts_that_fit
from trm_fast.training.pool import sizes
from trm_fast.training.read_config import make_config, preset_names, read_preset

EFFICIENCY = 0.6
"""Share of the matrix rate that a whole training step reaches, roughly."""


def matrix_rate(device: torch.device, dtype: torch.dtype = torch.float32) -> float:
    """FLOP/s of a large product on ``device``; takes about a tenth of a second on a CPU."""
    size = 8192 if device.type == "cuda" else 1024
    a = torch.randn(size, size, device=device, dtype=dtype)
    best = 0.0
    for _ in range(4):
        start = time.perf_counter()
        (a @ a)[0, 0].item()
        best = max(best, 2 * size**3 / (time.perf_counter() - start))
    return best


def estimate(config: RunConfig, example_spec: Examples, device: torch.device) -> dict[str, Any]:
    """What a run on ``device`` will need, by a supervision step of one and two rows and a few large products.

    ``example_spec``: examples of the shapes and dtypes that will come. Returns bytes on the device, matrix FLOP and
    seconds by name. ``weights_bytes``: with gradients, moments, average and low-precision copies; ``carry_bytes``: the
    state and the examples that wait; ``activation_bytes``: what the backward of one part needs."""
    training, dtype = config.training, config.compute_dtype(device)
    model = TRMModel(config.model, dtype).to(device)
    batch_size, asked = training.batch_size, training.gradient_accumulation
    row_bytes = bytes_per_row(model, example_spec, recompute=training.recompute == "latent")
    parts = parts_that_fit(batch_size, row_bytes, device) if asked == "auto" else min(asked, batch_size)
    kept = [*Carry(model, batch_size, example_spec).tensors().values()]
    kept += Batch.zeros(example_spec, sizes(batch_size, device)[1], device).tensors().values()
    with torch.device("meta"):
        shadow = TRMModel(config.model, dtype)
    held = [*training.make_optimizer(shadow).tensors(), *shadow.parameters(), *model.buffers()]  # and the gradients
    weights, carry = (sum(tensor.nbytes for tensor in tensors) for tensors in (held, kept))
    if dtype != torch.float32:
        weights += sum(w.numel() for w in model.linear_weights()) * dtype.itemsize
    activations = row_bytes * -(-batch_size // parts)
    rate = matrix_rate(device, dtype)
    seconds = seconds_of(config, rate)
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


def seconds_of(config: RunConfig, rate: float) -> float:
    """Seconds of training at ``rate`` FLOP/s of matrix products."""
    flop = config.flop()
    if config.training.recompute == "latent":  # the forward of the last cycle, once more
        whole, forward = (config.model.gemm_flop(training=training) for training in (True, False))
        flop = flop * (3 * whole - forward) // (2 * whole)
    return config.training.batch_size * flop / (EFFICIENCY * rate)


def nearest_quick_preset(config: RunConfig, rate: float, limit: float) -> str | None:
    """The preset of the same task that is done within ``limit`` seconds and comes nearest to this size of problem."""
    candidates = []
    for name in preset_names():
        other = make_config(read_preset(name), name)
        if other.task.name == config.task.name and seconds_of(other, rate) < limit:
            candidates.append((-abs(other.model.seq_len - config.model.seq_len), seconds_of(other, rate), name))
    return max(candidates)[2] if candidates else None


def duration(seconds: float) -> str:
    """A length of time as people say it."""
    for unit, length in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} seconds"
