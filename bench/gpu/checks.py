"""Part checks: every kernel beside its reference, and the tests that need a GPU.

Compiling a kernel takes seconds on one core, so kernels are checked in many processes at once; and so is what the part
``step`` will run compiled, its kernels and the peer's. A kernel that ends its process costs its own row alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import torch
from common import DTYPES, Part, available, kernels, usable, verdict
from plan import SHALLOW

CHECK, WARM = "check", "warm"
PYTEST = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
TESTS = Path(__file__).parents[2] / "tests"


def check(device: str, cases: list[str]) -> None:
    """In a process of its own: a line of JSON for each OP/BACKEND/DTYPE."""
    for case in cases:
        op, name, dtype = case.split("/")
        wrong = verdict(op, name, device, getattr(torch, dtype))
        print(json.dumps({"case": case, **({"error": wrong} if wrong else {"result": "passed"})}), flush=True)
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


def lines(command: list[str], seconds: float) -> Iterator[str]:
    """What a process prints, until it ends or is ended."""
    with subprocess.Popen([sys.executable, __file__, *command], stdout=subprocess.PIPE, text=True) as process:
        late = threading.Timer(max(1.0, seconds), process.kill)
        late.start()
        assert process.stdout is not None
        yield from process.stdout
        process.wait()
        late.cancel()


def checked(part: Part, lock: threading.Lock, pending: list[str]) -> None:
    """Rows of some kernels; who ends the process has an error, and another process takes the ones behind it."""
    while pending and part.left() > 0:
        for line in lines([CHECK, part.device, *pending], part.left()):
            if line.startswith("{"):
                row = json.loads(line)
                pending.remove(row["case"])
                with lock:
                    part.keep(row)
        if pending:
            lost = {"skipped": "no time was left"} if part.left() <= 0 else {"error": "it ended the process"}
            with lock:
                part.keep({"case": pending.pop(0), **lost})


def warmed(part: Part, case: str, baseline: str) -> None:
    print(*lines([WARM, part.device, case, baseline], part.left()), end="")


def tested(part: Part, lock: threading.Lock, file: Path) -> None:
    try:
        done = subprocess.run([*PYTEST, str(file)], capture_output=True, text=True, timeout=max(1.0, part.left()))
        row: dict[str, Any] = {"exit": done.returncode, "output": done.stdout[-2000:]}
        row |= {"error": "tests failed"} if done.returncode else {}
    except subprocess.TimeoutExpired:
        row = {"skipped": "no time was left"}
    with lock:
        part.keep({"case": file.stem, **row})


def main() -> None:
    part, lock = Part("checks", __doc__), threading.Lock()
    on_gpu = torch.device(part.device).type == "cuda"
    groups = [
        [f"{op}/{name}/{str(t).removeprefix('torch.')}" for t in DTYPES if available(op, name, part.device, t)]
        for op, name in kernels(part.device)
    ]
    groups = [[case for case in group if case not in part.rows] for group in groups]
    if not on_gpu:  # nothing is compiled: one process will do
        groups = [[case for group in groups for case in group]]
    jobs: list[Callable[[], None]] = [partial(checked, part, lock, group) for group in groups]
    if on_gpu:
        files = [path for path in TESTS.rglob("test_*.py") if "mark.gpu" in path.read_text()]
        jobs += [partial(tested, part, lock, path) for path in [*files, *TESTS.rglob("test_*_device.py")]]
        sides = ["ours", *(baseline for baseline in part.sizes.baselines if baseline != "eager")]
        jobs += [partial(warmed, part, case, side) for side in sides for case in part.sizes.steps]
    with ThreadPoolExecutor(2 * (os.cpu_count() or 1)) as pool:
        for future in [pool.submit(job) for job in jobs]:
            future.result()
    part.finish()


if __name__ == "__main__":
    if sys.argv[1] == CHECK:
        check(sys.argv[2], sys.argv[3:])
    elif sys.argv[1] == WARM:
        warm(*sys.argv[2:5])
    else:
        main()
