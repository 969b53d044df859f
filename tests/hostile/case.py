"""A hostile input: a command, and the words that its error must have."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

PUZZLE = "3.......4.3...42"
MODEL = "sudoku-4x4"
SOLVE = ("solve", MODEL, PUZZLE)
EVAL = ("eval", MODEL)
TRAIN = ("train", "--preset", MODEL, "--steps", "2", "--out", "new/run")
SMALL = (*TRAIN, "--set", "task.train_count=50", "--set", "task.test_count=10", "--set", "training.batch_size=4")


class Case(NamedTuple):
    """``words`` must be in the error, whatever the line breaks. ``stdin`` is a file for standard input."""

    command: tuple[str, ...]
    words: str
    stdin: str | None = None


def each(command: Iterable[str], words: str, *values: str) -> list[Case]:
    """A case for each value of the command's word ``{}``; in ``words`` it stands for the value too."""
    return [Case(tuple(word.replace("{}", value) for word in command), words.replace("{}", value)) for value in values]
