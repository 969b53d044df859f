"""Saves and loads model folders: ``config.json`` and ``model.safetensors``."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn

from trm_fast.errors import UserError, shown
from trm_fast.models.config import TRMConfig
from trm_fast.models.format_v1 import upgrade_sections
from trm_fast.models.trm import TRMModel
from trm_fast.models.weights import check_memory, check_shapes, load_weights, meta_model, read_shapes
from trm_fast.texts import json_text, parse_json, read_text
from trm_fast.validation import explain
from trm_fast.writing import new_folder, write_bytes

FORMAT_VERSION = 2
CONFIG, WEIGHTS = "config.json", "model.safetensors"
MAX_CONFIG = 16 << 20
"""The largest number of bytes of a configuration. A task section may hold a set of tools."""

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
        (new / CONFIG).write_text(json_text(config, indent=2) + "\n", encoding="utf-8")


def load_model(cls: type[M], folder: str | os.PathLike[str], compute_dtype: torch.dtype = torch.float32) -> M:
    """Loads the model of a folder that ``save_model`` wrote, in evaluation mode.

    Raises:
        UserError: the folder holds no model, or a damaged one.
    """
    path = Path(folder)
    file, weights = path / CONFIG, path / WEIGHTS
    sections = read_model_config(path)
    try:
        config = TRMConfig.model_validate(sections["model"])
    except ValidationError as error:
        raise UserError(f"{file}: {explain(error, TRMConfig, 'model')}") from None
    sizes = meta_model(config, str(file))
    check_shapes(read_shapes(weights), sizes, str(weights))  # before memory is taken for the model
    check_memory(sizes, str(file), copies=2)
    model = cls(config, compute_dtype)
    model.solver_defaults = sections.get("solver", {})
    load_weights(model, weights)
    return model.eval()


def save_section(folder: Path, name: str, section: dict[str, Any]) -> None:
    """Writes one section of a model folder's ``config.json``; an empty one is removed.

    Raises:
        UserError: the folder holds no model, or a damaged one.
    """
    config = read_model_config(folder)
    config.pop(name, None)
    config |= {"format_version": FORMAT_VERSION} | ({name: section} if section else {})
    write_bytes(folder / CONFIG, (json_text(config, indent=2) + "\n").encode())


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
    if not path.exists():
        raise UserError(f"{folder} is not a model: it has no {CONFIG}")
    config = parse_json(read_text(path, MAX_CONFIG), f"{path}: ")
    if not isinstance(config, dict) or not isinstance(config.get("model"), dict):
        raise UserError(f"{path} has no section 'model'")
    if config.get("format_version") not in (1, FORMAT_VERSION):
        raise UserError(
            f"{path} has format_version {shown(config.get('format_version'))}; this version reads 1 to {FORMAT_VERSION}"
        )
    try:
        return upgrade_sections(config)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
