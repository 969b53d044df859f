"""The loss of one supervision step, and the counts that metrics are made of."""

from __future__ import annotations

from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor

from trm_fast import ops

IGNORE = -100


class Loss(NamedTuple):
    """Sums over the rows of a batch, and what each row got right. ``total`` = ``answer`` + ``halting`` / 2."""

    total: Tensor  # float64, ()
    answer: Tensor  # float64, (): stable-max cross-entropy, mean over a row's labelled cells, summed over rows
    halting: Tensor  # float32, (): binary cross-entropy of q against "this row is exactly right"
    exact: Tensor  # bool, (B,): every labelled cell is right
    cells: Tensor  # float32, (B,): share of the labelled cells that are right
    labelled: Tensor  # bool, (B,): the row has labelled cells at all


def supervision_loss(logits: Tensor, q: Tensor, labels: Tensor) -> Loss:
    """logits (B, L, V), q (B,), labels (B, L) with ``IGNORE`` where there is none (paper, section 4)."""
    valid = labels != IGNORE
    count = valid.sum(-1)
    right = (valid & (logits.argmax(-1) == labels)).sum(-1)
    exact = right == count
    nll = ops.stablemax_cross_entropy(logits, labels, IGNORE)
    answer = (nll.sum(-1) / count.clamp_min(1)).sum()
    halting = F.binary_cross_entropy_with_logits(q, exact.to(q.dtype), reduction="sum")
    return Loss(answer + 0.5 * halting, answer, halting, exact, right / count.clamp_min(1), count > 0)
