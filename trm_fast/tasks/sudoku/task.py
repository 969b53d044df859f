"""The sudoku task: tokens are 0 for padding, 1 for a blank, digit + 1 for a digit, as in the published data sets."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field, StrictInt, model_validator
from rich.console import RenderableType

from trm_fast.tasks.base import DataConfig, Dataset, Examples, IntArray, Question, Task, TaskConfig
from trm_fast.tasks.sudoku import files, hub
from trm_fast.tasks.sudoku.data import Split, generated, hold_out, sample, without_equivalents
from trm_fast.tasks.sudoku.drawing import Drawing
from trm_fast.tasks.sudoku.puzzles import Puzzles, check_givens
from trm_fast.tasks.sudoku.rules import Grids, obeys
from trm_fast.tasks.sudoku.symmetry import random_images
from trm_fast.tasks.sudoku.text import fill_in, parse

BLANK = 1
GIVENS = {4: (4, 7), 6: (12, 18), 9: (28, 32)}
TRAIN_COUNT, TEST_COUNT = 4000, 500


class SudokuConfig(TaskConfig):
    """``givens``: least and most givens of a generated puzzle, by default a medium range for the size.

    ``train_count``, ``test_count``: how many puzzles to generate (by default 4,000 and 500), or to draw at random
    from a file or hub data set (by default all). ``reveal``: the share of augmented training examples in which
    random blanks are filled in from the answer, so that a model meets easier puzzles too.
    """

    name: str = "sudoku"
    size: Literal[4, 6, 9] = 9
    givens: tuple[StrictInt, StrictInt] | None = Field(default=None, strict=False)
    train_count: int | None = Field(default=None, ge=1)
    test_count: int | None = Field(default=None, ge=1)
    reveal: float = Field(default=0.0, ge=0, le=1)

    @model_validator(mode="after")
    def _reachable(self) -> SudokuConfig:
        if self.givens:
            check_givens(self.size, self.givens)
        return self


class Sudoku(Task):
    name: ClassVar[str] = "sudoku"
    Config: ClassVar[type[SudokuConfig]] = SudokuConfig

    def __init__(self, config: SudokuConfig | None = None) -> None:
        self.config = config or SudokuConfig()
        self.size = self.config.size
        self.vocab_size = self.size + 2
        self.seq_len = self.size * self.size
        self.grid_shape: tuple[int, int] = (self.size, self.size)

    def dataset(self, data: DataConfig, seed: int) -> Dataset:
        """Training and test examples; no test puzzle is equivalent to a training one.

        Without ``data.source`` they are generated (see ``data.generated``). Of a file, ``data.test`` is the test
        set, or else ``data.holdout`` of its equivalence classes; of ``hf:NAME``, its own test split. Where the hub
        cannot be reached or the ``datasets`` package is missing, the generator stands in, and a note says so.
        """
        try:
            split = self._generated(seed) if data.source is None else self._loaded(data.source, data, seed)
        except hub.Unavailable as problem:
            split = self._generated(seed)
            note = f"{problem}; generated puzzles stand in: accuracy is not comparable with published numbers"
            split = replace(split, notes=[note, *split.notes])
        return Dataset(_encode(split.train), _encode(split.test), split.source, split.notes)

    def _generated(self, seed: int) -> Split:
        config = self.config
        givens = config.givens or GIVENS[self.size]
        return generated(self.size, givens, config.train_count or TRAIN_COUNT, config.test_count or TEST_COUNT, seed)

    def _loaded(self, source: str, data: DataConfig, seed: int) -> Split:
        train = self._load(source, "train")
        separate_test = data.test or (source if source.startswith(hub.PREFIX) else None)
        if separate_test:
            test = self._load(separate_test, "test")
        else:
            train, test = hold_out(train, data.holdout, seed, source)
        train, notes = sample(train, self.config.train_count, seed, "training")
        test, test_notes = sample(test, self.config.test_count, seed, "test")
        notes += test_notes
        if separate_test:
            test, leak_notes = without_equivalents(test, train, source)
            notes += leak_notes
        return Split(train, test, source, notes)

    def _load(self, source: str, split: Literal["train", "test"]) -> Puzzles:
        return hub.load(source, split, self.size) if source.startswith(hub.PREFIX) else files.read(source, self.size)

    def read(self, source: str) -> Examples:
        """Every example of a CSV file, or of the test split of ``hf:NAME``, in order."""
        return _encode(self._load(source, "test"))

    def augment(self, examples: Examples, rng: np.random.Generator) -> Examples:
        questions, answers = _digits(examples.inputs), _digits(examples.labels)
        questions, answers = random_images(questions, answers, self.size, rng)
        if self.config.reveal:
            chosen = np.flatnonzero(rng.random(len(questions)) < self.config.reveal)
            shares = rng.random((len(chosen), 1), dtype=np.float32)
            shown = rng.random((len(chosen), self.seq_len), dtype=np.float32) < shares
            questions[chosen] = np.where(shown, answers[chosen], questions[chosen])
        return Examples(_tokens(questions), _tokens(answers), examples.puzzle_ids)

    def parse(self, text: str, where: str = "") -> Question:
        return parse(text, self.size, where)

    def questions(self, source: str | Path) -> Iterator[Question]:
        return files.questions(source, self.size)

    def format(self, question: Question, answer: npt.NDArray[Any]) -> str:
        return fill_in(question.text, answer, self.size)

    def verify(self, inputs: npt.NDArray[Any], answers: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
        kept = ((inputs <= BLANK) | (inputs == answers)).all(axis=-1)
        result: npt.NDArray[np.bool_] = obeys(answers - 1, self.size) & kept
        return result

    def draw(self, question: Question, answer: npt.NDArray[Any] | None = None) -> RenderableType:
        return Drawing(question.tokens, answer, self.size)


def _encode(puzzles: Puzzles) -> Examples:
    return Examples(_tokens(puzzles.questions), _tokens(puzzles.answers), np.zeros(len(puzzles), dtype=np.int32))


def _tokens(grids: Grids) -> IntArray:
    return grids.astype(np.int32) + BLANK


def _digits(tokens: IntArray) -> Grids:
    return tokens.astype(np.uint8) - np.uint8(BLANK)
