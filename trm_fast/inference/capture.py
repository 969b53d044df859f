"""How a function that works on tensors at fixed places is run: called each time, or recorded once and replayed.

Such a function touches the same memory every time, reads nothing back to the host and bakes no changing number in. So
it can be called (``Eager``) or become one CUDA graph (``CudaGraph``); a recorder on the CPU proves it in the tests.
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
"""Calls before a capture: libraries set themselves up and kernels are loaded in the first ones."""


class Runner(Protocol):
    """``capture`` may run the function (its caller restores the state behind it); ``replay`` runs it once."""

    def capture(self, function: Callable[[], None]) -> None: ...

    def replay(self) -> None: ...


class Eager:
    """No recording: every replay is a call."""

    def capture(self, function: Callable[[], None]) -> None:
        self.function = function

    def replay(self) -> None:
        self.function()


class CudaGraph:
    """One graph launch a replay. Random numbers of the default generator are new ones in every replay."""

    graph: torch.cuda.CUDAGraph | None = None

    def __init__(self, device: torch.device) -> None:
        self.device = device
        _made.add(self)

    def capture(self, function: Callable[[], None]) -> None:
        with torch.cuda.device(self.device):
            self.graph = torch.cuda.CUDAGraph()  # of an earlier one the memory is free now
            # One side stream for both: gradients are accumulated on the stream where they were first.
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
                # torch (2.11) leaves its generator in a capture that was broken off, and no call could draw from it.
                # One that ends well takes it out; where none does, a copy that earlier graphs do not know stands in.
                # Its allocator goes on asking the graph what belongs to it.
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


_made: WeakSet[CudaGraph] = WeakSet()
_broken: list[torch.cuda.CUDAGraph] = []


def drop_graphs() -> None:
    """Destroys all graphs, whoever still holds them: none can be replayed again."""
    for runner in list(_made):
        if runner.graph is not None:
            runner.graph.reset()


@contextmanager
def _capturing(graph: Any, stream: Any) -> Iterator[None]:
    """What is done inside becomes the graph. Other threads (data, collectives) may talk to the device meanwhile."""
    # A capture that fails would leave its stream the current one; one in which Python's collector finds an older graph
    # (in a cycle: a trainer of before) would fail, for destroying that is not allowed.
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
    """A graph where it can be captured, else calls; ``reason`` says why, None while the graph is taken."""

    def __init__(self, graph: Runner) -> None:
        self.runner, self.reason = graph, None

    reason: str | None

    def capture(self, function: Callable[[], None]) -> None:
        try:
            self.runner.capture(function)
        except RuntimeError as error:
            cause: BaseException = error  # where a capture is broken off, its end fails, too, and says less
            while isinstance(cause.__context__, RuntimeError):
                cause = cause.__context__
            if isinstance(cause, torch.OutOfMemoryError):
                raise cause from None  # calling would need as much
            self.reason = (str(cause) or type(cause).__name__).strip().splitlines()[0]
            self.runner = Eager()
            self.runner.capture(function)

    def replay(self) -> None:
        self.runner.replay()


def runner_for(device: torch.device, graph: bool = True) -> Runner:
    """What fits a device: a graph with calls to fall back on where there are graphs, else calls."""
    return Fallback(CudaGraph(device)) if graph and device.type == "cuda" else Eager()


def recorded(device: torch.device) -> Callable[[Callable[[], None]], Callable[[], None]]:
    """What makes of a function its replay on a device, as ``ops.report.measure`` takes it."""

    def record(function: Callable[[], None]) -> Callable[[], None]:
        runner = runner_for(device)
        runner.capture(function)
        return runner.replay

    return record


@cache
def graphs_on(device: torch.device) -> Callable[[], Runner]:
    """What makes graphs on a CUDA device, with calls to fall back on; always the same for the same device."""
    return lambda: Fallback(CudaGraph(device))
