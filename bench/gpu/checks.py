"""Part checks: every kernel beside its reference, and the tests that need a GPU.

Compiling a kernel takes seconds on one core, so kernels are checked in many processes at once; and so is what the part
``step`` will run compiled, its kernels and the peer's. A kernel that ends its process costs its own row alone."""

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
from plan import SHALLOW

from trm_fast.ops import report
from trm_fast.ops._core import validation
from trm_fast.ops._core.registry import dtype_name

CHECK, WARM = "check", "warm"
DTYPES = (torch.bfloat16, torch.float32)  # what the other parts run
PYTEST = ["-m", "pytest", "-q", "-p", "no:cacheprovider"]
TESTS = Path(__file__).parents[2] / "tests"


def check(device: str, cases: list[str]) -> None:
    """In a process of its own: a line of JSON for each OP/BACKEND/DTYPE. Verdicts are kept: no later process
    checks these kernels again."""
    for case in cases:
        op, name, dtype = case.split("/")
        found = validation.verdict(op, name, getattr(torch, dtype), device)
        print(json.dumps({"case": case, "result" if found == validation.PASSED else "error": found}), flush=True)
        if not usable(device):
            os._exit(1)


def warm(device: str, case: str, baseline: str) -> None:
    """In a process of its own: one step of a side, whose compiled kernels the benchmark then finds in the caches.
    Of a model with fewer cycles: the same kernels, and many processes have the memory."""
    import sides

    os.nice(5)  # behind the checks
    name = case.split(":")[1]
    sides.MODELS[name] = {**sides.MODELS[name], **SHALLOW}
    problem = sides.Problem(case, None, device)
    (sides.our_side(problem) if baseline == "ours" else sides.baseline_side(problem, baseline))()


def ran(part: Part, *command: str) -> tuple[int | None, str]:
    """The exit status of a process, None where it had to be stopped, and what it printed until then."""
    try:
        done = subprocess.run(
            [sys.executable, *command], stdout=subprocess.PIPE, text=True, timeout=max(1.0, part.left())
        )
        return done.returncode, done.stdout
    except subprocess.TimeoutExpired as late:
        return None, (late.stdout or b"").decode(errors="replace")


def checked(part: Part, pending: list[str]) -> None:
    """Rows of some kernels; who ends the process has an error, and another process takes the ones behind it."""
    while pending and part.left() > 0:
        code, output = ran(part, __file__, CHECK, part.device, *pending)
        rows = [json.loads(line) for line in output.splitlines() if line.startswith("{")]
        if len(rows) < len(pending):
            lost = {"skipped": "no time was left"} if code is None else {"error": "it ended the process"}
            rows.append({"case": pending[len(rows)], **lost})
        for row in rows:
            part.keep(row)
        del pending[: len(rows)]


def warmed(part: Part, case: str, baseline: str) -> None:
    print(ran(part, __file__, WARM, part.device, case, baseline)[1], end="")


def tested(part: Part, file: Path) -> None:
    code, output = ran(part, *PYTEST, str(file))
    row: dict[str, Any] = {"skipped": "no time was left"} if code is None else {"exit": code, "output": output[-2000:]}
    part.keep({"case": file.stem, **row} | ({"error": "tests failed"} if code else {}))


def measure(part: Part) -> None:
    groups: dict[tuple[str, str], list[str]] = {}
    for op, backend, dtype in report.kernels_on(part.device):
        case = f"{op}/{backend}/{dtype_name(dtype)}"
        if dtype in DTYPES and case not in part.rows:
            # On a CPU nothing is compiled: one process will do.
            groups.setdefault((op, backend) if part.device == "cuda" else ("", ""), []).append(case)
    jobs: list[Callable[[], None]] = [partial(checked, part, group) for group in groups.values()]
    if part.device == "cuda":
        files = [path for path in TESTS.rglob("test_*.py") if "mark.gpu" in path.read_text()]
        jobs += [partial(tested, part, path) for path in [*files, *TESTS.rglob("test_*_device.py")]]
        sides = ["ours", *(baseline for baseline in part.sizes.baselines if baseline != "eager")]
        jobs += [partial(warmed, part, case, side) for side in sides for case in part.sizes.steps]
    with ThreadPoolExecutor(2 * (os.cpu_count() or 1)) as pool:
        for future in [pool.submit(job) for job in jobs]:
            future.result()


if __name__ == "__main__":
    if sys.argv[1] == CHECK:
        check(sys.argv[2], sys.argv[3:])
    else:
        warm(*sys.argv[2:5])
