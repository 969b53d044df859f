"""Compiles and checks the kernels in many processes at once, and times them: then ``auto`` knows what to take.

    warm.py --out DIR                    the kernels, at the sizes of their self-check and of the published model
    warm.py --out DIR --baseline CASE... the compiled baseline of some cases of bench/end_to_end.py

One process after the other would take minutes for what sixteen do in seconds, and a kernel that crashes takes its
process alone. What is late or fails here is found again where it counts, and reported there."""

from __future__ import annotations

import functools
import itertools
import sys
import time
from pathlib import Path
from typing import Any

import torch
from common import Report, options
from together import Task, together

D, HEADS, WIDTHS = 512, 8, {97: 512, 81: 256}
COMPILING = 0.7  # of the time, at most
WANTED = (torch.bfloat16, torch.float32)  # what the parts run; float16 is checked and timed by `trm-fast info`


def kernels(device: str) -> dict[tuple[str, str], list[torch.dtype]]:
    """(op, backend) -> those of the wanted dtypes that have a kernel on such a device."""
    from trm_fast.ops import backend

    kind = torch.device(device).type
    found = {
        (op, name): [dtype for dtype in WANTED if backend.unavailable(op, name, kind, dtype) is None]
        for op, rows in backend.KERNELS.items()
        for name in rows
    }
    return {which: dtypes for which, dtypes in found.items() if dtypes}


def check(op: str, name: str, dtypes: list[torch.dtype], device: str) -> dict[torch.dtype, str | None]:
    """The self-check: what is wrong with each, or None. A kernel that takes the device with it ends the list."""
    from trm_fast.ops import self_check

    verdicts: dict[torch.dtype, str | None] = {}
    for dtype in dtypes:
        verdicts[dtype] = self_check.check(op, name, dtype, torch.device(device))
        if verdicts[dtype] and torch.device(device).type == "cuda":
            try:
                torch.cuda.synchronize()
            except RuntimeError:
                break
    return verdicts


def timed(op: str, dtypes: list[torch.dtype], device: str) -> None:
    """The sizes that the winners are measured at, with gradients and without; a batch of 8 is specialised otherwise
    than multiples of 16."""
    from trm_fast import ops
    from trm_fast.ops import winners
    from trm_fast.ops.check_cases import timed_case

    for batch, dtype in itertools.product(winners.BATCHES[torch.device(device).type], dtypes):
        graded = timed_case(op, batch)
        with ops.use_backend("triton", ops=[op]):
            for case in (graded, graded._replace(differentiable=0)):
                case.work(getattr(ops, op), case.inputs(dtype, torch.device(device)))()


def recursion(tokens: int, heads: int, device: str, batch: int) -> None:
    """A cycle of the published model, as a training step has it."""
    from trm_fast import ops

    inner = 1536
    random = functools.partial(torch.randn, device=device, dtype=torch.bfloat16)
    mixer = [(3 * D, D), (D, D)] if heads else [(2 * WIDTHS[tokens], tokens), (tokens, WIDTHS[tokens])]
    shapes = [*mixer, (2 * inner, D), (D, inner)] * 2
    weights = [(random(shape) / shape[1] ** 0.5).requires_grad_() for shape in shapes]
    y, z, x = random(3, batch, tokens, D)
    rotary = tuple(torch.randn(2, tokens, D // heads, device=device)) if heads else None
    with ops.use_backend("triton", ops=["latent_recursion"]):
        for grad in (True, False):
            with torch.set_grad_enabled(grad):
                out = ops.latent_recursion(y, z, x, weights, 2, heads=heads, rotary=rotary)
            if grad:
                torch.stack([state.sum() for state in out if state is not None]).sum().backward()


def baseline(case: str, device: str) -> None:
    """One step of the baseline under torch.compile, whose caches the benchmark then finds."""
    sys.path.insert(0, str(Path(__file__).parents[1]))
    import end_to_end

    end_to_end.baseline_side(end_to_end.Problem(case, None, device), "compiled")()


def compiled_and_checked(device: str, seconds: float) -> dict[str, Any]:
    from trm_fast.ops import self_check

    found = kernels(device)
    # Long ones first.
    tasks: list[Task] = [
        (recursion, (tokens, heads, device, batch))
        for tokens, heads in ((97, 0), (81, 0), (97, HEADS))
        for batch in (768, 64, 8)  # a kernel of the mixer is made for one size of batch
        if torch.bfloat16 in found.get(("latent_recursion", "triton"), ())
    ]
    tasks += [(timed, (op, dtypes, device)) for (op, name), dtypes in found.items() if name == "triton"]
    tasks += [(check, (op, name, [dtype], device)) for (op, name), dtypes in found.items() for dtype in dtypes]
    report = together(tasks, seconds)
    verdicts = {
        (op, name, dtype): wrong
        for (work, (op, name, *_)), result in report.pop("done")
        if work == "check"
        for dtype, wrong in result.items()
    }
    self_check.keep_verdicts(torch.device(device).type, verdicts)
    wrong = {f"{op} {name} {dtype}": why for (op, name, dtype), why in verdicts.items() if why}
    return {"tasks": len(tasks), "checked": len(verdicts), "wrong": wrong, **report}


def measured(device: str, end: float) -> dict[str, Any]:
    """What ``trm-fast info --measure`` does, for this device alone, and until ``end``: each winner is kept at once."""
    from trm_fast.inference.capture import recorded
    from trm_fast.ops import winners

    rows: list[dict[str, Any]] = []
    for op, dtype, size, times in winners.measure(torch.device(device).type, recorded(torch.device(device)), WANTED):
        rows.append({"op": op, "dtype": dtype, "inputs": size, **{name: round(ms, 4) for name, ms in times.items()}})
        if time.perf_counter() >= end:
            return {"milliseconds": rows, "out of time": True}
    return {"milliseconds": rows}


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--baseline", nargs="+", default=[], metavar="CASE")
    parser.add_argument("--seconds", type=float, default=80.0, help="for all of it")
    asked = parser.parse_args()
    device, end = asked.device, time.perf_counter() + asked.seconds
    report = Report(asked.out, "baseline_compiled" if asked.baseline else "warm", device)
    if asked.baseline:
        tasks: list[Task] = [(baseline, (case, device)) for case in asked.baseline]
        report.attempt("compile the baseline", lambda: together(tasks, asked.seconds) | {"done": None})
        return
    report.attempt("compile and check", lambda: compiled_and_checked(device, COMPILING * asked.seconds))
    report.attempt("measure", lambda: measured(device, end))


if __name__ == "__main__":
    main()
