"""Part ``checks``: compares every kernel with its reference, and runs the tests that need a GPU.

Compiling a kernel takes seconds on one core, so many processes check kernels at the same time. Others compile what the
part ``step`` will run: our kernels, and those of the compiled baseline. A kernel that ends its process loses only its
own row."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import torch
from common import Part, usable
from plan import DEVICE_LOST, SHALLOW

from trm_fast.ops import report
from trm_fast.ops._core import validation
from trm_fast.ops._core.registry import dtype_name

CHECK, WARM = "check", "warm"
DTYPES = (torch.bfloat16, torch.float32)  # the dtypes that the other parts use
PYTEST = ["-m", "pytest", "-q", "-p", "no:cacheprovider"]
TESTS = Path(__file__).parents[2] / "tests"


def check(device: str, cases: list[str]) -> None:
    """Checks kernels and prints a line of JSON for each OP/BACKEND/DTYPE; runs in its own process. The verdicts are
    saved, so later processes do not check these kernels again."""
    for case in cases:
        op, name, dtype = case.split("/")
        verdict = validation.verdict(op, name, getattr(torch, dtype), device)
        print(json.dumps({"case": case, "result" if verdict == validation.PASSED else "error": verdict}), flush=True)
        if not usable(device):
            os._exit(DEVICE_LOST)


def warm(device: str, case: str, baseline: str) -> None:
    """Runs one step of a side of the benchmark, whose compiled kernels stay in the caches; runs in its own process.
    The model has fewer cycles: it needs the same kernels and less memory, so many processes fit on the GPU."""
    import sides

    os.nice(5)  # the checks come first
    name = case.split(":")[1]
    sides.MODELS[name] = {**sides.MODELS[name], **SHALLOW}
    problem = sides.Problem(case, None, device, sides.default_dtype(device))
    (sides.our_side(problem) if baseline == "ours" else sides.baseline_side(problem, baseline))()


def run_process(part: Part, *command: str) -> tuple[int | None, str]:
    """Runs a process until the part must end: its exit status, None if it was stopped, and its output until then."""
    try:
        done = subprocess.run(
            [sys.executable, *command], stdout=subprocess.PIPE, text=True, timeout=max(1.0, part.left())
        )
        return done.returncode, done.stdout
    except subprocess.TimeoutExpired as late:
        return None, (late.stdout or b"").decode(errors="replace")


def check_kernels(part: Part, pending: list[str]) -> None:
    """Adds the rows of some kernels. A kernel that ends its process gets an error; a new process checks the rest."""
    while pending and part.left() > 0:
        code, output = run_process(part, __file__, CHECK, part.device, *pending)
        rows = [json.loads(line) for line in output.splitlines() if line.startswith("{")]
        # With DEVICE_LOST, the kernel that broke the device has printed its own row.
        if len(rows) < len(pending) and code != DEVICE_LOST:
            lost = {"skipped": "no time was left"} if code is None else {"error": "it ended the process"}
            rows.append({"case": pending[len(rows)], **lost})
        for row in rows:
            part.keep(row)
        del pending[: len(rows)]


def warm_caches(part: Part, case: str, baseline: str) -> None:
    print(run_process(part, __file__, WARM, part.device, case, baseline)[1], end="")


def run_tests(part: Part, file: Path) -> None:
    code, output = run_process(part, *PYTEST, str(file))
    row: dict[str, Any] = {"skipped": "no time was left"} if code is None else {"exit": code, "output": output[-2000:]}
    part.keep({"case": file.stem, **row} | ({"error": "tests failed"} if code else {}))


def measure(part: Part) -> None:
    groups: dict[tuple[str, str], list[str]] = {}
    for op, backend, dtype in report.kernels_on(part.device):
        case = f"{op}/{backend}/{dtype_name(dtype)}"
        if dtype in DTYPES and case not in part.rows:
            # On a CPU nothing is compiled, so one process is enough.
            groups.setdefault((op, backend) if part.device == "cuda" else ("", ""), []).append(case)
    jobs: list[Callable[[], None]] = [partial(check_kernels, part, group) for group in groups.values()]
    if part.device == "cuda":
        files = [path for path in TESTS.rglob("test_*.py") if "mark.gpu" in path.read_text()]
        jobs += [partial(run_tests, part, path) for path in [*files, *TESTS.rglob("test_*_device.py")]]
        sides = ["ours", *(baseline for baseline in part.sizes.baselines if baseline != "eager")]
        jobs += [partial(warm_caches, part, case, side) for side in sides for case in part.sizes.steps]
    with ThreadPoolExecutor(2 * (os.cpu_count() or 1)) as pool:
        for future in [pool.submit(job) for job in jobs]:
            future.result()


if __name__ == "__main__":
    if sys.argv[1] == CHECK:
        check(sys.argv[2], sys.argv[3:])
    else:
        warm(*sys.argv[2:5])
