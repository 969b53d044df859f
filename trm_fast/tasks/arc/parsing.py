"""ARC tasks, and their JSON forms: an object of pairs, or a plain list of pairs."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from trm_fast.errors import UserError
from trm_fast.tasks.arc.grids import COLORS, Grid
from trm_fast.tasks.files import parse_json

MAX_SIDE = 30
VALID_COLORS = set(range(COLORS))

NAME_KEYS = ("id", "task_id", "name", "task_name", "uid", "uuid", "puzzle_id")
SUBSET_KEYS = ("subset", "split", "dataset")
GENERATED_KEYS = ("arc-gen",)
"""Fields with further pairs of a task, made by a program."""
COMMENT_KEYS = ("metadata", "meta", "info", "tags", "concepts", "comments")
"""Fields of any type that only describe a task or a pair."""


@dataclass(frozen=True)
class Pair:
    """An input grid and its output grid, None if the output is unknown."""

    input: Grid
    output: Grid | None

    @property
    def largest(self) -> int:
        """The longest side of the grids."""
        return max(*self.input.shape, *(() if self.output is None else self.output.shape))

    @property
    def content(self) -> bytes:
        """Bytes that are equal for equal pairs."""
        grids = (self.input,) if self.output is None else (self.input, self.output)
        return b"".join(bytes(grid.shape) + grid.tobytes() for grid in grids)


@dataclass(frozen=True)
class ARCTask:
    """An ARC task: demonstration pairs ``train`` and test pairs ``test``.

    ``subset`` names a part of the data set. ``generated`` are further pairs to train on, which do not identify the
    task. A list of pairs without a task is a task whose ``test`` is empty. ``where`` is its file and position.
    """

    name: str
    subset: str
    train: list[Pair]
    test: list[Pair]
    generated: list[Pair] = field(default_factory=list)
    where: str = ""

    @property
    def largest(self) -> int:
        """The longest side of all grids, those of generated pairs excepted."""
        return max(pair.largest for pair in self.train + self.test)

    def visible_grids(self) -> list[Grid]:
        """All grids of demonstration pairs, and the test inputs. Test outputs may be held out."""
        pairs = [grid for pair in self.train for grid in (pair.input, pair.output) if grid is not None]
        return [*pairs, *(pair.input for pair in self.test)]

    @cached_property
    def demonstrations(self) -> str:
        """A text that is equal for tasks with equal demonstration pairs, in any order."""
        return "".join(sorted(json.dumps([_rows(pair.input), _rows(pair.output)]) for pair in self.train))

    def fingerprint(self) -> str:
        """A checksum of the demonstration pairs, independent of their order. It identifies the task."""
        return f"{zlib.crc32(self.demonstrations.encode()):08x}"


def _rows(grid: Grid | None) -> Any:
    return None if grid is None else grid.tolist()


def parse_task(text: str, where: str) -> ARCTask:
    """Parses an unnamed task from its JSON text. Error messages start with ``where``."""
    return task_from_json(parse_json(text, f"{where}: "), "", "", where)


def is_pair(value: Any) -> bool:
    """Whether a JSON value looks like a pair."""
    return isinstance(value, dict) and "input" in value


def is_pair_list(value: Any) -> bool:
    """Whether a JSON value looks like a list of pairs."""
    return isinstance(value, list) and bool(value) and is_pair(value[0])


def is_task(value: Any) -> bool:
    """Whether a JSON value looks like a task: an object with a list of pairs. The names of subsets may also be
    ``train`` and ``test``, but these contain tasks."""
    if not isinstance(value, dict):
        return False
    parts = [value[part] for part in ("train", "test") if isinstance(value.get(part), list)]
    return bool(parts) and not any(part and is_task(part[0]) for part in parts)


def task_from_json(value: Any, name: str, subset: str, where: str) -> ARCTask:
    """A task from its JSON value, an object or a list of pairs. Its own fields precede ``name`` and ``subset``.

    Raises:
        UserError: the value is malformed, or has a field that would be left unread. The message starts with ``where``.
    """
    if is_pair_list(value):
        return ARCTask(name, subset, _pairs(value, where, "", answered=True), [], where=where)
    if not isinstance(value, dict) or "train" not in value or "test" not in value:
        raise UserError(f'{where}: a task is an object with "train" and "test"')
    _check_fields(value, ("train", "test", *GENERATED_KEYS), where, 'the pairs of a task are in "train" and "test"')
    parts: dict[str, list[Pair]] = {}
    for part in ("train", "test"):
        if not isinstance(value[part], list) or not value[part]:
            raise UserError(f'{where}: "{part}" must be a list of one or more pairs')
        parts[part] = _pairs(value[part], where, part, answered=part == "train")
    generated = [p for key in GENERATED_KEYS if key in value for p in _pairs(value[key], where, key, answered=True)]
    own_name, own_subset = (_text(value, keys) for keys in (NAME_KEYS, SUBSET_KEYS))
    return ARCTask(own_name or name, own_subset or subset, parts["train"], parts["test"], generated, where)


def pair_from_json(value: Any, where: str) -> dict[str, Any]:
    """A pair as a JSON object, its fields checked.

    Raises:
        UserError: it is none, or has a field that would be left unread.
    """
    if not is_pair(value):
        raise UserError(f'{where}: a pair is an object with an "input" and an "output"')
    _check_fields(value, ("input", "output"), where, 'a pair has an "input" and an "output"')
    pair: dict[str, Any] = value
    return pair


def _pairs(values: Any, where: str, part: str, *, answered: bool) -> list[Pair]:
    """Parses pairs. ``answered``: whether each needs an output."""
    if not isinstance(values, list):
        raise UserError(f'{where}: "{part}" must be a list of pairs')
    pairs = []
    for index, value in enumerate(values):
        location = f"{where}: {part}[{index}]"
        raw = pair_from_json(value, location)
        output = raw.get("output")
        if output is None and answered:
            raise UserError(f'{location}: a demonstration pair needs an "output"')
        question = _grid(raw["input"], f"{location}.input")
        pairs.append(Pair(question, None if output is None else _grid(output, f"{location}.output")))
    return pairs


def _check_fields(value: Mapping[str, Any], names: Iterable[str], where: str, accepted: str) -> None:
    """Refuses lists and objects in unknown fields: they may hold grids. Texts and numbers only describe."""
    for key, content in value.items():
        if key not in names and key not in COMMENT_KEYS and isinstance(content, list | dict) and content:
            raise UserError(f'{where}: the field "{key}" is unknown: {accepted}')


def _text(value: Mapping[str, Any], keys: Iterable[str]) -> str:
    """The first of some fields that holds a text or a whole number; empty if none does."""
    values = (value.get(key) for key in keys)
    return next((str(v) for v in values if isinstance(v, str | int) and not isinstance(v, bool) and v != ""), "")


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
