"""The limits of the machine itself: the peak of its arithmetic, and the bandwidth of its memory."""

from __future__ import annotations

import importlib
import time

import torch

from trm_fast import ops
from trm_fast.ops._core.selection import EXTENSION_MISSING

COPIED = 256 * 2**20  # bytes, more than most caches hold
PIECES = 16  # a piece takes less than a time slice


def peak_flops(dtype: str, threads: int) -> float | None:
    """FLOP per second of multiply-adds on registers, with the instruction set in use: in float32, or products in
    bfloat16 with sums in float32. None if the set has no such products, or if the C++ kernels are not built."""
    if EXTENSION_MISSING:
        return None
    flops: float | None = importlib.import_module("trm_fast._C").peak_flops(dtype == "bfloat16", threads)
    return flops


def bandwidth(threads: int) -> float:
    """Bytes per second that a large copy reads and writes: those of its fastest piece."""
    pieces = torch.ones(2, PIECES, COPIED // 4 // PIECES)
    previous = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        seconds = []
        for source, target in zip(*pieces, strict=True):
            start = time.perf_counter()
            target.copy_(source)
            seconds.append(time.perf_counter() - start)
    finally:
        torch.set_num_threads(previous)
    return 2 * COPIED / PIECES / min(seconds)


class Ceiling:
    """The limits of a CPU: the best of short measurements, which ``measure`` repeats between the timed steps, because
    other load on the machine only makes them slower."""

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self.peaks: dict[str, float | None] = dict.fromkeys(("float32", "bfloat16"))  # FLOP per second
        self.bandwidth = 0.0  # bytes per second

    def measure(self) -> None:
        for dtype, best in self.peaks.items():
            if flops := peak_flops(dtype, self.threads):
                self.peaks[dtype] = max(flops, best or 0.0)
        self.bandwidth = max(self.bandwidth, bandwidth(self.threads))

    def row(self, dtype: str, rate: float) -> dict[str, float | None]:
        """The columns of a result whose step computes ``rate`` matrix FLOP per second. None is unknown."""
        peak = self.peaks[dtype]
        return {
            "peak_gflops": _giga(peak),
            "peak_share": round(rate / peak, 3) if peak else None,
            "fma_peak_gflops": _giga(self.peaks["float32"]),
            "bfloat16_peak_gflops": _giga(self.peaks["bfloat16"]),
            "copy_gbytes_per_s": _giga(self.bandwidth),
        }


def _giga(number: float | None) -> float | None:
    return round(number / 1e9, 1) if number else None


def missing(dtype: str, device: str) -> str | None:
    """Why there are no results in a dtype on a device; None if there are."""
    if dtype == "bfloat16" and device == "cpu" and peak_flops(dtype, 1) is None:
        return f"no results in bfloat16: this CPU's kernels ({ops.cpu_path()}) have no instructions for such products"
    return None
