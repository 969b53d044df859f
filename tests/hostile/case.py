"""A hostile input: a command, and the words that its error must have."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
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


def write_published(path: Path) -> None:
    """Writes a checkpoint of the published code, for sudokus of size 4; its inner width is a multiple of 256."""
    from safetensors.torch import save_file

    from trm_fast.api import TRM
    from trm_fast.interchange import published_names
    from trm_fast.models import TRMConfig

    config = TRMConfig(vocab_size=6, seq_len=16, hidden_size=96, num_heads=2, inner_multiple=256, expansion=4.0)
    tensors = TRM(config).state_dict()
    save_file({theirs: tensors[ours].contiguous() for ours, theirs in published_names(config).items()}, path)


def each(command: Iterable[str], words: str, *values: str) -> list[Case]:
    """A case for each value of the command's word ``{}``; in ``words`` it stands for the value too."""
    return [Case(tuple(word.replace("{}", value) for word in command), words.replace("{}", value)) for value in values]
