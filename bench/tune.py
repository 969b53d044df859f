"""Decides the rows of the Triton kernels' table (triton_kernels/configs.json) on the GPU that is present.

    python bench/tune.py --out DIR                        everything: half a minute to a minute on sixteen cores
    python bench/tune.py --only mlp token_mixer           parts of the network alone
    python bench/tune.py --dry                            what would be tried; needs no GPU, only Triton

A few candidates a kernel (bench/gpu/candidates.py), at batches 768 and 8, in bfloat16: 97 tokens, 512 channels, inner
width 1536; the mixer also 81 tokens. First all candidates are compiled and launched once, in a process a row, many at
once: what fails or is late drops out. Then one kernel after the other is timed, as replays of a graph of its launches
alone, in turn with the present row. A candidate replaces that row where it is at least 2 % faster and the
results stay as close to the float32 reference as they were.

The table is written after every row, so that what was decided stays when --seconds are over; a copy of it goes to DIR,
and what was tried, with milliseconds, to DIR/tune.json."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

sys.path.append(str(Path(__file__).parent / "gpu"))
from candidates import Options
from common import Report, interleaved, name_of
from together import Task, name, together
from tuned import KERNELS, LARGE, PARTS, Job, Part, jobs

GAIN = 0.98
MORE_ERROR, WORST_ERROR = 1.2, 0.1  # relative, in norm: beside the present row's, and at all
COMPILING = 0.65  # of the time, at most
WHOLE = "project_fwd"  # timed with what its launcher does besides: one candidate is the vendor's product
Work = Callable[[], Any]


@contextmanager
def launches(kernel: str, others: bool) -> Iterator[list[Work]]:
    """Those of one kernel inside, each to be made again; without ``others`` no other kernel's are made."""
    from triton.runtime.jit import JITFunction

    plain: Any = JITFunction.run
    seen: list[Work] = []

    def run(function: Any, *arguments: Any, **options: Any) -> Any:
        if function.__name__ == f"{kernel}_kernel":
            seen.append(partial(plain, function, *arguments, **options))
        elif not others:
            return None
        return plain(function, *arguments, **options)

    JITFunction.run = run
    try:
        yield seen
    finally:
        JITFunction.run = plain


def made(job: Job, device: str) -> Part:
    return PARTS[job.part](job.tokens, job.batch, device)


def architecture(device: str) -> str:
    return "sm_{}{}".format(*torch.cuda.get_device_capability(device))


def put(arch: str, job: Job, part: Part, options: Options) -> None:
    from trm_fast.triton_kernels import configs

    configs.put(arch, job.kernel, part.row(job.kernel), options)


def compiled(job: Job, device: str) -> dict[str, str]:
    """In a process of its own: launches a kernel once with each of its candidates, or where it names none, all of its
    part's with the rows that they have. Returns what is wrong, by options; a process a row, as each takes a while to
    meet the device."""
    part, wrong = made(job, device), {}
    for options in job.candidates() if job.kernel else ():
        try:
            put(architecture(device), job, part, options)
            with launches(job.kernel, others=False):
                part.run(job.backward)
            torch.cuda.synchronize()
        except Exception as problem:  # more than fits a block, say
            wrong[words(options)] = f"{type(problem).__name__}: {problem}"[:200]
    if not job.kernel:
        part.run(False)
        part.run(True)
        torch.cuda.synchronize()
    return wrong


def compile_all(wanted: Sequence[Job], device: str, seconds: float) -> dict[str, Any]:
    """``unusable``: by row, what is wrong with which options, or with all of them (an empty name)."""
    rows = [row for job in wanted for row in (job._replace(kernel=""), job)]
    tasks: list[Task] = [(compiled, (row, device)) for row in dict.fromkeys(rows)]
    report = together(tasks, seconds)
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


class Card:
    """The GPU. A part's tensors stay as long as its kernels are tuned."""

    def __init__(self, device: str, tables: Sequence[Path]) -> None:
        self.device, self.tables, self.arch = device, tables, architecture(device)
        self.at: Job | None = None

    def open(self, job: Job) -> Options:
        if self.at is None or self.at._replace(kernel=job.kernel) != job:
            self.part, self.truths = made(job, self.device), dict[bool, list[Tensor]]()
        self.at = self.job = job
        if job.backward not in self.truths:
            self.truths[job.backward] = self.part.truth(job.backward)
        return self.part.lookup(job.kernel)

    def attempt(self, options: Options) -> tuple[float, Work]:
        put(self.arch, self.job, self.part, options)
        with launches(self.job.kernel, others=True) as seen:
            results = self.part.run(self.job.backward)
        work = partial(self._whole, options) if self.job.kernel == WHOLE else lambda: [launch() for launch in seen]
        return error(results, self.truths[self.job.backward]), work

    def _whole(self, options: Options) -> None:
        put(self.arch, self.job, self.part, options)
        self.part.run(self.job.backward)

    def milliseconds(self, works: Mapping[str, Work]) -> dict[str, float]:
        return interleaved(dict(works), self.device, rounds=5, seconds=0.01)

    def keep(self, options: Options) -> None:
        from trm_fast.triton_kernels import configs

        shape = self.part.shapes.get(self.job.kernel, ())
        few = partial(configs.lookup, self.job.kernel, self.part.looked_up[:1], *shape, block=self.part.block)
        before = few()
        put(self.arch, self.job, self.part, options)
        if (
            shape and self.job.batch == LARGE and few() != before
        ):  # a shape's row stands before those of all small inputs
            bits = 8 * self.part.looked_up.element_size()
            configs.put(self.arch, self.job.kernel, configs.key(bits, *shape, small=True), before)
        for table in self.tables:
            write(table, configs.table())


def error(results: Sequence[Tensor], truth: Sequence[Tensor]) -> float:
    """The largest relative error of the results, in norm; NaN counts as infinite."""
    errors = [float((r.float() - t.float()).norm() / t.float().norm()) for r, t in zip(results, truth, strict=True)]
    return max(e if e == e else float("inf") for e in errors)


def write(path: Path, table: Mapping[str, Any]) -> None:
    """At once or not at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(json.dumps(table, indent=1) + "\n")
    temporary.replace(path)


def words(options: Options) -> str:
    return " ".join(f"{name}={value}" for name, value in options.items())


def decide(job: Job, tried: Sequence[Options], bench: Bench) -> dict[str, Any]:
    """Keeps the best row, the present one if anything goes wrong; says how long each took and which were refused."""
    best = present = bench.open(job)
    try:
        wrong, work = bench.attempt(present)
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
    found = report.attempt("compile", partial(compile_all, wanted, asked.device, COMPILING * asked.seconds))
    if "error" in found:
        sys.exit(1)
    card = Card(asked.device, [asked.table or configs.TABLE, asked.out / "configs.json"])
    tune(wanted, card, found["unusable"], report, start + asked.seconds)
    print(f"{name_of(asked.device)}: {time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
