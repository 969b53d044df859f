"""Chooses the Triton kernels' block sizes, warps and stages for this machine's GPU; writes triton_kernels/configs.json.

    python bench/tune.py [--only OP ...] [--seconds 480] [--table configs.json]

Each op runs with its gradients, in bfloat16, at the sizes of the published model. Each kernel that it launches has a
row in the table. The neighbors of that row (one option halved or doubled, one stage more or fewer) are compiled on all
cores. Those with the same results are timed alternately with it, as CUDA-graph replays. The fastest one replaces the
row, and the search continues from there until no neighbor takes less than 98 % of the current time. The table is
written after every row, so nothing is lost when the time is up."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
import triton
from torch import Tensor
from triton.runtime.jit import JITFunction

sys.path.insert(0, str(Path(__file__).parent / "gpu"))
from common import dtype_of, interleaved, write
from op_cases import cases, outcome, run, same
from plan import FULL, TINY

from trm_fast.triton_kernels import configs

Options = dict[str, int]
MAX_TIME_RATIO = 0.98  # a candidate must take less than 98 % of the current time


def neighbors(options: Options) -> Iterator[Options]:
    """The options that differ from these in one value."""
    for name, value in options.items():
        steps = (value - 1, value + 1) if name == "num_stages" else (value // 2, 2 * value)
        yield from ({**options, name: new} for new in steps if new >= 1)


@contextmanager
def rows_used() -> Iterator[dict[tuple[str, str], Options]]:
    """Records the launch options of each kernel launched in the context, under the names of the kernel and its row."""
    original, used = configs.lookup, dict[tuple[str, str], Options]()

    def lookup(kernel: str, tensor: Tensor, *shape: int, block: int = 0) -> dict[str, Any]:
        name = configs.key(8 * tensor.element_size(), *shape, small=tensor.numel() <= configs.SMALL)
        used[kernel, name] = dict(original(kernel, tensor, *shape, block=block))
        return used[kernel, name]

    configs.lookup = lookup
    try:
        yield used
    finally:
        configs.lookup = original


def compile_together(work: Callable[[], Any], put: Callable[[Options], None], tried: Sequence[Options]) -> None:
    """Compiles the kernels of all candidates in threads (the compiler releases Python's lock) and launches none."""
    original: Any = JITFunction.run
    JITFunction.run = lambda *arguments, **options: original(*arguments, **{**options, "warmup": True})
    try:
        with ThreadPoolExecutor(os.cpu_count()) as pool, triton.AsyncCompileMode(pool, ignore_errors=True):
            for options in tried:
                put(options)
                # A candidate that fails to compile fails again at launch, where it is rejected.
                with suppress(Exception):
                    work()
    finally:
        JITFunction.run = original


def tune_row(
    work: Callable[[], Any], results: Callable[[], list[Tensor]], kernel: str, name: str, present: Options,
    device: str, end: float,
) -> None:  # fmt: skip
    """Searches until ``end`` and stores the best launch options. ``work`` is timed; ``results`` are compared."""
    arch = "default" if device == "cpu" else "sm_{}{}".format(*torch.cuda.get_device_capability())
    put = partial(configs.put, arch, kernel, name)

    def row(text: str) -> AbstractContextManager[None]:
        put(by_text[text])
        return nullcontext()

    best, by_text = str(present), {str(present): present}
    expected = results()
    while time.monotonic() < end:
        tried = [*neighbors(by_text[best])]
        if kernel == "project_fwd":
            tried.append({"ROWS": 0})  # cuBLAS
        new = {text: options for options in tried if (text := str(options)) not in by_text}
        by_text |= new
        compile_together(work, put, list(new.values()))
        passing = [best]
        for text in new:
            row(text)
            try:
                if same(results(), expected):
                    passing.append(text)
            except Exception as problem:  # e.g. too much shared memory
                print(f"    {text}: {type(problem).__name__}", file=sys.stderr)
        times = interleaved(dict.fromkeys(passing, work), device, 5, 0.01, around=row)
        fastest = min(passing, key=times.__getitem__)
        print(f"{kernel} {name}: {fastest}, {times[fastest]:.4f} ms, before {times[best]:.4f}", flush=True)
        if times[fastest] > MAX_TIME_RATIO * times[best]:
            break
        best = fastest
    put(by_text[best])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", metavar="OP", default=[], help="all by default")
    parser.add_argument("--table", type=Path, default=configs.TABLE, help="table to write; by default the kernels' own")
    parser.add_argument("--seconds", type=float, default=480.0, help="limit for everything; 480 by default")
    parser.add_argument("--tiny", action="store_true", help="small sizes on a CPU with TRITON_INTERPRET=1, as a test")
    arguments = parser.parse_args()
    device, sizes = ("cpu", TINY) if arguments.tiny else ("cuda", FULL)
    if not (arguments.tiny or torch.cuda.is_available()):
        sys.exit("bench/tune.py: torch sees no GPU")
    end, tuned = time.monotonic() + arguments.seconds, set[tuple[str, str]]()
    for batch in sorted(sizes.op_batches):  # small inputs first
        no_prefix = replace(sizes, tokens=81, token_inner=256)  # the token mixer has different rows for these sizes
        for row in [row for size in (sizes, no_prefix) for row in cases(batch, size, dtype_of(device))]:
            if arguments.only and row.op not in arguments.only:
                continue
            dtype = dtype_of(device) if row.case.differentiable else torch.float32
            inputs = row.case.inputs(dtype, torch.device(device))
            work, results = partial(run, row, row.case.leaves(inputs)), partial(outcome, row, inputs)
            with rows_used() as rows:
                work()
            for (kernel, name), present in rows.items():
                if (kernel, name) not in tuned and time.monotonic() < end:
                    tune_row(work, results, kernel, name, present, device, end)
                    tuned.add((kernel, name))
                    write(arguments.table, configs.table())


if __name__ == "__main__":
    main()
