"""How a step is run: called, as a graph, or called after all where no graph can be captured."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from trm_fast.inference.capture import CudaGraph, Eager, Fallback, runner_for

from .recorder import Recorder
from .test_step import CASES, make, run, same


class Unable(Recorder):
    """A device that fails in the middle of a capture."""

    def capture(self, function: Callable[[], None]) -> None:
        super().capture(function)
        raise RuntimeError("operation not permitted when stream is capturing\nsecond line")


def test_what_cannot_be_captured_is_called_and_says_why() -> None:
    runner = Fallback(Unable())
    assert same(run(make(*CASES["puzzles"])), run(make(*CASES["puzzles"], runner=runner)))
    assert runner.reason == "operation not permitted when stream is capturing"
    graph = Fallback(Recorder())
    assert same(run(make(*CASES["puzzles"])), run(make(*CASES["puzzles"], runner=graph)))
    assert graph.reason is None
    assert isinstance(graph.runner, Recorder)


def test_a_failed_capture_gives_the_generator_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a device that is not there: what torch leaves waiting for the capture's end is replaced."""

    class Generator:
        waits = "for the end of a capture"

        def clone_state(self) -> str:
            return "a copy that waits for nothing"

        def graphsafe_set_state(self, state: str) -> None:
            self.waits = state

    class Invalidated(nullcontext[None]):
        def __exit__(self, *_: Any) -> None:
            raise RuntimeError("operation failed due to a previous error during capture")

    generator, calls = Generator(), list[int]()
    stream = SimpleNamespace(wait_stream=lambda other: None)
    monkeypatch.setattr(torch.cuda, "device", lambda device: nullcontext())
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: nullcontext())
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: stream)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "Stream", lambda: stream)
    monkeypatch.setattr(torch.cuda, "CUDAGraph", object)
    monkeypatch.setattr(torch.cuda, "graph", lambda *_, **__: Invalidated())
    monkeypatch.setattr(torch.cuda, "default_generators", (generator,))
    runner = Fallback(CudaGraph(torch.device("cuda")))
    runner.capture(lambda: calls.append(1))
    assert "previous error" in str(runner.reason)
    assert generator.waits == "a copy that waits for nothing"
    calls.clear()
    runner.replay()
    assert calls == [1]


def test_memory_that_is_short_is_no_reason_to_call() -> None:
    class Full(Recorder):
        def capture(self, function: Callable[[], None]) -> None:
            raise torch.OutOfMemoryError("12 GB wanted")

    with pytest.raises(torch.OutOfMemoryError):
        make(*CASES["dual"], runner=Fallback(Full()))


def test_graphs_are_for_gpus() -> None:
    assert isinstance(runner_for(torch.device("cpu")), Eager)
    assert isinstance(runner_for(torch.device("cuda"), graph=False), Eager)
    taken = runner_for(torch.device("cuda"))
    assert isinstance(taken, Fallback)
    assert isinstance(taken.runner, CudaGraph)


def test_capturing_leaves_the_state_alone() -> None:
    fresh, captured = (make(*CASES["puzzles"], runner=runner) for runner in (None, Recorder()))
    assert same([fresh.tensors()], [captured.tensors()])
