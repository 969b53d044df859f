"""Chooses the Triton kernels' block sizes, warps and stages on the GPU at hand and writes triton_kernels/configs.json.

    python bench/tune.py [--only OP ...] [--seconds 480] [--table configs.json]

An op runs with its gradients, in bfloat16, at the sizes of the published model. Each kernel that it launches has a row
in the table. The neighbours of that row (an option halved or doubled, a stage more or less) are compiled on all cores
and timed in turn with it, as replays of graphs. The fastest that gives the same results takes the row's place, until no
neighbour is 2 % faster. The table is written after every row: what was decided stays when the time is over."""

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
GAIN, SAME = 0.98, 0.02  # of the time; of the results, in norm: another order of sums, rounded to bfloat16


def neighbours(options: Options) -> Iterator[Options]:
    for name, value in options.items():
        steps = (value - 1, value + 1) if name == "num_stages" else (value // 2, 2 * value)
        yield from ({**options, name: new} for new in steps if new >= 1)


def run(row: OpCase, leaves: list[Tensor]) -> list[Tensor]:
    """The result and the gradients; of an op in place nothing."""
    with ops.use_backend("triton", [row.op]):
        out, count = row.case.call(OPS[row.op].function, *leaves), row.case.differentiable
        return [out.detach(), *torch.autograd.grad(out, leaves[:count], torch.ones_like(out))] if count else []


def same(results: Sequence[Tensor], expected: Sequence[Tensor]) -> bool:
    pairs = [(r.float(), e.float()) for r, e in zip(results, expected, strict=True)]
    return all(bool((r - e).norm() <= SAME * e.norm()) for r, e in pairs)


@contextmanager
def rows_asked_for() -> Iterator[dict[tuple[str, str], Options]]:
    """(kernel, its row's name) -> the options of every kernel that is launched inside."""
    plain, found = configs.lookup, dict[tuple[str, str], Options]()

    def lookup(kernel: str, tensor: Tensor, *shape: int, block: int = 0) -> dict[str, Any]:
        name = configs.key(8 * tensor.element_size(), *shape, small=tensor.numel() <= configs.SMALL)
        found[kernel, name] = dict(plain(kernel, tensor, *shape, block=block))
        return found[kernel, name]

    configs.lookup = lookup
    try:
        yield found
    finally:
        configs.lookup = plain


def compile_together(work: Callable[[], Any], put: Callable[[Options], None], tried: Sequence[Options]) -> None:
    """Compiles the kernels of all candidates in threads (the compiler leaves Python's lock) and launches none."""
    plain: Any = JITFunction.run
    JITFunction.run = lambda *given, **options: plain(*given, **{**options, "warmup": True})
    try:
        with ThreadPoolExecutor(os.cpu_count()) as pool, triton.AsyncCompileMode(pool, ignore_errors=True):
            for options in tried:
                put(options)
                with suppress(Exception):  # what fails here is refused when it is launched
                    work()
    finally:
        JITFunction.run = plain


def decide(work: Callable[[], list[Tensor]], kernel: str, name: str, present: Options, device: str, end: float) -> None:
    """Leaves the best row found until ``end`` in the table."""
    arch = "default" if device == "cpu" else "sm_{}{}".format(*torch.cuda.get_device_capability())
    put = partial(configs.put, arch, kernel, name)

    def row(text: str) -> AbstractContextManager[None]:
        put(known[text])
        return nullcontext()

    best, known = str(present), {str(present): present}
    expected = work()
    while time.monotonic() < end:
        tried = [*neighbours(known[best]), *[{"ROWS": 0}] * (kernel == "project_fwd")]  # 0: the vendor's product
        fresh = {text: options for options in tried if (text := str(options)) not in known}
        known |= fresh
        compile_together(work, put, list(fresh.values()))
        good = [best]
        for text in fresh:
            row(text)
            try:
                good += [text] * same(work(), expected)
            except Exception as problem:  # more than fits a block, say
                print(f"    {text}: {type(problem).__name__}", file=sys.stderr)
        times = interleaved(dict.fromkeys(good, work), device, 5, 0.01, around=row)
        fastest = min(good, key=times.__getitem__)
        print(f"{kernel} {name}: {fastest}, {times[fastest]:.4f} ms, before {times[best]:.4f}", flush=True)
        if times[fastest] > GAIN * times[best]:
            break
        best = fastest
    put(known[best])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", metavar="OP", default=[], help="all by default")
    parser.add_argument("--table", type=Path, default=configs.TABLE, help="to write; the one that the kernels read")
    parser.add_argument("--seconds", type=float, default=480.0, help="for all of it; 480")
    parser.add_argument("--tiny", action="store_true", help="small sizes, on a CPU with TRITON_INTERPRET=1: a test")
    asked = parser.parse_args()
    device, sizes = ("cpu", TINY) if asked.tiny else ("cuda", FULL)
    if not (asked.tiny or torch.cuda.is_available()):
        sys.exit("bench/tune.py: torch sees no GPU")
    end, decided = time.monotonic() + asked.seconds, set[tuple[str, str]]()
    for batch in sorted(sizes.op_batches):  # a row of a shape stands before that of all small inputs
        short = replace(sizes, tokens=81, token_inner=256)  # without a prefix: other rows for the mixer alone
        for row in [row for size in (sizes, short) for row in cases(batch, size, dtype_of(device))]:
            if asked.only and row.op not in asked.only:
                continue
            dtype = dtype_of(device) if row.case.differentiable else torch.float32
            work = partial(run, row, row.case.leaves(row.case.inputs(dtype, torch.device(device))))
            with rows_asked_for() as rows:
                work()
            for (kernel, name), present in rows.items():
                if (kernel, name) not in decided and time.monotonic() < end:
                    decide(work, kernel, name, present, device, end)
                    decided.add((kernel, name))
                    write(asked.table, configs.table())


if __name__ == "__main__":
    main()
