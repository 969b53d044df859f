"""Lists of real numbers as people write them: a line with spaces or commas, JSON, or a file of such lines."""

from __future__ import annotations

import json
import math
import re
from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from trm_fast.errors import UserError
from trm_fast.tasks.base import Array, DataConfig, Dataset, Question, Task
from trm_fast.tasks.files import parse_json, read_text
from trm_fast.tasks.sets import deal

Numbers = npt.NDArray[np.float64]

_SEPARATORS = re.compile(r"[,;\s]+")


def read_numbers(text: str, where: str = "") -> Numbers:
    """The numbers of a line, or of a JSON list; anything else is a UserError that names the item."""
    at = f"{where}: " if where else ""
    if text.lstrip().startswith(("[", "{")):
        items = parse_json(text, at)
        if not isinstance(items, list):
            raise UserError(f"{at}a list of numbers is wanted, not an object")
    else:
        items = [item for item in _SEPARATORS.split(text.strip()) if item]
    if not items:
        raise UserError(f"{at}there are no numbers")
    return np.array([_number(item, place, at) for place, item in enumerate(items, 1)])


def _number(item: object, place: int, at: str) -> float:
    try:
        if isinstance(item, bool) or not isinstance(item, int | float | str):
            raise ValueError
        value = float(item)
    except (ValueError, OverflowError):
        raise UserError(f"{at}item {place} is {item!r}, not a number") from None
    if not math.isfinite(value):
        raise UserError(f"{at}item {place} is {item!r}: numbers must be finite")
    return value


def write_numbers(values: Numbers, like: str) -> str:
    """Numbers in the format of the text ``like``: a JSON list, or separated by commas or by spaces."""
    written = [f"{float(v) + 0.0:.5g}" for v in values]  # + 0.0: no negative zero
    if like.lstrip().startswith("["):
        return "[" + ", ".join(written) + "]"
    return (", " if "," in like else "; " if ";" in like else " ").join(written)


def lines_of(source: str | Path) -> Iterator[tuple[str, str]]:
    """(text, where) of each list in a file: a JSON list of lists (``.json``), or one list a line (text, CSV, JSON
    Lines); empty lines and a first line without any number (a header) are passed over."""
    path = Path(source)
    text = read_text(path)
    if path.suffix == ".json":
        yield from _json_lists(text, path)
        return
    found = False
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or (not found and number == 1 and not re.search(r"\d", line) and "[" not in line):
            continue
        found = True
        yield line.strip(), f"{path}:{number}"
    if not found:
        raise UserError(f"{path} has no numbers")


def _json_lists(text: str, path: Path) -> Iterator[tuple[str, str]]:
    rows = parse_json(text, f"{path}: ")
    if not isinstance(rows, list) or not rows:
        raise UserError(f"{path}: a list of lists of numbers is wanted")
    if not isinstance(rows[0], list):
        rows = [rows]
    for number, row in enumerate(rows, 1):
        if not isinstance(row, list):
            raise UserError(f"{path}, row {number}: a list of numbers is wanted, not {row!r}")
        yield json.dumps(row), f"{path}, row {number}"


class NumbersTask(Task):
    """A task whose inputs and labels are real numbers, in files of lists. ``tolerance``: how far off one may be."""

    config: Any
    input_width = 1

    def model_keys(self, data: DataConfig) -> dict[str, Any]:
        return {
            "inputs": "values",
            "input_width": self.input_width,
            "seq_len": self.seq_len,
            "head": {"kind": "values", "width": 1, "tolerance": self.config.tolerance},
        }

    @abstractmethod
    def generated(self, seed: int) -> Dataset:
        """Examples for a seed."""

    def dataset(self, data: DataConfig, seed: int) -> Dataset:
        if data.source is None:
            made = self.generated(seed)
            return made if data.test is None else replace(made, test=self.read(data.test))
        rows = self.read(data.source)
        if data.test is not None:
            return Dataset(rows, self.read(data.test), data.source)
        train, test = deal(
            len(rows), data.holdout, np.random.default_rng(seed), f"{data.source}: there is only one row"
        )
        return Dataset(rows.take(np.sort(train)), rows.take(np.sort(test)), data.source)

    def right(self, labels: Array, answers: Array) -> npt.NDArray[np.bool_]:
        close: npt.NDArray[np.bool_] = np.abs(labels - answers) <= self.config.tolerance
        return close

    def questions(self, source: str | Path) -> Iterator[Question]:
        for text, where in lines_of(source):
            yield self.parse(text, where)
