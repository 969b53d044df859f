"""What the parts of bench/gpu.sh share: a file of results that is written row by row, and alternating timing."""

from __future__ import annotations

import json
import os
import platform
import statistics
import sys
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch
from plan import DEVICE_LOST, FULL, TINY

from trm_fast.inference.capture import runner_for
from trm_fast.ops._core import validation
from trm_fast.tasks.files import write_text


class Part:
    """A part's options, and its results ``OUT/NAME.json``: one row per case, written as soon as the case ends.

    A case that fails gets a row with its error. So does a case that ends the process: an error row is written before
    each case starts, and the next process (``resume``) continues after it.
    """

    def __init__(
        self,
        name: str,
        *,
        out: str,
        seconds: float,
        device: str,
        preset: str = "sudoku",
        data: str | None = None,
        tiny: bool = False,
        resume: bool = False,
    ) -> None:
        self.out, self.device, self.preset, self.tiny = Path(out), device, preset, tiny
        self.data = Path(data) if data else None
        self.sizes = TINY if tiny else FULL
        self.end = time.monotonic() + seconds - min(5.0, 0.1 * seconds)
        self.path = self.out / f"{name}.json"
        earlier = json.loads(self.path.read_text())["rows"] if resume and self.path.exists() else []
        self.rows: dict[str, dict[str, Any]] = {row["case"]: row for row in earlier}
        self.about: dict[str, Any] = {
            "torch": torch.__version__,
            "python": platform.python_version(),
            "device": validation.device_name(device),
        }
        self._lock = threading.Lock()

    def left(self) -> float:
        """Seconds until the part must end."""
        return self.end - time.monotonic()

    def attempt(self, case: str, work: Callable[[], dict[str, Any]], min_seconds: float = 0.0) -> dict[str, Any]:
        """Runs a case and returns its row; the case is skipped if less than ``min_seconds`` seconds are left."""
        if case in self.rows:
            return self.rows[case]
        if self.left() < min_seconds:
            return self.keep({"case": case, "skipped": "no time was left"})
        start = time.monotonic()
        self.keep({"case": case, "error": "it ended the process"})
        try:
            row = {"case": case, **work()}
        except Exception as error:
            where = " | ".join(traceback.format_exc().strip().splitlines()[-3:])
            row = {"case": case, "error": f"{type(error).__name__}: {error}"[:500], "where": where[:500]}
        self.keep(row | {"took": round(time.monotonic() - start, 2)})
        print(json.dumps(self.rows[case]), flush=True)
        if "error" in row and not usable(self.device):  # an illegal memory access makes the GPU unusable for a process
            os._exit(DEVICE_LOST)
        return row

    def keep(self, row: dict[str, Any]) -> dict[str, Any]:
        """Adds or replaces the row of a case and writes the file; any thread may call it."""
        with self._lock:
            self.rows[row["case"]] = row
            write(self.path, {"about": self.about, "rows": list(self.rows.values())})
        return row

    def finish(self) -> None:
        """Exits with status 1 if a row has an error."""
        wrong = [row["case"] for row in self.rows.values() if "error" in row]
        if wrong:
            sys.exit(f"{len(wrong)} of {len(self.rows)} rows failed: {', '.join(wrong)}")


def write(path: Path, content: Any) -> None:
    """Writes a JSON file completely or not at all, so that a process that is killed leaves the previous file intact."""
    write_text(path, json.dumps(content, indent=1) + "\n")


def usable(device: str) -> bool:
    """Whether this process can still use the device."""
    try:
        synchronize(device)
    except RuntimeError:
        return False
    return True


def dtype_of(device: str) -> torch.dtype:
    """The dtype of activations on a device."""
    return torch.bfloat16 if device == "cuda" else torch.float32


def synchronize(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def interleaved(
    runs: dict[str, Callable[[], Any]],
    device: str,
    rounds: int = 7,
    seconds: float = 0.02,
    around: Callable[[str], AbstractContextManager[Any]] = nullcontext,
) -> dict[str, float]:
    """Times functions alternately, so that other load on the machine affects all of them.

    On a GPU each function is captured into a graph of several calls, and replays are timed: calls one by one would
    mostly measure the host's work, which a captured training step does not have. If the capture fails, the calls are
    timed and a note is printed.

    Args:
        runs: the functions, by name.
        rounds: how often each function has its turn.
        seconds: about how long a turn lasts.
        around: makes the context in which the function of that name is captured and called.

    Returns:
        The median milliseconds of a call, by name.
    """
    replays = {}
    for name, run in runs.items():
        with around(name):
            run()
            # A graph of one small kernel would end before the host has sent the next replay.
            inside = max(1, min(20, int(1e-2 / _seconds(run, 1, device)))) if device == "cuda" else 1
            runner = runner_for(torch.device(device))
            runner.capture(partial(_again, run, inside))
            if reason := getattr(runner, "reason", None):
                print(f"{name} is timed without a graph: {reason}", file=sys.stderr, flush=True)
            count = max(1, min(200, int(seconds / max(1e-6, _seconds(runner.replay, 1, device)))))
            replays[name] = runner.replay, inside, count
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, (replay, inside, count) in replays.items():
            with around(name):
                times[name].append(_seconds(replay, count, device) / (count * inside))
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
