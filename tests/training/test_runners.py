"""Runners: a call, a graph, and a graph that falls back on calls."""

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
    """A runner whose capture fails."""

    def capture(self, function: Callable[[], None]) -> None:
        super().capture(function)
        raise RuntimeError("operation not permitted when stream is capturing\nsecond line")


def test_a_failed_capture_falls_back_on_calls_and_gives_the_reason() -> None:
    runner = Fallback(Unable())
    assert same(run(make(*CASES["puzzles"])), run(make(*CASES["puzzles"], runner=runner)))
    assert runner.reason == "operation not permitted when stream is capturing"
    graph = Fallback(Recorder())
    assert same(run(make(*CASES["puzzles"])), run(make(*CASES["puzzles"], runner=graph)))
    assert graph.reason is None
    assert isinstance(graph.runner, Recorder)


def test_a_failed_capture_restores_the_generator(monkeypatch: pytest.MonkeyPatch) -> None:
    """Emulates a failed capture, after which torch leaves the generator in capture mode. It must be replaced."""

    class Generator:
        state = "capturing"

        def clone_state(self) -> str:
            return "copy"

        def graphsafe_set_state(self, state: str) -> None:
            self.state = state

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
    assert generator.state == "copy"
    calls.clear()
    runner.replay()
    assert calls == [1]


def test_a_lack_of_memory_is_no_reason_to_fall_back() -> None:
    class Full(Recorder):
        def capture(self, function: Callable[[], None]) -> None:
            raise torch.OutOfMemoryError("12 GB wanted")

    with pytest.raises(torch.OutOfMemoryError):
        make(*CASES["dual"], runner=Fallback(Full()))


def test_only_gpus_have_graphs() -> None:
    assert isinstance(runner_for(torch.device("cpu")), Eager)
    assert isinstance(runner_for(torch.device("cuda"), graph=False), Eager)
    runner = runner_for(torch.device("cuda"))
    assert isinstance(runner, Fallback)
    assert isinstance(runner.runner, CudaGraph)


def test_a_capture_changes_no_tensor() -> None:
    fresh, captured = (make(*CASES["puzzles"], runner=runner) for runner in (None, Recorder()))
    assert same([fresh.tensors()], [captured.tensors()])
