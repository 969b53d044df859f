"""Part a: the tests that need a GPU and those of the ops, the kernels' self-check, compute-sanitizer on tiny shapes.

What can run at the same time does: a kernel's first launch is its compilation, on one core."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from common import Report, options

from trm_fast.ops import self_check

ROOT = Path(__file__).parents[2]
TEST_SETS = {"gpu": ["-m", "gpu", "tests"], "ops": ["tests/ops"]}
SHARDS = {"gpu": 3, "ops": 9}
TINY = [sys.executable, str(Path(__file__).parent / "tiny.py")]
CHECK = [sys.executable, "-m", "trm_fast.cli", "info", "--check", "--json"]
KERNELS = [*TINY, "--kernels"]  # in the dtypes that are compiled already, where CHECK would compile float16, too
OWN = "========="  # in front of what compute-sanitizer itself says: torch, too, may find something not supported
REFUSED = ("not supported", "Unable to", "No attachable process")


def run(command: list[str], seconds: float, **variables: str) -> tuple[int, str]:
    """Exit status and all output; 124 where it took too long. It is first asked to end: pytest then still reports.

    It has the verdicts on kernels to itself: one whose check is cut short here stays on for the other parts.
    """
    with tempfile.TemporaryDirectory() as cache, tempfile.TemporaryFile("w+", errors="replace") as output:
        if (known := self_check.cache_folder()).is_dir():
            shutil.copytree(known, Path(cache, "trm_fast", known.name))
        process = subprocess.Popen(
            command, stdout=output, stderr=subprocess.STDOUT, text=True, cwd=ROOT,
            env={**os.environ, "XDG_CACHE_HOME": cache, **variables}, start_new_session=True,
        )  # fmt: skip
        code, note = 124, f"took more than {seconds:.0f} s\n"
        try:
            code, note = process.wait(seconds), ""
        except subprocess.TimeoutExpired:
            for sign, patience in ((signal.SIGINT, 8), (signal.SIGKILL, 5)):
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, sign)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(patience)
                    break
        output.seek(0)
        return code, note + output.read()


def tests(out: Path, name: str, selection: list[str], shards: int, seconds: float) -> dict[str, Any]:
    """One set in ``shards`` processes; what ran before the time was over counts."""

    def shard(number: int) -> tuple[int, str, Path]:
        found = out / f"tests_{name}_{number}.xml"
        found.unlink(missing_ok=True)
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "shard"]
        command += ["--continue-on-collection-errors", *selection]  # a package that a machine lacks costs its tests
        threads = {"OMP_NUM_THREADS": "1", "TRM_FAST_SHARD": f"{number}/{shards}"}
        return *run([*command, f"--junitxml={found}"], seconds, **threads), found

    with ThreadPoolExecutor(shards) as pool:
        ended = list(pool.map(shard, range(shards)))
    numbers = dict.fromkeys(("tests", "failures", "errors", "skipped"), 0)
    bad, broken = [], []
    for code, text, found in ended:
        if not found.exists():
            broken.append({"exit": code, "output": text[-1500:]})
            continue
        suite = next(ElementTree.parse(found).iter("testsuite"))
        numbers = {key: count + int(suite.get(key, 0)) for key, count in numbers.items()}
        bad += [
            {"test": f"{case.get('classname')}::{case.get('name')}", "message": (problem.get("message") or "")[:300]}
            for case in suite.iter("testcase")
            for problem in [*case.findall("failure"), *case.findall("error")]
        ]
        found.unlink()
    late = sum(code == 124 for code, _, _ in ended)
    return {"exits": [code for code, _, _ in ended], **numbers, "shards_cut_short": late, "failed": bad[:40],
            **({"broken": broken} if broken else {})}  # fmt: skip


def ended(command: list[str], seconds: float) -> dict[str, Any]:
    code, text = run(command, seconds)
    return {"exit": code, "output": text}


def self_checked(seconds: float) -> dict[str, Any]:
    """How many kernels agree with the reference, and which do not."""
    code, text = run(CHECK, seconds)
    try:
        found = json.loads(text.splitlines()[-1])["self_check"]
    except (IndexError, KeyError, TypeError, ValueError):
        return {"exit": code, "output": text[-1500:]}
    wrong = [row for row in found if row["result"] != "passed"]
    return {"exit": code, "passed": len(found) - len(wrong), "wrong": wrong}


def sanitizer(tool: str, command: list[str], seconds: float) -> dict[str, Any]:
    program = shutil.which("compute-sanitizer") or shutil.which("/usr/local/cuda/bin/compute-sanitizer")
    if program is None:
        return {"status": "skipped", "reason": "compute-sanitizer is not installed"}
    # Calls that fail are left to the program: torch asks for what a machine may not have, and goes on without.
    options = ["--tool", tool, "--report-api-errors", "no", "--error-exitcode", "9", "--target-processes", "all"]
    # Its own allocator would hide what is behind a tensor's end.
    code, text = run([program, *options, *command], seconds, PYTORCH_NO_CUDA_MEMORY_CACHING="1")
    own = [line for line in text.splitlines() if line.startswith(OWN)]
    refused = [line for line in own if any(sign in line for sign in REFUSED)]
    if refused := refused or [line for line in text.splitlines() if "Device not supported" in line]:
        return {"status": "skipped", "reason": refused[0]}
    if code == 124:
        return {"status": "cut short", "output": text[-1500:]}
    clean = code == 0 and any("SUMMARY: 0 " in line for line in own)
    return {"status": "clean" if clean else "errors", "exit": code, "output": text[-1500:]}


def main() -> None:
    given = options(__doc__)
    given.add_argument("--seconds", type=float, default=230.0, help="for all of it")
    asked = given.parse_args()
    report, seconds = Report(asked.out, "a_checks", asked.device), max(30.0, asked.seconds - 15)
    sets = {"step": ["tests/training/test_step.py", "-k", "clipping"]} if asked.tiny else TEST_SETS
    jobs: dict[str, Callable[[], dict[str, Any]]] = {
        f"tests {name}": partial(tests, asked.out, name, chosen, SHARDS.get(name, 2), seconds)
        for name, chosen in sets.items()
    }
    jobs["self-check"] = partial(self_checked, seconds)
    if asked.device == "cpu":
        for name, command in (("tiny", TINY), ("every kernel", KERNELS)):
            jobs[name] = partial(ended, [*command, "--device", "cpu"], seconds)
    for tool in ("memcheck", "racecheck"):
        jobs |= {f"{tool}, training": partial(sanitizer, tool, TINY, seconds)}
        jobs |= {f"{tool}, every kernel": partial(sanitizer, tool, KERNELS, seconds)}
    report.attempt_together(jobs)


if __name__ == "__main__":
    main()
