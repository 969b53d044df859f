"""Part ``solver``: throughput on full batches and latency on one puzzle, with and without CUDA graphs.

The weights are random and halting is off, so every puzzle takes all 16 supervision steps."""

from __future__ import annotations

import statistics
import time
from functools import partial
from typing import Any

import numpy as np
import torch
from common import Part, dtype_of, synchronize
from sides import configuration

from trm_fast.api import TRM
from trm_fast.inference import Solver
from trm_fast.tasks import get_task
from trm_fast.tasks.base import Examples


def measure_case(part: Part, name: str, batch: int, graph: bool) -> dict[str, Any]:
    torch.manual_seed(0)
    config = configuration(name)
    model = TRM(config, dtype_of(part.device)).to(part.device).requires_grad_(False).eval()
    solver = Solver(model, get_task("sudoku")(None), halt=False, batch_size=batch, graph=graph)
    questions = Examples.of_questions(np.random.default_rng(0).integers(1, 11, (batch, 81), dtype=np.int32))
    seconds = []
    for _ in range(2 + part.sizes.timed_calls):
        start = time.perf_counter()
        solver.run(questions)
        synchronize(part.device)
        seconds.append(time.perf_counter() - start)
    ms = 1e3 * statistics.median(seconds[2:])
    flop = batch * config.max_supervision_steps * config.gemm_flop(training=False)
    return {"ms": ms, "puzzles_per_second": 1e3 * batch / ms, "tflops": 1e-9 * flop / ms}


def measure(part: Part) -> None:
    for graph in (True, False):
        for batch in part.sizes.solver_batches:
            for name in part.sizes.solver_models:
                case = f"solve:{name}:{batch}:{'graph' if graph else 'calls'}"
                part.attempt(case, partial(measure_case, part, name, batch, graph), min_seconds=2.0)
