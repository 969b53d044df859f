"""The capture of a CUDA graph on an emulated device, which computes nothing but fails like torch."""

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
    """Counts captures that succeeded and failed, and existing graphs. ``current`` is the current stream."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.current, self.succeeded, self.failed, self.graphs = "default", 0, 0, 0
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
                self.previous, device.current = device.current, self.stream

            def __exit__(self, *_: object) -> None:
                device.current = self.previous

        class Capture(On):
            """Like ``torch.cuda.graph``: if its end fails, its stream stays the current one."""

            def __init__(self, graph: Graph, *, stream: str, capture_error_mode: str) -> None:
                assert capture_error_mode == "thread_local"
                super().__init__(stream)

            def __exit__(self, kind: Any = None, *_: object) -> None:
                device.succeeded, device.failed = device.succeeded + (kind is None), device.failed + (kind is not None)
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
    """A function that fails inside the capture, after the warm-up."""
    calls = []

    def function() -> None:
        calls.append(1)
        if len(calls) == WARM_UP + 1:
            raise error

    return function


def test_the_reason_is_the_first_error(device: Device) -> None:
    runner = Fallback(CudaGraph(CUDA))
    runner.capture(failing(RuntimeError("cannot copy from the host\nand more")))
    assert runner.reason == "cannot copy from the host"
    assert device.current == "default"
    runner = Fallback(CudaGraph(CUDA))
    runner.capture(failing(ValueError("no error of the device")))
    assert runner.reason == END


def test_a_lack_of_memory_is_reported_whatever_the_second_error(device: Device) -> None:
    with pytest.raises(torch.OutOfMemoryError, match="12 GB"):
        Fallback(CudaGraph(CUDA)).capture(failing(torch.OutOfMemoryError("12 GB wanted")))


def test_a_successful_capture_follows_a_failed_one(device: Device) -> None:
    """Otherwise torch's generator, which dropout uses, would stay in capture mode."""
    Fallback(CudaGraph(CUDA)).capture(failing(RuntimeError("cannot")))
    assert (device.failed, device.succeeded) == (1, 1)
    CudaGraph(CUDA).capture(lambda: None)
    assert (device.failed, device.succeeded) == (1, 2)


def test_nothing_is_collected_during_a_capture(device: Device) -> None:
    """Collecting an older graph, in a cycle with its trainer, would make the capture fail."""
    seen: list[bool] = []
    CudaGraph(CUDA).capture(lambda: seen.append(gc.isenabled()))
    assert seen == [True] * WARM_UP + [False]
    Fallback(CudaGraph(CUDA)).capture(failing(RuntimeError("cannot")))
    assert gc.isenabled()


def test_all_graphs_can_be_destroyed_while_in_use(device: Device) -> None:
    runners = [CudaGraph(CUDA) for _ in range(3)]
    for runner in runners[:2]:  # the third has captured nothing
        runner.capture(lambda: None)
    assert device.graphs == 2
    drop_graphs()
    assert device.graphs == 0
