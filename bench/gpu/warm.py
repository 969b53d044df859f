"""Compiles the Triton kernels in several processes at once, so that what comes after finds them in the cache.

    warm.py --out DIR                    the kernels, for their self-checks and at the published sizes
    warm.py --out DIR --baseline CASE... the compiled baseline of some cases of bench/end_to_end.py

One process after the other would take minutes for what sixteen do in seconds. What fails here fails again where it
counts, and is reported there."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures import TimeoutError as OutOfTime
from pathlib import Path
from typing import Any

import torch
from common import Report, options

D, HEADS, WIDTHS = 512, 8, {97: 512, 81: 256}


def kernels(device: str) -> list[tuple[str, str]]:
    """(op, dtype) of every Triton kernel that may run there."""
    from trm_fast.ops import backend

    return [
        (op, str(dtype).removeprefix("torch."))
        for op, rows in backend.KERNELS.items()
        for dtype in rows.get("triton", ())
        if backend.unavailable(op, "triton", torch.device(device).type, dtype) is None
    ]


def check(op: str, dtype: str, device: str) -> None:
    """The tiny inputs of the self-check."""
    from trm_fast.ops import self_check

    self_check.check(op, "triton", getattr(torch, dtype), torch.device(device))


def timed(op: str, dtype: str, device: str, batch: int) -> None:
    """The sizes that the winners are measured at."""
    from trm_fast import ops
    from trm_fast.ops.check_cases import timed_case

    case = timed_case(op, batch)
    with ops.use_backend("triton", ops=[op]):
        case.run(getattr(ops, op), case.inputs(getattr(torch, dtype), torch.device(device)))


def recursion(tokens: int, heads: int, device: str, batch: int) -> None:
    """A cycle of the published model, as a training step has it."""
    from trm_fast import ops

    inner, size = 1536, {"device": device, "dtype": torch.bfloat16}
    mixer = [(3 * D, D), (D, D)] if heads else [(2 * WIDTHS[tokens], tokens), (tokens, WIDTHS[tokens])]
    shapes = [*mixer, (2 * inner, D), (D, inner)] * 2
    weights = [(torch.randn(shape, **size) / shape[1] ** 0.5).requires_grad_() for shape in shapes]
    y, z, x = torch.randn(3, batch, tokens, D, **size)
    rotary = tuple(torch.randn(2, tokens, D // heads, device=device)) if heads else None
    with ops.use_backend("triton", ops=["latent_recursion"]):
        for grad in (True, False):
            with torch.set_grad_enabled(grad):
                y, z = ops.latent_recursion(y, z, x, weights, 2, heads=heads, rotary=rotary)
            if grad:
                (y.sum() + z.sum()).backward()
                y, z = y.detach(), z.detach()


def baseline(case: str, device: str) -> None:
    """One step of the baseline under torch.compile, whose caches the benchmark then finds."""
    sys.path.insert(0, str(Path(__file__).parents[1]))
    import end_to_end

    end_to_end.baseline_side(end_to_end.Problem(case, None, device), compiled=True)()


def together(tasks: Sequence[tuple[Callable[..., None], tuple[Any, ...]]], seconds: float) -> dict[str, Any]:
    """Runs all tasks in processes of their own; leaves those that are not done in time."""
    start, failed = time.perf_counter(), {}
    workers = min(len(tasks), max(1, (os.cpu_count() or 2) - 2), 14)
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"))
    running = {pool.submit(work, *given): f"{work.__name__}{given}" for work, given in tasks}
    with contextlib.suppress(OutOfTime):
        for done in as_completed(running, timeout=seconds):
            if error := done.exception():
                failed[running[done]] = f"{type(error).__name__}: {error}"[:300]
    late = [name for done, name in running.items() if not done.done()]
    for process in list((pool._processes or {}).values()):
        process.kill()
    pool.shutdown(wait=False, cancel_futures=True)
    return {"tasks": len(tasks), "workers": workers, "seconds": round(time.perf_counter() - start, 1),
            "failed": failed, "late": late}  # fmt: skip


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--baseline", nargs="+", default=[], metavar="CASE")
    parser.add_argument("--seconds", type=float, default=60.0)
    asked = parser.parse_args()
    device = asked.device
    report = Report(asked.out, "baseline_compiled" if asked.baseline else "warm", device)
    if asked.baseline:
        tasks = [(baseline, (case, device)) for case in asked.baseline]
        report.attempt("compile the baseline", lambda: together(tasks, asked.seconds))
        return
    pairs = kernels(device)
    tasks = [(recursion, (tokens, heads, device, batch)) for tokens, heads in ((97, 0), (81, 0), (97, HEADS))
             for batch in (64, 8) if ("latent_recursion", "bfloat16") in pairs]  # fmt: skip
    # Long ones first; a batch of 8 is specialised otherwise than multiples of 16.
    tasks += [(timed, (op, dtype, device, batch)) for batch in (256, 8) for op, dtype in pairs if dtype != "float16"]
    tasks += [(check, (op, dtype, device)) for op, dtype in pairs]
    if tasks:
        report.attempt("compile the kernels", lambda: together(tasks, asked.seconds))


if __name__ == "__main__":
    main()
