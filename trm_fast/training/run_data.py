"""The data of a run: what a new run trains on, and the same again when it is resumed."""

from __future__ import annotations

from trm_fast.errors import UserError
from trm_fast.tasks.base import Dataset, Task
from trm_fast.tasks.hub import Unavailable
from trm_fast.tasks.loading import load_dataset, load_or_generate
from trm_fast.training.config import RunConfig
from trm_fast.training.process_group import ProcessGroup


def load_run_data(
    config: RunConfig, task: Task, group: ProcessGroup, *, new: bool, trained: Task | None = None
) -> tuple[RunConfig, Dataset]:
    """The examples of a run, and the configuration that says what they are. ``trained`` is the task of the model that
    the run fine-tunes.

    Where generated examples replace those of a hub that is out of reach, the configuration of a ``new`` run no longer
    names the hub, so that a resumed run generates them again.

    Raises:
        UserError: the data cannot be read, has no training rows, or differs between processes.
    """
    if trained is not None and type(trained) is type(task):
        task.adopt(trained)
    try:
        data, seed = config.data, config.training.seed
        if new:
            data, dataset = load_or_generate(task, data, seed)
        else:
            dataset = load_dataset(task, data, seed)
    except Unavailable as problem:
        hint = "" if new else "; a resumed run needs the data that its config.yaml names"
        raise UserError(f"{problem}{hint}") from None
    if not len(dataset.train):
        raise UserError(f"there is nothing to train on: {dataset.source} has no training rows")
    if len(set(group.gather_objects(dataset.source))) > 1:
        raise UserError(f"the processes loaded different data; this one has {dataset.source}")
    return config.model_copy(update={"data": data}), dataset
