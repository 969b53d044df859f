"""Converts a run's state to the tensors of a checkpoint and back."""

from __future__ import annotations

import torch
from torch import Tensor

from trm_fast.models import TRMModel
from trm_fast.training.checkpoint import Groups
from trm_fast.training.config import DTYPES, RunConfig
from trm_fast.training.folder import Record
from trm_fast.training.process_group import ProcessGroup
from trm_fast.training.rng import random_state, set_random_state
from trm_fast.training.step import TrainStep


def averaged_tensors(step: TrainStep) -> dict[str, Tensor]:
    """The model's tensors by name, with averaged weights if the optimizer averages them."""
    names = [name for name, _ in step.model.named_parameters()]
    tensors = {name: tensor.detach() for name, tensor in step.model.state_dict().items()}
    return tensors | dict(zip(names, step.optimizer.averaged, strict=True))


def tensor_groups(step: TrainStep, totals: dict[str, float], group: ProcessGroup) -> Groups:
    """The whole state of a run: one group of tensors per file. All processes must call this."""
    device = step.device
    names = [name for name, _ in step.model.named_parameters()]
    return {
        "model": step.model.state_dict(),
        # The puzzle embedding has no average and may take gigabytes, so only "model" holds it.
        "ema": {name: t for name, t in averaged_tensors(step).items() if name != "puzzle_embedding"},
        "optimizer": step.optimizer.named_tensors(names),
        "carry": {
            **{name: group.gather(tensor) for name, tensor in step.carry.tensors().items()},
            "totals": torch.tensor(list(totals.values()), dtype=torch.float64),
            "taken": step.pool.taken,
            **{f"rng_{i}": states for i, states in enumerate(group.gather_objects(random_state(device)))},
        },
    }


def run_dtype(config: RunConfig, device: torch.device, state: Record, group: ProcessGroup) -> torch.dtype:
    """The dtype of a run's activations. With ``training.dtype: auto`` a run keeps the dtype that it had at its
    checkpoint, whose ``state.json`` is ``state``, if that was on the same kind of device: another dtype would round
    differently. All processes must call this, and all get the same."""
    dtype = config.compute_dtype(device)
    if config.training.dtype == "auto":
        if state:  # before checkpoints stored it, a CPU always computed in float32
            stored = state.get("dtype", {"cpu": "float32"}).get(device.type)
            dtype = DTYPES.get(stored, dtype)
        if any(torch.float32 == other for other in group.gather_objects(dtype)):
            dtype = torch.float32
    return dtype


def stored_dtype(model: TRMModel) -> dict[str, str]:
    """What ``run_dtype`` reads from ``state.json``."""
    return {model.z_init.device.type: str(model.compute_dtype).removeprefix("torch.")}


def restore(step: TrainStep, groups: Groups, group: ProcessGroup) -> None:
    """Copies a checkpoint's tensors into a training step. All processes must call this.

    Raises:
        KeyError, ValueError, RuntimeError: the checkpoint belongs to another configuration.
    """
    names = [name for name, _ in step.model.named_parameters()]
    step.model.load_state_dict(groups["model"])
    optimizer, saved = step.optimizer, groups["carry"]
    if len(saved["steps"]) != step.config.batch_size:
        raise ValueError(f"its batch_size is {len(saved['steps'])}")
    share = {name: saved[name][step.share] for name in step.carry.tensors()}
    optimizer.restore_steps(names, groups["optimizer"])
    pairs = [(step.carry.tensors(), share), (optimizer.named_tensors(names), groups["optimizer"])]
    pairs.append(({"taken": step.pool.taken}, saved))
    if group.writes:  # checkpoints of earlier versions have no parts of the loss
        count = min(len(saved["totals"]), len(step.totals))
        pairs.append(({"totals": step.totals[:count]}, saved))
    if optimizer.ema is not None:
        pairs.append((dict(zip(names, optimizer.ema, strict=True)), groups["ema"]))
    for targets, sources in pairs:
        for name, tensor in targets.items():
            if sources[name].shape != tensor.shape:
                raise ValueError(f"{name} has shape {tuple(sources[name].shape)}, not {tuple(tensor.shape)}")
            tensor.copy_(sources[name])
    if f"rng_{group.rank}" in saved:  # missing if more processes resume than saved
        set_random_state(step.device, saved[f"rng_{group.rank}"])
    step.pool.restart()
