"""What the parts of ``bench/gpu.sh`` share: cases that fail alone, results written at once, timing, ceilings."""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from threading import Lock
from typing import Any

import torch

from trm_fast.inference.capture import runner_for


def options(description: str | None) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for the JSON")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true", help="small sizes: to see that it runs")
    return parser


GO_ON = "TRM_FAST_GO_ON"
"""Set in the environment of a process that takes up what another one left."""


class Report:
    """``OUT/NAME.json``: about the machine, and a row a case. A case that fails is a row with its error.

    One that takes the process with it, or the device, has a row, too: the next process goes on behind it.
    """

    def __init__(self, out: Path, name: str, device: str) -> None:
        out.mkdir(parents=True, exist_ok=True)
        self.path, self.device, self.lock = out / f"{name}.json", device, Lock()
        self.about: dict[str, Any] = {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "device": name_of(device),
        }
        going_on = GO_ON in os.environ and self.path.exists()
        rows = json.loads(self.path.read_text())["rows"] if going_on else []
        self.rows: dict[str, dict[str, Any]] = {row["case"]: row for row in rows}
        self.behind = set(self.rows)

    def attempt_together(self, jobs: Mapping[str, Callable[[], dict[str, Any]]]) -> None:
        """Cases that only wait for other processes, at the same time."""
        with ThreadPoolExecutor(len(jobs)) as pool:
            list(pool.map(self.attempt, jobs, jobs.values()))

    def attempt(self, case: str, work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        if case in self.behind:
            return self.rows[case]
        start = time.perf_counter()
        self._keep({"case": case, "error": "it ended the process"})
        try:
            row = {"case": case, **work()}
        except Exception as error:
            where = traceback.format_exc().strip().splitlines()[-3:]
            row = {"case": case, "error": f"{type(error).__name__}: {error}"[:500], "where": " | ".join(where)[:500]}
        row["took"] = round(time.perf_counter() - start, 2)
        self._keep(row)
        print(json.dumps(row), flush=True)
        if "error" in row and not usable(self.device):  # after an illegal access nothing works in this process
            os.environ[GO_ON] = "1"
            os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
        return row

    def _keep(self, row: dict[str, Any]) -> None:
        with self.lock:
            self.rows[row["case"]] = row
            write(self.path, {"about": self.about, "rows": list(self.rows.values())})


def write(path: Path, content: Mapping[str, Any]) -> None:
    """At once or not at all: whoever is stopped meanwhile leaves the file as it was."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(json.dumps(content, indent=1) + "\n")
    temporary.replace(path)


def usable(device: str) -> bool:
    """Whether the device still does anything for this process."""
    try:
        synchronize(device)
    except RuntimeError:
        return False
    return True


def name_of(device: str) -> str:
    return torch.cuda.get_device_name(device) if torch.device(device).type == "cuda" else platform.processor() or "cpu"


def dtype_of(device: str) -> torch.dtype:
    return torch.bfloat16 if torch.device(device).type == "cuda" else torch.float32


def synchronize(device: str) -> None:
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)


def interleaved(
    runs: dict[str, Callable[[], Any]],
    device: str,
    rounds: int = 7,
    seconds: float = 0.02,
    around: Callable[[str], AbstractContextManager[Any]] = nullcontext,
) -> dict[str, float]:
    """Median milliseconds of each function, called in turn; each round repeats it for about ``seconds``.

    On a GPU these are replays of a graph of some calls, recorded inside ``around(name)``: the host's share, which a
    captured step has not, would be most of a small op's time. What cannot be recorded is called, and said to be.
    """
    replays, counts = {}, {}
    for name, run in runs.items():
        with around(name):
            run()
            taken = _seconds(run, 1, device)
            # Several: one small kernel is over before the host has sent the next replay.
            inside = max(1, min(20, int(1e-2 / taken))) if torch.device(device).type == "cuda" else 1
            runner = runner_for(torch.device(device))
            runner.capture(partial(_again, run, inside))
            if reason := getattr(runner, "reason", None):
                print(f"{name} is timed without a graph: {reason}", file=sys.stderr, flush=True)
            replays[name] = runner.replay, inside
            counts[name] = max(1, min(200, int(seconds / max(1e-6, _seconds(runner.replay, 1, device)))))
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, (replay, inside) in replays.items():
            with around(name):
                times[name].append(_seconds(replay, counts[name], device) / (counts[name] * inside))
    return {name: 1e3 * statistics.median(taken) for name, taken in times.items()}


def _again(run: Callable[[], Any], count: int) -> None:
    for _ in range(count):
        run()


def _seconds(run: Callable[[], Any], count: int, device: str) -> float:
    synchronize(device)
    start = time.perf_counter()
    _again(run, count)
    synchronize(device)
    return time.perf_counter() - start


def ceilings(device: str, tiny: bool) -> dict[str, float]:
    """TFLOP/s of a large product and TB/s of a copy (bytes read and written), on random data."""
    dtype, size, count = dtype_of(device), 512 if tiny else 8192, 2**20 if tiny else 2**29
    a, b = torch.randn(2, size, size, device=device, dtype=dtype)
    source = torch.randn(count, device=device, dtype=dtype)
    target = torch.empty_like(source)
    ms = interleaved({"gemm": lambda: a @ b, "copy": lambda: target.copy_(source)}, device)
    return {
        "gemm_tflops": 2e-9 * size**3 / ms["gemm"],
        "copy_tbps": 2e-9 * count * source.element_size() / ms["copy"],
    }
