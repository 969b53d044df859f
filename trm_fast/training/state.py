"""A run's state by tensor, as a checkpoint holds it."""

from __future__ import annotations

import torch
from torch import Tensor

from trm_fast.training.checkpoint import Groups
from trm_fast.training.process_group import ProcessGroup
from trm_fast.training.rng import random_state, set_random_state
from trm_fast.training.step import TrainStep


def averaged_tensors(step: TrainStep) -> dict[str, Tensor]:
    """The model's tensors, its weights averaged where the optimizer averages them."""
    names = [name for name, _ in step.model.named_parameters()]
    tensors = {name: tensor.detach() for name, tensor in step.model.state_dict().items()}
    return tensors | dict(zip(names, step.optimizer.averaged, strict=True))


def tensor_groups(step: TrainStep, totals: dict[str, float], group: ProcessGroup) -> Groups:
    """All of the state, a group a file; all processes call it alike."""
    device = step.device
    names = [name for name, _ in step.model.named_parameters()]
    return {
        "model": step.model.state_dict(),
        # Puzzle rows have no average, and they may be gigabytes: they are written once.
        "ema": {name: t for name, t in averaged_tensors(step).items() if name != "puzzle_embedding"},
        "optimizer": step.optimizer.named_tensors(names),
        "carry": {
            **{name: group.gather(tensor) for name, tensor in step.carry.tensors().items()},
            "totals": torch.tensor(list(totals.values()), dtype=torch.float64),
            "taken": step.pool.taken,
            **{f"rng_{i}": states for i, states in enumerate(group.gather_objects(random_state(device)))},
        },
    }


def restore(step: TrainStep, groups: Groups, group: ProcessGroup) -> None:
    """Puts a checkpoint's tensors in their places; KeyError, ValueError or RuntimeError where they do not fit."""
    names = [name for name, _ in step.model.named_parameters()]
    step.model.load_state_dict(groups["model"])
    optimizer, saved = step.optimizer, groups["carry"]
    if len(saved["steps"]) != step.config.batch_size:
        raise ValueError(f"it is of batch_size {len(saved['steps'])}")
    share = {name: saved[name][step.share] for name in step.carry.tensors()}
    pairs = [(step.carry.tensors(), share), (optimizer.named_tensors(names), groups["optimizer"])]
    pairs.append(({"taken": step.pool.taken}, saved))
    if group.writes:
        pairs.append(({"totals": step.totals}, saved))
    if optimizer.ema is not None:
        pairs.append((dict(zip(names, optimizer.ema, strict=True)), groups["ema"]))
    for ours, theirs in pairs:
        for name, tensor in ours.items():
            if theirs[name].shape != tensor.shape:
                raise ValueError(f"{name} has shape {tuple(theirs[name].shape)}, not {tuple(tensor.shape)}")
            tensor.copy_(theirs[name])
    if f"rng_{group.rank}" in saved:  # not where more processes resume than there were
        set_random_state(step.device, saved[f"rng_{group.rank}"])
    step.pool.restart()
