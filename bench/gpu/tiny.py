"""Three training steps of a tiny model of each kind, without a graph: what a memory checker can watch in a minute. With
--kernels, every kernel on the inputs of its self-check, whose verdicts are printed and not kept."""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np
import torch

from trm_fast.api import TRM
from trm_fast.models import TRMConfig
from trm_fast.training.optimizers import AdamATan2
from trm_fast.ops import backend, self_check
from trm_fast.tasks.base import Examples
from trm_fast.training import TrainingConfig, TrainStep

SMALL = {
    "vocab_size": 7, "seq_len": 9, "hidden_size": 64, "num_heads": 2, "inner_multiple": 32, "T_cycles": 2,
    "n_latent_steps": 1,
}  # fmt: skip
KINDS: list[dict[str, Any]] = [
    {},
    {"prefix_tokens": 2, "puzzle_embedding_size": 64},
    {"mixing": "attention", "positions": "rope"},
]


class Random:
    kind = Examples(np.zeros((0, 9), np.int32), np.zeros((0, 9), np.int32), np.zeros(0, np.int32))

    def chunk(self, number: int, size: int) -> Examples:
        rng = np.random.default_rng(number)
        cells = rng.integers(1, 7, (2, size, 9), dtype=np.int32)
        return Examples(cells[0], cells[1], np.zeros(size, np.int32))


def every_kernel(device: str) -> None:
    for op, backends in backend.KERNELS.items():
        for name, dtypes in backends.items():
            for dtype in (torch.bfloat16, torch.float32):
                if dtype in dtypes and backend.unavailable(op, name, device, dtype) is None:
                    print(op, name, dtype, self_check.check(op, name, dtype, torch.device(device)) or "passed")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--kernels", action="store_true")
    asked = parser.parse_args()
    device = asked.device
    if asked.kernels:
        every_kernel(device)
        return
    dtype = torch.float32 if device == "cpu" else torch.bfloat16
    for kind in KINDS:
        model = TRM(TRMConfig.model_validate(SMALL | kind), dtype).to(device)
        config = TrainingConfig(batch_size=5, gradient_accumulation=1)
        step = TrainStep(model, AdamATan2(model.parameters(), ema_decay=0.99), config, Random())
        for _ in range(3):
            step.run(1e-3, np.zeros(5, np.int32))
        print(kind, step.read_totals()["loss"])


if __name__ == "__main__":
    main()
