"""Which task has which rows of a model's puzzle embedding, kept beside the model."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from trm_fast.errors import UserError
from trm_fast.tasks.arc.files import ARCTask
from trm_fast.tasks.arc.symmetry import ELEMENTS, Look

FILE = "tasks.json"


@dataclass(frozen=True)
class TaskIndex:
    """Tasks by name in the order of their rows, each with a fingerprint of its demonstration pairs and the look that
    tells its augmentations apart."""

    names: list[str]
    fingerprints: list[str]
    looks: list[Look]

    @classmethod
    def of(cls, tasks: Sequence[ARCTask]) -> TaskIndex:
        looks = [Look.of(task.grids_shown()) for task in tasks]
        return cls([task.name for task in tasks], [task.fingerprint() for task in tasks], looks)

    def knows(self, task: ARCTask) -> bool:
        return task.fingerprint() in self._places

    def row(self, task: ARCTask, where: str = "") -> int:
        """The place of a task, found by its demonstration pairs; UserError where a model does not know it."""
        try:
            return self._places[task.fingerprint()]
        except KeyError:
            pass
        at = f"{where or task.name}: " if where or task.name else ""
        if task.name in self.names:
            raise UserError(f"{at}the model knows a task of this name, but with other demonstration pairs")
        raise UserError(
            f"{at}the model was not trained on this task. ARC models know a task by its demonstration pairs, which are "
            f"part of the training data: train one with --data that has the task"
        )

    @cached_property
    def _places(self) -> dict[str, int]:
        return {fingerprint: place for place, fingerprint in enumerate(self.fingerprints)}

    def save(self, folder: Path) -> None:
        content = [
            {"name": n, "demonstrations": f, "shapes": look.shapes, "colors": look.colors}
            for n, f, look in zip(self.names, self.fingerprints, self.looks, strict=True)
        ]
        (folder / FILE).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> TaskIndex:
        path = folder / FILE
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            names, prints = ([str(t[key]) for t in content] for key in ("name", "demonstrations"))
            return cls(names, prints, [_look(t) for t in content])
        except KeyError as error:
            raise UserError(f"{path}, the model's list of tasks, has no {error}: it is of another version") from None
        except (OSError, ValueError, TypeError) as error:
            raise UserError(f"{path}, the model's list of tasks, can't be read: {error}") from None


def _look(content: dict[str, Any]) -> Look:
    shapes, colors = [int(e) for e in content["shapes"]], [[int(c) for c in row] for row in content["colors"]]
    if {len(shapes), len(colors)} != {ELEMENTS}:
        raise ValueError(f"shapes and colors of {content['name']} have {ELEMENTS} entries each")
    return Look(shapes, colors)
