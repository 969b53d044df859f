"""Small trained models that ship with the package, one folder each, with the command that trained them."""

from __future__ import annotations

import os
from importlib.resources import files
from pathlib import Path

NAMES = ("maze-small", "sudoku-4x4", "sudoku-6x6", "sudoku-extreme", "sudoku-cpu")
"""The models. Where several can read a puzzle, the first is the default."""


def bundled_folder(name: str) -> Path:
    """The folder of a model that ships."""
    return Path(str(files(__name__) / name))


def model_folder(reference: str | os.PathLike[str]) -> Path:
    """The folder of a model: ``reference`` itself, or that of the model that ships with this name."""
    path = Path(reference)
    return bundled_folder(str(reference)) if not path.is_dir() and str(reference) in NAMES else path
