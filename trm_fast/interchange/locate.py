"""Finds a trained model: a run folder, a model folder, a model that ships with the package, or one of the hub."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from trm_fast import hub
from trm_fast.api import TRM, task_of
from trm_fast.errors import UserError, shown
from trm_fast.inference.options import SolverConfig, stored_options
from trm_fast.models.saving import read_model_config, save_section
from trm_fast.models.weights import check_memory, check_shapes, meta_model
from trm_fast.pretrained import NAMES, bundled_folder
from trm_fast.registry import suggest
from trm_fast.run_folder import CONFIG, MODEL
from trm_fast.tasks import trusting_code
from trm_fast.tasks.base import DataConfig, Task
from trm_fast.tasks.files import write_text


@dataclass(frozen=True)
class Located:
    """A model in evaluation mode with its task.

    ``label`` names the model in messages. ``section`` is the ``task:`` section. ``data`` and ``seed`` are those of the
    training run, or defaults if there is only a model folder.
    """

    model: TRM
    task: Task
    label: str
    data: DataConfig
    seed: int
    section: dict[str, Any]


def bundled_names() -> list[str]:
    """The names of the models that ship with the package. Where several can read a puzzle, the first is the default."""
    return list(NAMES)


def bundled_task(name: str) -> str:
    """The name of the task of a bundled model. The weights are not loaded."""
    return str(read_model_config(bundled_folder(name))["task"]["name"])


def locate(reference: str, *, from_step: int | None = None, device: str = "cpu", trust_code: bool = False) -> Located:
    """Loads a model onto a device.

    Args:
        reference: a run folder, a model folder, the name of a model that ships with the package, or ``org/name`` or
            ``org/name@revision`` of the Hugging Face hub, if there is no such folder.
        from_step: the step of the run's checkpoint, by default the newest one. The averaged weights are loaded.
        device: a torch device.
        trust_code: whether the module of a task outside the package, which the folder's configuration names, may be
            imported.

    Raises:
        UserError: there is no such model, it is damaged, or its task's module may not be imported.
    """
    with trusting_code(trust_code):
        return _located(reference, from_step, device)


def _located(reference: str, from_step: int | None, device: str) -> Located:
    path = Path(reference)
    if os.path.isfile(path / CONFIG) or os.path.isdir(path / "checkpoints"):  # which accept names that are too long
        return _from_run(path, from_step, device)
    if from_step is not None:
        raise UserError(f"--from needs a run folder, and {reference} is not one", usage_error=True)
    if os.path.isdir(path):
        return _from_folder(path, device)
    if reference in bundled_names():
        return _from_folder(bundled_folder(reference), device)
    if (name := hub.remote(reference)) is not None:
        return replace(_from_folder(hub.download(name), device), label=reference)
    ships = ", ".join(bundled_names()) or "none"
    hint = suggest(reference, bundled_names())
    near = f"{hint} Models" if hint.startswith("did") else "models"
    raise UserError(f"there is no run or model {shown(reference)}; {near} that ship with trm_fast: {ships}")


def store_options(reference: str, options: SolverConfig, *, trust_code: bool = False) -> None:
    """Stores solver options with a model, replacing those it has: in a model folder's ``config.json``; for a run, in
    its ``config.yaml`` and its model folder. ``trust_code`` is that of ``locate``.

    Raises:
        UserError: there is no such folder, or it is a bundled model.
    """
    path = Path(reference)
    if not path.is_dir():
        raise UserError(
            f"{reference} is not a folder: options are stored with a run or a model folder", usage_error=True
        )
    folders = [path]
    if (path / CONFIG).is_file():
        from trm_fast.training.folder import read_run_config

        with trusting_code(trust_code):
            config = read_run_config(path)
        write_text(path / CONFIG, config.model_copy(update={"solver": options}).to_yaml())
        folders = [path / MODEL] if (path / MODEL).is_dir() else []
    for folder in folders:
        save_section(folder, "solver", options.changes())


def _from_run(run: Path, from_step: int | None, device: str) -> Located:
    # Here, because a model folder can be loaded without the training, which takes long to import.
    from trm_fast.training import checkpoint
    from trm_fast.training.folder import read_run_config

    config = read_run_config(run)
    groups, state = checkpoint.load(run, from_step)
    where = f"{run}: the checkpoint step_{state['step']}"
    model_config = config.model_at(max(1, state["step"]))
    sizes = meta_model(model_config, str(run / CONFIG))
    rows = {name: t for name, t in groups.get("model", {}).items() if name == "puzzle_embedding"}
    weights = groups.get("ema", {}) | rows
    check_shapes({name: tuple(tensor.shape) for name, tensor in weights.items()}, sizes, where)
    check_memory(sizes, where)
    model = TRM(model_config)
    model.load_state_dict(weights)
    label = f"{run} at step {state['step']}"
    task = config.make_task()
    task.load_assets(run)
    section = config.task.model_dump(mode="json")
    model.solver_defaults = config.solver.changes()
    model.remember_task(task, section)
    dtype = config.compute_dtype(torch.device(device))
    return Located(_on_device(model, device, dtype), task, label, config.data, config.training.seed, section)


def _from_folder(folder: Path, device: str) -> Located:
    task = task_of(folder)
    if task is None:
        raise UserError(
            f"{folder / 'config.json'} names no task, so the model cannot solve puzzles. In Python, "
            'TRM.from_pretrained(folder).save_pretrained(folder, task="sudoku") adds one'
        )
    model = TRM.from_pretrained(folder, torch.float32)
    section = read_model_config(folder)["task"]
    stored_options(model, str(folder / "config.json"))  # reports an invalid section now
    dtype = model.config.auto_dtype(torch.device(device))
    return Located(_on_device(model, device, dtype), task, folder.name, DataConfig(), 0, section)


def _on_device(model: TRM, device: str, dtype: torch.dtype) -> TRM:
    model.compute_dtype = dtype
    return model.to(device).eval()
