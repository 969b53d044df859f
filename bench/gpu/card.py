"""A GPU on which the rows of the Triton kernels' table are tried, for bench/tune.py."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from candidates import Options, words
from common import interleaved, write
from torch import Tensor
from tuned import LARGE, PARTS, Job, Part

from trm_fast.triton_kernels import configs

WHOLE = "project_fwd"  # timed with what its launcher does besides: one candidate is the vendor's product
TOGETHER = ("attend_bwd",)  # kernels of these names are timed as one: a row may decide which of them are launched
Work = Callable[[], Any]


class NotLaunched(Exception):
    """Another row keeps the kernel from being launched at this size."""


def of_row(kernel: str, function: str) -> bool:
    """Whether a row, by its kernel's name, is judged by the time of this function."""
    names = [name for name in TOGETHER if kernel.startswith(name)]
    return function.startswith(names[0]) if names else function == f"{kernel}_kernel"


@contextmanager
def launches(kernel: str, others: bool) -> Iterator[list[Work]]:
    """Those inside that a row is judged by, each to be made again; without ``others`` no others are made."""
    from triton.runtime.jit import JITFunction

    plain: Any = JITFunction.run
    seen: list[Work] = []

    def run(function: Any, *arguments: Any, **options: Any) -> Any:
        if of_row(kernel, function.__name__):
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
        self.for_few = self._few()
        return self.part.lookup(job.kernel)

    def _shape(self) -> tuple[int, ...]:
        return self.part.shapes.get(self.job.kernel, ())

    def _few(self) -> Options:
        """The row for a small batch."""
        few = self.part.looked_up[:1]
        return dict(configs.lookup(self.job.kernel, few, *self._shape(), block=self.part.block))

    def attempt(self, options: Options) -> tuple[float, Work]:
        put(self.arch, self.job, self.part, options)
        with launches(self.job.kernel, others=True) as seen:
            results = self.part.run(self.job.backward)
        if not seen and self.job.kernel != WHOLE:
            raise NotLaunched(self.job.kernel)
        work = partial(self._whole, options) if self.job.kernel == WHOLE else lambda: [launch() for launch in seen]
        return error(results, self.truths[self.job.backward]), work

    def _whole(self, options: Options) -> None:
        put(self.arch, self.job, self.part, options)
        self.part.run(self.job.backward)

    def milliseconds(self, works: Mapping[str, Work]) -> dict[str, float]:
        return interleaved(dict(works), self.device, rounds=5, seconds=0.01)

    def keep(self, options: Options) -> None:
        put(self.arch, self.job, self.part, options)
        # A shape's row stands before that of all small inputs.
        if (shape := self._shape()) and self.job.batch == LARGE and self._few() != self.for_few:
            bits = 8 * self.part.looked_up.element_size()
            configs.put(self.arch, self.job.kernel, configs.key(bits, *shape, small=True), self.for_few)
        for table in self.tables:
            write(table, configs.table())


def error(results: Sequence[Tensor], truth: Sequence[Tensor]) -> float:
    """The largest relative error of the results, in norm; NaN counts as infinite."""
    errors = [float((r.float() - t.float()).norm() / t.float().norm()) for r, t in zip(results, truth, strict=True)]
    return max(e if e == e else float("inf") for e in errors)
