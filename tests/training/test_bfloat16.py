"""Training in bfloat16 on a CPU with products in bfloat16; emulated ones run on every machine."""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from trm_fast import ops
from trm_fast.nn.recursion import Fusion, fusion
from trm_fast.ops._core import registry
from trm_fast.training import Trainer

from .small import KillAt, Killed, run_config
from .test_resume import assert_same, content
from .test_step import make, run

MIXINGS: dict[str, dict[str, Any]] = {
    "mlp": {},
    "single": {"state": "single", "num_layers": 2},
    "attention": {"mixing": "attention", "positions": "rope"},
    "groups": {"mixing": "groups"},
}


@pytest.fixture
def emulated() -> Iterator[None]:
    if registry.EXTENSION_MISSING:
        pytest.skip(registry.EXTENSION_MISSING)
    native = importlib.import_module("trm_fast._C")
    previous = native.cpu_path()
    native.set_cpu_path("emulated")
    with ops.use_backend("auto"):
        yield
        native.set_cpu_path(previous)


def losses(out: Path) -> list[float]:
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if "loss" in line]


@pytest.mark.parametrize("mixing", MIXINGS)
def test_the_loss_follows_that_of_float32(emulated: None, mixing: str, tmp_path: Path) -> None:
    curves = []
    for dtype in ("float32", "bfloat16"):
        model = MIXINGS[mixing] | {"hidden_size": 16, "max_supervision_steps": 2}
        # Unrolled, all slots halt together, so that a rounding error does not change which examples come next.
        changes = {"learning_rate": 0.003, "supervision": "unrolled", "eval_every": 0, "checkpoint_every": 50}
        config = run_config(model, dtype=dtype, steps=50, **changes)
        trainer = Trainer(config, tmp_path / dtype)
        kind = fusion(trainer.model.net, trainer.step_function.carry.state.z)
        assert kind is Fusion.FLOAT32, "the fused kernels read the float32 weights"
        assert not trainer.step_function.copies.all_copies.keys() & {id(w) for w in trainer.model.net.weights()}
        trainer.train()
        curves.append(torch.tensor(losses(tmp_path / dtype)))
    assert len(curves[0]) > 10
    assert curves[0][-3:].mean() < curves[0][:3].mean(), "it learns"
    assert (curves[1] - curves[0]).abs().mean() < 0.03 * curves[0].mean()


@pytest.mark.parametrize("mixing", ["mlp", "attention"])
def test_a_killed_run_resumes_bit_for_bit(emulated: None, mixing: str, tmp_path: Path) -> None:
    config = run_config(MIXINGS[mixing], dtype="bfloat16", steps=20, gradient_accumulation=2)
    Trainer(config, tmp_path / "straight").train()
    with pytest.raises(Killed):
        Trainer(config, tmp_path / "killed", callbacks=[KillAt(15)]).train()
    resumed = Trainer.resume(tmp_path / "killed")
    assert resumed.step == 10
    resumed.train()
    assert_same(content(tmp_path / "killed"), content(tmp_path / "straight"))


@pytest.mark.parametrize("training", [{"recompute": "latent"}, {"supervision": "unrolled"}, {"optimizer": "muon"}])
def test_other_ways_to_train(emulated: None, training: dict[str, Any]) -> None:
    step = make({}, training | {"dtype": "bfloat16"}, 2)
    weights = [w.detach().clone() for w in step.model.net.weights()]
    states = run(step, 3)
    assert all(t.isfinite().all() for t in states[-1] if t.is_floating_point())
    assert not any(torch.equal(a, b) for a, b in zip(weights, step.model.net.weights(), strict=True))


def test_without_products_in_bfloat16_the_network_is_not_fused(emulated: None) -> None:
    importlib.import_module("trm_fast._C").set_cpu_path("portable")
    with ops.use_backend("auto"):
        step = make({}, {"dtype": "bfloat16"}, 1)
        assert fusion(step.model.net, step.carry.state.z) is Fusion.NONE
        run(step, 1)
