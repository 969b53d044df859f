"""The loss of a supervision step, and which cells and rows are right."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from trm_fast import ops
from trm_fast.labels import IGNORE

HALTING_WEIGHT = 0.5
"""Weight of the halting loss, as published."""


class Loss(NamedTuple):
    """Sums over the rows of a batch, and which cells each row got right. ``total`` = ``answer`` + ``halting`` / 2."""

    total: Tensor  # ()
    answer: Tensor  # (): mean over a row's labeled cells, summed over rows
    halting: Tensor  # float32, (): binary cross-entropy of q against ``exact``
    exact: Tensor  # bool, (B,): every labeled cell is right
    cells: Tensor  # float32, (B,): share of the labeled cells that are right
    labeled: Tensor  # bool, (B,): the row has at least one labeled cell
    rows: Tensor  # (B,): the summands of ``answer``
    parts: Mapping[str, Tensor] = {}  # (2,): sum of a part of ``answer`` before its weight, and number of its rows

    def weighted(self, halting_weight: float) -> Loss:
        """The loss with another weight of the halting loss in ``total``."""
        if halting_weight == HALTING_WEIGHT:
            return self
        return self._replace(total=self.answer + halting_weight * self.halting)


def supervision_loss(logits: Tensor, q: Tensor, labels: Tensor, label_smoothing: float = 0.0) -> Loss:
    """Stablemax cross-entropy (float64) of logits (B, L, V) with labels int (B, L), plus the halting loss of q (B,)
    (paper, section 4). Unlabeled cells have the label ``IGNORE``. With ``label_smoothing`` s, a cell's target
    distribution is 1 - s for its label plus s / V for every class."""
    nll = ops.stablemax_cross_entropy(logits, labels, IGNORE)
    if label_smoothing:
        nll = nll + label_smoothing * _excess_log_score(logits, labels)
    return row_loss(nll, logits.argmax(-1) == labels, labels != IGNORE, q)


def _excess_log_score(logits: Tensor, labels: Tensor) -> Tensor:
    """The logarithm of the label's stablemax score minus the mean over all classes; 0 for unlabeled cells. The
    normalizer cancels in the difference of two losses."""
    valid = labels != IGNORE
    x = logits.where(valid.unsqueeze(-1), 0).double()
    scores = x.clamp_min(0).log1p() - F.relu(-x).log1p()  # one of the terms is zero; the slope at 0 is 1
    label = scores.gather(-1, labels.long().where(valid, 0).unsqueeze(-1)).squeeze(-1)
    return (label - scores.mean(-1)).where(valid, 0)


def value_loss(values: Tensor, q: Tensor, labels: Tensor, tolerance: float) -> Loss:
    """Squared error of values (B, L, F) with labels (B, L, F), NaN for unlabeled cells, plus the halting loss. A value
    is right if its error is at most ``tolerance``.

    Errors are divided by the tolerance, so that both losses have similar sizes when the errors are near the tolerance.
    Without it, the squared errors would be much smaller than the halting loss, and the network would learn to predict
    whether answers are right, but not to improve them.
    """
    valid = ~labels.isnan()
    error = torch.where(valid, values - labels, 0.0)
    cost, right, counted = (t.flatten(1) for t in ((error / tolerance).square(), error.abs() <= tolerance, valid))
    return row_loss(cost, right, counted, q)


def row_loss(cost: Tensor, right: Tensor, valid: Tensor, q: Tensor) -> Loss:
    """The loss of rows, from the losses of their cells.

    Args:
        cost: loss of each cell (B, N), 0 for unlabeled cells.
        right: whether each cell is right, bool (B, N).
        valid: whether each cell is labeled, bool (B, N).
        q: halting logits (B,).
    """
    return joint_loss(cost.sum(-1) / valid.sum(-1).clamp_min(1), right, valid, q)


def joint_loss(
    rows: Tensor,
    right: Tensor,
    valid: Tensor,
    q: Tensor,
    parts: Mapping[str, tuple[Tensor, Tensor]] | None = None,
) -> Loss:
    """The loss of rows whose answer losses are ``rows`` (B,), plus the halting loss. ``parts``: by name, a part's loss
    of each row (B,), before its weight, and whether the row has a label for it, bool (B,). Other arguments as in
    ``row_loss``."""
    answer, count = rows.sum(), valid.sum(-1)
    correct = (valid & right).sum(-1)
    exact = correct == count
    halting = F.binary_cross_entropy_with_logits(q, exact.to(q.dtype), reduction="sum")
    total = answer + HALTING_WEIGHT * halting
    sums = {
        name: torch.stack([torch.where(has, cost.detach(), 0).sum().double(), has.sum().double()])
        for name, (cost, has) in (parts or {}).items()
    }
    return Loss(total, answer, halting, exact, correct / count.clamp_min(1), count > 0, rows.detach(), sums)


def focal(cost: Tensor, gamma: float, plain: Tensor | None = None) -> Tensor:
    """Losses with the weights of the focal loss (arXiv 1708.02002): ``(1 - p) ** gamma``, where p is the probability of
    the right class, by its cross-entropy ``plain``; by default ``cost``. With 0, the losses themselves."""
    wrong = -torch.expm1(-(cost if plain is None else plain))
    # At 0, the gradient of a power below 1 is infinite, and times a cost of 0 it would be NaN.
    return wrong.clamp_min(torch.finfo(cost.dtype).eps) ** gamma * cost if gamma else cost


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """The cross-entropy of each label, 0 for ``IGNORE``; logits (..., C), labels int (...)."""
    flat = F.cross_entropy(logits.flatten(0, -2), labels.long().flatten(), ignore_index=IGNORE, reduction="none")
    return flat.view(labels.shape)


def smoothed_cross_entropy(logits: Tensor, labels: Tensor, label_smoothing: float) -> Tensor:
    """``cross_entropy`` (B,) of logits (B, C), with a share of the target spread evenly over the classes that can be
    chosen: those whose logit is not the lowest float."""
    cost = cross_entropy(logits, labels)
    if not label_smoothing:
        return cost
    possible = logits > torch.finfo(logits.dtype).min
    logs = torch.where(possible, logits.log_softmax(-1), 0)
    even = -logs.sum(-1) / possible.sum(-1).clamp_min(1)
    return torch.where(labels != IGNORE, (1 - label_smoothing) * cost + label_smoothing * even, 0)
