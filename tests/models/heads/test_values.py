"""The values head: models that read and answer real numbers, against a reference in float64."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from trm_fast.api import TRM
from trm_fast.models.loss import value_loss
from trm_fast.nn import State

from ..small import model

NAN = float("nan")
VALUES = {"inputs": "values", "input_width": 3, "head": {"kind": "values", "width": 2, "tolerance": 0.5}}


def rows(count: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(count, 6, 3, generator=generator, dtype=dtype)
    labels = torch.randn(count, 6, 2, generator=generator, dtype=dtype)
    return inputs, labels.masked_fill(torch.rand(count, 6, 2, generator=generator) < 0.3, NAN)


def plain_loss(values: list, q: list, labels: list, tolerance: float) -> tuple[float, float, list[bool], list[float]]:
    """The loss computed example by example and number by number."""
    answer = halting = 0.0
    exact, shares = [], []
    for row, logit, targets in zip(values, q, labels, strict=True):
        pairs = [(v, w) for vs, ws in zip(row, targets, strict=True) for v, w in zip(vs, ws, strict=True) if w == w]
        answer += sum(((v - w) / tolerance) ** 2 for v, w in pairs) / max(1, len(pairs))
        right = [abs(v - w) <= tolerance for v, w in pairs]
        exact.append(all(right))
        shares.append(sum(right) / max(1, len(pairs)))
        confidence = 1 / (1 + torch.tensor(-logit).double().exp().item())
        halting -= torch.tensor(confidence if all(right) else 1 - confidence).log().item()
    return answer, halting, exact, shares


def test_the_loss_equals_a_plain_computation() -> None:
    generator = torch.Generator().manual_seed(1)
    values, q = torch.randn(7, 4, 2, generator=generator).double(), torch.randn(7, generator=generator).double()
    labels = values + 0.7 * torch.randn(7, 4, 2, generator=generator)
    labels[0] = values[0] + 0.1  # right
    labels[torch.rand(7, 4, 2, generator=generator) < 0.3] = NAN
    labels[1] = NAN  # no label
    loss = value_loss(values, q, labels, 0.5)
    answer, halting, exact, shares = plain_loss(values.tolist(), q.tolist(), labels.tolist(), 0.5)
    assert loss.answer.item() == pytest.approx(answer, rel=1e-12)
    assert loss.halting.item() == pytest.approx(halting, rel=1e-5)
    assert loss.total.item() == pytest.approx(answer + 0.5 * halting, rel=1e-5)
    assert loss.exact.tolist() == exact
    assert exact[0]
    assert not all(exact)
    assert loss.cells.tolist() == pytest.approx(shares)
    assert loss.labeled.tolist() == [True, False, *[True] * 5]


def test_the_gradient_of_the_loss() -> None:
    _, labels = rows(3, torch.float64)
    values = torch.randn(3, 6, 2, dtype=torch.float64, requires_grad=True)
    q = torch.randn(3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda v, p: value_loss(v, p, labels, 0.1).total, (values, q))
    value_loss(values, q, labels, 0.1).total.backward()
    assert (values.grad[labels.isnan()] == 0).all()


def test_values_without_a_label_change_nothing() -> None:
    _, labels = rows(2)
    values = torch.randn(2, 6, 2)
    want = value_loss(values, torch.zeros(2), labels, 0.1)
    values[labels.isnan()] = NAN
    got = value_loss(values.requires_grad_(), torch.zeros(2), labels, 0.1)
    assert got.answer.item() == want.answer.item()
    got.total.backward()
    assert values.grad.isfinite().all()


@pytest.mark.parametrize("mixing", ["mlp", "attention"])
def test_forward_and_gradients_against_float64(mixing: str) -> None:
    inputs, labels = rows(5)
    ours, exact = model(mixing=mixing, **VALUES), model(mixing=mixing, dtype=torch.float64, **VALUES)
    for dtype, net in ((torch.float32, ours), (torch.float64, exact)):
        out = net(inputs.to(dtype), net.initial_state(5))
        assert out.logits.dtype == dtype
        assert out.logits.shape == (5, 6, 2)
        net.loss(out, labels.to(dtype)).total.backward()
    torch.testing.assert_close(out.logits.float(), ours(inputs, ours.initial_state(5)).logits, rtol=0, atol=1e-4)
    for (name, a), b in zip(ours.named_parameters(), exact.parameters(), strict=True):
        error = (a.grad.double() - b.grad).norm() / b.grad.norm()
        assert error < 1e-3, name


def test_the_embedding_is_linear_with_the_variance_of_its_inputs() -> None:
    net = model(hidden_size=256, **VALUES)
    inputs, _ = rows(64)
    x = net.embedding(inputs, None, torch.float32)
    assert x.var().item() == pytest.approx(1, rel=0.1)
    torch.testing.assert_close(net.embedding(3 * inputs, None, torch.float32), 3 * x)


def test_a_model_that_learns_solves_and_is_saved(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = model(**{**VALUES, "hidden_size": 32, "input_width": 2})
    inputs = torch.rand(32, 6, 2) * 2 - 1
    losses = [net.train_step(inputs, inputs)["loss"] for _ in range(60)]
    assert losses[-1] < 0.5 * losses[0]
    net.eval()
    solved = net.solve(inputs, 3, return_trajectory=True)
    assert solved["solution"].shape == (32, 6, 2)
    assert solved["solution"].dtype == torch.float32
    assert torch.equal(solved["trajectory"][-1]["solution"], solved["solution"])
    net.save_pretrained(tmp_path)
    again = TRM.from_pretrained(tmp_path)
    assert again.config == net.config
    assert torch.equal(again.solve(inputs, 3)["solution"], solved["solution"])
    assert net.solve(inputs[:0], 3)["solution"].shape == (0, 6, 2)


def test_counted_parameters() -> None:
    net = model(**VALUES)
    assert net.num_parameters() == TRM.count_parameters(net.config)


def test_bfloat16_state_gives_float32_values() -> None:
    net = model(dtype=torch.bfloat16, **VALUES)
    out = net(rows(3)[0], net.initial_state(3))
    assert out.logits.dtype == torch.float32
    assert isinstance(out.state, State)
    assert out.state.z.dtype == torch.bfloat16
