"""Runs a function on static buffers: calls it each time (``Eager``), or captures it once as a CUDA graph and replays it
(``CudaGraph``).

Such a function uses the same memory in every call, copies nothing to the host, and contains no Python number that
changes between calls. The tests verify this with a recorder on the CPU.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any, Protocol
from weakref import WeakSet

import torch

WARM_UP = 3
"""Number of calls before a capture. The first calls initialize libraries and load kernels."""


class Runner(Protocol):
    """Runs a function on static buffers repeatedly."""

    def capture(self, function: Callable[[], None]) -> None:
        """Prepares replays of a function. It may run the function, so that the caller must restore the state
        afterwards."""

    def replay(self) -> None:
        """Runs the function once, or replays its capture."""


class Eager:
    """Captures nothing: every replay is a call."""

    def capture(self, function: Callable[[], None]) -> None:
        self.function = function

    def replay(self) -> None:
        self.function()


class CudaGraph:
    """Replays by launching one CUDA graph. Each replay draws new random numbers from the default generator."""

    graph: torch.cuda.CUDAGraph | None = None

    def __init__(self, device: torch.device) -> None:
        self.device = device
        _runners.add(self)

    def capture(self, function: Callable[[], None]) -> None:
        with torch.cuda.device(self.device):
            self.graph = torch.cuda.CUDAGraph()  # frees the memory of an earlier graph
            # Calls and capture use the same stream, because gradients accumulate on the stream where they first did.
            stream = torch.cuda.Stream()
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                for _ in range(WARM_UP):
                    function()
            torch.cuda.current_stream().wait_stream(stream)
            try:
                with _capturing(self.graph, stream):
                    function()
            except BaseException:
                # After a failed capture, torch 2.11 leaves its random generator in capture mode, in which calls cannot
                # use it. A successful capture ends that mode. If that fails, too, a copy replaces the generator's
                # state; earlier graphs do not use the copy. The broken graph must stay alive, because the allocator
                # still uses it.
                _broken.append(self.graph)
                try:
                    with _capturing(torch.cuda.CUDAGraph(), stream):
                        torch.zeros((), device=self.device)
                except RuntimeError:
                    generator = torch.cuda.default_generators[torch.cuda.current_device()]
                    generator.graphsafe_set_state(generator.clone_state())
                raise

    def replay(self) -> None:
        assert self.graph is not None
        self.graph.replay()


_runners: WeakSet[CudaGraph] = WeakSet()
_broken: list[torch.cuda.CUDAGraph] = []


def drop_graphs() -> None:
    """Destroys all graphs, even those in use, which cannot be replayed afterwards."""
    for runner in list(_runners):
        if runner.graph is not None:
            runner.graph.reset()


@contextmanager
def _capturing(graph: Any, stream: Any) -> Iterator[None]:
    """Captures the work in the ``with`` block. Other threads (data, collectives) may use the device meanwhile."""
    # The outer stream context restores the current stream after a failed capture. Garbage collection is off, because
    # the capture would fail if an older graph, such as that of an unreachable trainer, were destroyed during it.
    gc_enabled = gc.isenabled()
    gc.disable()
    try:
        with (
            torch.cuda.stream(torch.cuda.current_stream()),
            torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"),
        ):
            yield
    finally:
        if gc_enabled:
            gc.enable()


class Fallback:
    """Replays a graph, or calls the function if its capture fails. ``reason`` is the error of the capture, or None."""

    def __init__(self, graph: Runner) -> None:
        self.runner, self.reason = graph, None

    reason: str | None

    def capture(self, function: Callable[[], None]) -> None:
        try:
            self.runner.capture(function)
        except RuntimeError as error:
            cause: BaseException = error  # a failed capture ends with a second, less useful error
            while isinstance(cause.__context__, RuntimeError):
                cause = cause.__context__
            if isinstance(cause, torch.OutOfMemoryError):
                raise cause from None  # calls would need the same memory
            self.reason = (str(cause) or type(cause).__name__).strip().splitlines()[0]
            self.runner = Eager()
            self.runner.capture(function)

    def replay(self) -> None:
        self.runner.replay()


def runner_for(device: torch.device, graph: bool = True) -> Runner:
    """The runner for a device: on CUDA with ``graph`` a graph with calls as fallback, otherwise calls."""
    return Fallback(CudaGraph(device)) if graph and device.type == "cuda" else Eager()


def recorded(device: torch.device) -> Callable[[Callable[[], None]], Callable[[], None]]:
    """The ``recorder`` of ``ops.report.measure`` for a device: captures a function and returns its replay."""

    def record(function: Callable[[], None]) -> Callable[[], None]:
        runner = runner_for(device)
        runner.capture(function)
        return runner.replay

    return record


@cache
def graphs_on(device: torch.device) -> Callable[[], Runner]:
    """A function that makes graphs (with calls as fallback) on a CUDA device. Each device has one such object."""
    return lambda: Fallback(CudaGraph(device))
