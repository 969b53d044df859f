"""Runs commands one after the other in this process, and writes what each did as a line of JSON.

A process for each command would spend its time importing torch. The parent starts a new one if a command ends this one.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import stat
import sys
import time
from pathlib import Path
from types import FrameType
from typing import Any

SECONDS = 120
ADDRESS_SPACE = 6 << 30
"""A limit that a runaway allocation reaches before the machine does. Libraries reserve more than they use."""


class TooSlow(BaseException):
    """The command takes too long. Not an Exception, which the command line would report itself."""


def listing(folder: Path) -> dict[str, tuple[int, int]]:
    """Size and time of change of each file below a folder, but for the locks of runs."""
    files = [(path, path.lstat()) for path in folder.rglob("*") if not path.name.startswith(".lock")]
    return {
        str(path.relative_to(folder)): (0, 0) if stat.S_ISDIR(about.st_mode) else (about.st_size, about.st_mtime_ns)
        for path, about in files
    }


def run(command: list[str], stdin: str | None, errors: Path) -> dict[str, Any]:
    """Runs ``trm-fast`` with arguments; standard error goes to a file, also that of libraries."""
    from trm_fast.cli.main import main

    previous = listing(Path())
    sys.argv = ["trm-fast", *command]
    source = open(stdin or os.devnull, encoding="utf-8")  # noqa: SIM115
    sink = os.open(errors, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    nothing = os.open(os.devnull, os.O_WRONLY)
    kept = [os.dup(number) for number in (0, 1, 2)]
    for number, file in enumerate((source.fileno(), nothing, sink)):
        os.dup2(file, number)
    sys.stdin = source
    started, code, crash = time.monotonic(), 0, ""
    signal.alarm(SECONDS)
    try:
        main()
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except TooSlow:
        crash = f"not done after {SECONDS} s"
    except BaseException as error:
        crash = f"{type(error).__name__}: {error}"[:500]
    finally:
        signal.alarm(0)
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
        for number, file in enumerate(kept):
            os.dup2(file, number)
        for file in (*kept, sink, nothing):
            os.close(file)
        sys.stdin = sys.__stdin__
        source.close()
    after = listing(Path())
    return {
        "code": code,
        "crash": crash,
        "stderr": errors.read_text(errors="replace")[:20_000],
        "seconds": round(time.monotonic() - started, 2),
        "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10,
        "changed": sorted(name for name in {*previous, *after} if previous.get(name) != after.get(name))[:5],
    }


def main_loop(cases: Path, first: int, results: Path) -> None:
    def too_slow(number: int, frame: FrameType | None) -> None:
        raise TooSlow

    signal.signal(signal.SIGALRM, too_slow)
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, ADDRESS_SPACE))
    with results.open("a") as stream:
        for case in json.loads(cases.read_text())[first:]:
            print(json.dumps(run(case["command"], case["stdin"], results.with_suffix(".err"))), file=stream, flush=True)


if __name__ == "__main__":
    main_loop(Path(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
