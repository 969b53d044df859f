"""Loads the data of a run: checks that the task reads files, and replaces a hub data set that is out of reach."""

from __future__ import annotations

from dataclasses import replace

from trm_fast.errors import UserError
from trm_fast.tasks import hub
from trm_fast.tasks.base import DataConfig, Dataset, Task


def load_dataset(task: Task, data: DataConfig, seed: int) -> Dataset:
    """Training and test examples, as ``task.dataset`` returns them.

    Raises:
        UserError: ``data`` names files or data sets, but the task reads none; or they cannot be read.
        Unavailable: the hub cannot be reached, or the ``datasets`` package is missing.
    """
    for key, source in (("data.source", data.source), ("data.test", data.test)):
        if source is not None and not task.reads_files:
            raise UserError(
                f"{key} = {source}: the task {task.name} reads no files of examples; it would need a method read",
                usage_error=True,
            )
    return task.dataset(data, seed)


def load_or_generate(task: Task, data: DataConfig, seed: int) -> tuple[DataConfig, Dataset]:
    """The data of a new run. If the hub is out of reach and the task has a generator, generated examples replace those
    of the hub, and a note says so.

    Returns:
        The data section that describes what was loaded, and the examples.

    Raises:
        UserError: as in ``load_dataset``.
    """
    try:
        return data, load_dataset(task, data, seed)
    except hub.Unavailable as problem:
        if not task.fallback_note:
            raise
        kept_test = None if data.test is None or data.test.startswith(hub.PREFIX) else data.test
        used = data.model_copy(update={"source": None, "test": kept_test})
        dataset = load_dataset(task, used, seed)
        return used, replace(dataset, notes=[f"{problem}; {task.fallback_note}", *dataset.notes])
