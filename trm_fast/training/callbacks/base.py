"""The base class of callbacks, and the registry of the names that ``trm-fast train --log`` takes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trm_fast.registry import Registry
from trm_fast.training.config import RunConfig
from trm_fast.training.folder import Record

CALLBACKS: Registry[type[Callback]] = Registry("callback")
"""Callback classes by the names of their files. Their constructors need no arguments."""

register = CALLBACKS.register


@dataclass(frozen=True)
class Run:
    """The description of a run that callbacks get at its start.

    Attributes:
        folder: the run folder.
        config: the run's configuration.
        step, seconds: optimizer steps and seconds of training so far; above 0 in a resumed run.
        parameters: number of trained parameters.
        train_count, test_count: numbers of training and test examples.
        source: where the examples come from.
        noun: what the task calls its examples, such as ``puzzles``.
        report: makes the task's tables from the measures of an evaluation.
    """

    folder: Path
    config: RunConfig
    step: int
    seconds: float
    parameters: int
    train_count: int
    test_count: int
    source: str
    noun: str
    report: Callable[[dict[str, Any]], list[Any]] = lambda measures: []


class Callback:
    """The base class, whose methods do nothing. The trainer calls them between steps, in one process only."""

    def on_note(self, text: str) -> None:
        """There is a note ``text`` for the user. It may come before the run starts."""

    def on_start(self, run: Run) -> None:
        """Training starts, or continues after a resume."""

    def on_step(self, step: int) -> None:
        """A step was sent to the device. A GPU may still be computing earlier steps."""

    def on_log(self, record: Record) -> None:
        """There is a new record of metrics: of training, every ``log_every`` steps (``loss``, ...), or of an evaluation
        (``eval_exact_accuracy``, ``eval_loss``, ...)."""

    def on_evaluation(self, done: int, count: int) -> None:
        """An evaluation has answered ``done`` of ``count`` examples."""

    def on_end(self, summary: Record | None) -> None:
        """Training has ended. ``summary`` is None if an error ended it."""


class Callbacks(Callback):
    """Several callbacks as one. ``on_end`` is called only on those that have started."""

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
    """The numbers in a record, by the names of their curves.

    Examples:
        >>> scalars({"step": 5, "loss": 0.5}), scalars({"step": 5, "eval_count": 100})
        ({'train/loss': 0.5}, {'eval/count': 100})
    """
    numbers = {k: v for k, v in record.items() if isinstance(v, int | float) and k not in ("step", "seconds")}
    return {f"eval/{k[5:]}" if k.startswith("eval_") else f"train/{k}": v for k, v in numbers.items()}
