"""Runs the parts of bench/gpu.sh one after the other, each in its own process with a time limit."""

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

from plan import DEVICE_LOST, MIN_SECONDS, PART_SECONDS, RESTARTS, TOTAL_MINUTES

HERE = Path(__file__).parent
ROOT = HERE.parents[1]


def lay_out(site: Path) -> None:
    """Copies the package into a folder as an installation has it: kernels and presets, which are separate folders of a
    checkout, become part of it. Unpacks the wheels of bench/gpu/wheels whose packages are not installed."""
    shutil.rmtree(site, ignore_errors=True)
    ignored = shutil.ignore_patterns("__pycache__", "triton_kernels", "configs")
    shutil.copytree(ROOT / "trm_fast", site / "trm_fast", ignore=ignored)
    installed = importlib.util.find_spec("trm_fast")
    if not list((site / "trm_fast").glob("_C*.so")) and installed and installed.origin:
        # A checkout that was not built in place uses the kernels of the package installed from it.
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
    """The environment variables of the parts; all caches are in ``out``, where another call finds them again."""
    cache = out / ".cache"
    path = [str(site), str(HERE), str(HERE.parent), os.environ.get("PYTHONPATH", "")]
    variables = os.environ | {
        "PYTHONPATH": os.pathsep.join(filter(None, path)),
        "PYTHONUNBUFFERED": "1",
        "PYTHONSAFEPATH": "1",  # import the copy in site, not the checkout
        "PYTHONDONTWRITEBYTECODE": "1",
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "8"),
        "MPLCONFIGDIR": str(cache),
        "XDG_CACHE_HOME": str(cache),
        "TRITON_CACHE_DIR": str(cache / "triton"),
        "TORCHINDUCTOR_CACHE_DIR": str(cache / "inductor"),
    }
    if (commit := HERE / "wheels" / "COMMIT").exists():  # a copy without git history still names its commit
        variables.setdefault("TRM_FAST_COMMIT", commit.read_text().strip())
    return variables


def run_part(name: str, seconds: float, options: dict[str, Any], variables: dict[str, str]) -> bool:
    """Runs a part and returns whether it succeeded. Its output is in NAME.log; NAME.error.json describes a failure."""
    out, end = Path(options["out"]), time.monotonic() + seconds
    log, error = out / f"{name}.log", out / f"{name}.error.json"
    error.unlink(missing_ok=True)
    log.unlink(missing_ok=True)
    code: int | None = None
    for attempt in range(RESTARTS + 1):
        left = end - time.monotonic()
        arguments = json.dumps(options | {"seconds": left, "resume": attempt > 0})
        code = run_limited([sys.executable, str(HERE / "part.py"), name, arguments], left, log, variables)
        if code is None or (code >= 0 and code != DEVICE_LOST) or end - time.monotonic() < MIN_SECONDS:
            break
    took = round(seconds - (end - time.monotonic()))
    print(f"{name}: {'cut short' if code is None else f'exit {code}'} after {took} s", flush=True)
    if code != 0:
        failure = {"exit": code} if code else {"timed_out": True, "rows_kept": (out / f"{name}.json").exists()}
        write_failure(error, **failure, seconds=took, output=log.read_text(errors="replace")[-3000:])
    return code == 0


def run_limited(command: list[str], seconds: float, log: Path, variables: dict[str, str]) -> int | None:
    """Runs a command and returns its exit status, None if it took too long. Also ends all processes that it started."""
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


def write_failure(path: Path, **failure: Any) -> None:
    path.write_text(json.dumps(failure, indent=1) + "\n")


def main() -> int:
    parser = argparse.ArgumentParser(prog="bench/gpu.sh", description="docs/gpu.md explains what the parts measure.")
    parser.add_argument(
        "--minutes", type=float, default=TOTAL_MINUTES, help=f"limit for all parts; {TOTAL_MINUTES:.0f} by default"
    )
    parser.add_argument("--parts", nargs="+", choices=PART_SECONDS, default=list(PART_SECONDS), metavar="PART")
    parser.add_argument(
        "--out", type=Path, default=Path("gpu-results"), help="folder of the results; gpu-results by default"
    )
    parser.add_argument("--data", type=Path, help="folder with extreme_train_1k.csv.gz and hard_test.csv.gz")
    parser.add_argument("--preset", default="sudoku", help="preset of the part training")
    parser.add_argument("--self-test", action="store_true", help="run every part on the CPU at small sizes")
    arguments = parser.parse_args()
    end = time.monotonic() + 60 * arguments.minutes
    out = arguments.out.resolve()
    site = out / ".site"
    lay_out(site)
    variables = environment(out, site)
    options = {
        "out": str(out), "device": "cpu" if arguments.self_test else "cuda", "preset": arguments.preset,
        "data": str(arguments.data.resolve()) if arguments.data else None, "tiny": arguments.self_test,
    }  # fmt: skip
    failed = []
    for name in (part for part in PART_SECONDS if part in arguments.parts):
        seconds = min(PART_SECONDS[name], end - time.monotonic() - 2)
        if seconds < MIN_SECONDS:
            write_failure(out / f"{name}.error.json", timed_out=True, seconds=0, output="no time was left")
            print(f"{name}: no time left", flush=True)
        elif run_part(name, seconds, options, variables):
            continue
        failed.append(name)
    print(f"results in {out}" + (f"; failed: {', '.join(failed)}" if failed else ""))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
