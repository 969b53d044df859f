"""Losses by their parts: in the records of training and of evaluations, with weights and masks of the configuration."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from trm_fast.labels import IGNORE
from trm_fast.models.heads import HeadInputs
from trm_fast.models.heads.selection import Selection, SelectionConfig, SelectionHead
from trm_fast.models.heads.slots import SlotHead, SlotPrediction, SlotsConfig
from trm_fast.models.loss import focal, smoothed_cross_entropy
from trm_fast.training.callbacks.console import losses_of

INPUTS = HeadInputs(8, 0, 6, 10, 0, False)
B, T, FIELDS, K, L = 3, 3, 4, 5, 6
# decision, tool, four kinds, four starts, four ends; the second row calls no tool and has no arguments
LABELS = torch.tensor([
    [1, 2, 1, 0, 1, 0, 2, IGNORE, 1, IGNORE, 3, IGNORE, 1, IGNORE],
    [0, IGNORE, IGNORE, IGNORE, 0, 0, *[IGNORE] * 8],
    [1, 0, 0, 0, 1, 1, IGNORE, IGNORE, 0, 2, IGNORE, IGNORE, 0, 4],
])  # fmt: skip


def head(**keys: object) -> SlotHead:
    return SlotHead(SlotsConfig(num_tools=T, num_fields=FIELDS, num_arguments=2, **keys), INPUTS)


def prediction() -> SlotPrediction:
    g = torch.Generator().manual_seed(0)
    shapes = (B, 2), (B, T), (B, FIELDS, K), (B, FIELDS, L), (B, FIELDS, L)
    return SlotPrediction(*(torch.randn(*shape, generator=g) for shape in shapes))


def test_parts_of_the_slot_loss_are_means_over_the_labeled_rows() -> None:
    p, q = prediction(), torch.zeros(B)
    loss = head().loss(p, q, LABELS)
    assert set(loss.parts) == {"decision", "tool", "argument", "slot"} == set(head().loss_parts)
    log, logs = p.decision.log_softmax(-1), p.tool.log_softmax(-1)
    decisions = [-log[row, LABELS[row, 0]].item() for row in range(B)]
    want = sum((1 - math.exp(-cost)) ** 2 * cost for cost in decisions)
    assert loss.parts["decision"].tolist() == pytest.approx([want, 3])
    tool = -(logs[0, 2] + logs[2, 0]).item()
    assert loss.parts["tool"].tolist() == pytest.approx([tool, 2])
    assert [loss.parts[name][1].item() for name in ("argument", "slot")] == [2, 3]
    masked = head(masked_means=True)
    again = masked.loss(p, q, LABELS, scales=masked.scales(LABELS, B))
    assert (again.answer - loss.answer).item() == pytest.approx(tool * (B / 2 - 1), rel=1e-5)


def test_weights_and_gamma_of_the_slot_loss() -> None:
    p, q = prediction(), torch.zeros(B)
    only = {
        "decision_weight": head(tool_weight=0.0, field_weight=0.0, focal_gamma=0.0),
        "tool_weight": head(decision_weight=0.0, field_weight=0.0),
    }
    labels = LABELS.long()
    want = F.cross_entropy(p.decision, labels[:, 0], reduction="sum")
    torch.testing.assert_close(only["decision_weight"].loss(p, q, LABELS).answer, want)
    want = F.cross_entropy(p.tool, labels[:, 1], ignore_index=IGNORE, reduction="sum")
    torch.testing.assert_close(only["tool_weight"].loss(p, q, LABELS).answer, want)


def test_arguments_at_the_last_step_are_a_part_of_it_only() -> None:
    loss = head(arguments="last").loss(prediction(), torch.zeros(B), LABELS, last=False)
    assert loss.parts["argument"].tolist() == [0, 0]


def test_smoothing_is_over_what_can_be_chosen() -> None:
    logits = torch.tensor([[1.0, 0.0, torch.finfo(torch.float32).min], [0.5, 0.2, 0.1]])
    labels = torch.tensor([0, IGNORE])
    want = F.cross_entropy(logits[:1, :2], labels[:1], label_smoothing=0.2)
    assert smoothed_cross_entropy(logits, labels, 0.2).tolist() == pytest.approx([want.item(), 0.0])


def test_focal_weights_follow_the_plain_loss() -> None:
    assert focal(torch.tensor([3.0]), 2.0, torch.tensor([math.log(2)])).item() == pytest.approx(0.75)
    assert focal(torch.tensor([3.0]), 0.0).item() == 3.0
    certain = torch.tensor([0.0, 1.0], requires_grad=True)  # the first example is certainly right
    focal(certain, 0.5).sum().backward()
    assert certain.grad is not None
    assert certain.grad.isfinite().all()


def test_gamma_weights_and_smoothing_of_the_selection_loss() -> None:
    config = {"num_tools": 2, "num_fields": 1, "num_words": 3}
    logits = torch.tensor([[2.0, -1.0]])
    p = Selection(logits, torch.zeros(1, 1, 6), torch.zeros(1, 1, 3, 3))
    labels = torch.tensor([[1, 0, IGNORE, *[IGNORE] * 3]])

    def answer(smoothing: float = 0.0, **keys: float) -> float:
        selection = SelectionHead(SelectionConfig.model_validate(config | keys), INPUTS)
        return selection.loss(p, torch.zeros(1), labels, label_smoothing=smoothing).answer.item()

    costs = [math.log(1 + math.exp(-2)), math.log(1 + math.exp(-1))]
    assert answer() == pytest.approx(sum(costs) / 2)
    assert answer(tool_weight=3.0) == pytest.approx(3 * sum(costs) / 2)
    assert answer(focal_gamma=2.0) == pytest.approx(sum((1 - math.exp(-c)) ** 2 * c for c in costs) / 2)
    smoothed = F.binary_cross_entropy_with_logits(logits, torch.tensor([[0.9, 0.1]])).item()
    assert answer(smoothing=0.2) == pytest.approx(smoothed)


def test_progress_shows_the_parts() -> None:
    record = {"loss": 1.0, "answer_loss": 0.8, "halting_loss": 0.4, "exact_accuracy": 0.5}
    assert losses_of(record) == ["loss"]
    assert losses_of(record | {"tool_loss": 0.8, "slot_loss": None}) == ["loss", "halting_loss", "tool_loss"]
    assert losses_of({"eval_loss": 1.0, "eval_halting_loss": 1.0}) == ["eval_loss"]
