"""The options of the task arc, the choice of ARC tasks to use, and the split of their pairs for training and test."""

from __future__ import annotations

import zlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from pydantic import Field, model_validator

from trm_fast.errors import UserError
from trm_fast.tasks.arc import files
from trm_fast.tasks.arc.parsing import MAX_SIDE, ARCTask, Pair
from trm_fast.tasks.arc.symmetry import ELEMENTS
from trm_fast.tasks.base import DataConfig, TaskConfig
from trm_fast.tasks.sets import holdout_note, random_split

TaskPair = tuple[ARCTask, Pair]

SHOWN = 5
"""How many tasks a note names at most."""


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
    canvas: int = Field(default=MAX_SIDE, ge=1, le=MAX_SIDE)
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
        tests = files.read(data.test)
        if lists := [task.where for task in tests if not task.test]:
            raise UserError(f"data.test: {lists[0]} is a list of pairs; a test set needs tasks with test pairs")
        held_out_names = {task.name for task in tests}
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


def same_tasks(tasks: Sequence[ARCTask], held_out: Collection[str]) -> tuple[set[str], list[str]]:
    """Finds tasks that occur several times under different names: those with equal demonstration pairs.

    Of each group one is kept, if possible one that is held out.

    Returns:
        The names of the others, and notes that name the tasks of each group.
    """
    groups: dict[str, list[ARCTask]] = {}
    for task in tasks:
        groups.setdefault(task.demonstrations, []).append(task)
    left_out: set[str] = set()
    lines = []
    for group in groups.values():
        kept = next((task for task in group if task.name in held_out), group[0])
        if others := [task for task in group if task is not kept]:
            left_out |= {task.name for task in others}
            named = [f"{task.name} ({task.subset})" for task in (kept, *others)]
            lines.append(
                f"{named[0]} and {', '.join(named[1:])} are the same task, with equal demonstration pairs: "
                f"{', '.join(task.name for task in others)} {'is' if len(others) == 1 else 'are'} left out"
            )
    if len(lines) > SHOWN:
        lines[SHOWN:] = [f"{len(lines) - SHOWN} more tasks occur several times; one of each is kept"]
    return left_out, lines


@dataclass
class Split:
    """Pairs to train on and to test on, each with its task, and notes for the user."""

    train: list[TaskPair]
    test: list[TaskPair]
    notes: list[str]


def split(
    tasks: Sequence[ARCTask], held_out: Collection[str], left_out: Collection[str], canvas: int, share: float, seed: int
) -> Split:
    """Splits the pairs of tasks into training and test pairs. No training pair equals a test pair.

    Args:
        tasks: the tasks.
        held_out: the names of the tasks whose test pairs are held out.
        left_out: the names of tasks that occur twice. Their demonstration pairs are those of another task. Their test
            pairs are used, because they may be others.
        canvas: the longest side of a grid. Larger generated pairs are left out.
        share: the share of the pairs to hold out from lists of pairs, which have no test pairs.
        seed: seeds the choice of these.
    """
    result = Split([], [], [])
    listed, chosen, too_large = 0, 0, 0
    for task in tasks:
        shown, hidden = ([] if task.name in left_out else task.train), task.test
        if task.name in held_out and not task.test and len(shown) > 1:
            rng = np.random.default_rng((seed % 2**64, zlib.crc32(task.name.encode())))
            rows = random_split(len(shown), share, rng, task.where)
            listed, chosen = listed + len(shown), chosen + len(rows[1])
            shown, hidden = ([shown[row] for row in sorted(part)] for part in rows)
        elif task.name not in held_out:
            shown, hidden = [*shown, *task.test], []
        fitting = [pair for pair in task.generated if pair.largest <= canvas]
        too_large += len(task.generated) - len(fitting)
        result.train += [(task, pair) for pair in (*shown, *fitting) if pair.output is not None]
        result.test += [(task, pair) for pair in hidden]
    result.notes += holdout_note(chosen, listed, share, "pairs of lists without test pairs")
    if too_large:
        result.notes.append(
            f"{too_large:,} generated pairs have grids larger than {canvas} x {canvas} and are left out"
        )
    distinct: dict[tuple[str, bytes], TaskPair] = {}
    for task, pair in result.test:
        distinct.setdefault((task.demonstrations, pair.content), (task, pair))
    result.test = list(distinct.values())
    result.train, leak_notes = without_test_pairs(result.train, result.test)
    result.notes += leak_notes
    if unknown := sum(pair.output is None for _, pair in result.test):
        result.notes.append(f"{unknown} of {len(result.test)} test inputs have no answer and are not scored")
        result.test = [item for item in result.test if item[1].output is not None]
    return result


def without_test_pairs(train: Sequence[TaskPair], test: Sequence[TaskPair]) -> tuple[list[TaskPair], list[str]]:
    """The training pairs that equal no test pair, and notes about the others.

    A demonstration pair that equals a test pair of its own task alone stays: it is a part of the question.
    """
    tested: dict[bytes, dict[str, str]] = {}  # content of a pair -> demonstrations of its tasks -> name
    for task, pair in test:
        tested.setdefault(pair.content, {})[task.demonstrations] = task.name
    kept: list[TaskPair] = []
    leaked: list[str] = []
    shown: list[str] = []
    for task, pair in train:
        tasks = tested.get(pair.content, {})
        stays = tasks.keys() == {task.demonstrations} and bool(task.test) and any(pair is p for p in task.train)
        if not tasks or stays:
            kept.append((task, pair))
        (shown if stays else leaked).extend(tasks.values())
    notes = []
    if leaked:
        count = len(train) - len(kept)
        number = "1 training pair is" if count == 1 else f"{count:,} training pairs are"
        notes.append(f"{number} left out: equal to held-out test pairs of {_some(leaked)}")
    if shown:
        notes.append(f"a demonstration pair equals a test pair of the same task in {_some(shown)}")
    return kept, notes


def _some(names: Sequence[str]) -> str:
    distinct = list(dict.fromkeys(names))
    return ", ".join(distinct[:SHOWN]) + (", ..." if len(distinct) > SHOWN else "")
