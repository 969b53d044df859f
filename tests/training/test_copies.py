"""Low-precision copies of the weights are always up to date and change no result."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from trm_fast import ops
from trm_fast.api import TRM
from trm_fast.nn.precision import Precision
from trm_fast.ops import packing, reference
from trm_fast.ops._core import dispatch, registry
from trm_fast.training import Trainer, TrainStep
from trm_fast.training.state import averaged_tensors

from .recorder import Recorder
from .small import batch_of, make_examples, run_config
from .test_step import CASES, Host, make, run, same

BFLOAT16 = {"dtype": "bfloat16"}
NAMES = ["parts", "single", "clipped adamw", "attention", "puzzles", "dropout", "unrolled", "recomputed"]


def check(step: TrainStep) -> None:
    """Asserts that the copies equal the weights, rounded and packed again."""
    assert step.copies.all_copies
    for key, fresh in step.copies._rounded().items():
        assert torch.equal(step.copies.all_copies[key], fresh)


@pytest.mark.parametrize("name", NAMES)
def test_a_step_with_copies_equals_a_step_that_rounds_at_each_use(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, training, parts = CASES[name]
    with ops.use_backend("reference"):
        kept = make(model, training | BFLOAT16, parts)
        want = run(kept)
        monkeypatch.setattr(Precision, "cached_cast", lambda self, weight, dtype: weight.to(dtype))
        assert same(run(make(model, training | BFLOAT16, parts)), want)
    check(kept)


@pytest.mark.parametrize("captured", [False, True])
def test_every_step_writes_the_copies(captured: bool) -> None:
    step = make({}, BFLOAT16, 1, runner=Recorder() if captured else None)
    host, seen = Host(step), []
    for _ in range(4):
        host()
        check(step)
        seen.append(next(iter(step.copies.all_copies.values())).clone())
    assert not torch.equal(seen[0], seen[-1])


def test_weights_loaded_between_steps_are_used() -> None:
    """The next step computes with weights that were loaded between two steps, in a replay and in a call."""
    other = make({}, BFLOAT16, 1)
    run(other, 3)
    states = []
    for runner in (None, Recorder()):
        step = make({}, BFLOAT16, 1, runner=runner)
        run(step, 2)
        step.model.load_state_dict(other.model.state_dict())
        step.copies.refresh()
        check(step)
        states.append(run(step, 2))
    assert same(*states)


def test_float32_has_no_copies() -> None:
    step = make({}, {}, 1)
    assert not step.copies.all_copies
    assert step.optimizer.copies is None


def test_a_resumed_run_and_its_evaluation_use_current_weights(tmp_path: Path) -> None:
    config = run_config(dtype="bfloat16", steps=20)
    straight = Trainer(config, tmp_path / "straight")
    straight.train()
    Trainer(run_config(dtype="bfloat16", steps=10, schedule_steps=20), tmp_path / "stopped").train()
    resumed = Trainer.resume(tmp_path / "stopped", config=config)
    resumed.step_function.copies.refresh()
    check(resumed.step_function)
    resumed.train()
    check(resumed.step_function)
    resumed_tensors, straight_tensors = (t.step_function.tensors() for t in (resumed, straight))
    assert same([resumed_tensors], [straight_tensors])
    # Evaluation uses the averaged weights, not the copies of training.
    fresh = TRM(config.model, torch.bfloat16)
    fresh.load_state_dict({name: tensor.clone() for name, tensor in averaged_tensors(resumed.step_function).items()})
    inputs = torch.from_numpy(resumed.dataset.test.inputs)
    with torch.no_grad():
        got, want = (m(inputs, m.initial_state(len(inputs))).logits for m in (resumed.averaged_model(), fresh.eval()))
    assert torch.equal(got, want)


def test_a_forward_rounds_each_weight_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """It rounds each weight of the network once, however often it is applied. Gradients are float32."""
    step = make({}, BFLOAT16, 1)
    model, batch = step.model, batch_of(make_examples(3))
    copied = []

    init = Precision.__init__

    def counted(self: Precision, copies: Any = None, packed: Any = None) -> None:
        copied.extend(copies or ())
        init(self, copies, packed)

    monkeypatch.setattr(Precision, "__init__", counted)
    with ops.use_backend("reference"):
        out = model(batch.inputs, model.initial_state(3))
        model.loss(out, batch.labels).total.backward()
    assert sorted(copied) == sorted(id(w) for w in model.net.weights())
    assert all(w.grad is not None and w.grad.dtype == torch.float32 for w in model.net.weights())


@pytest.fixture
def ready_weights(monkeypatch: pytest.MonkeyPatch) -> list[list[Tensor] | None]:
    """Emulates the CUDA kernels by the reference on unpacked matrices, and lists the packed weights of each call."""
    if registry.EXTENSION_MISSING:
        pytest.skip(registry.EXTENSION_MISSING)
    packed_calls: list[list[Tensor] | None] = []
    select = dispatch.select

    def selected(op: str, tensor: Tensor, *others: Tensor | None) -> str:
        fused = op == "latent_recursion" and tensor.dtype == torch.bfloat16
        return "cuda" if fused else select(op, tensor, *others)

    def step(z: Tensor, injection: Tensor | None, weights: Any, ready: Any, eps: float) -> Tensor:
        packed_calls.append(ready)
        matrices = packing.pack_weights(weights, z.shape[1]) if ready is None else ready
        plain = [
            m[packing.interleaved_rows(len(w), layout.interleave, w.device), : w.shape[1]].float()
            for m, w, layout in zip(matrices, weights, packing.layouts(weights, z.shape[1]), strict=True)
        ]
        # Passes the gradient to the weights.
        plain = [p + (w - w.detach()) for p, w in zip(plain, weights, strict=True)]
        h = z if injection is None else z + injection
        return reference.latent_step(h, torch.zeros_like(h), [p.to(h.dtype) for p in plain], eps=eps)

    monkeypatch.setattr(dispatch, "select", selected)
    monkeypatch.setattr(dispatch, "has_kernel", lambda op, z, masked=False: not masked and selected(op, z) == "cuda")
    monkeypatch.setattr(import_module("trm_fast.ops.latent_recursion"), "fused_step", step)
    return packed_calls


SIZES = {"hidden_size": 128, "inner_multiple": 8}


@pytest.mark.parametrize("recompute", ["none", "latent"])
def test_the_optimizer_keeps_packed_weights_up_to_date(ready_weights: list[Any], recompute: str) -> None:
    step = make(SIZES, BFLOAT16 | {"recompute": recompute}, 2)
    assert len(step.copies.network) == 4
    assert step.copies.all_copies[id(step.copies.network[0])].shape[1] == packing.TOKENS[0]
    host = Host(step)
    original = [w.detach().clone() for w in step.copies.network]
    for _ in range(3):
        host()
        check(step)
    assert ready_weights
    assert all(ready is not None for ready in ready_weights), "no call packs the weights"
    assert not any(torch.equal(w, b) for w, b in zip(step.copies.network, original, strict=True))


def test_a_forward_without_a_training_step_packs_the_weights(ready_weights: list[Any]) -> None:
    model = make(SIZES, BFLOAT16, 1).model
    batch = batch_of(make_examples(3))
    with torch.no_grad():
        model(batch.inputs, model.initial_state(3))
    assert ready_weights


def test_a_network_that_cannot_be_packed_is_computed_without_the_fused_op(ready_weights: list[Any]) -> None:
    step = make({"mixing": "attention"}, BFLOAT16, 1)
    assert not step.copies.network
    Host(step)()
    check(step)
    assert not ready_weights
