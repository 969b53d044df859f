"""The tasks by name. A module is imported when its task is asked for, so that one task's extras burden no other.

A task that is not one of these has the name ``module:Class``; the module is found where Python finds modules, and in
the current folder.
"""

from __future__ import annotations

import sys
from difflib import get_close_matches
from importlib import import_module
from pathlib import Path

from trm_fast.errors import UserError
from trm_fast.tasks.base import Task

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
    return sorted(_CLASSES)


def get_task(name: str) -> type[Task]:
    """The class of the task called ``name``; an unknown name is a UserError (wrong use) with the nearest known one."""
    if ":" in name:
        return _from_elsewhere(name)
    if name not in _CLASSES:
        near = get_close_matches(name.lower(), task_names(), n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(task_names())}"
        raise UserError(f"unknown task {name!r}; {hint}", wrong_use=True)
    module, _, cls = _CLASSES[name].partition(":")
    task: type[Task] = getattr(import_module(module), cls)
    return task


def _from_elsewhere(name: str) -> type[Task]:
    module, _, cls = name.partition(":")
    here = str(Path.cwd())
    if here not in sys.path:  # a console script does not look there
        sys.path.append(here)
    try:
        task = getattr(import_module(module), cls)
    except (ImportError, AttributeError) as error:
        raise UserError(f"task {name!r} can't be loaded: {error}", wrong_use=True) from None
    if not (isinstance(task, type) and issubclass(task, Task)):
        raise UserError(f"task {name!r} is not a subclass of trm_fast.tasks.base.Task", wrong_use=True)
    return task
