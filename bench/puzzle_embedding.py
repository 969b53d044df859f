"""Measures ARC's puzzle embedding at its published size: memory, the time of an update, time and size of a checkpoint.

python bench/puzzle_embedding.py --tasks 960 --augmentations 1000
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import tempfile
import time
import timeit
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import psutil
import torch

from trm_fast import ops
from trm_fast.tasks.arc import ARC
from trm_fast.tasks.arc.data import ARCConfig
from trm_fast.tasks.arc.grids import COLORS
from trm_fast.tasks.arc.index import TaskIndex
from trm_fast.tasks.arc.symmetry import ELEMENTS, Look
from trm_fast.tasks.base import Examples
from trm_fast.training import checkpoint


def milliseconds(work: Callable[[], object], rounds: int) -> float:
    """The median of some calls."""
    return 1e3 * statistics.median(timeit.repeat(work, number=1, repeat=rounds))


def resident() -> float:
    """The memory of this process in GiB."""
    return psutil.Process().memory_info().rss / 2**30


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", type=int, default=1000)
    parser.add_argument("--augmentations", type=int, default=1000)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--batch", type=int, default=768)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--folder", type=Path, default=None, help="where a checkpoint is written, then removed")
    args = parser.parse_args()
    rows = args.tasks * (args.augmentations + 1)
    report: dict[str, float | int | str] = {
        "rows": rows, "width": args.width, "batch": args.batch, "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }  # fmt: skip

    start = time.perf_counter()
    task = ARC(ARCConfig(augmentations=args.augmentations))
    names = [f"task {i}" for i in range(args.tasks)]
    distinct = Look(list(range(ELEMENTS)), [list(range(1, COLORS))] * ELEMENTS)  # no two augmentations are equal
    task.learn(TaskIndex(names, names, [distinct] * args.tasks))
    report["augmentation_tables_s"] = time.perf_counter() - start

    start_memory = resident()
    weight = torch.zeros(rows, args.width)
    report["embedding_gib"] = weight.numel() * 4 / 2**30
    report["resident_gib"] = resident() - start_memory
    rng = np.random.default_rng(0)
    lr = torch.tensor(1e-2)
    batches = [
        (torch.from_numpy(rng.integers(rows, size=args.batch)), torch.randn(args.batch, args.width))
        for _ in range(args.rounds + 1)
    ]
    small = torch.zeros(2 * args.batch, args.width)
    for name, table in (("update_ms", weight), ("update_of_a_small_table_ms", small)):
        queue = iter(batches)

        def update(table: torch.Tensor = table, queue: Iterator[tuple[torch.Tensor, torch.Tensor]] = queue) -> None:
            ids, gradients = next(queue)
            ops.sign_sgd_rows_(table, gradients, ids % len(table), lr, 0.1)

        update()
        report[name] = milliseconds(update, args.rounds)
    report["gather_ms"] = milliseconds(lambda: weight[batches[0][0]], args.rounds)

    canvas = 30
    grids = rng.integers(2, 12, (args.batch, canvas, canvas)).astype(np.int32)
    sizes = rng.integers(3, 31, (args.batch, 2))
    inside = (np.arange(canvas)[:, None] < sizes[:, :1, None]) & (np.arange(canvas) < sizes[:, 1:, None])
    tokens = np.where(inside, grids, 0).reshape(args.batch, -1).astype(np.int32)
    ids = (rng.integers(args.tasks, size=args.batch) * (args.augmentations + 1)).astype(np.int32)
    examples = Examples(tokens, tokens, ids)
    report["augment_batch_ms"] = milliseconds(lambda: task.augment(examples, rng), args.rounds)

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
