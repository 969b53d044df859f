"""Part d: the solver's throughput on full batches, and its latency on one puzzle, with graphs and without.

The weights are random, so nothing halts and every puzzle takes all 16 supervision steps."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import torch
from common import Report, dtype_of, options, synchronize

from trm_fast.api import TRM
from trm_fast.inference import Solver
from trm_fast.models import TRMConfig
from trm_fast.tasks import get_task
from trm_fast.tasks.base import Examples

MODELS: dict[str, dict[str, Any]] = {
    "mixer81": {},
    "mixer97": {"prefix_tokens": 16},
    "attention97": {"prefix_tokens": 16, "mixing": "attention", "positions": "rope"},
}
SMALL = {"hidden_size": 32, "num_heads": 2, "T_cycles": 1, "n_latent_steps": 1, "puzzle_embedding_size": 32}


def main() -> None:
    asked = options(__doc__).parse_args()
    report = Report(asked.out, "d_solver", asked.device)
    task = get_task("sudoku")(None)
    rng = np.random.default_rng(0)
    for name, changes in MODELS.items():
        for graph in (True, False):
            for batch in (2, 1) if asked.tiny else (768, 64, 8, 1):

                def case(changes: dict[str, Any] = changes, graph: bool = graph, batch: int = batch) -> dict[str, Any]:
                    torch.manual_seed(0)
                    config = TRMConfig.for_sudoku(**{**(SMALL if asked.tiny else {}), **changes})
                    model = TRM(config, dtype_of(asked.device)).to(asked.device).requires_grad_(False).eval()
                    solver = Solver(model, task, halt=False, batch_size=batch, graph=graph)
                    questions = Examples.asked(rng.integers(1, 11, (batch, 81), dtype=np.int32))
                    taken = []
                    for _ in range(4 if asked.tiny else 6 if batch > 64 else 12):
                        start = time.perf_counter()
                        solver.run(questions)
                        synchronize(asked.device)
                        taken.append(time.perf_counter() - start)
                    ms = 1e3 * float(np.median(taken[2:]))
                    flop = batch * 16 * config.gemm_flop(training=False)
                    return {"ms": ms, "puzzles_per_second": 1e3 * batch / ms, "tflops": 1e-9 * flop / ms}

                report.attempt(f"solve:{name}:{batch}:{'graph' if graph else 'calls'}", case)


if __name__ == "__main__":
    main()
