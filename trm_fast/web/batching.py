"""Supervision steps of all requests, computed together: one thread, one batch for each model at a time."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from typing import Any, NamedTuple

import torch
from torch import Tensor

from trm_fast.models.trm import Output, TRMModel
from trm_fast.nn.recursion import State

MAX_ROWS = 256
"""Maximum number of rows in a batch; more wait for the next one."""


class Stopped(Exception):
    """The client that asked has left, or the server ends."""


class Step(NamedTuple):
    """The arguments of one supervision step of A rows, and where its result goes."""

    inputs: Tensor
    state: State
    puzzle_rows: Tensor | None
    extra: Mapping[str, Tensor]
    result: Future[Output]


class Batcher:
    """Computes steps in its own thread. Steps that wait for the same model are computed as one batch."""

    def __init__(self) -> None:
        self._waiting: OrderedDict[int, tuple[TRMModel, list[Step]]] = OrderedDict()
        self._changed = threading.Condition()
        self._closed = False
        self.batches = self.rows = 0
        self._thread = threading.Thread(target=self._run, name="supervision steps", daemon=True)
        self._thread.start()

    def submit(self, model: TRMModel, step: Step) -> Output:
        """Computes a step, together with others, and waits for its result.

        Raises:
            Stopped: the batcher is closed.
        """
        with self._changed:
            if self._closed:
                raise Stopped
            self._waiting.setdefault(id(model), (model, []))[1].append(step)
            self._changed.notify()
        return step.result.result()

    def close(self) -> None:
        """Ends the thread; steps that wait raise ``Stopped``."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._waiting and not self._closed:
                    self._changed.wait()
                if self._closed:
                    for _, steps in self._waiting.values():
                        for step in steps:
                            step.result.set_exception(Stopped())
                    return
                key, (model, steps) = self._waiting.popitem(last=False)  # models take turns
                steps, later = _fitting(steps)
                if later:
                    self._waiting[key] = (model, later)
            self._compute(model, steps)

    def _compute(self, model: TRMModel, steps: list[Step]) -> None:
        try:
            with torch.no_grad():
                output = _joint_output(model, steps)
        except BaseException as error:
            for step in steps:
                step.result.set_exception(error)
            return
        self.batches += 1
        start = 0
        for step in steps:
            end = start + len(step.inputs)
            step.result.set_result(_part(output, start, end))
            start = end
        self.rows += start


class SharedModel:
    """A model for one request: the steps of several are computed together, and the last prediction is kept.

    Everything but the call is the model's own, so that ``Solver`` takes it as a model.

    Args:
        model: the model.
        batcher: computes its steps.
        stopped: whether the request has ended early; the next step then raises ``Stopped``.
    """

    prediction: Any = None
    """What the head predicted in the last step, such as logits (A, L, V)."""

    def __init__(self, model: TRMModel, batcher: Batcher, stopped: Callable[[], bool] = lambda: False) -> None:
        self.model, self.batcher, self.stopped = model, batcher, stopped

    def __call__(self, inputs: Tensor, state: State, puzzle_rows: Tensor | None = None, **extra: Tensor) -> Output:
        if self.stopped():
            raise Stopped
        output = self.batcher.submit(self.model, Step(inputs, state, puzzle_rows, extra, Future()))
        self.prediction = output.logits
        return output

    def __getattr__(self, name: str) -> Any:
        return getattr(self.model, name)


def _fitting(steps: list[Step]) -> tuple[list[Step], list[Step]]:
    """The first steps whose rows fit into a batch, at least one, and the others."""
    rows = 0
    for count, step in enumerate(steps):
        rows += len(step.inputs)
        if count and rows > MAX_ROWS:
            return steps[:count], steps[count:]
    return steps, []


def _joint_output(model: TRMModel, steps: list[Step]) -> Output:
    if len(steps) == 1:
        (step,) = steps
        return model(step.inputs, step.state, step.puzzle_rows, **step.extra)
    first = steps[0]
    y = None if first.state.y is None else torch.cat([step.state.y for step in steps])  # type: ignore[misc]
    state = State(y, torch.cat([step.state.z for step in steps]))
    puzzle_rows = None
    if first.puzzle_rows is not None:
        puzzle_rows = torch.cat([step.puzzle_rows for step in steps])  # type: ignore[misc]
    extra = {name: torch.cat([step.extra[name] for step in steps]) for name in first.extra}
    return model(torch.cat([step.inputs for step in steps]), state, puzzle_rows, **extra)


def _part(value: Any, start: int, end: int) -> Any:
    """The rows ``start`` to ``end`` of tensors in tuples."""
    if isinstance(value, Tensor):
        return value[start:end]
    if isinstance(value, tuple):
        parts = [_part(part, start, end) for part in value]
        return type(value)(*parts) if hasattr(value, "_fields") else tuple(parts)
    if isinstance(value, Mapping):
        return {name: _part(part, start, end) for name, part in value.items()}
    return value
