"""Chooses the Triton kernels' block sizes, warps and stages on the GPU at hand and writes triton_kernels/configs.json.

    python bench/tune.py [--only OP ...] [--seconds 480] [--table configs.json]

Each op runs with its gradients, in bfloat16, at the sizes of the published model. Each kernel that it launches has a
row in the table. The neighbours of that row (one option halved or doubled, one stage more or fewer) are compiled on all
cores and timed in turns with it, as replays of graphs. The fastest with the same results replaces the row, and the
search continues from there until no neighbour is 2 % faster. The table is written after every row, so nothing is lost
when the time is over."""

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
from op_cases import OpCase, cases
from plan import FULL, TINY

from trm_fast import ops
from trm_fast.ops._core.registry import OPS
from trm_fast.triton_kernels import configs

Options = dict[str, int]
GAIN = 0.98  # a neighbour must take less than this share of the time
SAME = 0.02  # relative difference of results that counts as the same: sums in another order, rounded to bfloat16


def neighbours(options: Options) -> Iterator[Options]:
    """The options that differ from these in one value."""
    for name, value in options.items():
        steps = (value - 1, value + 1) if name == "num_stages" else (value // 2, 2 * value)
        yield from ({**options, name: new} for new in steps if new >= 1)


def run(row: OpCase, leaves: list[Tensor]) -> list[Tensor]:
    """Runs an op: its result and gradients, or nothing for an op that works in place."""
    with ops.use_backend("triton", [row.op]):
        out, count = row.case.call(OPS[row.op].function, *leaves), row.case.differentiable
        return [out.detach(), *torch.autograd.grad(out, leaves[:count], torch.ones_like(out))] if count else []


def same(results: Sequence[Tensor], expected: Sequence[Tensor]) -> bool:
    """Whether all results agree, in norm."""
    pairs = [(r.float(), e.float()) for r, e in zip(results, expected, strict=True)]
    return all(bool((r - e).norm() <= SAME * e.norm()) for r, e in pairs)


@contextmanager
def rows_used() -> Iterator[dict[tuple[str, str], Options]]:
    """Yields a table that fills with the options of each kernel launched inside, by the kernel and its row's name."""
    plain, used = configs.lookup, dict[tuple[str, str], Options]()

    def lookup(kernel: str, tensor: Tensor, *shape: int, block: int = 0) -> dict[str, Any]:
        name = configs.key(8 * tensor.element_size(), *shape, small=tensor.numel() <= configs.SMALL)
        used[kernel, name] = dict(plain(kernel, tensor, *shape, block=block))
        return used[kernel, name]

    configs.lookup = lookup
    try:
        yield used
    finally:
        configs.lookup = plain


def compile_together(work: Callable[[], Any], put: Callable[[Options], None], tried: Sequence[Options]) -> None:
    """Compiles the kernels of all candidates in threads (the compiler releases Python's lock) and launches none."""
    plain: Any = JITFunction.run
    JITFunction.run = lambda *arguments, **options: plain(*arguments, **{**options, "warmup": True})
    try:
        with ThreadPoolExecutor(os.cpu_count()) as pool, triton.AsyncCompileMode(pool, ignore_errors=True):
            for options in tried:
                put(options)
                with suppress(Exception):  # what fails here fails again, and is refused, when it is launched
                    work()
    finally:
        JITFunction.run = plain


def decide(work: Callable[[], list[Tensor]], kernel: str, name: str, present: Options, device: str, end: float) -> None:
    """Puts the best row that is found until ``end`` into the table."""
    arch = "default" if device == "cpu" else "sm_{}{}".format(*torch.cuda.get_device_capability())
    put = partial(configs.put, arch, kernel, name)

    def row(text: str) -> AbstractContextManager[None]:
        put(by_text[text])
        return nullcontext()

    best, by_text = str(present), {str(present): present}
    expected = work()
    while time.monotonic() < end:
        tried = [*neighbours(by_text[best])]
        if kernel == "project_fwd":
            tried.append({"ROWS": 0})  # the vendor's product
        fresh = {text: options for options in tried if (text := str(options)) not in by_text}
        by_text |= fresh
        compile_together(work, put, list(fresh.values()))
        good = [best]
        for text in fresh:
            row(text)
            try:
                good += [text] * same(work(), expected)
            except Exception as problem:  # it needs more than a block has, for example
                print(f"    {text}: {type(problem).__name__}", file=sys.stderr)
        times = interleaved(dict.fromkeys(good, work), device, 5, 0.01, around=row)
        fastest = min(good, key=times.__getitem__)
        print(f"{kernel} {name}: {fastest}, {times[fastest]:.4f} ms, before {times[best]:.4f}", flush=True)
        if times[fastest] > GAIN * times[best]:
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
    end, decided = time.monotonic() + arguments.seconds, set[tuple[str, str]]()
    for batch in sorted(sizes.op_batches):  # rows of single shapes come before the row for all small inputs
        short = replace(sizes, tokens=81, token_inner=256)  # without a prefix only the token mixer has other rows
        for row in [row for size in (sizes, short) for row in cases(batch, size, dtype_of(device))]:
            if arguments.only and row.op not in arguments.only:
                continue
            dtype = dtype_of(device) if row.case.differentiable else torch.float32
            work = partial(run, row, row.case.leaves(row.case.inputs(dtype, torch.device(device))))
            with rows_used() as rows:
                work()
            for (kernel, name), present in rows.items():
                if (kernel, name) not in decided and time.monotonic() < end:
                    decide(work, kernel, name, present, device, end)
                    decided.add((kernel, name))
                    write(arguments.table, configs.table())


if __name__ == "__main__":
    main()
