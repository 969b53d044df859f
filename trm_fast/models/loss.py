"""The loss of one supervision step, and the counts that metrics are made of."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from trm_fast import ops
from trm_fast.labels import IGNORE


class Loss(NamedTuple):
    """Sums over the rows of a batch, and what each row got right. ``total`` = ``answer`` + ``halting`` / 2."""

    total: Tensor  # ()
    answer: Tensor  # (): mean over a row's labelled cells, summed over rows
    halting: Tensor  # float32, (): binary cross-entropy of q against "this row is exactly right"
    exact: Tensor  # bool, (B,): every labelled cell is right
    cells: Tensor  # float32, (B,): share of the labelled cells that are right
    labelled: Tensor  # bool, (B,): the row has labelled cells at all


def supervision_loss(logits: Tensor, q: Tensor, labels: Tensor) -> Loss:
    """Stable-max cross-entropy (float64) of logits (B, L, V) against labels (B, L), ``IGNORE`` where there is none, and
    the halting loss of q (B,) (paper, section 4)."""
    nll = ops.stablemax_cross_entropy(logits, labels, IGNORE)
    return row_loss(nll, logits.argmax(-1) == labels, labels != IGNORE, q)


def value_loss(values: Tensor, q: Tensor, labels: Tensor, tolerance: float) -> Loss:
    """Squared error of values (B, L, F) against labels (B, L, F), NaN where there is none; right within a tolerance.

    Errors are counted in tolerances: where answers start to be right, both losses weigh alike. In units of the labels
    the halting loss would be far the larger one, and the network would learn to judge answers instead of giving them.
    """
    valid = ~labels.isnan()
    error = torch.where(valid, values - labels, 0.0)
    cost, right, counted = (t.flatten(1) for t in ((error / tolerance).square(), error.abs() <= tolerance, valid))
    return row_loss(cost, right, counted, q)


def row_loss(cost: Tensor, right: Tensor, valid: Tensor, q: Tensor) -> Loss:
    """The loss of rows whose cells cost ``cost`` (B, N), 0 where not ``valid``, and are ``right`` or not."""
    return joint_loss((cost.sum(-1) / valid.sum(-1).clamp_min(1)).sum(), right, valid, q)


def joint_loss(answer: Tensor, right: Tensor, valid: Tensor, q: Tensor) -> Loss:
    """The loss of answers that cost ``answer`` () together, and of which what is ``valid`` (B, N) is ``right`` or not:
    with the halting loss of q (B,)."""
    count = valid.sum(-1)
    found = (valid & right).sum(-1)
    exact = found == count
    halting = F.binary_cross_entropy_with_logits(q, exact.to(q.dtype), reduction="sum")
    return Loss(answer + 0.5 * halting, answer, halting, exact, found / count.clamp_min(1), count > 0)


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Per label, 0 where it is ``IGNORE``; logits (..., C), labels (...)."""
    flat = F.cross_entropy(logits.flatten(0, -2), labels.long().flatten(), ignore_index=IGNORE, reduction="none")
    return flat.view(labels.shape)
