"""The options of the task arc, and the choice of ARC tasks to use and to hold out."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from trm_fast.errors import UserError
from trm_fast.tasks.arc import files
from trm_fast.tasks.arc.files import ARCTask
from trm_fast.tasks.arc.symmetry import ELEMENTS
from trm_fast.tasks.base import DataConfig, TaskConfig


class ARCConfig(TaskConfig):
    """The ``task:`` section for arc.

    Attributes:
        canvas: the side length of the square canvas that holds a grid. Tasks with larger grids are skipped; a note
            says how many.
        subsets: the parts of the data to use; by default all.
        tasks: the names of the tasks to use; by default all.
        held_out: the subsets whose test pairs are kept for testing; by default all. Their demonstration pairs are
            trained on, as published.
        augmentations: how many augmented copies of each task to use, in addition to the task itself.
        colors: whether augmentations permute the colors except black. With ``shared`` each training pair gets random
            colors, and only dihedral elements have their own rows of the puzzle embedding: for tasks whose rule does
            not depend on the colors other than black.
        dihedral: whether augmentations rotate and reflect.
        translation: whether training pairs are moved to random positions on the canvas.
        augmentation_seed: selects the augmentations.
    """

    name: str = "arc"
    canvas: int = Field(default=files.MAX_SIDE, ge=1, le=files.MAX_SIDE)
    subsets: list[str] | None = None
    tasks: list[str] | None = None
    held_out: list[str] | None = None
    augmentations: int = Field(default=1000, ge=0)
    colors: bool | Literal["shared"] = True
    dihedral: bool = True
    translation: bool = True
    augmentation_seed: int = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _check_augmentations(self) -> ARCConfig:
        limit = None if self.colors is True else ELEMENTS - 1 if self.dihedral else 0
        if limit is not None and self.augmentations > limit:
            raise ValueError(f"without colors: true there are at most {limit} augmentations, not {self.augmentations}")
        return self


def choose(config: ARCConfig, data: DataConfig) -> tuple[list[ARCTask], set[str], list[str]]:
    """The tasks to use, the names of those whose test pairs are held out, and notes for the user.

    With ``data.test`` the tasks of that source are added, and only their test pairs are held out.

    Raises:
        UserError: the data cannot be read, lacks what the configuration names, or leaves no task.
    """
    if data.source is None:
        raise UserError(
            "the task arc needs data: --data FILE, such as a folder of task files, a Kaggle challenges file, or "
            "several of them separated by commas",
            usage_error=True,
        )
    tasks = files.read(data.source if data.test is None else f"{data.source},{data.test}")
    subsets = {task.subset for task in tasks}
    for key, names, available in (
        ("subsets", config.subsets, subsets),
        ("held_out", config.held_out, subsets),
        ("tasks", config.tasks, {task.name for task in tasks}),
    ):
        if missing := sorted(set(names or ()) - available):
            hint = f"; it has {', '.join(sorted(available))}" if len(available) < 20 else ""
            raise UserError(f"task.{key}: the data has no {', '.join(missing[:5])}{hint}")
    if data.test is not None:
        held_out_names = {task.name for task in files.read(data.test)}
    else:
        held_out_names = {task.name for task in tasks if config.held_out is None or task.subset in config.held_out}
    tasks = [task for task in tasks if config.subsets is None or task.subset in config.subsets]
    tasks = [task for task in tasks if config.tasks is None or task.name in config.tasks]
    if not tasks:
        raise UserError(f"{data.source}: no task in task.tasks belongs to task.subsets")
    fitting = [task for task in tasks if task.largest <= config.canvas]
    side = f"{config.canvas} x {config.canvas}"
    if not fitting:
        raise UserError(f"{data.source}: no task is left: all of them have grids larger than {side}")
    notes = []
    if left_out := len(tasks) - len(fitting):
        notes.append(f"{left_out} of {len(tasks)} tasks have grids larger than {side} and are left out")
    return fitting, held_out_names, notes
