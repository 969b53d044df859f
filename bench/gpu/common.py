"""What the parts of bench/gpu.sh share: rows that are written at once, timing, ceilings, and the ops' kernels."""

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
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch
from plan import FULL, TINY
from run import DEVICE_LOST

from trm_fast.inference.capture import runner_for
from trm_fast.ops._core import registry, selection, validation

DTYPES = (torch.bfloat16, torch.float32)  # what the parts run


class Part:
    """One part: what it was asked, and ``OUT/NAME.json``, a row a case, each kept the moment it is there.

    A case that fails is a row with its error. One that takes the process with it has a row, too, and the next process
    (``--go-on``) goes on behind it.
    """

    def __init__(self, name: str, description: str | None) -> None:
        parser = argparse.ArgumentParser(description=description)
        parser.add_argument("--out", type=Path, required=True)
        parser.add_argument("--seconds", type=float, required=True)
        parser.add_argument("--device", default="cuda")
        parser.add_argument("--data", type=Path)
        parser.add_argument("--preset", default="sudoku")
        parser.add_argument("--tiny", action="store_true")
        parser.add_argument("--go-on", action="store_true")
        asked = parser.parse_args()
        self.out, self.device, self.data, self.preset, self.tiny = (
            asked.out, asked.device, asked.data, asked.preset, asked.tiny,
        )  # fmt: skip
        self.sizes = TINY if asked.tiny else FULL
        self.end = time.monotonic() + asked.seconds - min(5.0, 0.1 * asked.seconds)
        self.path = self.out / f"{name}.json"
        known = json.loads(self.path.read_text())["rows"] if asked.go_on and self.path.exists() else []
        self.rows: dict[str, dict[str, Any]] = {row["case"]: row for row in known}
        self.about: dict[str, Any] = {
            "torch": torch.__version__,
            "python": platform.python_version(),
            "device": name_of(self.device),
        }

    def left(self) -> float:
        return self.end - time.monotonic()

    def attempt(self, case: str, work: Callable[[], dict[str, Any]], least: float = 0.0) -> dict[str, Any]:
        """The row of a case, which is not begun with less than ``least`` seconds left."""
        if case in self.rows:
            return self.rows[case]
        if self.left() < least:
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
        if "error" in row and not usable(self.device):  # after an illegal access nothing works in this process
            os._exit(DEVICE_LOST)
        return row

    def keep(self, row: dict[str, Any]) -> dict[str, Any]:
        self.rows[row["case"]] = row
        write(self.path, {"about": self.about, "rows": list(self.rows.values())})
        return row

    def finish(self) -> None:
        """Ends the process: with 1 where a row has an error."""
        wrong = [row["case"] for row in self.rows.values() if "error" in row]
        if wrong:
            sys.exit(f"{len(wrong)} of {len(self.rows)} rows failed: {', '.join(wrong)}")


def write(path: Path, content: Mapping[str, Any]) -> None:
    """At once or not at all: a process that is stopped meanwhile leaves the file as it was."""
    path.parent.mkdir(parents=True, exist_ok=True)
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


def kernels(device: str) -> list[tuple[str, str]]:
    """(op, backend) of every kernel for such a device."""
    return [
        (op, name)
        for op, stated in registry.OPS.items()
        for name in stated.kernels
        if any(available(op, name, device, dtype) for dtype in DTYPES)
    ]


def available(op: str, name: str, device: str, dtype: torch.dtype) -> bool:
    return selection.unavailable(op, name, torch.device(device).type, dtype) is None


def verdict(op: str, name: str, device: str, dtype: torch.dtype) -> str | None:
    """What is wrong with a kernel beside its reference, or None; kept, so that no later process checks it again."""
    found = validation.verdict(op, name, dtype, torch.device(device).type)
    return None if found == validation.PASSED else found


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
