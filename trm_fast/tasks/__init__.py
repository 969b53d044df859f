"""The tasks by name. A module is imported when its task is asked for, so that one task's extras burden no other."""

from __future__ import annotations

from difflib import get_close_matches
from importlib import import_module

from trm_fast.errors import UserError
from trm_fast.tasks.base import Task

_CLASSES = {
    "sudoku": "trm_fast.tasks.sudoku.task:Sudoku",
}


def task_names() -> list[str]:
    return sorted(_CLASSES)


def get_task(name: str) -> type[Task]:
    """The class of the task called ``name``; an unknown name is a UserError (wrong use) with the nearest known one."""
    if name not in _CLASSES:
        near = get_close_matches(name.lower(), task_names(), n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(task_names())}"
        raise UserError(f"unknown task {name!r}; {hint}", wrong_use=True)
    module, _, cls = _CLASSES[name].partition(":")
    task: type[Task] = getattr(import_module(module), cls)
    return task
