"""The model reproduces the numbers of the published implementation in four consecutive training steps.

``TRM_FAST_FIXTURES=DIR`` is another folder of ``*.npz`` files of the same kind.

Recursion amplifies rounding: in the mixer fixtures a float32 rounding error grows about a hundredfold per supervision
step. After four steps two correct float32 programs differ by percents, and so do two CPUs with the same program. So
each step is compared from the recorded carry, to 1e-4. The uninterrupted run must stay as close to the fixture as exact
arithmetic, that is, the same model in float64.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from trm_fast.api import TRM
from trm_fast.interchange import from_published, published_names
from trm_fast.tasks.base import Examples
from trm_fast.training.batch import Batch
from trm_fast.training.carry import Carry

FOLDER = Path(os.environ.get("TRM_FAST_FIXTURES") or Path(__file__).parent / "fixtures")
FILES = sorted(FOLDER.glob("*.npz"))
STEPS = 4
TOLERANCE = 1e-4

Numbers = dict[str, Any]


def test_there_are_fixtures() -> None:
    assert FILES, f"no fixtures in {FOLDER}"


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_each_step_equals_the_fixture_from_the_recorded_carry(path: Path) -> None:
    fixture = np.load(path)
    for step, (got, want) in enumerate(run(fixture, torch.float32, recorded_carry=True)):
        errors = {k: relative_error(got[k], want[k]) for k in want}
        worst = max(errors, key=errors.__getitem__)
        assert errors[worst] < TOLERANCE, f"{path.stem} step {step}: {worst} is off by {errors[worst]:.2e}"


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_four_consecutive_steps_stay_close_to_the_fixture(path: Path) -> None:
    fixture = np.load(path)
    runs = zip(run(fixture, torch.float32), run(fixture, torch.float64), strict=True)
    for step, ((got, want), (exact, _)) in enumerate(runs):
        rounding = max(relative_error(exact[k], want[k]) for k in want)
        assert rounding < 0.05, f"{path.stem} step {step}: exact arithmetic is {rounding:.2e} from the fixture"
        errors = {k: relative_error(got[k], want[k]) for k in want}
        worst = max(errors, key=errors.__getitem__)
        assert errors[worst] < max(TOLERANCE, 8 * rounding), f"{path.stem} step {step}: {worst}, {errors[worst]:.2e}"


def examples_of(fixture: Any, step: int) -> Examples:
    return Examples(*(fixture[f"step{step}/batch/{k}"] for k in ("inputs", "labels", "puzzle_identifiers")))


def run(fixture: Any, dtype: torch.dtype, *, recorded_carry: bool = False) -> Iterator[tuple[Numbers, Numbers]]:
    """Yields for each step the model's numbers and the fixture's."""
    model, batch_size = load(fixture, dtype), len(fixture["step0/batch/inputs"])
    names = published_names(model.config)
    carry = Carry(model, batch_size, examples_of(fixture, 0))
    for step in range(STEPS):
        want = {k.split("/", 1)[1]: fixture[k] for k in fixture if k.startswith(f"step{step}/")}
        if step and recorded_carry:
            carry.state.z.copy_(torch.from_numpy(fixture[f"step{step - 1}/z_L"]))
            if carry.state.y is not None:
                carry.state.y.copy_(torch.from_numpy(fixture[f"step{step - 1}/z_H"]))
        want = {k: v for k, v in want.items() if not k.startswith("batch/")}
        carry.refill(Batch.from_examples(examples_of(fixture, step)))
        model.zero_grad()
        out, loss, rows = carry.supervise(model, slice(None))
        (loss.total / batch_size).backward()
        answers = partial(model.head.answers, out.logits)
        carry.halt(out.q, answers, torch.zeros(batch_size, dtype=torch.int32), slice(None))

        finished = carry.halted & loss.labeled
        got: Numbers = {
            "logits": out.logits,
            "q_halt_logits": out.q,
            "loss": loss.total,
            "z_L": carry.state.z,
            "z_H": carry.state.y,
            "halted": carry.halted,
            "steps": carry.steps,
            "metrics/count": finished.sum(),
            "metrics/accuracy": torch.where(finished, loss.cells, 0).sum(),
            "metrics/exact_accuracy": (finished & loss.exact).sum(),
            "metrics/q_halt_accuracy": (finished & ((out.q >= 0) == loss.exact)).sum(),
            "metrics/steps": torch.where(finished, carry.steps, 0).sum(),
            "metrics/lm_loss": loss.answer,
            "metrics/q_halt_loss": loss.halting,
            "grad/puzzle_emb_rows": None if rows is None else rows.grad,
        }
        for name, parameter in model.named_parameters():
            gradient = parameter.grad
            # The published Q head has a second output without gradient.
            if gradient is not None and name.startswith("q_head."):
                gradient = torch.cat((gradient, torch.zeros_like(gradient)))
            got[f"grad/{names[name]}"] = gradient
        assert want.keys() <= got.keys(), f"the fixture has numbers that are not compared: {want.keys() - got.keys()}"
        yield {k: v.detach().clone() for k, v in got.items() if v is not None}, want


def load(fixture: Any, dtype: torch.dtype) -> TRM:
    state = {k.removeprefix("state/"): torch.from_numpy(fixture[k]) for k in fixture if k.startswith("state/")}
    model = from_published(state, json.loads(str(fixture["config"]))).to(dtype)
    model.compute_dtype = dtype
    return model


def relative_error(got: Tensor, want: np.ndarray) -> float:
    """Relative L2 distance. For integers and flags it is zero only if all are equal."""
    expected = torch.from_numpy(np.asarray(want)).double()
    return float((got.double() - expected).norm() / expected.norm().clamp_min(1e-30))
