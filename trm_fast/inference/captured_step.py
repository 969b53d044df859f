"""Captured steps: supervision steps of the solver at fixed shapes, captured once and replayed."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Hashable, Mapping
from weakref import WeakKeyDictionary, ref

import torch
from torch import Tensor

from trm_fast.inference.capture import Fallback, Runner
from trm_fast.models.trm import ForwardOptions, TRMModel
from trm_fast.nn.recursion import State
from trm_fast.ops._core import selection

Arrays = dict[str, Tensor]
"""The arguments or the results of a step for A rows by name, each (A, ...)."""


class CapturedStep:
    """A supervision step without gradient for up to ``rows`` rows.

    Args:
        model: the model, to which only a weak reference is kept.
        arguments: tensors with the names, shapes and dtypes of the arguments, as ``step_inputs`` returns them.
        rows: the largest number of rows.
        runner: captures and replays the step.
    """

    def __init__(self, model: TRMModel, arguments: Arrays, rows: int, runner: Runner) -> None:
        self.runner = runner
        self.arguments = {name: t.new_zeros(rows, *t.shape[1:]) for name, t in arguments.items()}
        self.results: Arrays = {}
        model_ref = ref(model)  # a value of _steps must not keep its key alive

        def step() -> None:
            model = model_ref()
            assert model is not None
            extra = dict(self.arguments)
            state = State(extra.pop("y", None), extra.pop("z"))
            options = ForwardOptions(static_shapes=True)
            out = model(extra.pop("inputs"), state, extra.pop("puzzle_rows", None), options=options, **extra)
            results = {"z": out.state.z, "y": out.state.y, "answers": model.head.answers(out.logits), "q": out.q}
            # Results have the same memory in every call, even if the step is not captured.
            if not self.results:
                self.results = {name: torch.empty_like(t) for name, t in results.items() if t is not None}
            for name, tensor in self.results.items():
                tensor.copy_(results[name])

        with torch.no_grad():
            step()
            runner.capture(step)
        if isinstance(runner, Fallback) and runner.reason:
            warnings.warn(
                f"the solver runs without a CUDA graph: it could not be captured ({runner.reason})", stacklevel=2
            )

    def __call__(self, arguments: Arrays) -> Arrays:
        """Runs the step for A rows and returns copies of their states, answers and halting logits."""
        count = len(arguments["inputs"])
        for name, tensor in arguments.items():
            self.arguments[name][:count].copy_(tensor)
        self.runner.replay()
        return {name: tensor[:count].clone() for name, tensor in self.results.items()}


_steps: WeakKeyDictionary[TRMModel, dict[Hashable, CapturedStep]] = WeakKeyDictionary()
_lock = threading.RLock()


def captured_step(model: TRMModel, arguments: Arrays, capacity: int, runner: Callable[[], Runner]) -> Arrays:
    """Runs a captured step for A rows and returns their states, answers and halting logits.

    There are steps for 1, 4, 16, ... rows up to ``capacity``, each captured at its first use, so that few rows take
    little time. A graph fixes the addresses of the weights, the depth of recursion and the kernels. If one of these
    changes, the step is captured again. Several callers and threads may use the same steps, because results are copies.
    """
    with _lock:
        return _step_for(model, arguments, capacity, runner)(arguments)


def _step_for(model: TRMModel, arguments: Arrays, capacity: int, runner: Callable[[], Runner]) -> CapturedStep:
    rows = 1
    while rows < len(arguments["inputs"]):
        rows *= 4
    rows = min(rows, capacity)
    shapes = tuple((name, t.shape[1:], t.dtype) for name, t in arguments.items())
    addresses = tuple(t.data_ptr() for t in (*model.parameters(), *model.buffers()))
    steps = _steps.setdefault(model, {})
    if steps and next(iter(steps))[0] != addresses:  # type: ignore[index]
        steps.clear()
    key = (addresses, rows, shapes, runner, model.config, model.training, selection.requested())
    if key not in steps:
        steps[key] = CapturedStep(model, arguments, rows, runner())
    return steps[key]


def step_inputs(inputs: Tensor, state: State, puzzle_rows: Tensor | None, extra: Mapping[str, Tensor]) -> Arrays:
    """The arguments of a step by name, without those that are None."""
    arguments = {"inputs": inputs, "z": state.z, "y": state.y, "puzzle_rows": puzzle_rows, **extra}
    return {name: tensor for name, tensor in arguments.items() if tensor is not None}
