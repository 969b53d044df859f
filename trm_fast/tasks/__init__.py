"""The registry of tasks. A task's module is imported when the task is first used, so that no task needs the optional
packages of another.

A task outside this package has the name ``module:Class``. Importing the module runs its code. A configuration may come
from a stranger, so that the module is imported only within ``trusting_code``, where the user chose the name or trusts
the file. A class whose module the program has imported already is found everywhere.
"""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from difflib import get_close_matches
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from trm_fast.errors import UserError, cut, shown
from trm_fast.tasks.base import Task, TaskConfig
from trm_fast.validation import validated

_TRUSTING = ContextVar("trusting", default=False)

_CLASSES = {
    "arc": "trm_fast.tasks.arc.task:ARC",
    "copy": "trm_fast.tasks.copy:Copy",
    "grid": "trm_fast.tasks.grid.task:Grid",
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
        UserError: no task has this name (the message suggests a similar one), its module may not be imported here
            (``trusting_code``), or the import fails.

    Examples:
        >>> get_task("sudoku").noun
        'puzzles'
    """
    if ":" in name:
        return _from_elsewhere(name)
    if name not in _CLASSES:
        near = get_close_matches(cut(name.lower(), 80), task_names(), n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(task_names())}"
        raise UserError(f"unknown task {shown(name)}; {hint}", usage_error=True)
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
    try:
        kind = get_task(keys["name"])
    except UserError as error:
        raise UserError(f"{where}: {error}", usage_error=True) from None
    return kind(validated(kind.Config, keys, "task", where))


@contextmanager
def trusting_code(trust: bool = True) -> Iterator[None]:
    """Within this context, ``get_task`` imports the modules of tasks outside this package if ``trust`` is True.

    Examples:
        >>> with trusting_code():
        ...     task = get_task("trm_fast.tasks.copy:Copy")
    """
    token = _TRUSTING.set(trust or _TRUSTING.get())
    try:
        yield
    finally:
        _TRUSTING.reset(token)


def _from_elsewhere(name: str) -> type[Task]:
    module_name, _, class_name = name.partition(":")
    if not all(part.isidentifier() for part in (*module_name.split("."), class_name)):
        raise UserError(f"the task {shown(name)} is not MODULE:CLASS, such as my_tasks:Reverse", usage_error=True)
    module = sys.modules.get(module_name) or _imported(module_name, name)
    task: Any = vars(module).get(class_name)
    if task is None:
        raise UserError(f"the task {shown(name)}: the module {module_name} has no {class_name}", usage_error=True)
    if not (isinstance(task, type) and issubclass(task, Task)):
        raise UserError(f"task {shown(name)} is not a subclass of trm_fast.tasks.base.Task", usage_error=True)
    config = getattr(task, "Config", None)
    missing = (
        [] if isinstance(config, type) and issubclass(config, TaskConfig) else ["Config, a subclass of TaskConfig"]
    )
    if inspect.isabstract(task):
        missing += sorted(task.__abstractmethods__)
    if missing:
        raise UserError(f"the task {shown(name)} does not define {', '.join(missing)}", usage_error=True)
    return task


def _imported(module: str, name: str) -> ModuleType:
    if not _TRUSTING.get():
        raise UserError(
            f"the task {shown(name)} runs the code of the module {module}. If you trust it, add --trust-code, or in "
            f"Python: import {module}",
            usage_error=True,
        )
    path = list(sys.path)
    sys.path.append(str(Path.cwd()))  # console scripts do not search the current folder
    importlib.invalidate_caches()
    try:
        return import_module(module)
    except Exception as error:  # a task's own code raises any kind
        reason = str(error) if isinstance(error, ImportError) else f"{type(error).__name__}: {error}"
        raise UserError(f"the task {shown(name)} cannot be imported: {reason}", usage_error=True) from error
    finally:
        sys.path[:] = path
