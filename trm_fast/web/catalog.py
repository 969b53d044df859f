"""The models that the server may load: those named at its start, those that ship, and the runs of one folder.

A request only names one of them. Its name is looked up in this list and is never used as a path.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

from trm_fast.errors import UserError
from trm_fast.interchange import Located, bundled_names, locate
from trm_fast.models.saving import read_model_config
from trm_fast.run_folder import CONFIG
from trm_fast.training import checkpoint
from trm_fast.training.read_config import read_yaml

RUNS = "runs/"
"""Starts the names of the models of runs."""
DEFAULT_SIZES = {"sudoku": 9, "maze": 30}
MAX_LOADED = 6
"""Number of models that stay loaded; the one that was not used for the longest time leaves first."""


@dataclass(frozen=True)
class Entry:
    """A model that can be loaded: its name, where it is, its ``task:`` section, and why it is in the list."""

    name: str
    reference: str
    section: dict[str, Any]
    kind: Literal["named", "shipped", "run"]

    @property
    def task(self) -> str:
        """The name of its task."""
        return str(self.section["name"])

    def to_json(self) -> dict[str, Any]:
        """What a client learns of it: no path."""
        size = self.section.get("size", DEFAULT_SIZES.get(self.task))
        return {"name": self.name, "task": self.task, "kind": self.kind, "size": size}


class Catalog:
    """Lists the models and loads them.

    Args:
        named: runs, model folders or names of shipped models, as the user typed them.
        runs: the folder whose runs can be loaded.
        device: the torch device of the models.

    Raises:
        UserError: a named model does not exist.
    """

    def __init__(self, named: Sequence[str], runs: Path, device: str = "cpu") -> None:
        self.runs, self.device = runs, device
        self._lock = threading.Lock()
        self._loaded: OrderedDict[str, tuple[Any, Located]] = OrderedDict()
        self._named: dict[str, Entry] = {}
        for reference in named:
            if reference in bundled_names() and not Path(reference).exists():
                continue
            name = _free_name(Path(reference).resolve().name, {*self._named, *bundled_names()})
            self._named[name] = Entry(name, reference, _task_section(Path(reference)), "named")

    def entries(self) -> list[Entry]:
        """All models: those named at the start, those that ship, and the runs with a checkpoint."""
        folder = Path(str(files("trm_fast.pretrained")))
        shipped = [Entry(name, name, _task_section(folder / name), "shipped") for name in bundled_names()]
        return [*self._named.values(), *shipped, *self._run_entries()]

    def entry(self, name: str) -> Entry:
        """The entry of a name.

        Raises:
            UserError: there is none.
        """
        for entry in self.entries():
            if entry.name == name:
                return entry
        raise UserError(f"there is no model {name[:100]!r} here", usage_error=True)

    def load(self, name: str) -> Located:
        """Loads a model, unless it is loaded already. A run's model is loaded again when there is a newer checkpoint.

        Raises:
            UserError: there is no such model, or it is damaged.
        """
        entry = self.entry(name)
        version = _version(Path(entry.reference)) if entry.kind != "shipped" else None
        with self._lock:
            loaded = self._loaded.pop(name, None)
            if loaded is None or loaded[0] != version:
                loaded = version, locate(entry.reference, device=self.device)
            self._loaded[name] = loaded
            while len(self._loaded) > MAX_LOADED:
                self._loaded.popitem(last=False)
        return loaded[1]

    def run_folders(self) -> Iterator[Path]:
        """The folders of the runs, newest first. Links are left out, because they may lead elsewhere."""
        if not self.runs.is_dir():
            return
        folders = [path for path in self.runs.iterdir() if path.is_dir() and not path.is_symlink()]
        folders = [path for path in folders if (path / CONFIG).is_file()]
        yield from sorted(folders, key=lambda path: (path / CONFIG).stat().st_mtime, reverse=True)

    def _run_entries(self) -> Iterator[Entry]:
        for folder in self.run_folders():
            with suppress(UserError):  # a damaged run is not listed
                if checkpoint.saved_steps(folder):
                    yield Entry(RUNS + folder.name, str(folder), _task_section(folder), "run")


def _version(folder: Path) -> Any:
    """Changes whenever the model of a run or of a folder changes."""
    steps = checkpoint.saved_steps(folder)
    changed = folder / "model.safetensors"
    return steps[-1:] or (changed.stat().st_mtime_ns if changed.is_file() else None)


def run_sections(folder: Path) -> dict[str, Any]:
    """The configuration of a run. It is parsed again only after it has changed, because pages ask for it every second.

    Raises:
        UserError: it cannot be read.
    """
    path = folder / CONFIG
    return _parsed(path, path.stat().st_mtime_ns) if path.is_file() else read_yaml(path)


@lru_cache(maxsize=256)
def _parsed(path: Path, changed: int) -> dict[str, Any]:
    return read_yaml(path)


def _task_section(folder: Path) -> dict[str, Any]:
    try:
        sections = run_sections(folder) if (folder / CONFIG).is_file() else read_model_config(folder)
        if isinstance(section := sections.get("task"), dict) and isinstance(section.get("name"), str):
            return section
        raise UserError(f"{folder} names no task")
    except UserError:
        if folder.is_dir():
            raise
        ships = ", ".join(bundled_names())
        raise UserError(f"there is no run or model {str(folder)!r}; models that ship with trm_fast: {ships}") from None


def _free_name(name: str, taken: set[str]) -> str:
    number, free = 1, name
    while free in taken:
        number += 1
        free = f"{name}-{number}"
    return free
