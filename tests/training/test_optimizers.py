"""Optimizers: comparison with their formulas in float64, and tests that apply to all of them."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import trm_fast
from trm_fast.api import TRM
from trm_fast.training import Trainer
from trm_fast.training.optimizers import OPTIMIZERS, AdamATan2, Optimizer
from trm_fast.training.optimizers.muon import Muon, orthogonal

from .recorder import Recorder
from .small import make_model, run_config

SHAPES = ((3, 5), (7,), (2, 2))


@pytest.mark.parametrize("variant", ["adam_atan2", "adamw"])
@pytest.mark.parametrize("ema_decay", [None, 0.9])
def test_adam_variants_against_their_formulas(variant: str, ema_decay: float | None) -> None:
    torch.manual_seed(0)
    parameters = [nn.Parameter(torch.randn(shape)) for shape in SHAPES]
    b1, b2, decay = 0.8, 0.9, 0.5
    optimizer = OPTIMIZERS[variant](parameters, 0.1, (b1, b2), decay, ema_decay)
    p = [w.detach().double() for w in parameters]
    m, v, ema, steps = [0 * w for w in p], [0 * w for w in p], [w.clone() for w in p], [0] * len(p)
    for t in range(1, 7):
        rate, scale = 0.1 / t, 0.5 if t % 2 else 1.0
        optimizer.lr.fill_(rate)
        optimizer.zero_grad()
        for i, w in enumerate(parameters):
            # Without a gradient, a parameter and its moments stay as they are. Its steps are counted apart.
            w.grad = None if i == 1 and t in (1, 4) else torch.randn(w.shape)
        optimizer.step(grad_scale=torch.tensor(scale))
        for i, w in enumerate(parameters):
            if w.grad is not None:
                steps[i] += 1
                g = w.grad.double() * scale
                m[i] = b1 * m[i] + (1 - b1) * g
                v[i] = b2 * v[i] + (1 - b2) * g * g
                root = v[i].sqrt() / math.sqrt(1 - b2 ** steps[i])
                update = torch.atan2(m[i], root) if variant == "adam_atan2" else m[i] / (root + 1e-8)
                p[i] = p[i] * (1 - rate * decay) - rate / (1 - b1 ** steps[i]) * update
            ema[i] = ema[i] + (1 - (ema_decay or 0)) * (p[i] - ema[i])
            torch.testing.assert_close(w.detach().double(), p[i], rtol=1e-5, atol=1e-6)
            if ema_decay is not None:
                assert optimizer.ema is not None
                torch.testing.assert_close(optimizer.ema[i].double(), ema[i], rtol=1e-5, atol=1e-6)
    assert (optimizer.ema is None) == (ema_decay is None)
    assert optimizer.step_count.item() == 6


def test_parameters_may_have_their_own_rates() -> None:
    torch.manual_seed(0)
    start = [torch.randn(shape) for shape in SHAPES]
    joint = [nn.Parameter(t.clone()) for t in start]
    separate = [nn.Parameter(t.clone()) for t in start]
    one = AdamATan2(joint, 0.1, weight_decay=0.5, ema_decay=0.9, rates=[1.0, 0.25, 1.0])
    alone = [AdamATan2([p], 0.1 * rate, weight_decay=0.5, ema_decay=0.9)
             for p, rate in zip(separate, (1.0, 0.25, 1.0), strict=True)]  # fmt: skip
    for _ in range(3):
        for p, q in zip(joint, separate, strict=True):
            p.grad = torch.randn(p.shape)
            q.grad = p.grad.clone()
        one.step(grad_scale=torch.tensor(0.5))
        for optimizer in alone:
            optimizer.step(grad_scale=torch.tensor(0.5))
    assert one.ema is not None
    for i, optimizer in enumerate(alone):
        assert optimizer.ema is not None
        torch.testing.assert_close(joint[i], separate[i])
        torch.testing.assert_close(one.ema[i], optimizer.ema[0])
    with pytest.raises(ValueError, match="2 rates for 3"):
        AdamATan2(joint, rates=[1.0, 2.0])


def test_the_named_tensors_are_the_whole_state() -> None:
    """A second optimizer that gets the first one's tensors after three steps continues identically."""

    def make() -> tuple[nn.Parameter, AdamATan2]:
        parameter = nn.Parameter(torch.ones(4))
        return parameter, AdamATan2([parameter], 0.1)

    def step(parameter: nn.Parameter, optimizer: AdamATan2, t: int) -> None:
        parameter.grad = torch.arange(4.0) - t
        optimizer.step()

    (first, one), (second, two) = make(), make()
    for t in range(3):
        step(first, one, t)
    kept = one.named_tensors(["w"])
    assert kept.keys() == {"step", "exp_avg/w", "exp_avg_sq/w"}
    with torch.no_grad():
        second.copy_(first)
        for name, tensor in two.named_tensors(["w"]).items():
            tensor.copy_(kept[name])
    for t in range(3, 6):
        step(first, one, t)
        step(second, two, t)
    assert torch.equal(first, second)


def test_a_copied_model_trains_independently() -> None:
    model, data = make_model(), torch.randint(1, 6, (2, 6))
    model.train_step(data, data)
    twin: Any = copy.deepcopy(model)
    original = {n: p.detach().clone() for n, p in model.named_parameters()}
    model.train_step(data, data)
    twin.train_step(data, data)
    for (name, p), q in zip(model.named_parameters(), twin.parameters(), strict=True):
        assert torch.equal(p, q), name
        assert not torch.equal(p, original[name]), name


def test_state_dict_makes_another_optimizer_continue_identically() -> None:
    torch.manual_seed(0)
    first = [torch.nn.Parameter(torch.randn(3, 4)), torch.nn.Parameter(torch.randn(5))]
    one = AdamATan2(first, lr=1e-2, ema_decay=0.9)
    gradients = [[torch.randn_like(p) for p in first] for _ in range(6)]

    def steps(optimizer: AdamATan2, weights: list[torch.nn.Parameter], which: slice) -> None:
        for grads in gradients[which]:
            for p, g in zip(weights, grads, strict=True):
                p.grad = g.clone()
            optimizer.step()

    steps(one, first, slice(3))
    saved = one.state_dict()
    second = [torch.nn.Parameter(p.detach().clone()) for p in first]
    other = AdamATan2(second, lr=1.0, ema_decay=0.9)
    other.load_state_dict(saved)
    steps(one, first, slice(3, 6))
    steps(other, second, slice(3, 6))
    assert one.ema is not None
    assert other.ema is not None
    for a, b in zip([*first, *one.ema, one.step_count], [*second, *other.ema, other.step_count], strict=True):
        assert torch.equal(a, b)
    with pytest.raises(ValueError, match="averages"):
        AdamATan2(second).load_state_dict(saved)


def test_the_default_optimizer_has_a_short_name() -> None:
    assert trm_fast.AdamATan2 is AdamATan2


def test_sgd_equals_torch_with_decoupled_decay() -> None:
    for nesterov in (False, True):
        torch.manual_seed(0)
        parameters = [nn.Parameter(torch.randn(shape)) for shape in SHAPES]
        references = [nn.Parameter(p.detach().double()) for p in parameters]
        one = OPTIMIZERS["sgd"](parameters, 0.1, (0.8, 0.9), 0.5, **{"nesterov": nesterov})
        other = torch.optim.SGD(references, 0.1, momentum=0.8, nesterov=nesterov)
        for _ in range(4):
            for p, q in zip(parameters, references, strict=True):
                p.grad = torch.randn(p.shape)
                q.grad = p.grad.double() * 0.5
                with torch.no_grad():
                    q.mul_(1 - 0.1 * 0.5)
            one.step(grad_scale=torch.tensor(0.5))
            other.step()
        for p, q in zip(parameters, references, strict=True):
            torch.testing.assert_close(p.detach().double(), q.detach(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("shape", [(2, 16, 16), (3, 8, 40), (1, 40, 8)])
def test_newton_schulz_iterations_orthogonalize_matrices(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    matrices = torch.randn(shape)
    result = orthogonal(matrices)
    values = torch.linalg.svdvals(result)
    assert 0.5 < values.min() < values.max() < 1.3  # the quintic needs few iterations but is not exact
    left, _, right = torch.linalg.svd(matrices, full_matrices=False)
    exact = left @ right  # the nearest orthogonal matrix
    for matrix, nearest in zip(result, exact, strict=True):
        assert torch.nn.functional.cosine_similarity(matrix.flatten(), nearest.flatten(), 0) > 0.98


@pytest.mark.parametrize("nesterov", [False, True])
def test_muon_against_its_formula(nesterov: bool) -> None:
    torch.manual_seed(0)
    shapes = ((4, 6), (7,), (6, 4), (4, 6), (5, 3))
    parameters = [nn.Parameter(torch.randn(shape)) for shape in shapes]
    table = parameters[4]
    hidden = [p for p in parameters if p is not table]
    optimizer = Muon(
        parameters, 0.01, (0.8, 0.9), 0.5, 0.9, rates=[1, 1, 1, 0.5, 2], hidden=hidden,
        nesterov=nesterov, momentum=0.7,
    )  # fmt: skip
    twins = [nn.Parameter(parameters[i].detach().clone()) for i in (1, 4)]
    adamw = OPTIMIZERS["adamw"](twins, 0.01, (0.8, 0.9), 0.5, 0.9, rates=[1, 2])
    p = {i: parameters[i].detach().double() for i in (0, 2, 3)}
    buffer, ema = {i: 0 * w for i, w in p.items()}, {i: w.clone() for i, w in p.items()}
    for _ in range(4):
        for w in parameters:
            w.grad = torch.randn(w.shape)
        for twin, i in zip(twins, (1, 4), strict=True):
            twin.grad = parameters[i].grad
        scale = torch.tensor(0.5)
        optimizer.step(grad_scale=scale)
        adamw.step(grad_scale=scale)
        for i, rate in ((0, 0.01), (2, 0.01), (3, 0.005)):
            grad = parameters[i].grad
            assert grad is not None
            g = grad.double() * 0.5
            buffer[i] = 0.7 * buffer[i] + 0.3 * g
            direction = 0.3 * g + 0.7 * buffer[i] if nesterov else buffer[i]
            update = 0.2 * math.sqrt(6) * orthogonal(direction[None])[0]
            p[i] = p[i] * (1 - rate * 0.5) - rate * update
            ema[i] = 0.9 * ema[i] + 0.1 * p[i]
    assert optimizer.ema is not None
    for i in p:
        torch.testing.assert_close(parameters[i].detach().double(), p[i], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(optimizer.ema[i].double(), ema[i], rtol=1e-4, atol=1e-5)
    for twin, i in zip(twins, (1, 4), strict=True):
        assert torch.equal(twin, parameters[i])


def test_muon_with_rate_and_decay_of_their_own_for_other_weights() -> None:
    """The recipe of arXiv 2601.19085: Jordan's scale and 0.02 for matrices, AdamW with 1e-4 for the others."""
    torch.manual_seed(0)
    parameters = [nn.Parameter(torch.randn(shape)) for shape in ((6, 4), (3, 8), (7,), (5, 3))]
    matrices = [p.detach().clone() for p in parameters[:2]]
    twins = [nn.Parameter(p.detach().clone()) for p in parameters[2:]]
    optimizer = Muon(
        parameters, 0.02, weight_decay=0.005, rates=[1, 1, 1, 0.5], hidden=parameters[:2], nesterov=False,
        momentum=0.0, others_learning_rate=1e-4, others_weight_decay=1.0, scale="spectral",
    )  # fmt: skip
    adamw = OPTIMIZERS["adamw"](twins, 1e-4, weight_decay=1.0, rates=[1, 100])  # a table keeps its rate
    for w in parameters:
        w.grad = torch.randn(w.shape)
    for twin, w in zip(twins, parameters[2:], strict=True):
        twin.grad = w.grad
    optimizer.step()
    adamw.step()
    for matrix, w, size in zip(matrices, parameters, (1.5**0.5, 1.0), strict=False):
        assert w.grad is not None
        want = matrix * (1 - 0.02 * 0.005) - 0.02 * size * orthogonal(w.grad[None])[0]
        torch.testing.assert_close(w.detach(), want, rtol=1e-5, atol=1e-6)
    for twin, w in zip(twins, parameters[2:], strict=True):
        torch.testing.assert_close(w.detach(), twin.detach(), rtol=1e-6, atol=1e-8)


def test_muon_updates_the_network_and_leaves_embedding_and_heads_to_adamw() -> None:
    model = make_model()
    optimizer = Muon.for_model(model, 0.01)
    names = [name for name, _ in model.named_parameters()]
    kept = optimizer.named_tensors(names)
    matrices = {name.removeprefix("momentum/") for name in kept if name.startswith("momentum/")}
    assert matrices
    assert all(name.startswith("net.") for name in matrices)
    assert {n for n in names if not n.startswith("net.")} == {
        n.removeprefix("exp_avg/") for n in kept if n.startswith("exp_avg/")
    }


@pytest.mark.parametrize("name", sorted(OPTIMIZERS))
def test_every_optimizer_learns(name: str) -> None:
    model: TRM = make_model()
    tokens = torch.randint(1, 6, (16, 6))
    rate = {"sgd": 0.02, "muon": 0.02}.get(name, 0.01)
    optimizer = OPTIMIZERS[name].for_model(model, rate, weight_decay=0.0)
    losses = [model.train_step(tokens, tokens, optimizer)["loss"] for _ in range(12)]
    assert losses[-1] < 0.7 * losses[0]


@pytest.mark.parametrize("name", sorted(OPTIMIZERS))
def test_a_recorded_step_reads_nothing_on_the_host(name: str) -> None:
    """A replay uses the current rate, step count and gradient scale, not those of the recording."""
    torch.manual_seed(0)
    start = [torch.randn(shape) for shape in SHAPES]
    gradients = [[torch.randn(shape) for shape in SHAPES] for _ in range(3)]
    results = []
    for recorded in (False, True):
        parameters = [nn.Parameter(t.clone()) for t in start]
        for p in parameters:
            p.grad = torch.zeros_like(p)
        scale = torch.tensor(1.0)
        optimizer = OPTIMIZERS[name](parameters, 0.1, ema_decay=0.9)

        def step(optimizer: Optimizer = optimizer, scale: torch.Tensor = scale) -> None:
            optimizer.step(grad_scale=scale)

        recorder = Recorder()
        if recorded:
            saved = [t.clone() for t in optimizer.tensors()]
            recorder.capture(step)
            for tensor, value in zip(optimizer.tensors(), saved, strict=True):
                tensor.copy_(value)
        for t, grads in enumerate(gradients):
            optimizer.lr.fill_(0.1 / (t + 1))
            scale.fill_(1 / (t + 1))
            for p, g in zip(parameters, grads, strict=True):
                assert p.grad is not None
                p.grad.copy_(g)
            recorder.replay() if recorded else step()
        results.append([t.clone() for t in optimizer.tensors()])
    for a, b in zip(*results, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("name", sorted(OPTIMIZERS))
def test_a_resumed_run_equals_the_uninterrupted_run(name: str, tmp_path: Path) -> None:
    config = run_config(optimizer=name, steps=12, checkpoint_every=6)
    Trainer(config, tmp_path / "whole").train()
    Trainer(run_config(optimizer=name, steps=6, schedule_steps=12), tmp_path / "half").train()
    resumed = Trainer.resume(tmp_path / "half", config=config)
    resumed.train()
    for file in ("model", "ema", "optimizer", "carry"):
        names = [tmp_path / run / "checkpoints" / "step_12" / f"{file}.safetensors" for run in ("whole", "half")]
        assert names[0].read_bytes() == names[1].read_bytes(), file


def test_the_names_in_a_checkpoint_are_fixed() -> None:
    model = make_model()
    names = [name for name, _ in model.named_parameters()]
    for name in ("adam_atan2", "adamw"):
        kept = OPTIMIZERS[name].for_model(model, 0.1).named_tensors(names)
        assert kept.keys() == {"step", *(f"{slot}/{n}" for slot in ("exp_avg", "exp_avg_sq") for n in names)}
