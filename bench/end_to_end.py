"""Compares the training step and the solver with the published computation in stock PyTorch (the ``baseline``).

    python bench/end_to_end.py                                        every case, as a table
    python bench/end_to_end.py --only train:mixer97:16 --threads 2 --json
    python bench/end_to_end.py --baseline compiled --only train       with torch.compile (compiled-net: layers only)
    python bench/end_to_end.py --dtype bfloat16                       both sides in bfloat16
    python bench/end_to_end.py --device cuda --baseline compiled      on a GPU, in bfloat16

A case is KIND:MODEL:BATCH. Both sides start with the same weights and data, each in its own process. They take turns
step by step, so that other load on the machine affects both. Their first losses must agree, or the case fails.

``peak_share`` is the step's matrix FLOP per second, as a share of the processor's own peak: a loop of multiply-adds on
registers, in the dtype of the case, with the instruction set in use, on as many threads. ``gemm_share`` is its share of
the rate of a large product in torch. Both are measured between the steps, and so is the bandwidth of a large copy.
``peak_rss_ratio`` is the growth of our memory divided by the growth of the baseline's (on a GPU, the ratio of the peaks
of allocated device memory). ``launches`` counts the kernels and graphs that the host sends to a GPU in a step.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import os
import platform
import re
import statistics
import subprocess
import sys
from collections.abc import Callable
from itertools import product
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from ceiling import Ceiling, missing
from sides import MODELS, PRESETS, default_dtype, flop, product_size, side

from trm_fast import ops
from trm_fast.tasks.files import write_text

FOLDER = Path(__file__).parent
CASES = [
    *(f"train:{name}:16" for name in ("mixer97", "mixer81", "attention97")),
    *(f"train:{name}:64" for name in ("sudoku-cpu", "sudoku-4x4")),
    "train:sudoku-extreme:8",
    *(f"solve:{name}:{batch}" for name in ("mixer97", "attention97") for batch in (16, 1)),
    *(f"solve:{name}:64" for name in ("sudoku-cpu", "sudoku-4x4")),
]
GPU_CASES = [f"train:{name}:{batch}" for batch in (768, 8, 64) for name in ("mixer97", "mixer81", "attention97")]
REPEATS, FEW_REPEATS, LONG = 7, 2, 2e12  # a case with more FLOP than LONG takes minutes, so fewer steps are timed
DTYPES = ("float32", "bfloat16")
TOLERANCE = {"float32": 1e-3, "bfloat16": 2e-2}  # relative, of the first loss: the recursion amplifies rounding errors


def measure(
    case: str,
    threads: int,
    baseline: str,
    repeats: int | None,
    data: str | None,
    device: str = "cpu",
    patience: float | None = None,
    dtype: str | None = None,
) -> dict[str, Any]:
    """Compares the two sides on one case.

    Args:
        case: KIND:MODEL:BATCH.
        threads: of each side, on a CPU.
        baseline: eager, compiled or compiled-net.
        repeats: timed steps of each side; None for the default of the case.
        data: a CSV of 9x9 sudokus, or None for random tokens.
        device: cpu, cuda, cuda:1 and so on.
        patience: seconds that a side may take to answer, or None.
        dtype: of both sides: float32 or bfloat16; None for float32 on a CPU and bfloat16 on a GPU.

    Returns:
        A row of results/DEVICE/end_to_end.json.

    Raises:
        ValueError: a bfloat16 result on a CPU without products in bfloat16.
        ArithmeticError: the losses of the first step differ.
        TimeoutError: a side took longer than ``patience``.
        EOFError: the process of a side ended.
    """
    dtype = dtype or default_dtype(device)
    if reason := missing(dtype, device):
        raise ValueError(reason)
    if repeats is None:
        repeats = FEW_REPEATS if device == "cpu" and flop(case) > LONG else REPEATS
    context = multiprocessing.get_context("spawn")
    pipes, processes = [], []
    for ours in (True, False):
        pipe, theirs = context.Pipe()
        arguments = (theirs, ours, case, threads, baseline, data, device, dtype)
        process = context.Process(target=side, args=arguments, daemon=True)
        process.start()
        theirs.close()  # if this end stayed open, the pipe would not end when the side's process does
        pipes.append(pipe)
        processes.append(process)
    try:
        ceiling = Ceiling(threads)
        between = ceiling.measure if device == "cpu" else None
        measurements = _take_turns(case, pipes, repeats, dtype, patience, between)
        for process in processes:
            process.join(10)
    finally:
        for process in processes:
            process.kill()
    times, products, growth, launches = measurements
    ours, theirs = (statistics.median(t[1:]) for t in times)
    where = "" if device == "cpu" else f" --device {device}"
    rate, product_rate = flop(case) / ours, 2 * product_size(device) ** 3 / min(products)
    return {
        "case": case,
        "device": device_name(device),
        "dtype": dtype,
        "threads": threads,
        "ms": round(1e3 * ours, 3),
        "baseline": baseline,
        "baseline_ms": round(1e3 * theirs, 3),
        "ratio": round(theirs / ours, 3),
        "ratio_of_best": round(min(times[1][1:]) / min(times[0][1:]), 3),
        "gflops": round(rate / 1e9, 1),
        "tflops": round(rate / 1e12, 3),
        **ceiling.row(dtype, rate),
        "gemm_ceiling_gflops": round(product_rate / 1e9, 1),
        "gemm_share": round(rate / product_rate, 3),
        "peak_rss_ratio": round(growth[0] / max(1, growth[1]), 3),
        "cpu_path": ops.cpu_path(),  # of our side; TRM_FAST_CPU limits it
        "repeats": repeats,
        "memory_bytes": growth[0],
        "baseline_memory_bytes": growth[1],
        "launches": launches[0],
        "baseline_launches": launches[1],
        "commit": commit(),
        "command": f"python bench/end_to_end.py --only {case} --threads {threads} --baseline {baseline} "
        f"--dtype {dtype}{where}",
    }


def _take_turns(
    case: str,
    pipes: list[Connection],
    repeats: int,
    dtype: str,
    patience: float | None,
    between: Callable[[], None] | None = None,
) -> tuple[Any, ...]:
    """Returns the seconds of each side's steps, the seconds of the products between them, and each side's memory growth
    and launches. ``between`` is called after each pair of steps, while both sides wait."""

    def answer(pipe: Connection, what: str) -> Any:
        if not pipe.poll(patience):
            raise TimeoutError(
                f"{'ours' if pipe is pipes[0] else 'the baseline'} took more than {patience:.0f} s: {what}"
            )
        return pipe.recv()

    def ask(pipe: Connection, what: str) -> Any:
        pipe.send(what)
        return answer(pipe, what)

    times: tuple[list[float], list[float]] = ([], [])
    products = []
    for repeat in range(repeats + 1):  # the first step warms up
        (seconds, ours), (baseline_seconds, theirs) = (ask(pipe, "step") for pipe in pipes)
        times[0].append(seconds)
        times[1].append(baseline_seconds)
        # The sides take turns here as well, because the process that used the GPU last has warm caches.
        products.append(ask(pipes[repeat % 2], "product")[0])
        if between:
            between()
        if repeat == 0 and case.startswith("train") and _differ(ours, theirs, dtype):
            raise ArithmeticError(f"{case}: the losses of the first step differ: ours {ours}, baseline {theirs}")
    growth = [ask(pipe, "memory") for pipe in pipes]
    # Profiling comes last, because a GPU may forbid it, and the times are valid even then. Both sides profile together.
    launches: list[int | None] = []
    for pipe in pipes:
        with contextlib.suppress(OSError):
            pipe.send("launches")
            pipe.send("end")
    for pipe in pipes:
        try:
            launches.append(answer(pipe, "launches"))
        except (EOFError, OSError):
            launches.append(None)
    return times, products, growth, launches


def _differ(ours: float, theirs: float, dtype: str) -> bool:
    return not abs(ours - theirs) <= TOLERANCE[dtype] * abs(theirs)


def device_name(device: str = "cpu") -> str:
    """The name of the processor or the GPU, as a folder name."""
    if device != "cpu":
        return re.sub(r"[^a-z0-9.]+", "-", torch.cuda.get_device_name(device).lower().replace("nvidia ", ""))
    try:
        text = Path("/proc/cpuinfo").read_text()
        name = re.search(r"^model name\s*:\s*(.*)$", text, re.M)
        processor = name[1] if name else platform.machine()
        isa = next((i for i in ("amx_bf16", "avx512f", "avx2") if f" {i}" in text), "")
    except OSError:
        processor, isa = platform.processor() or platform.machine(), ""
    return re.sub(r"[^a-z0-9.]+", "-", f"{processor} {isa} {os.cpu_count()} cpus".lower()).strip("-")


def commit() -> str:
    """The commit of the checkout, as ``git describe`` names it."""
    command = ["git", "-C", str(FOLDER), "describe", "--always", "--dirty"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):  # a copy without git history
        return os.environ.get("TRM_FAST_COMMIT", "unknown")


def write(results: list[dict[str, Any]], path: Path) -> Path:
    """Merges results into a file, which keeps the newest of each case, number of threads, baseline and dtype."""
    path.parent.mkdir(parents=True, exist_ok=True)
    earlier = json.loads(path.read_text()) if path.exists() else []
    merged = {(r["case"], r["threads"], r["baseline"], r["dtype"]): r for r in [*earlier, *results]}
    write_text(path, json.dumps(list(merged.values()), indent=1) + "\n")
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", metavar="CASE", help="a case, or the start of a case; repeatable")
    parser.add_argument("--threads", type=int, action="append", help="repeatable; 1 and 2 by default")
    parser.add_argument("--baseline", choices=("eager", "compiled", "compiled-net"), default="eager")
    parser.add_argument(
        "--dtype",
        choices=DTYPES,
        action="append",
        help="of both sides; repeatable; by default bfloat16 on a GPU, and on a CPU all that it has products of",
    )
    parser.add_argument(
        "--repeats",
        type=int,
        help=f"timed steps of each side; {REPEATS} by default, {FEW_REPEATS} in long cases",
    )
    parser.add_argument("--data", default=os.environ.get("TRM_FAST_DATA"), help="a CSV of 9x9 sudokus")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1 and so on")
    parser.add_argument("--out", type=Path, help="file to merge into; by default bench/results/DEVICE/end_to_end.json")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--no-write", action="store_true", help="write no file")
    options = parser.parse_args()
    starts = options.only or [""]
    listed = CASES if options.device == "cpu" else GPU_CASES
    cases = [c for c in listed if any(c.startswith(start) for start in starts)]
    cases += [s for s in starts if s.count(":") == 2 and s not in cases and s.split(":")[1] in (*MODELS, *PRESETS)]
    if not cases:
        parser.error(f"no such case; choose from: {', '.join(listed)}")
    dtypes = options.dtype or (DTYPES if options.device == "cpu" else [default_dtype(options.device)])
    for reason in filter(None, (missing(dtype, options.device) for dtype in dtypes)):
        if options.dtype:
            parser.error(reason)
        print(reason, file=sys.stderr)
    dtypes = [dtype for dtype in dtypes if not missing(dtype, options.device)]
    data = options.data if options.data and Path(options.data).is_file() else None
    results = []
    path = options.out or FOLDER / "results" / device_name(options.device) / "end_to_end.json"
    failed = []
    threads_listed = options.threads or ([1, 2] if options.device == "cpu" else [1])
    for case, threads, dtype in product(cases, threads_listed, dtypes):
        try:
            result = measure(case, threads, options.baseline, options.repeats, data, options.device, dtype=dtype)
        except (ArithmeticError, EOFError, OSError) as error:  # a side ended; its own messages are above
            failed.append(f"{case}, {threads} threads, {dtype}: {error or type(error).__name__}")
            print(failed[-1], file=sys.stderr, flush=True)
            continue
        results.append(result)
        if options.json:
            print(json.dumps(result), flush=True)
        else:
            line = (
                "{case:22} {threads} threads, {dtype} {ms:9.1f} ms, {baseline} {baseline_ms:9.1f} ms: x {ratio:.2f}; "
            )
            line += "{gflops:.1f} GFLOP/s = "
            if result["peak_share"] is not None:
                line += "{peak_share:.0%} of the peak, "
            line += "{gemm_share:.0%} of GEMM; memory x {peak_rss_ratio:.2f}"
            print(line.format(**result), flush=True)
        if not options.no_write:  # after each case, because a long list may be interrupted
            write(results, path)
    if not options.no_write:
        print(f"written to {path}", file=sys.stderr)
    if failed:
        raise SystemExit(f"{len(failed)} of {len(cases)} cases failed: " + "; ".join(failed))


if __name__ == "__main__":
    main()
