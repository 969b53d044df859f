"""The loss on test examples: as in training, but with the averaged weights, and without halting."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

import torch

from trm_fast.models import TRMModel
from trm_fast.tasks.base import Examples
from trm_fast.training.batch import Batch
from trm_fast.training.carry import Carry
from trm_fast.training.config import TrainingConfig
from trm_fast.training.process_group import ProcessGroup


@torch.no_grad()
def validation_losses(
    model: TRMModel, examples: Examples, config: TrainingConfig, batch_size: int, group: ProcessGroup
) -> dict[str, float]:
    """Mean losses over examples and over all supervision steps. With several initial states, the loss is that of the
    state with the lowest one, which only the labels tell.

    Args:
        model: in evaluation mode.
        examples: each process computes its share.
        config: gives label smoothing and the weight of the halting loss.
        batch_size: number of examples that are computed together.
        group: the processes.

    Returns:
        ``loss``, ``answer_loss``, ``halting_loss``, and the parts of the head's loss (``tool_loss``); {} without
        examples.
    """
    sums: dict[str, float] = defaultdict(float)
    steps = model.config.max_supervision_steps
    share, device = examples.take(group.share(len(examples))), model.z_init.device
    scales = model.head.scales(Batch.from_examples(examples).labels.to(device), len(examples))
    for start in range(0, len(share), batch_size):
        rows = share.take(slice(start, start + batch_size))
        carry = Carry(model, len(rows), rows)
        carry.refill(Batch.from_examples(rows).map(lambda tensor: tensor.to(device)))
        for step in range(steps):
            _, loss, _ = carry.supervise(
                model, slice(0, len(rows)), last=step + 1 == steps, label_smoothing=config.label_smoothing,
                scales=scales,
            )  # fmt: skip
            carry.halted.zero_()
            loss = loss.weighted(config.halting_weight)
            numbers = {"rows": float(len(rows)), "loss": loss.total.item(), "answer_loss": loss.answer.item()}
            _add(sums, numbers | {"halting_loss": loss.halting.item()})
            for name, part in loss.parts.items():
                cost, count = part.tolist()
                _add(sums, {f"{name}_loss": cost, f"{name}_rows": count})
    total: dict[str, float] = defaultdict(float)
    for share_sums in group.gather_objects(dict(sums)):
        _add(total, share_sums)
    return _means(total)


def _add(sums: dict[str, float], numbers: Mapping[str, float]) -> None:
    for name, number in numbers.items():
        sums[name] += number


def _means(sums: Mapping[str, float]) -> dict[str, float]:
    """Divides each sum by its number of rows."""
    means: dict[str, float] = {}
    for name, total in sums.items():
        if name.endswith("_loss") or name == "loss":
            rows = sums.get(f"{name.removesuffix('_loss')}_rows", sums["rows"])
            if rows:
                means[name] = total / rows
    return means
