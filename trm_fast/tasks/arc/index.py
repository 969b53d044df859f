"""Maps ARC tasks to rows of a model's puzzle embedding; saved in the model's folder."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from trm_fast.errors import UserError
from trm_fast.tasks.arc.parsing import ARCTask
from trm_fast.tasks.arc.symmetry import ELEMENTS, Appearance
from trm_fast.tasks.files import write_text
from trm_fast.texts import parse_json, read_text

FILE = "tasks.json"


@dataclass(frozen=True)
class TaskIndex:
    """The names, fingerprints and appearances of a model's tasks, in the order of their rows.

    A task that was left out, because another one has the same demonstration pairs, keeps its rows, which are not used.
    Its fingerprint is empty.
    """

    names: list[str]
    fingerprints: list[str]
    appearances: list[Appearance]

    @classmethod
    def of(cls, tasks: Sequence[ARCTask], left_out: Collection[str] = ()) -> TaskIndex:
        """The index of tasks in this order. ``left_out`` are names."""
        appearances = [Appearance.of(task.visible_grids()) for task in tasks]
        prints = ["" if task.name in left_out else task.fingerprint() for task in tasks]
        return cls([task.name for task in tasks], prints, appearances)

    def knows(self, task: ARCTask) -> bool:
        """Whether the model was trained on a task with these demonstration pairs."""
        return task.fingerprint() in self._positions

    def row(self, task: ARCTask, where: str = "") -> int:
        """The position of the task with these demonstration pairs.

        Raises:
            UserError: the model was not trained on it.
        """
        try:
            return self._positions[task.fingerprint()]
        except KeyError:
            pass
        location = f"{where or task.name}: " if where or task.name else ""
        if task.name in self.names:
            raise UserError(
                f"{location}the model was trained on a task of this name, but with other demonstration pairs"
            )
        raise UserError(
            f"{location}the model was not trained on this task. An ARC model solves only tasks whose demonstration "
            "pairs it was trained on: train a model with this task in --data"
        )

    @cached_property
    def _positions(self) -> dict[str, int]:
        return {fingerprint: position for position, fingerprint in enumerate(self.fingerprints) if fingerprint}

    def save(self, folder: Path) -> None:
        """Writes ``tasks.json`` into a folder."""
        content = [
            {"name": n, "demonstrations": f, "shapes": appearance.shapes, "colors": appearance.colors}
            for n, f, appearance in zip(self.names, self.fingerprints, self.appearances, strict=True)
        ]
        write_text(folder / FILE, json.dumps(content, indent=1) + "\n")

    @classmethod
    def load(cls, folder: Path) -> TaskIndex:
        """Reads ``tasks.json`` from a folder.

        Raises:
            UserError: the file cannot be read, or was written by another version.
        """
        path = folder / FILE
        try:
            content = parse_json(read_text(path), "")
            names, prints = ([str(t[key]) for t in content] for key in ("name", "demonstrations"))
            return cls(names, prints, [_appearance(t) for t in content])
        except KeyError as error:
            raise UserError(f"{path}, the model's list of tasks, has no {error}: another version wrote it") from None
        except (ValueError, TypeError, AttributeError) as error:
            raise UserError(f"{path}, the model's list of tasks, cannot be read: {error}") from None


def _appearance(content: dict[str, Any]) -> Appearance:
    shapes, colors = [int(e) for e in content["shapes"]], [[int(c) for c in row] for row in content["colors"]]
    if {len(shapes), len(colors)} != {ELEMENTS}:
        raise ValueError(f"shapes and colors of {content['name']} must have {ELEMENTS} entries each")
    return Appearance(shapes, colors)
