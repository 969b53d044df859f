"""What a run tells as it goes: a base to build on, and the names that ``trm-fast train --log`` takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trm_fast.registry import Registry
from trm_fast.training.config import RunConfig
from trm_fast.training.folder import Record

CALLBACKS: Registry[type[Callback]] = Registry("callback")
"""Each under the name of its file; they are made without arguments."""

register = CALLBACKS.register


@dataclass(frozen=True)
class Run:
    """The run that callbacks hear of. ``step``, ``seconds``: where it is already, in a run that was resumed;
    ``noun``: what its examples are called; ``source``: where they come from."""

    folder: Path
    config: RunConfig
    step: int
    seconds: float
    parameters: int
    train_count: int
    test_count: int
    source: str
    noun: str


class Callback:
    """Called by the process that writes, between the steps. Override what you need; nothing here does anything."""

    def on_note(self, text: str) -> None:
        """Something that a person should know, also before the run starts."""

    def on_start(self, run: Run) -> None:
        """Training begins, or continues after a resume."""

    def on_step(self, step: int) -> None:
        """A step was sent to the device; a GPU may be some steps behind."""

    def on_log(self, record: Record) -> None:
        """A record of ``metrics.jsonl``: of training every ``log_every`` steps (``loss``, ...), or of an evaluation
        (``eval_exact_accuracy``, ...)."""

    def on_evaluation(self, done: int, count: int) -> None:
        """An evaluation has answered ``done`` of ``count`` examples."""

    def on_end(self, summary: Record | None) -> None:
        """Training has ended: its summary, None where it was broken off by an error."""


class Callbacks(Callback):
    """Several as one; where one fails to start, those before it are still ended."""

    def __init__(self, callbacks: Sequence[Callback]) -> None:
        self.callbacks = callbacks
        self.started: list[Callback] = []

    def on_note(self, text: str) -> None:
        for callback in self.callbacks:
            callback.on_note(text)

    def on_start(self, run: Run) -> None:
        for callback in self.callbacks:
            callback.on_start(run)
            self.started.append(callback)

    def on_step(self, step: int) -> None:
        for callback in self.callbacks:
            callback.on_step(step)

    def on_log(self, record: Record) -> None:
        for callback in self.callbacks:
            callback.on_log(record)

    def on_evaluation(self, done: int, count: int) -> None:
        for callback in self.callbacks:
            callback.on_evaluation(done, count)

    def on_end(self, summary: Record | None) -> None:
        while self.started:
            self.started.pop(0).on_end(summary)


def scalars(record: Record) -> dict[str, Any]:
    """The numbers of a record under the names that curves have: ``train/loss``, ``eval/exact_accuracy``, ..."""
    numbers = {k: v for k, v in record.items() if isinstance(v, int | float) and k not in ("step", "seconds")}
    return {f"eval/{k[5:]}" if k.startswith("eval_") else f"train/{k}": v for k, v in numbers.items()}
