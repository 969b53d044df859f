"""Saves and loads model folders: ``config.json`` and ``model.safetensors``."""

from __future__ import annotations

import errno
import json
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from trm_fast.errors import UserError
from trm_fast.models.config import TRMConfig
from trm_fast.models.format_v1 import upgrade_sections
from trm_fast.models.trm import TRMModel
from trm_fast.validation import explain
from trm_fast.writing import new_folder, write_bytes

FORMAT_VERSION = 2
CONFIG, WEIGHTS = "config.json", "model.safetensors"

M = TypeVar("M", bound=TRMModel)


def save_model(
    model: TRMModel,
    folder: str | os.PathLike[str],
    save_assets: Callable[[Path], None] | None = None,
    **sections: Any,
) -> None:
    """Writes a model folder: ``config.json``, ``model.safetensors`` and the task's files.

    Args:
        model: its configuration, ``solver_defaults`` and weights are written.
        folder: the folder, which is created if it does not exist. A new folder appears complete or not at all; in an
            existing one ``config.json`` is written last.
        save_assets: writes the task's files into a folder.
        sections: further JSON sections of ``config.json``.

    Raises:
        UserError: a file cannot be written.
    """
    config = {"format_version": FORMAT_VERSION, "model": model.config.model_dump(mode="json")}
    config |= ({"solver": dict(model.solver_defaults)} if model.solver_defaults else {}) | sections
    with new_folder(folder, last=CONFIG) as new:
        if save_assets is not None:
            save_assets(new)
        save_tensors(_tensors(model), new / WEIGHTS)
        (new / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def load_model(cls: type[M], folder: str | os.PathLike[str], compute_dtype: torch.dtype = torch.float32) -> M:
    """Loads the model of a folder that ``save_model`` wrote, in evaluation mode.

    Raises:
        UserError: the folder holds no model, or a damaged one.
    """
    path = Path(folder)
    try:
        sections = read_model_config(path)
        config = TRMConfig.model_validate(sections["model"])
    except ValidationError as error:
        raise UserError(f"{path / 'config.json'}: {explain(error, TRMConfig, 'model')}") from None
    model = cls(config, compute_dtype)
    model.solver_defaults = sections.get("solver", {})
    load_weights(model, path / WEIGHTS)
    return model.eval()


def save_section(folder: Path, name: str, section: dict[str, Any]) -> None:
    """Writes one section of a model folder's ``config.json``; an empty one is removed.

    Raises:
        UserError: the folder holds no model, or a damaged one.
    """
    config = read_model_config(folder)
    config.pop(name, None)
    config |= {"format_version": FORMAT_VERSION} | ({name: section} if section else {})
    write_bytes(folder / CONFIG, (json.dumps(config, indent=2) + "\n").encode())


def save_tensors(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Writes a safetensors file.

    Raises:
        OSError: it cannot be written; ``errno`` has the cause.
    """
    try:
        save_file(dict(tensors), path)
    except SafetensorError as error:
        number = re.search(r"os error (\d+)", str(error))
        code = int(number[1]) if number else errno.EIO
        raise OSError(code, os.strerror(code) if number else str(error)) from None


def read_model_config(folder: Path) -> dict[str, Any]:
    """Reads ``config.json`` of a model folder: the section ``model`` and the further sections.

    Raises:
        UserError: the file is missing, damaged, or of an unknown format version.
    """
    path = folder / CONFIG
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{folder} is not a model: it has no config.json") from None
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from None
    except ValueError as error:
        raise UserError(f"{path} can't be read: {error}") from None
    if not isinstance(config, dict) or not isinstance(config.get("model"), dict):
        raise UserError(f"{path} has no section 'model'")
    if config.get("format_version") not in (1, FORMAT_VERSION):
        raise UserError(
            f"{path} has format_version {config.get('format_version')!r}; this version reads 1 to {FORMAT_VERSION}"
        )
    try:
        return upgrade_sections(config)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def load_weights(model: nn.Module, path: Path) -> None:
    """Loads a safetensors file into a module.

    Raises:
        UserError: the file is missing or damaged, or its names or shapes are not those of the module.
    """
    try:
        tensors = load_file(path)
    except FileNotFoundError:
        raise UserError(f"{path} is missing") from None
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from None
    except SafetensorError as error:
        raise UserError(f"{path} is damaged or not a safetensors file: {error}") from None
    expected = _tensors(model)
    if problems := [f"{n} is missing" for n in expected if n not in tensors] + [
        f"{n} is unknown" for n in tensors if n not in expected
    ]:
        raise UserError(f"{path} does not fit the model: {'; '.join(problems[:3])}")
    for name, tensor in expected.items():
        if tensors[name].shape != tensor.shape:
            raise UserError(
                f"{path}: {name} has shape {tuple(tensors[name].shape)}, the model has {tuple(tensor.shape)}"
            )
    model.load_state_dict(tensors)


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
