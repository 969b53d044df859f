"""Part a: the tests that need a GPU and those of the ops, the kernels' self-check, compute-sanitizer on tiny shapes."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from common import Report, options

ROOT = Path(__file__).parents[2]
TEST_SETS = {"gpu": (["-m", "gpu", "tests"], 60.0), "ops": (["tests/ops"], 50.0)}
TINY = [sys.executable, str(Path(__file__).parent / "tiny.py")]
CHECK = [sys.executable, "-m", "trm_fast.cli", "info", "--check"]
REFUSED = ("Device not supported", "not supported", "Unable to", "error 999", "No attachable process")


def run(command: list[str], seconds: float, **variables: str) -> tuple[int, str]:
    """Exit status and all output; 124 where it took too long."""
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
            cwd=ROOT,
            env={**os.environ, **variables},
        )
    except subprocess.TimeoutExpired as late:
        return 124, f"took more than {seconds:.0f} s\n{(late.stdout or b'').decode(errors='replace')}"
    return done.returncode, done.stdout + done.stderr


def tests(out: Path, name: str, selection: list[str], seconds: float) -> dict[str, Any]:
    found = out / f"tests_{name}.xml"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--junitxml={found}", *selection]
    code, text = run(command, seconds)
    if not found.exists():
        return {"error": f"exit {code}", "output": text[-2000:]}
    suite = next(ElementTree.parse(found).iter("testsuite"))
    numbers = {key: int(suite.get(key, 0)) for key in ("tests", "failures", "errors", "skipped")}
    bad = [
        {"test": f"{case.get('classname')}::{case.get('name')}", "message": (problem.get("message") or "")[:300]}
        for case in suite.iter("testcase")
        for problem in [*case.findall("failure"), *case.findall("error")]
    ]
    found.unlink()
    return {"exit": code, **numbers, "failed": bad[:20]}


def sanitizer(tool: str, command: list[str], seconds: float) -> dict[str, Any]:
    program = shutil.which("compute-sanitizer") or shutil.which("/usr/local/cuda/bin/compute-sanitizer")
    if program is None:
        return {"status": "skipped", "reason": "compute-sanitizer is not installed"}
    wrapped = [program, "--tool", tool, "--error-exitcode", "9", "--target-processes", "all", *command]
    # Its own allocator would hide what is behind a tensor's end.
    code, text = run(wrapped, seconds, PYTORCH_NO_CUDA_MEMORY_CACHING="1")
    if code and any(sign in text for sign in REFUSED):
        return {
            "status": "skipped",
            "reason": next(line for line in text.splitlines() if any(r in line for r in REFUSED)),
        }
    return {"status": "clean" if code == 0 else "errors", "exit": code, "output": text[-1500:]}


def main() -> None:
    given = options(__doc__)
    asked = given.parse_args()
    report = Report(asked.out, "a_checks", asked.device)
    report.attempt("self-check", lambda: dict(zip(("exit", "output"), run(CHECK, 25), strict=True)))
    sets = {"step": (["tests/training/test_step.py", "-k", "clipping"], 90.0)} if asked.tiny else TEST_SETS
    for name, (selection, seconds) in sets.items():
        report.attempt(f"tests {name}", lambda n=name, s=selection, t=seconds: tests(asked.out, n, s, t))
    if asked.device == "cpu":
        report.attempt("tiny", lambda: dict(zip(("exit", "output"), run([*TINY, "--device", "cpu"], 60), strict=True)))
    for tool, command in (("memcheck", TINY), ("racecheck", CHECK)):
        report.attempt(tool, lambda t=tool, c=command: sanitizer(t, c, 50))


if __name__ == "__main__":
    main()
