"""The loss against the paper's formula, computed cell by cell in Python floats."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from trm_fast.labels import IGNORE
from trm_fast.models import supervision_loss

LABELS = torch.tensor([[1, 2, 0, 3], [1, IGNORE, 2, IGNORE], [IGNORE] * 4, [3, 3, 3, IGNORE], [0, 1, 2, 3]])


def make_logits(scale: float) -> Tensor:
    logits = torch.randn(5, 4, 4, generator=torch.Generator().manual_seed(0)) * scale
    for row in (0, 3):  # two rows that are exactly right
        for cell, label in enumerate(LABELS[row].tolist()):
            logits[row, cell, max(label, 0)] = 20 * scale
    logits[4] = -logits[4].abs()
    logits[4, 0, 0] = 0.0  # the branch point of stable-max; this cell is right, too
    return logits


@pytest.mark.parametrize("scale", [0.1, 3.0, 1e4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_the_loss_equals_the_papers_formula(scale: float, dtype: torch.dtype) -> None:
    logits = make_logits(scale).to(dtype)
    q = torch.tensor([2.0, -1.0, 0.5, -30.0, 40.0])
    loss = supervision_loss(logits, q, LABELS)

    answer = halting = 0.0
    for row, labels in enumerate(LABELS.tolist()):
        cells, right = [], []
        for cell, label in enumerate(labels):
            if label == IGNORE:
                continue
            values = logits[row, cell].double().tolist()
            scores = [v + 1 if v >= 0 else 1 / (1 - v) for v in values]
            cells.append(math.log(sum(scores)) - math.log(scores[label]))
            right.append(values.index(max(values)) == label)
        answer += sum(cells) / max(1, len(cells))
        value, target = q[row].item(), float(all(right))
        halting += max(value, 0) - value * target + math.log1p(math.exp(-abs(value)))
        assert loss.exact[row].item() == all(right)
        assert loss.cells[row].item() == pytest.approx(sum(right) / max(1, len(right)))
        assert loss.labeled[row].item() == bool(right)
    assert loss.exact.tolist() == [True, False, True, True, False]
    assert loss.answer.dtype == torch.float64
    assert loss.answer.item() == pytest.approx(answer, rel=1e-12)
    assert loss.halting.item() == pytest.approx(halting, rel=1e-6)
    assert loss.total.item() == pytest.approx(answer + halting / 2, rel=1e-6)


@pytest.mark.parametrize("scale", [0.1, 3.0, 1e4])
def test_label_smoothing_mixes_the_label_with_all_classes(scale: float) -> None:
    """The loss is (1 - s) times the label's, plus s times the mean over the losses of all classes. So is its gradient,
    at the branch point of stable-max, too."""
    smoothing, results = 0.2, []
    for smooth in (True, False):
        logits = make_logits(scale).double().requires_grad_()
        if smooth:
            answer = supervision_loss(logits, torch.zeros(5), LABELS, smoothing).answer
        else:
            every = [supervision_loss(logits, torch.zeros(5), LABELS.where(LABELS == IGNORE, v)) for v in range(4)]
            mean = torch.stack([loss.answer for loss in every]).mean()
            answer = (1 - smoothing) * supervision_loss(logits, torch.zeros(5), LABELS).answer + smoothing * mean
        answer.backward()
        results.append((answer.detach(), logits.grad))
    for got, want in zip(*results, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-15)


def test_the_weight_of_the_halting_loss() -> None:
    loss = supervision_loss(make_logits(1.0), torch.ones(5), LABELS)
    assert loss.weighted(0.5) is loss
    assert loss.weighted(0.05).total == loss.answer + 0.05 * loss.halting


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_ignored_cells_have_no_gradient_and_the_halting_target_is_constant(smoothing: float) -> None:
    logits = make_logits(1.0)
    logits[2], logits[1, 1] = float("nan"), float("inf")  # ignored cells
    logits, q = logits.requires_grad_(), torch.zeros(5, requires_grad=True)
    supervision_loss(logits, q, LABELS, smoothing).total.backward()
    assert logits.grad is not None
    ignored = LABELS == IGNORE
    assert not logits.grad[ignored].any()
    assert logits.grad.isfinite().all()
    assert logits.grad[~ignored].any(-1).all()
    assert q.grad is not None
    want = (torch.sigmoid(q) - torch.tensor([1.0, 0, 1, 1, 0])) / 2  # half a binary cross-entropy
    torch.testing.assert_close(q.grad, want.detach())
