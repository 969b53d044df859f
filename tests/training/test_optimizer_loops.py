"""Optimizers in loops that are written for torch's: groups, schedulers, frozen parameters, closures and states. The
oracle is ``torch.optim.AdamW``, and for AdamATan2 its formula."""

from __future__ import annotations

import copy
import io
import math
import pickle
from collections.abc import Callable, Iterable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import lr_scheduler

from trm_fast import AdamATan2
from trm_fast.training.optimizers import OPTIMIZERS, Optimizer
from trm_fast.training.optimizers.muon import Muon

from .small import make_model

AdamW = OPTIMIZERS["adamw"]
SETTINGS: dict[str, Any] = {"lr": 1e-2, "betas": (0.9, 0.95), "weight_decay": 0.1}
BOTH = [AdamW, torch.optim.AdamW]


def close(got: Iterable[Tensor], want: Iterable[Tensor]) -> None:
    for g, w in zip(got, want, strict=True):
        torch.testing.assert_close(g.detach(), w.detach(), rtol=1e-5, atol=1e-6)


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 1))


def data(step: int) -> tuple[Tensor, Tensor]:
    x = torch.randn(16, 4, generator=torch.Generator().manual_seed(step))
    return x, x.square().sum(1, keepdim=True)


def test_a_public_loop_with_a_scheduler() -> None:
    """As public loops are: a warm-up, two groups, clipping."""

    def loop(make: Any) -> list[Tensor]:
        model = network()
        matrices = [p for p in model.parameters() if p.ndim == 2]
        vectors = [p for p in model.parameters() if p.ndim == 1]
        optimizer = make([{"params": matrices}, {"params": vectors, "weight_decay": 0.0, "lr": 3e-3}], **SETTINGS)
        scheduler = lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, step / 4))
        rates = []
        for step in range(8):
            x, y = data(step)
            loss = nn.functional.mse_loss(model(x), y)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            scheduler.step()
            rates.append([float(group["lr"]) for group in optimizer.param_groups])
            assert [float(rate) for rate in scheduler.get_last_lr()] == pytest.approx(rates[-1])
        return [*model.parameters(), torch.tensor(rates)]

    close(*(loop(make) for make in BOTH))


def test_freezing_and_new_groups() -> None:
    """A parameter that joins late, or pauses, has its own number of steps."""

    def loop(make: Any) -> list[Tensor]:
        model, late = network(), nn.Parameter(torch.ones(3))
        optimizer = make(model.parameters(), **SETTINGS)
        for step in range(10):
            model[0].requires_grad_(not 2 <= step < 5)
            optimizer.zero_grad()
            nn.functional.mse_loss(model(data(step)[0]), data(step)[1]).backward()
            if step == 3:
                optimizer.add_param_group({"params": [late], "betas": (0.5, 0.5)})
            if step >= 3:
                late.grad = torch.arange(3.0) - step
            if step == 6:
                optimizer.param_groups[0]["lr"] = 0.02
                optimizer.param_groups[1]["weight_decay"] = 0.3
            if step in (0, 7):
                model[2].bias.grad = None
            optimizer.step()
        return [*model.parameters(), late]

    close(*(loop(make) for make in BOTH))


SCHEDULERS: list[Callable[[Any], Any]] = [
    lambda o: lr_scheduler.StepLR(o, 2, gamma=0.5),
    lambda o: lr_scheduler.CosineAnnealingLR(o, 6),
    lambda o: lr_scheduler.OneCycleLR(o, max_lr=0.05, total_steps=10),  # changes betas, too
    lambda o: lr_scheduler.ReduceLROnPlateau(o, patience=0),
    lambda o: lr_scheduler.SequentialLR(
        o, [lr_scheduler.LinearLR(o, 0.1, total_iters=3), lr_scheduler.ExponentialLR(o, 0.9)], milestones=[3]
    ),
]


@pytest.mark.parametrize("as_tensor", [False, True])
@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_schedulers(scheduler: Callable[[Any], Any], as_tensor: bool) -> None:
    """With the learning rate as a number, or as the tensor that a captured step reads."""
    results = []
    for make in BOTH:
        w = nn.Parameter(torch.linspace(-1, 1, 5))
        optimizer = make([w], **SETTINGS)
        if as_tensor and isinstance(optimizer, Optimizer):
            tensor = optimizer.lr
            assert optimizer.param_groups[0]["lr"] is tensor
        schedule, rates = scheduler(optimizer), []
        for step in range(8):
            w.grad = torch.sin(torch.arange(5.0) + step)
            optimizer.step()
            schedule.step(*([1.0] if isinstance(schedule, lr_scheduler.ReduceLROnPlateau) else []))
            rates.append(torch.tensor(float(optimizer.param_groups[0]["lr"])))
        results.append([w, *rates])
    close(*results)


def test_a_loop_that_sets_the_rate_of_each_step() -> None:
    """As in the published code: ``lr=0``, and ``param_group["lr"]`` is set before each step."""
    torch.manual_seed(0)
    start = torch.randn(5, 3)
    w = nn.Parameter(start.clone())
    optimizer = AdamATan2([w], lr=0, betas=(0.9, 0.95), weight_decay=0.1)
    w.grad = torch.ones(5, 3)
    optimizer.step()
    assert torch.equal(w, start)
    p, m, v = start.double(), 0.1 * torch.ones(5, 3).double(), 0.05 * torch.ones(5, 3).double()
    for t in range(2, 8):
        lr = 1e-3 * t
        for group in optimizer.param_groups:
            group["lr"] = lr
        optimizer.zero_grad()
        w.grad = torch.randn(5, 3)
        optimizer.step()
        g = w.grad.double()
        m, v = 0.9 * m + 0.1 * g, 0.95 * v + 0.05 * g * g
        root = (v / (1 - 0.95**t)).sqrt()
        p = p * (1 - lr * 0.1) - lr / (1 - 0.9**t) * torch.atan2(m, root)
    torch.testing.assert_close(w.detach().double(), p, rtol=1e-6, atol=1e-6)


def test_the_rate_as_number_and_as_tensor_agree() -> None:
    w = nn.Parameter(torch.ones(3))
    optimizer = AdamATan2([w], lr=0.1)
    assert optimizer.param_groups[0]["lr"] == 0.1
    optimizer.lr.fill_(0.5)
    assert float(optimizer.param_groups[0]["lr"]) == 0.5
    for value in (0.1, 0.5, 0.1):  # a number that equals an earlier one
        optimizer.param_groups[0]["lr"] = value
        assert float(optimizer.lr) == pytest.approx(value)
        optimizer.lr.fill_(0.25)
    optimizer.param_groups[0]["lr"] = torch.tensor([2.0])
    assert float(optimizer.lr) == 2
    shared = torch.tensor(0.1)
    several = AdamATan2([{"params": [w]}, {"params": [nn.Parameter(torch.ones(2))]}], lr=shared)
    several.param_groups[0]["lr"].fill_(0.7)
    assert [round(float(group["lr"]), 4) for group in several.param_groups] == [0.7, 0.1]
    assert float(shared) == pytest.approx(0.1)


@pytest.mark.parametrize("name", sorted(OPTIMIZERS))
def test_parameters_without_gradient_do_not_move(name: str) -> None:
    torch.manual_seed(0)
    p, q, frozen = (nn.Parameter(torch.randn(4, 3)) for _ in range(3))
    optimizer = OPTIMIZERS[name]([p, q, frozen], 0.1, weight_decay=0.5, ema_decay=0.5)

    def tensors(w: nn.Parameter) -> list[Tensor]:
        return [w.detach(), *(t for name, t in optimizer.state[w].items() if name != "ema")]

    for w in (p, q, frozen):
        w.grad = torch.randn(4, 3)
    optimizer.step()
    q.grad = None
    frozen.requires_grad_(False)  # its old gradient does not count
    previous = {w: [t.clone() for t in tensors(w)] for w in (q, frozen)}
    moved = p.detach().clone()
    average = optimizer.state[q]["ema"].clone()
    for _ in range(3):
        optimizer.step()
    assert not torch.equal(p, moved)
    for w, kept in previous.items():
        assert all(map(torch.equal, tensors(w), kept))
    torch.testing.assert_close(optimizer.state[q]["ema"], q.detach() + (average - q.detach()) / 8)
    assert [float(s["step"]) for s in optimizer.state_dict()["state"].values()] == [4, 1, 1]
    p.grad = None
    p_before = p.detach().clone()
    optimizer.step()
    assert torch.equal(p, p_before)


@pytest.mark.parametrize("name", sorted(OPTIMIZERS))
def test_states_and_copies(name: str) -> None:
    """Saved with torch and loaded into a new optimizer, or copied while a scheduler is attached: each continues bit
    for bit, and the copy updates its own parameters only."""

    def steps(params: list[nn.Parameter], optimizer: Any, which: range) -> None:
        for t in which:
            for i, p in enumerate(params):
                p.grad = None if (i + t) % 3 == 0 else torch.sin(torch.arange(p.numel()) + 7.0 * t + i).view_as(p)
            optimizer.step()
            optimizer.param_groups[0]["lr"] = 0.1 / (t + 1)

    def make(params: list[nn.Parameter]) -> Optimizer:
        return OPTIMIZERS[name]([{"params": params[:2], "lr": 0.2}, {"params": params[2:]}], 0.1, ema_decay=0.9)

    params = [nn.Parameter(torch.linspace(-1, 1, 12).view(4, 3) * k) for k in (1, 2, 3)]
    optimizer = make(params)
    lr_scheduler.StepLR(optimizer, 10)  # wraps optimizer.step
    steps(params, optimizer, range(4))
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    others = [nn.Parameter(p.detach().clone()) for p in params]
    loaded = make(others)
    loaded.load_state_dict(torch.load(file, weights_only=True))
    pickled = pickle.loads(pickle.dumps((params, optimizer)))
    copies = [(others, loaded), copy.deepcopy((params, optimizer)), pickled]
    previous = [p.detach().clone() for p in params]
    for weights, twin in copies:
        steps(weights, twin, range(4, 9))
    assert all(map(torch.equal, params, previous))
    steps(params, optimizer, range(4, 9))
    for weights, twin in copies:
        assert all(map(torch.equal, weights, params))
        assert optimizer.ema is not None
        assert all(map(torch.equal, twin.ema, optimizer.ema))


def test_a_state_of_torch_is_read() -> None:
    results = []
    for make in BOTH:
        w, late = nn.Parameter(torch.linspace(-1, 1, 5)), nn.Parameter(torch.ones(2))
        first = torch.optim.AdamW([w, late], **SETTINGS)
        for step in range(3):
            w.grad = torch.sin(torch.arange(5.0) + step)
            first.step()
        second = make([w, late], lr=1.0)
        second.load_state_dict(first.state_dict())
        for step in range(3):
            w.grad, late.grad = torch.cos(torch.arange(5.0) + step), torch.ones(2)
            second.step()
        results.append([w, late])
    close(*results)


def test_states_that_do_not_fit() -> None:
    w = nn.Parameter(torch.ones(3, 4))
    optimizer = AdamATan2([w], lr=0.1)
    w.grad = torch.ones(3, 4)
    optimizer.step()
    kept = optimizer.state_dict()
    sgd = torch.optim.SGD([w], lr=0.1, momentum=0.9)
    sgd.step()
    narrow = AdamATan2([nn.Parameter(torch.ones(4))])
    for state, message in (
        (sgd.state_dict(), "has the state momentum_buffer, but needs exp_avg, exp_avg_sq"),
        (narrow.state_dict(), r"exp_avg of parameter 0 is \(4,\), but must be \(3, 4\)"),
        (AdamATan2([w], ema_decay=0.9).state_dict(), "averages weights"),
        (AdamATan2([w, nn.Parameter(torch.ones(2))]).state_dict(), r"\[2\] parameters, those of the optimizer \[1\]"),
        ({"lr": 0.1, "step_count": 3}, "has state and param_groups, this one has lr, step_count"),
    ):
        with pytest.raises(ValueError, match=message):
            optimizer.load_state_dict(state)
    for name, tensor in kept["state"][0].items():
        assert torch.equal(optimizer.state_dict()["state"][0][name], tensor)


def test_closures() -> None:
    for name in OPTIMIZERS:
        w = nn.Parameter(torch.full((2, 3), 3.0))
        optimizer = OPTIMIZERS[name]([w], 0.1)

        def closure(w: nn.Parameter = w, optimizer: Any = optimizer) -> Tensor:
            optimizer.zero_grad()
            loss = w.square().sum()
            loss.backward()
            return loss

        losses = [optimizer.step(closure).item() for _ in range(3)]
        assert losses[0] == 54
        assert losses[2] < losses[1] < losses[0]


def test_parameters_of_several_dtypes() -> None:
    params = [nn.Parameter(torch.ones(3, dtype=dtype)) for dtype in (torch.float32, torch.bfloat16, torch.float64)]
    optimizer = AdamATan2(params, lr=0.1, weight_decay=0.0)
    for p in params:
        p.grad = torch.ones_like(p)
    optimizer.step()
    for p in params:
        assert p.tolist() == pytest.approx([1 - math.atan(0.1)] * 3, abs=4e-3)


def test_muon_with_groups() -> None:
    """Rate and decay of the other weights are those that were given, whatever the group's."""
    a, b = (nn.Parameter(torch.eye(3)) for _ in range(2))
    c, d = (nn.Parameter(torch.ones(3)) for _ in range(2))
    groups = [{"params": [a, c], "lr": 0.1}, {"params": [b, d], "lr": 0.4}]
    optimizer = Muon(groups, others_learning_rate=0.01, weight_decay=0.0)
    for p in (a, b, c, d):
        p.grad = torch.ones_like(p)
    optimizer.step()
    torch.testing.assert_close(c, d)
    torch.testing.assert_close((b - torch.eye(3)).detach(), 4 * (a - torch.eye(3)).detach())
    with pytest.raises(ValueError, match="others_learning_rate"):
        Muon([a, c], lr=0.0, others_learning_rate=0.01)


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"lr": -0.1}, ValueError, "lr must be 0 or more, not -0.1"),
        ({"lr": float("nan")}, ValueError, "lr must be"),
        ({"betas": (0.9, 1.0)}, ValueError, "betas must be two numbers"),
        ({"weight_decay": -1}, ValueError, "weight_decay must be"),
        ({"params": [torch.ones(2, dtype=torch.int64)]}, TypeError, "must be floating-point, but is torch.int64"),
        ({"params": []}, ValueError, "empty parameter list"),
    ],
)
def test_wrong_settings(settings: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        AdamATan2(**({"params": [nn.Parameter(torch.ones(2))]} | settings))


def test_sparse_gradients_are_refused() -> None:
    table = nn.Embedding(5, 2, sparse=True)
    optimizer = AdamATan2(table.parameters(), lr=0.1)
    table(torch.tensor([1])).sum().backward()
    with pytest.raises(RuntimeError, match="sparse gradients"):
        optimizer.step()


def test_a_checkpoint_keeps_the_missed_steps() -> None:
    names = ["a", "b"]

    def step(params: list[nn.Parameter], optimizer: Optimizer, t: int) -> None:
        params[0].grad = torch.ones(3)
        params[1].grad = torch.ones(3) if t > 2 else None
        optimizer.step()

    params = [nn.Parameter(torch.ones(3)) for _ in names]
    optimizer = AdamATan2(params, lr=0.1)
    for t in range(5):
        step(params, optimizer, t)
    saved = {name: t.clone() for name, t in optimizer.named_tensors(names).items()}
    assert float(saved["step/b"]) == 2
    others = [nn.Parameter(p.detach().clone()) for p in params]
    resumed = AdamATan2(others, lr=0.1)
    resumed.restore_steps(names, saved)
    for name, tensor in resumed.named_tensors(names).items():
        tensor.copy_(saved[name])
    for t in range(5, 8):
        step(params, optimizer, t)
        step(others, resumed, t)
    assert all(map(torch.equal, params, others))


def test_a_model_trains_in_a_loop_of_ones_own() -> None:
    """Deep supervision by hand, with a scheduler and a frozen embedding."""
    model, tokens = make_model(), torch.randint(1, 6, (16, 6))
    model.embedding.requires_grad_(False)
    frozen = [p.detach().clone() for p in model.embedding.parameters()]
    optimizer = AdamATan2(model.parameters(), lr=1e-2, weight_decay=0.1)
    scheduler = lr_scheduler.OneCycleLR(optimizer, max_lr=1e-2, total_steps=41)
    losses = []
    for _ in range(10):
        state, rows = model.initial_state(len(tokens)), model.puzzle_rows(None, len(tokens))
        for _ in range(4):
            out = model(tokens, state, rows)
            state = out.state
            loss = model.loss(out, tokens).total / len(tokens)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            scheduler.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]
    assert all(map(torch.equal, model.embedding.parameters(), frozen))
