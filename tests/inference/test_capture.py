"""Around the capture of a CUDA graph, on a device that the tests play: it does nothing, but fails as torch does."""

from __future__ import annotations

import gc
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
import torch

from trm_fast.inference.capture import WARM_UP, CudaGraph, Fallback, drop_graphs

CUDA = torch.device("cuda", 0)
END = "operation failed due to a previous error during capture"


class Device:
    """``current``: the stream; ``well`` and ``badly``: captures that ended so; ``graphs``: those that are there."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.current, self.well, self.badly, self.graphs = "default", 0, 0, 0
        device, zeros = self, torch.zeros

        class Graph:
            def __init__(self) -> None:
                device.graphs += 1

            def reset(self) -> None:
                device.graphs -= 1

        class Stream(str):
            def wait_stream(self, other: str) -> None: ...

        class On:
            def __init__(self, stream: str) -> None:
                self.stream = stream

            def __enter__(self) -> None:
                self.before, device.current = device.current, self.stream

            def __exit__(self, *_: object) -> None:
                device.current = self.before

        class Capture(On):
            """As ``torch.cuda.graph``: where its end fails, its stream stays the current one."""

            def __init__(self, graph: Graph, *, stream: str, capture_error_mode: str) -> None:
                assert capture_error_mode == "thread_local"
                super().__init__(stream)

            def __exit__(self, kind: Any = None, *_: object) -> None:
                device.well, device.badly = device.well + (kind is None), device.badly + (kind is not None)
                if kind is not None:
                    raise RuntimeError(END)
                super().__exit__()

        fakes: dict[str, Any] = {
            "CUDAGraph": Graph, "Stream": lambda: Stream("side"), "stream": On, "graph": Capture,
            "current_stream": lambda: Stream(device.current), "device": lambda _: nullcontext(),
        }  # fmt: skip
        for name, fake in fakes.items():
            monkeypatch.setattr(torch.cuda, name, fake)
        monkeypatch.setattr(torch, "zeros", lambda *sizes, device: zeros(*sizes))


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> Device:
    return Device(monkeypatch)


def failing(error: BaseException) -> Callable[[], None]:
    """Fails inside the capture, behind the warm-up."""
    calls = []

    def function() -> None:
        calls.append(1)
        if len(calls) == WARM_UP + 1:
            raise error

    return function


def test_the_reason_is_what_failed_first(device: Device) -> None:
    runner = Fallback(CudaGraph(CUDA))
    runner.capture(failing(RuntimeError("cannot copy from the host\nand more")))
    assert runner.reason == "cannot copy from the host"
    assert device.current == "default"
    runner = Fallback(CudaGraph(CUDA))
    runner.capture(failing(ValueError("no error of the device")))
    assert runner.reason == END


def test_memory_that_is_short_is_said_whatever_the_end_of_the_capture_says(device: Device) -> None:
    with pytest.raises(torch.OutOfMemoryError, match="12 GB"):
        Fallback(CudaGraph(CUDA)).capture(failing(torch.OutOfMemoryError("12 GB wanted")))


def test_behind_a_capture_that_failed_stands_one_that_ended_well(device: Device) -> None:
    """Else torch's generator, which dropout draws from, would think that it is inside a capture for ever."""
    Fallback(CudaGraph(CUDA)).capture(failing(RuntimeError("cannot")))
    assert (device.badly, device.well) == (1, 1)
    CudaGraph(CUDA).capture(lambda: None)
    assert (device.badly, device.well) == (1, 2)


def test_nothing_is_collected_during_a_capture(device: Device) -> None:
    """An older graph, in a cycle with its trainer, would be destroyed then, and the capture fail."""
    seen: list[bool] = []
    CudaGraph(CUDA).capture(lambda: seen.append(gc.isenabled()))
    assert seen == [True] * WARM_UP + [False]
    Fallback(CudaGraph(CUDA)).capture(failing(RuntimeError("cannot")))
    assert gc.isenabled()


def test_all_graphs_can_be_dropped_whoever_holds_them(device: Device) -> None:
    runners = [CudaGraph(CUDA) for _ in range(3)]
    for runner in runners[:2]:  # one has captured nothing yet
        runner.capture(lambda: None)
    assert device.graphs == 2
    drop_graphs()
    assert device.graphs == 0
