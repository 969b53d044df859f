"""Runs a function on static buffers: calls it each time, or captures it once as a CUDA graph and replays it.

Such a function uses the same memory in every call, reads nothing back to the host and contains no number that changes.
So it can be called (``Eager``) or become one CUDA graph (``CudaGraph``). The tests verify this with a recorder on the
CPU.
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
"""Number of calls before a capture. Libraries initialize and kernels load in the first ones."""


class Runner(Protocol):
    """Runs a function on static buffers again and again."""

    def capture(self, function: Callable[[], None]) -> None:
        """Prepares replays of a function. It may run the function, so the caller must restore the state afterwards."""

    def replay(self) -> None:
        """Runs the function once, or what was captured of it."""


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
            self.graph = torch.cuda.CUDAGraph()  # frees the memory of an earlier one
            # One side stream for calls and capture: gradients accumulate on the stream of their first accumulation.
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
                # After a failed capture, torch 2.11 leaves its generator in capture mode, so that no call can draw from
                # it. A capture that succeeds ends that mode; if none does, a copy replaces the generator's state, which
                # earlier graphs do not share. The graph must stay alive, because the allocator keeps asking it.
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
    """Destroys all graphs, even those still in use. None can be replayed after it."""
    for runner in list(_runners):
        if runner.graph is not None:
            runner.graph.reset()


@contextmanager
def _capturing(graph: Any, stream: Any) -> Iterator[None]:
    """Captures the work inside as the graph. Other threads (data, collectives) may use the device meanwhile."""
    # The outer stream context restores the current stream after a failed capture. Garbage collection is off, because
    # destroying an older graph (of an unreachable trainer) would make the capture fail.
    collecting = gc.isenabled()
    gc.disable()
    try:
        with (
            torch.cuda.stream(torch.cuda.current_stream()),
            torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"),
        ):
            yield
    finally:
        if collecting:
            gc.enable()


class Fallback:
    """Replays a graph if it can be captured, and calls the function otherwise. ``reason`` is the error of the capture,
    or None."""

    def __init__(self, graph: Runner) -> None:
        self.runner, self.reason = graph, None

    reason: str | None

    def capture(self, function: Callable[[], None]) -> None:
        try:
            self.runner.capture(function)
        except RuntimeError as error:
            cause: BaseException = error  # the end of a failed capture raises a second, less useful error
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
    """The runner for a device: on CUDA a graph with calls as fallback, else calls. ``graph=False`` always calls."""
    return Fallback(CudaGraph(device)) if graph and device.type == "cuda" else Eager()


def recorded(device: torch.device) -> Callable[[Callable[[], None]], Callable[[], None]]:
    """Returns a function that captures a function on a device and returns its replay, for ``ops.report.measure``."""

    def record(function: Callable[[], None]) -> Callable[[], None]:
        runner = runner_for(device)
        runner.capture(function)
        return runner.replay

    return record


@cache
def graphs_on(device: torch.device) -> Callable[[], Runner]:
    """Returns the factory of graphs (with calls as fallback) on a CUDA device, the same object for the same device."""
    return lambda: Fallback(CudaGraph(device))
