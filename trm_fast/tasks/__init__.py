"""The registry of tasks. A task's module is imported when the task is first used, so that no task needs the optional
packages of another.

A task outside this package has the name ``module:Class``. The module is searched for on Python's path and in the
current folder.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from difflib import get_close_matches
from importlib import import_module
from pathlib import Path
from typing import Any

from trm_fast.errors import UserError
from trm_fast.tasks.base import Task
from trm_fast.validation import validated

_CLASSES = {
    "arc": "trm_fast.tasks.arc.task:ARC",
    "copy": "trm_fast.tasks.copy:Copy",
    "maze": "trm_fast.tasks.maze.task:Maze",
    "multi": "trm_fast.tasks.multi:Multi",
    "sequence": "trm_fast.tasks.sequence:Sequence",
    "sudoku": "trm_fast.tasks.sudoku.task:Sudoku",
    "symbols": "trm_fast.tasks.symbols:Symbols",
    "tool-generate": "trm_fast.tasks.tool_calling.generate.task:ToolGenerate",
    "tool-select": "trm_fast.tasks.tool_calling.select.task:ToolSelect",
    "tool-slots": "trm_fast.tasks.tool_calling.slots.task:ToolSlots",
}


def task_names() -> list[str]:
    """The names of the tasks of this package, sorted."""
    return sorted(_CLASSES)


def get_task(name: str) -> type[Task]:
    """The class of the task called ``name``.

    Raises:
        UserError: no task has this name (the message suggests a similar one), or its module cannot be imported.

    Example:
        >>> get_task("sudoku").noun
        'puzzles'
    """
    if ":" in name:
        return _from_elsewhere(name)
    if name not in _CLASSES:
        near = get_close_matches(name.lower(), task_names(), n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(task_names())}"
        raise UserError(f"unknown task {name!r}; {hint}", usage_error=True)
    module, _, cls = _CLASSES[name].partition(":")
    task: type[Task] = getattr(import_module(module), cls)
    return task


def make_task(section: str | Mapping[str, Any], where: str) -> Task:
    """The task of a section ``task:``, or of a name with default values.

    Args:
        section: the name, or the keys, among them ``name``.
        where: the file or argument that it comes from, for messages.

    Raises:
        UserError: there is no such task, or a key is unknown or has a wrong value.
    """
    keys = {"name": section} if isinstance(section, str) else dict(section)
    if not isinstance(keys.get("name"), str):
        raise UserError(f"{where}: task.name is missing", usage_error=True)
    kind = get_task(keys["name"])
    return kind(validated(kind.Config, keys, "task", where))


def _from_elsewhere(name: str) -> type[Task]:
    module, _, cls = name.partition(":")
    here = str(Path.cwd())
    if here not in sys.path:  # console scripts do not search the current folder
        sys.path.append(here)
    try:
        task = getattr(import_module(module), cls)
    except (ImportError, AttributeError) as error:
        raise UserError(f"the task {name!r} cannot be imported: {error}", usage_error=True) from None
    if not (isinstance(task, type) and issubclass(task, Task)):
        raise UserError(f"task {name!r} is not a subclass of trm_fast.tasks.base.Task", usage_error=True)
    return task
