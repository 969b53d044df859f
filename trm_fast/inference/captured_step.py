"""A supervision step of the solver at fixed shapes, so that it can be captured and replayed."""

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
"""By name, each (A, ...): inputs, z, y, puzzle_rows and what else the model takes; or what a step makes of them."""


class CapturedStep:
    """A step without gradient of up to ``rows`` rows; what is computed for rows that are not there is thrown away."""

    def __init__(self, model: TRMModel, given: Arrays, rows: int, runner: Runner) -> None:
        self.runner = runner
        self.given = {name: t.new_zeros(rows, *t.shape[1:]) for name, t in given.items()}
        self.made: Arrays = {}
        kept = ref(model)  # a model that is forgotten takes its steps along

        def step() -> None:
            model = kept()
            assert model is not None
            more = dict(self.given)
            state = State(more.pop("y", None), more.pop("z"))
            options = ForwardOptions(static_shapes=True)
            out = model(more.pop("inputs"), state, more.pop("puzzle_rows", None), options=options, **more)
            made = {"z": out.state.z, "y": out.state.y, "answers": model.head.answers(out.logits), "q": out.q}
            # Always in the same memory, also where the step is called and not replayed.
            if not self.made:
                self.made = {name: torch.empty_like(t) for name, t in made.items() if t is not None}
            for name, tensor in self.made.items():
                tensor.copy_(made[name])

        with torch.no_grad():
            step()
            runner.capture(step)
        if isinstance(runner, Fallback) and runner.reason:
            warnings.warn(
                f"the solver runs without a CUDA graph: it could not be captured ({runner.reason})", stacklevel=2
            )

    def __call__(self, given: Arrays) -> Arrays:
        """State, answers and halting logits of the A rows given."""
        count = len(given["inputs"])
        for name, tensor in given.items():
            self.given[name][:count].copy_(tensor)
        self.runner.replay()
        return {name: tensor[:count].clone() for name, tensor in self.made.items()}


_steps: WeakKeyDictionary[TRMModel, dict[Hashable, CapturedStep]] = WeakKeyDictionary()
_one_at_a_time = threading.RLock()


def captured_step(model: TRMModel, given: Arrays, capacity: int, runner: Callable[[], Runner]) -> Arrays:
    """State, answers and halting logits of the A rows given, by a step made once for 1, 4, 16, ... rows, ``capacity``
    at most: where few rows are left, few are computed.

    A graph holds the weights' places, the depth of recursion and the kernels that were taken: where these are others,
    so is the graph. Several may think with one model in turns, or in threads: no result is a step's own memory.
    """
    with _one_at_a_time:
        return _made_for(model, given, capacity, runner)(given)


def _made_for(model: TRMModel, given: Arrays, capacity: int, runner: Callable[[], Runner]) -> CapturedStep:
    rows = 1
    while rows < len(given["inputs"]):
        rows *= 4
    rows = min(rows, capacity)
    shapes = tuple((name, t.shape[1:], t.dtype) for name, t in given.items())
    places = tuple(t.data_ptr() for t in (*model.parameters(), *model.buffers()))
    known = _steps.setdefault(model, {})
    if known and next(iter(known))[0] != places:  # type: ignore[index]
        known.clear()
    key = (places, rows, shapes, runner, model.config, model.training, selection.requested())
    if key not in known:
        known[key] = CapturedStep(model, given, rows, runner())
    return known[key]


def step_inputs(inputs: Tensor, state: State, puzzle_rows: Tensor | None, extra: Mapping[str, Tensor]) -> Arrays:
    """What a step reads, by name, without what there is not."""
    given = {"inputs": inputs, "z": state.z, "y": state.y, "puzzle_rows": puzzle_rows, **extra}
    return {name: tensor for name, tensor in given.items() if tensor is not None}
