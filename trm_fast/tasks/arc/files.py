"""Reads ARC tasks from single-task files, folders of them, Kaggle's challenges and solutions, or files of subsets."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from trm_fast.errors import UserError
from trm_fast.tasks.arc.grids import COLORS, Grid
from trm_fast.tasks.files import parse_json, read_text

MAX_SIDE = 30
VALID_COLORS = set(range(COLORS))
SUFFIXES = (".json", ".json.gz")


@dataclass(frozen=True)
class Pair:
    """An input grid and its output grid, None if the output is unknown."""

    input: Grid
    output: Grid | None

    @property
    def largest(self) -> int:
        """The longest side of the grids."""
        return max(*self.input.shape, *(() if self.output is None else self.output.shape))


@dataclass(frozen=True)
class ARCTask:
    """An ARC task: demonstration pairs ``train`` and test pairs ``test``. ``subset`` names a part of the data set."""

    name: str
    subset: str
    train: list[Pair]
    test: list[Pair]

    @property
    def largest(self) -> int:
        """The longest side of all grids."""
        return max(pair.largest for pair in self.train + self.test)

    def visible_grids(self) -> list[Grid]:
        """All grids except the test outputs, which may be held out."""
        pairs = [grid for pair in self.train for grid in (pair.input, pair.output) if grid is not None]
        return [*pairs, *(pair.input for pair in self.test)]

    def fingerprint(self) -> str:
        """A checksum of the demonstration pairs, independent of their order. It identifies the task."""
        pairs = sorted(json.dumps([_rows(p.input), _rows(p.output)]) for p in self.train)
        return f"{zlib.crc32(''.join(pairs).encode()):08x}"


def read(source: str) -> list[ARCTask]:
    """The tasks of a file, of a folder of task files, or of several of them, separated by commas.

    A file contains one task ``{"train": [{"input", "output"}], "test": [...]}``, tasks by name, or subsets of tasks by
    name. The solutions of a Kaggle file ``..._challenges.json`` come from ``..._solutions.json`` in the same folder.

    Raises:
        UserError: a file cannot be read or is malformed (the message names file and position), or two tasks have the
            same name.
    """
    tasks: dict[str, ARCTask] = {}
    for part in source.split(","):
        path = Path(part.strip())
        for task in _folder(path) if path.is_dir() else _file(path):
            if task.name in tasks:
                raise UserError(f"{path}: the data already has a task {task.name} ({tasks[task.name].subset})")
            tasks[task.name] = task
    return list(tasks.values())


def parse_task(text: str, where: str) -> ARCTask:
    """Parses an unnamed task from its JSON text. Error messages start with ``where``."""
    return _task(parse_json(text, f"{where}: "), "", "", where)


def _folder(folder: Path) -> Iterable[ARCTask]:
    files = sorted(path for path in folder.iterdir() if path.name.endswith(SUFFIXES))
    if not files:
        raise UserError(f"{folder} has no task files (.json)")
    for file in files:
        yield _task(_json(file), _stem(file), folder.resolve().name, str(file))


def _file(path: Path) -> Iterable[ARCTask]:
    content = _json(path)
    if not isinstance(content, dict) or not content:
        raise UserError(f"{path}: expected an object of tasks or of subsets of tasks")
    if any(isinstance(content.get(part), list) for part in ("train", "test")):  # subsets may have these names too
        yield _task(content, _stem(path), path.resolve().parent.name, str(path))
        return
    if all(isinstance(value, dict) and value and not _is_task(value) for value in content.values()):
        for subset, tasks in content.items():
            for name, task in tasks.items():
                yield _task(task, name, subset, f"{path}: {subset}: {name}")
        return
    if all(isinstance(value, list) for value in content.values()):
        raise UserError(
            f"{path} contains only solutions: give the challenges file, and its solutions are read from the same folder"
        )
    answers = _solutions(path)
    for name, task in content.items():
        where = f"{path}: {name}"
        if _is_task(task) and name in answers:
            task = task | {"test": _with_solutions(task["test"], answers[name], where)}
        yield _task(task, name, _stem(path).removesuffix("_challenges").split("_")[-1], where)


def _solutions(path: Path) -> dict[str, Any]:
    solutions_path = path.with_name(path.name.replace("challenges", "solutions"))
    if solutions_path == path or not solutions_path.is_file():
        return {}
    content = _json(solutions_path)
    if not isinstance(content, dict):
        raise UserError(f"{solutions_path}: expected an object with a list of grids for each task")
    return content


def _with_solutions(questions: Any, answers: Any, where: str) -> list[Any]:
    if not isinstance(questions, list) or not isinstance(answers, list) or len(questions) != len(answers):
        raise UserError(f"{where}: its solutions must have one grid for each test input")
    return [{**_pair(q, where), "output": a} for q, a in zip(questions, answers, strict=True)]


def _is_task(value: Any) -> bool:
    return isinstance(value, dict) and "train" in value and "test" in value


def _task(value: Any, name: str, subset: str, where: str) -> ARCTask:
    if not _is_task(value):
        raise UserError(f'{where}: a task is an object with "train" and "test"')
    parts: dict[str, list[Pair]] = {}
    for part in ("train", "test"):
        if not isinstance(value[part], list) or not value[part]:
            raise UserError(f'{where}: "{part}" must be a list of one or more pairs')
        parts[part] = []
        for index, raw in enumerate(value[part]):
            location = f"{where}: {part}[{index}]"
            pair = _pair(raw, location)
            output = pair.get("output")
            if output is None and part == "train":
                raise UserError(f'{location}: a demonstration pair needs an "output"')
            question = _grid(pair["input"], f"{location}.input")
            parts[part].append(Pair(question, None if output is None else _grid(output, f"{location}.output")))
    return ARCTask(name, subset, parts["train"], parts["test"])


def _pair(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict) or "input" not in value:
        raise UserError(f'{where}: a pair is an object with an "input" and an "output"')
    return value


def _grid(value: Any, where: str) -> Grid:
    """Parses a grid from JSON. Raises a UserError if it is malformed."""
    if not isinstance(value, list) or not value or not all(isinstance(row, list) and row for row in value):
        raise UserError(f"{where}: a grid is a list of rows, each a list of colors 0 to {COLORS - 1}")
    width = len(value[0])
    for number, row in enumerate(value):
        if len(row) != width:
            raise UserError(f"{where}: row {number} has {len(row)} cells, row 0 has {width}")
        if set(map(type, row)) != {int} or not set(row) <= VALID_COLORS:
            wrong = next(cell for cell in row if type(cell) is not int or cell not in VALID_COLORS)
            raise UserError(f"{where}: row {number}: {wrong!r} is not a color from 0 to {COLORS - 1}")
    if max(len(value), width) > MAX_SIDE:
        raise UserError(f"{where}: {len(value)} x {width} cells; a grid has at most {MAX_SIDE} x {MAX_SIDE}")
    return np.array(value, dtype=np.uint8)


def _rows(grid: Grid | None) -> Any:
    return None if grid is None else grid.tolist()


def _stem(path: Path) -> str:
    return path.name.removesuffix(".gz").removesuffix(".json")


def _json(path: Path) -> Any:
    return parse_json(read_text(path), f"{path}: ")
