"""Saves and loads model folders: ``config.json`` and ``model.safetensors``."""

from __future__ import annotations

import json
import os
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

FORMAT_VERSION = 2

M = TypeVar("M", bound=TRMModel)


def save_model(model: TRMModel, folder: str | os.PathLike[str], **sections: Any) -> None:
    """Writes ``config.json`` (the configuration, the model's ``solver_defaults`` and further JSON ``sections``) and
    ``model.safetensors``."""
    path = Path(folder)
    path.mkdir(parents=True, exist_ok=True)
    config = {"format_version": FORMAT_VERSION, "model": model.config.model_dump(mode="json")}
    config |= ({"solver": dict(model.solver_defaults)} if model.solver_defaults else {}) | sections
    _replace(path / "model.safetensors", lambda new: save_file(_tensors(model), new))
    _replace(path / "config.json", lambda new: new.write_text(json.dumps(config, indent=2) + "\n"))


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
    load_weights(model, path / "model.safetensors")
    return model.eval()


def save_section(folder: Path, name: str, section: dict[str, Any]) -> None:
    """Writes one section of a model folder's ``config.json``; an empty one is removed.

    Raises:
        UserError: the folder holds no model, or a damaged one.
    """
    config = read_model_config(folder)
    config.pop(name, None)
    config |= {"format_version": FORMAT_VERSION} | ({name: section} if section else {})
    _replace(folder / "config.json", lambda new: new.write_text(json.dumps(config, indent=2) + "\n"))


def read_model_config(folder: Path) -> dict[str, Any]:
    """Reads ``config.json`` of a model folder: the section ``model`` and the further sections.

    Raises:
        UserError: the file is missing, damaged, or of an unknown format version.
    """
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{folder} is not a model: it has no config.json") from None
    except (OSError, ValueError) as error:
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
    except (SafetensorError, OSError) as error:
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


def _replace(path: Path, write: Any) -> None:
    """Writes a file under a temporary name and renames it, so that no reader finds half a file."""
    new = path.with_name(path.name + ".new")
    try:
        write(new)
        os.replace(new, path)
    finally:
        new.unlink(missing_ok=True)
