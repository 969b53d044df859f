"""The recorder detects or refuses what a CUDA graph would silently get wrong."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from trm_fast.training import TrainStep

from .recorder import HostRead, Recorder
from .test_step import make, run, same


class RateInPython(TrainStep):
    """Naive code: keeps the rate in a Python float."""

    def run(self, learning_rate: float, minimum_steps: np.ndarray) -> None:
        self.rate = learning_rate
        super().run(learning_rate, minimum_steps)

    def _clip(self, gradients: list[Tensor]) -> Tensor:
        return torch.full((), 0.5 + 50 * getattr(self, "rate", 0.01), device=self.device)


class CountInPython(TrainStep):
    """Naive code: branches on a step count in Python."""

    count = 0

    def _clip(self, gradients: list[Tensor]) -> Tensor | None:
        self.count += 1
        return None if self.count % 2 else torch.full((), 0.1, device=self.device)


@pytest.mark.parametrize("step_type", [RateInPython, CountInPython])
def test_the_recorder_detects_state_in_python(step_type: type[TrainStep]) -> None:
    called = run(make({}, {}, 1, step_type=step_type))
    assert same(called, run(make({}, {}, 1, step_type=step_type)))
    assert not same(called, run(make({}, {}, 1, step_type=step_type, runner=Recorder())))


X = torch.arange(4.0)
READS: dict[str, Any] = {
    "item": lambda: X.sum().item(),
    "branch": lambda: X.sum() > 1 and 0,
    "tolist": lambda: X.tolist(),
    "numpy": lambda: X.numpy(),
    "cpu": lambda: X.cpu(),
    "array": lambda: np.asarray(X),
    "mask": lambda: X[X > 1],
    "mask assignment": lambda: X.clone().__setitem__(X > 1, 0),
    "nonzero": lambda: X.nonzero(),
    "unique": lambda: X.unique(),
    "equal": lambda: torch.equal(X, X + 0),
    "allclose": lambda: torch.allclose(X, X + 0),
    "slice": lambda: X[: X.sum().long()],
    "numbers": lambda: X + torch.tensor([1.0, 2.0, 3.0, 4.0], device=X.device),
    "new numbers": lambda: X + X.new_tensor([1.0, 2.0, 3.0, 4.0]),
    "array from the host": lambda: X + torch.from_numpy(np.ones(4, np.float32)),
    "where": lambda: torch.where(X > 1),
    "histogram": lambda: X.histc(3),
    "seed": lambda: torch.manual_seed(0),
    "private generator": lambda: torch.rand(4, device=X.device, generator=torch.Generator()),
}


@pytest.mark.parametrize("name", READS)
def test_the_recorder_refuses_to_wait_for_the_device(name: str) -> None:
    with pytest.raises(HostRead):
        Recorder().capture(READS[name])
    assert X.tolist() == [0, 1, 2, 3]  # reading works again after the capture


@pytest.mark.parametrize("missing", [True, False])
def test_the_recorder_detects_a_missing_device(missing: bool) -> None:
    total = torch.zeros(4)

    def add() -> None:
        total.add_(torch.ones(4) if missing else torch.ones(4, device=total.device))

    with pytest.raises(HostRead, match="without a device") if missing else nullcontext():
        Recorder().capture(add)
