"""Reads and writes lists of real numbers, and defines the base class of the tasks that use them."""

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

from trm_fast import texts
from trm_fast.errors import UserError, shown
from trm_fast.tasks.base import Array, DataConfig, Dataset, Question, Task
from trm_fast.tasks.files import parse_json, read_text
from trm_fast.tasks.sets import holdout_note, random_split

Numbers = npt.NDArray[np.float64]

_SEPARATORS = re.compile(r"[,;\s]+")
_DECIMAL_COMMAS = re.compile(r"(?=.*\d,\d)(?=.*(;|\d\s+[-+.\d]))", re.DOTALL)
"""Matches a text in which commas without spaces occur beside other separators, such as ``0,5; 1,5`` and ``0,5 1,5``."""


def read_numbers(text: str, where: str = "") -> Numbers:
    """The numbers of a line, separated by spaces, commas or semicolons, or of a JSON list; float64 (count,).

    Raises:
        UserError: an item is not a finite number, or there are none. The message starts with ``where``.

    Examples:
        >>> read_numbers("1, 2.5 -3").tolist()
        [1.0, 2.5, -3.0]
    """
    location = f"{where}: " if where else ""
    if text.lstrip().startswith(("[", "{")):
        items = parse_json(text, location)
        if not isinstance(items, list):
            raise UserError(f"{location}expected a list of numbers, not an object")
    else:
        if _DECIMAL_COMMAS.match(text):
            raise UserError(
                f"{location}commas may be separators or decimal commas here: separate numbers in one way, and write . "
                "for decimals"
            )
        items = [item for item in _SEPARATORS.split(text.strip()) if item]
    if not items:
        raise UserError(f"{location}there are no numbers")
    return np.array([_number(item, position, location) for position, item in enumerate(items, 1)])


def _number(item: object, position: int, location: str) -> float:
    try:
        if isinstance(item, bool) or not isinstance(item, int | float | str):
            raise ValueError
        value = float(item)
    except (ValueError, OverflowError):
        raise UserError(f"{location}item {position} is {shown(item)}, not a number") from None
    if not math.isfinite(value):
        raise UserError(f"{location}item {position} is {shown(item)}: numbers must be finite")
    return value


def write_numbers(values: Numbers, like: str) -> str:
    """Numbers in the format of the text ``like``: a JSON list, or separated by commas, semicolons or spaces.

    Examples:
        >>> write_numbers(np.array([1.0, -0.25]), "3, 4")
        '1, -0.25'
    """
    written = [f"{float(v) + 0.0:.5g}" for v in values]  # + 0.0 turns -0.0 into 0.0
    if like.lstrip().startswith("["):
        return "[" + ", ".join(written) + "]"
    return (", " if "," in like else "; " if ";" in like else " ").join(written)


def read_lines(source: str | Path) -> Iterator[tuple[str, str]]:
    """Yields the text of each list in a file, with its file and line.

    A ``.json`` file contains a list of lists. Any other file has one list on each line: text, CSV or JSON Lines. Empty
    lines and a header (a first line without digits) are skipped.

    Raises:
        UserError: the file cannot be read, or has no numbers.
    """
    path = Path(source)
    if path.suffix == ".json":
        yield from _json_lists(read_text(path), path)
        return
    has_lists = False
    for number, line in enumerate(texts.read_lines(path), 1):
        if not line.strip() or (number == 1 and not re.search(r"\d", line) and "[" not in line):
            continue
        has_lists = True
        yield line.strip(), f"{path}:{number}"
    if not has_lists:
        raise UserError(f"{path} has no numbers")


def _json_lists(text: str, path: Path) -> Iterator[tuple[str, str]]:
    rows = parse_json(text, f"{path}: ")
    if not isinstance(rows, list) or not rows:
        raise UserError(f"{path}: expected a list of lists of numbers")
    if not isinstance(rows[0], list):
        rows = [rows]
    for number, row in enumerate(rows, 1):
        if not isinstance(row, list):
            raise UserError(f"{path}, row {number}: expected a list of numbers, not {shown(row)}")
        yield json.dumps(row), f"{path}, row {number}"


class NumbersTask(Task):
    """A task whose inputs and labels are real numbers. A number is right within ``config.tolerance`` of its label."""

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
        """Generated training and test examples."""

    def dataset(self, data: DataConfig, seed: int) -> Dataset:
        if data.source is None:
            dataset = self.generated(seed)
            return dataset if data.test is None else replace(dataset, test=self.read(data.test))
        rows = self.read(data.source)
        if data.test is not None:
            return Dataset(rows, self.read(data.test), data.source)
        train, test = random_split(
            len(rows), data.holdout, np.random.default_rng(seed), f"{data.source}: there is only one row"
        )
        notes = holdout_note(len(test), len(rows), data.holdout, self.noun)
        return Dataset(rows.take(np.sort(train)), rows.take(np.sort(test)), data.source, notes)

    def generate(self, seed: int) -> Question:
        config = self.config.model_copy(update={"train_count": 1, "test_count": 1})
        inputs = type(self)(config).generated(seed).test.inputs[0]
        return self.parse(write_numbers(inputs[:, 0] if self.input_width == 1 else inputs[0], "0, 0"))

    def right(self, labels: Array, answers: Array) -> npt.NDArray[np.bool_]:
        close: npt.NDArray[np.bool_] = np.abs(labels - answers) <= self.config.tolerance
        return close

    def questions(self, source: str | Path) -> Iterator[Question]:
        for text, where in read_lines(source):
            yield self.parse(text, where)
