"""Measures ARC's puzzle embedding at its published size: its memory, its updates, and its checkpoints.

python bench/puzzle_embedding.py --tasks 960 --augmentations 1000
"""

from __future__ import annotations

import argparse
import itertools
import json
import resource
import statistics
import tempfile
import time
import timeit
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch

from trm_fast import ops
from trm_fast.tasks.arc import ARC
from trm_fast.tasks.arc.data import ARCConfig
from trm_fast.tasks.arc.grids import COLORS
from trm_fast.tasks.arc.index import TaskIndex
from trm_fast.tasks.arc.symmetry import ELEMENTS, Appearance
from trm_fast.tasks.base import Examples
from trm_fast.training import checkpoint

BATCH, WIDTH, ROUNDS = 768, 512, 15


def milliseconds(work: Callable[[], object]) -> float:
    """The median time of ``ROUNDS`` calls, after one that warms up."""
    work()
    return 1e3 * statistics.median(timeit.repeat(work, number=1, repeat=ROUNDS))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", type=int, default=1000)
    parser.add_argument("--augmentations", type=int, default=1000)
    parser.add_argument("--folder", type=Path, default=None, help="where a checkpoint is written, then removed")
    args = parser.parse_args()
    rows = args.tasks * (args.augmentations + 1)
    report: dict[str, float | int | str] = {
        "rows": rows, "width": WIDTH, "batch": BATCH, "threads": torch.get_num_threads(), "torch": torch.__version__,
    }  # fmt: skip
    task = ARC(ARCConfig(augmentations=args.augmentations))
    names = [f"task {i}" for i in range(args.tasks)]
    distinct = Appearance(list(range(ELEMENTS)), [list(range(1, COLORS))] * ELEMENTS)  # no two augmentations are equal
    task.learn(TaskIndex(names, names, [distinct] * args.tasks))

    weight = torch.zeros(rows, WIDTH)
    report["embedding_gib"] = weight.numel() * 4 / 2**30
    rng = np.random.default_rng(0)
    lr = torch.tensor(1e-2)
    batches = [(torch.from_numpy(rng.integers(rows, size=BATCH)), torch.randn(BATCH, WIDTH)) for _ in range(ROUNDS + 1)]
    queue = itertools.cycle(batches)  # different rows in each round, because those of the last one are in the cache

    def update(table: torch.Tensor) -> None:
        ids, gradients = next(queue)
        ops.sign_sgd_rows_(table, gradients, ids % len(table), lr, 0.1)

    report["update_ms"] = milliseconds(partial(update, weight))
    report["update_of_a_small_table_ms"] = milliseconds(partial(update, torch.zeros(2 * BATCH, WIDTH)))

    canvas = 30
    grids = rng.integers(2, 12, (BATCH, canvas, canvas)).astype(np.int32)
    sizes = rng.integers(3, 31, (BATCH, 2))
    inside = (np.arange(canvas)[:, None] < sizes[:, :1, None]) & (np.arange(canvas) < sizes[:, 1:, None])
    tokens = np.where(inside, grids, 0).reshape(BATCH, -1).astype(np.int32)
    ids = (rng.integers(args.tasks, size=BATCH) * (args.augmentations + 1)).astype(np.int32)
    examples = Examples(tokens, tokens, ids)
    report["augment_batch_ms"] = milliseconds(lambda: task.augment(examples, rng))

    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        start = time.perf_counter()
        path = checkpoint.save(Path(folder), 1, {"model": {"puzzle_embedding": weight}}, {})
        report["save_s"] = time.perf_counter() - start
        report["checkpoint_gib"] = sum(f.stat().st_size for f in path.iterdir()) / 2**30
        start = time.perf_counter()
        checkpoint.load(Path(folder))
        report["load_s"] = time.perf_counter() - start
    report["peak_gib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(json.dumps({k: round(v, 3) if isinstance(v, float) else v for k, v in report.items()}, indent=1))


if __name__ == "__main__":
    main()
