"""Decides the rows of the Triton kernels' table (triton_kernels/configs.json) on the GPU that is present.

    python bench/tune.py --out DIR                        everything, the most important rows first
    python bench/tune.py --only mlp token_mixer           parts of the network alone
    python bench/tune.py --dry                            what would be tried; needs no GPU, only Triton

A few candidates a kernel (bench/gpu/candidates.py), at batches 768 and 8, in bfloat16: 97 tokens, 512 channels, inner
width 1536; the mixer also 81 tokens. First all candidates are compiled and launched once, in a process a row, many at
once: what fails or is late drops out. Then one kernel after the other is timed, as replays of a graph of its launches
alone, in turn with the present row. A candidate replaces that row where it is at least 2 % faster and the results stay
as close to the float32 reference as they were.

The table is written after every row, so that what was decided stays when --seconds are over; a copy of it goes to DIR,
and what was tried, with milliseconds, to DIR/tune.json."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import torch

sys.path.insert(0, str(Path(__file__).parent / "gpu"))
from candidates import Options, words
from card import Card, NotLaunched, Work, architecture, compiled, made
from common import Report, name_of
from together import Task, name, together
from tuned import KERNELS, Job, jobs

GAIN = 0.98
MORE_ERROR, WORST_ERROR = 1.2, 0.1  # relative, in norm: beside the present row's, and at all
COMPILING = 0.65  # of the time, at most
MEMORY = 4 * 2**30  # bytes that a process may need on the card


def compile_all(wanted: Sequence[Job], device: str, seconds: float, most: int) -> dict[str, Any]:
    """In up to ``most`` processes at once. ``unusable``: by row, what is wrong with which options, or with all of them
    (an empty name)."""
    rows = [row for job in wanted for row in (job._replace(kernel=""), job)]
    tasks: list[Task] = [(compiled, (row, device)) for row in dict.fromkeys(rows)]
    report = together(tasks, seconds, most)
    unusable = {title(row): wrong for (_, (row, _)), wrong in report["done"] if wrong}
    for task in tasks:
        if (whole := name(*task)) in report["failed"]:
            unusable[title(task[1][0])] = {"": report["failed"][whole]}
        elif whole in report["late"]:
            unusable[title(task[1][0])] = {"": "not compiled in time"}
    return {"rows": len(tasks), "done": len(report["done"]), "seconds": report["seconds"], "unusable": unusable}


def title(job: Job) -> str:
    return f"{job.kernel or 'present rows'}, {job.part}, {job.tokens} tokens, batch {job.batch}"


class Bench(Protocol):
    """Where a row's candidates are tried."""

    def open(self, job: Job) -> Options:
        """The present row."""

    def attempt(self, options: Options) -> tuple[float, Work]:
        """The results' relative error, and what to time; raises what a launch raises."""

    def milliseconds(self, works: Mapping[str, Work]) -> dict[str, float]: ...

    def keep(self, options: Options) -> None:
        """The row from now on."""


def decide(job: Job, tried: Sequence[Options], bench: Bench) -> dict[str, Any]:
    """Keeps the best row, the present one if anything goes wrong; says how long each took and which were refused."""
    best = present = bench.open(job)
    try:
        try:
            wrong, work = bench.attempt(present)
        except NotLaunched:
            return {"present": words(present), "kept": words(best), "launched": False}
        if not wrong <= WORST_ERROR:
            raise ValueError(f"the present row is wrong: {words(present)} errs by {wrong:.2e}")
        allowed = MORE_ERROR * wrong + 1e-6
        rows, works, refused = {words(present): present}, {words(present): work}, {}
        for options in tried:
            if (text := words(options)) in rows:
                continue
            try:
                wrong, work = bench.attempt(options)
            except Exception as problem:  # more than fits a block, say
                refused[text] = f"{type(problem).__name__}: {problem}"[:200]
                continue
            if wrong <= allowed:
                rows[text], works[text] = options, work
            else:
                refused[text] = f"errs by {wrong:.2e}, allowed {allowed:.2e}"
        times = bench.milliseconds(works)
        fastest = min(times, key=lambda text: times[text])
        if times[fastest] <= GAIN * times[words(present)]:
            best = rows[fastest]
    finally:
        bench.keep(best)
    ms = {text: round(taken, 5) for text, taken in times.items()}
    return {"present": words(present), "kept": words(best), "milliseconds": ms, "refused": refused}


def tune(
    wanted: Sequence[Job],
    bench: Bench,
    unusable: Mapping[str, Mapping[str, str]],
    report: Report,
    end: float,
    clock: Callable[[], float] = time.perf_counter,
) -> None:
    """Every job until ``end``, without what ``compile_all`` found unusable."""
    for job in wanted:
        if clock() >= end:
            report.attempt("out of time", lambda: {"first not reached": title(job)})  # noqa: B023
            return
        wrong = unusable.get(title(job), {})
        if title(job._replace(kernel="")) in unusable or "" in wrong:
            continue
        tried = [options for options in job.candidates() if words(options) not in wrong]
        report.attempt(title(job), partial(decide, job, tried, bench))


def main() -> None:
    start = time.perf_counter()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=KERNELS, default=list(KERNELS), metavar="PART")
    parser.add_argument("--out", type=Path, default=Path("tuned"), metavar="DIR", help="default: tuned")
    parser.add_argument("--table", type=Path, help="the table to write; default: the one that the kernels read")
    parser.add_argument("--seconds", type=float, default=300.0, help="for all of it; default: 300")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--dry", action="store_true", help="list what would be tried")
    asked = parser.parse_args()
    wanted = jobs(asked.only)
    if asked.dry:
        for job in wanted:
            row = made(job, "meta").row(job.kernel)
            print(f"{job.kernel} {row} ({job.part}, {job.tokens} tokens, batch {job.batch})")
            print(*(f"    {words(options)}" for options in job.candidates()), sep="\n")
        return
    if torch.device(asked.device).type != "cuda" or not torch.cuda.is_available():
        sys.exit(f"bench/tune.py: {asked.device} is no GPU that torch sees; --dry lists what would be tried")
    from trm_fast.triton_kernels import configs

    report = Report(asked.out, "tune", asked.device)
    report.about["arch"] = architecture(asked.device)
    most = max(1, torch.cuda.mem_get_info(asked.device)[0] // MEMORY)
    found = report.attempt("compile", partial(compile_all, wanted, asked.device, COMPILING * asked.seconds, most))
    if "error" in found:
        sys.exit(1)
    card = Card(asked.device, [asked.table or configs.TABLE, asked.out / "configs.json"])
    tune(wanted, card, found["unusable"], report, start + asked.seconds)
    print(f"{name_of(asked.device)}: {time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
