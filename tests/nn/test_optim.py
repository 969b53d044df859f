"""AdamATan2 as an optimizer, against a plain float64 implementation of the published formula."""

from __future__ import annotations

import copy
import math
from typing import Any, Literal

import pytest
import torch
from torch import nn

from trm_fast.nn.optim import AdamATan2

from .small import model, tokens

SHAPES = ((3, 5), (7,), (2, 2))


@pytest.mark.parametrize("variant", ["adam_atan2", "adamw"])
@pytest.mark.parametrize("ema_decay", [None, 0.9])
def test_several_steps(variant: Literal["adam_atan2", "adamw"], ema_decay: float | None) -> None:
    torch.manual_seed(0)
    parameters = [nn.Parameter(torch.randn(shape)) for shape in SHAPES]
    b1, b2, decay = 0.8, 0.9, 0.5
    optimizer = AdamATan2(parameters, 0.1, (b1, b2), decay, ema_decay, variant)
    p = [w.detach().double() for w in parameters]
    m, v, ema = [0 * w for w in p], [0 * w for w in p], [w.clone() for w in p]
    for t in range(1, 7):
        rate, scale = 0.1 / t, 0.5 if t % 2 else 1.0
        optimizer.lr.fill_(rate)
        optimizer.zero_grad()
        for i, w in enumerate(parameters):
            # A missing gradient is a zero one: moments fade and decay goes on.
            w.grad = None if i == 1 and t in (1, 4) else torch.randn(w.shape)
        optimizer.step(grad_scale=torch.tensor(scale))
        for i, w in enumerate(parameters):
            g = torch.zeros_like(p[i]) if w.grad is None else w.grad.double() * scale
            m[i] = b1 * m[i] + (1 - b1) * g
            v[i] = b2 * v[i] + (1 - b2) * g * g
            root = v[i].sqrt() / math.sqrt(1 - b2**t)
            update = torch.atan2(m[i], root) if variant == "adam_atan2" else m[i] / (root + 1e-8)
            p[i] = p[i] * (1 - rate * decay) - rate / (1 - b1**t) * update
            ema[i] = ema[i] + (1 - (ema_decay or 0)) * (p[i] - ema[i])
            torch.testing.assert_close(w.detach().double(), p[i], rtol=1e-5, atol=1e-6)
            if ema_decay is not None:
                assert optimizer.ema is not None
                torch.testing.assert_close(optimizer.ema[i].double(), ema[i], rtol=1e-5, atol=1e-6)
    assert (optimizer.ema is None) == (ema_decay is None)
    assert optimizer.step_count.item() == 6


def test_parameters_may_have_rates_of_their_own() -> None:
    torch.manual_seed(0)
    start = [torch.randn(shape) for shape in SHAPES]
    together = [nn.Parameter(t.clone()) for t in start]
    apart = [nn.Parameter(t.clone()) for t in start]
    one = AdamATan2(together, 0.1, weight_decay=0.5, ema_decay=0.9, rates=[1.0, 0.25, 1.0])
    alone = [AdamATan2([p], 0.1 * rate, weight_decay=0.5, ema_decay=0.9)
             for p, rate in zip(apart, (1.0, 0.25, 1.0), strict=True)]  # fmt: skip
    for _ in range(3):
        for p, q in zip(together, apart, strict=True):
            p.grad = torch.randn(p.shape)
            q.grad = p.grad.clone()
        one.step(grad_scale=torch.tensor(0.5))
        for optimizer in alone:
            optimizer.step(grad_scale=torch.tensor(0.5))
    assert one.ema is not None
    for i, optimizer in enumerate(alone):
        assert optimizer.ema is not None
        torch.testing.assert_close(together[i], apart[i])
        torch.testing.assert_close(one.ema[i], optimizer.ema[0])
    with pytest.raises(ValueError, match="2 rates for 3"):
        AdamATan2(together, rates=[1.0, 2.0])


def test_tensors_are_all_that_a_checkpoint_needs() -> None:
    """Two optimizers, the second given the first's tensors after three steps, go on alike."""

    def make() -> tuple[nn.Parameter, AdamATan2]:
        parameter = nn.Parameter(torch.ones(4))
        return parameter, AdamATan2([parameter], 0.1)

    def step(parameter: nn.Parameter, optimizer: AdamATan2, t: int) -> None:
        parameter.grad = torch.arange(4.0) - t
        optimizer.step()

    (first, one), (second, two) = make(), make()
    for t in range(3):
        step(first, one, t)
    kept = one.tensors(["w"])
    assert kept.keys() == {"step", "exp_avg/w", "exp_avg_sq/w"}
    with torch.no_grad():
        second.copy_(first)
        for name, tensor in two.tensors(["w"]).items():
            tensor.copy_(kept[name])
    for t in range(3, 6):
        step(first, one, t)
        step(second, two, t)
    assert torch.equal(first, second)


def test_a_copied_model_goes_on_training_by_itself() -> None:
    made, data = model(), tokens(2)
    made.train_step(data, data)
    twin: Any = copy.deepcopy(made)
    before = {n: p.detach().clone() for n, p in made.named_parameters()}
    made.train_step(data, data)
    twin.train_step(data, data)
    for (name, p), q in zip(made.named_parameters(), twin.parameters(), strict=True):
        assert torch.equal(p, q), name
        assert not torch.equal(p, before[name]), name


def test_state_dict_makes_another_optimizer_go_on_alike() -> None:
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
