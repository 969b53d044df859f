"""How long a run will take, before it starts: its matrix FLOP against this machine's measured rate."""

from __future__ import annotations

import time

import torch

from trm_fast.training.config import RunConfig, make_config, preset_names, read_preset

EFFICIENCY = 0.6
"""Share of the matrix rate that a whole training step reaches, roughly."""


def matrix_rate(device: torch.device) -> float:
    """FLOP/s of a large float32 product on ``device``; takes about a tenth of a second on a CPU."""
    a = torch.randn(1024, 1024, device=device)
    best = 0.0
    for _ in range(4):
        start = time.perf_counter()
        (a @ a).sum().item()
        best = max(best, 2 * 1024**3 / (time.perf_counter() - start))
    return best


def seconds_of(config: RunConfig, rate: float) -> float:
    """Seconds of training at ``rate`` FLOP/s of matrix products."""
    sample_steps = config.training.steps * config.training.batch_size
    return sample_steps * config.model.gemm_flop(training=True) / (EFFICIENCY * rate)


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
