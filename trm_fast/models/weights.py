"""Reads weights from files, after their names, shapes and sizes have been checked against the model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from trm_fast.errors import VALUE, UserError, cut
from trm_fast.memory import require_memory
from trm_fast.models.config import TRMConfig
from trm_fast.models.trm import TRMModel

Shape = tuple[int, ...]


def meta_model(config: TRMConfig, where: str, dtype: torch.dtype = torch.float32) -> TRMModel:
    """The model of a configuration without memory for its weights. ``dtype`` is that of its activations.

    Raises:
        UserError: the weights are larger than any memory. The message starts with ``where``.
    """
    try:
        with torch.device("meta"):
            return TRMModel(config, dtype)
    except (RuntimeError, OverflowError, TypeError):  # sizes that overflow 64 bits
        raise UserError(f"{where}: a model of these sizes is larger than any memory") from None


def check_shapes(shapes: Mapping[str, Shape], model: nn.Module, where: str) -> None:
    """Checks that tensors have the names and shapes of a model's weights.

    Raises:
        UserError: a tensor is missing, unknown or of another shape. The message starts with ``where``.
    """
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    problems = [f"{name} is missing" for name in expected if name not in shapes]
    problems += [f"{cut(name, VALUE)} is unknown" for name in shapes if name not in expected]
    if problems:
        raise UserError(f"{where} does not fit the model: {'; '.join(problems[:3])}")
    for name, shape in expected.items():
        if shapes[name] != shape:
            raise UserError(f"{where}: {name} has shape {shapes[name]}, the model has {shape}")


def check_numbers(tensors: Mapping[str, Tensor], where: str) -> None:
    """Checks that weights are finite real numbers.

    Raises:
        UserError: they are not. The message starts with ``where``.
    """
    for name, tensor in tensors.items():
        if not tensor.is_floating_point():
            raise UserError(f"{where}: {name} has integers ({tensor.dtype}), weights are real numbers")
        values = tensor if tensor.itemsize > 1 else tensor.float()  # torch cannot check numbers of 8 bits
        if not bool(values.isfinite().all()):
            raise UserError(f"{where}: {name} has values that are not finite (NaN or infinity): the file is damaged")


def check_memory(model: nn.Module, where: str, copies: int = 1) -> None:
    """Checks that a model, which may be a ``meta_model``, fits into memory.

    Args:
        model: the model.
        where: the file or run that describes it, for the message.
        copies: how many times its weights will be in memory.

    Raises:
        UserError: there is less memory.
    """
    size = sum(tensor.nbytes for tensor in (*model.parameters(), *model.buffers()))
    require_memory(copies * size, f"{where}: the model", "take a smaller one")


def read_shapes(path: Path) -> dict[str, Shape]:
    """The names and shapes of the tensors of a safetensors file. Nothing but its header is read.

    Raises:
        UserError: the file is missing or damaged.
    """
    with _opened(path) as file:
        return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file.

    Raises:
        UserError: the file is missing, damaged, or larger than the free memory.
    """
    _opened(path)
    require_memory(path.stat().st_size, str(path), "take a smaller file")
    return load_file(path)


def _opened(path: Path) -> Any:
    try:
        return safe_open(path, "pt")
    except FileNotFoundError:
        raise UserError(f"{path} is missing") from None
    except PermissionError:
        raise UserError(f"{path} cannot be read: permission denied") from None
    except (SafetensorError, OSError, ValueError, OverflowError) as error:
        raise UserError(f"{path} is damaged or not a safetensors file: {error}") from None


def load_weights(model: nn.Module, path: Path) -> None:
    """Loads a safetensors file into a module.

    Raises:
        UserError: the file is missing or damaged, its names or shapes are not those of the module, or a weight is not
            a finite number.
    """
    check_shapes(read_shapes(path), model, str(path))
    tensors = read_tensors(path)
    check_numbers(tensors, str(path))
    model.load_state_dict(tensors)
