"""Runs the parts of bench/gpu.sh one after the other, each in a process of its own with a time limit."""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from typing import Any

from plan import LEAST, MINUTES, RESTARTS, SECONDS

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
DEVICE_LOST = 75  # the exit status of a part that a failed kernel left without its device


def lay_out(site: Path) -> None:
    """The package as an installation has it (kernels and presets are folders of their own in a checkout), and what a
    machine without a network lacks, from bench/gpu/wheels."""
    shutil.rmtree(site, ignore_errors=True)
    ignored = shutil.ignore_patterns("__pycache__", "triton_kernels", "configs")
    shutil.copytree(ROOT / "trm_fast", site / "trm_fast", ignore=ignored)
    installed = importlib.util.find_spec("trm_fast")
    if not list((site / "trm_fast").glob("_C*.so")) and installed and installed.origin:
        # A checkout that was not built in place has the kernels of the package that was installed from it.
        for file in (*Path(installed.origin).parent.glob("_*.so"), Path(installed.origin).with_name("_build.json")):
            if file.exists():
                shutil.copy2(file, site / "trm_fast" / file.name)
    for folder in ("triton_kernels", "configs"):
        shutil.copytree(ROOT / folder, site / "trm_fast" / folder, ignore=ignored)
    for wheel in sorted(HERE.glob("wheels/*.whl")):
        try:
            importlib.metadata.version(wheel.name.split("-")[0])
        except importlib.metadata.PackageNotFoundError:
            zipfile.ZipFile(wheel).extractall(site)


def environment(out: Path, site: Path) -> dict[str, str]:
    cache = out / ".cache"
    path = [str(site), str(HERE), str(HERE.parent), os.environ.get("PYTHONPATH", "")]
    made = os.environ | {
        "PYTHONPATH": os.pathsep.join(filter(None, path)),
        "PYTHONUNBUFFERED": "1",
        "PYTHONSAFEPATH": "1",  # not the checkout in front of what was laid out
        "PYTHONDONTWRITEBYTECODE": "1",
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "8"),
        "MPLCONFIGDIR": str(cache),
        "XDG_CACHE_HOME": str(cache),
        "TRITON_CACHE_DIR": str(cache / "triton"),
        "TORCHINDUCTOR_CACHE_DIR": str(cache / "inductor"),
    }
    if (commit := HERE / "wheels" / "COMMIT").exists():  # a copy without its history says what it was made of
        made.setdefault("TRM_FAST_COMMIT", commit.read_text().strip())
    return made


def run_part(name: str, seconds: float, asked: argparse.Namespace, variables: dict[str, str]) -> bool:
    """Whether it went well; its output is in NAME.log, and NAME.error.json says what went wrong."""
    log, error, start = asked.out / f"{name}.log", asked.out / f"{name}.error.json", time.monotonic()
    error.unlink(missing_ok=True)
    log.unlink(missing_ok=True)
    code: int | None = None
    for attempt in range(RESTARTS + 1):
        left = seconds - (time.monotonic() - start)
        command = [sys.executable, str(HERE / f"{name}.py"), "--out", str(asked.out), "--seconds", f"{left:.0f}"]
        command += ["--device", asked.device, "--preset", asked.preset]
        command += ["--data", str(asked.data.resolve())] if asked.data else []
        command += ["--tiny"] * asked.self_test + ["--go-on"] * (attempt > 0)
        code = ended(command, left, log, variables)
        if code is None or (code >= 0 and code != DEVICE_LOST) or seconds - (time.monotonic() - start) < LEAST:
            break
    took = time.monotonic() - start
    print(f"{name}: {'cut short' if code is None else f'exit {code}'} after {took:.0f} s", flush=True)
    if code:
        fail(error, exit=code, seconds=round(took), output=log.read_text(errors="replace")[-3000:])
    elif code is None:
        rows = asked.out / f"{name}.json"
        fail(error, timed_out=True, seconds=round(took), rows_kept=rows.exists(), output=log.read_text()[-3000:])
    return code == 0


def ended(command: list[str], seconds: float, log: Path, variables: dict[str, str]) -> int | None:
    """The exit status; None where it had to be stopped, with all that it had started."""
    with log.open("a") as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=subprocess.STDOUT, env=variables, cwd=ROOT, start_new_session=True
        )
        try:
            return process.wait(max(1.0, seconds))
        except subprocess.TimeoutExpired:
            return None
        finally:
            for sign, patience in ((signal.SIGTERM, 5), (signal.SIGKILL, 5)):
                if process.poll() is None or sign == signal.SIGKILL:
                    with contextlib.suppress(ProcessLookupError):
                        os.killpg(process.pid, sign)
                    with contextlib.suppress(subprocess.TimeoutExpired):
                        process.wait(patience)


def fail(path: Path, **what: Any) -> None:
    path.write_text(json.dumps(what, indent=1) + "\n")


def main() -> int:
    parser = argparse.ArgumentParser(prog="bench/gpu.sh", description="docs/gpu.md says what the parts measure.")
    parser.add_argument("--minutes", type=float, default=MINUTES, help=f"for all of it; {MINUTES:.0f} by default")
    parser.add_argument("--parts", nargs="+", choices=SECONDS, default=list(SECONDS), metavar="PART")
    parser.add_argument("--out", type=Path, default=Path("gpu-results"), help="folder for the JSON: gpu-results")
    parser.add_argument("--data", type=Path, help="folder of extreme_train_1k.csv.gz and hard_test.csv.gz")
    parser.add_argument("--preset", default="sudoku", help="of the training part")
    parser.add_argument("--self-test", action="store_true", help="small, on the CPU")
    asked = parser.parse_args()
    end = time.monotonic() + 60 * asked.minutes
    asked.out = asked.out.resolve()
    asked.device = "cpu" if asked.self_test else "cuda"
    site = asked.out / ".site"
    lay_out(site)
    variables = environment(asked.out, site)
    failed = []
    for name in (part for part in SECONDS if part in asked.parts):
        seconds = min(SECONDS[name], end - time.monotonic() - 2)
        if seconds < LEAST:
            fail(asked.out / f"{name}.error.json", timed_out=True, seconds=0, output="no time was left")
            print(f"{name}: no time left", flush=True)
        elif run_part(name, seconds, asked, variables):
            continue
        failed.append(name)
    print(f"results in {asked.out}" + (f"; failed: {', '.join(failed)}" if failed else ""))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
