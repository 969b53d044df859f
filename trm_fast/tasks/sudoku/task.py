"""The task sudoku. Token 0 is padding, 1 a blank, and d + 1 the digit d, as in the published data sets."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field, StrictInt, model_validator
from rich.console import RenderableType

from trm_fast.tasks.base import Array, Examples, IntArray, Question, TaskConfig
from trm_fast.tasks.puzzle_task import PuzzleTask
from trm_fast.tasks.sets import Sets
from trm_fast.tasks.sudoku import files
from trm_fast.tasks.sudoku.data import Limits, generated, without_equivalents
from trm_fast.tasks.sudoku.drawing import Drawing
from trm_fast.tasks.sudoku.engine import engine
from trm_fast.tasks.sudoku.puzzles import Puzzles, check_givens, generate
from trm_fast.tasks.sudoku.reference import ANY_RATING
from trm_fast.tasks.sudoku.rules import BOXES, MIN_GIVENS, Grids, obeys
from trm_fast.tasks.sudoku.symmetry import random_images, random_symmetries
from trm_fast.tasks.sudoku.text import fill_in, parse
from trm_fast.tasks.tables import Table

BLANK = 1
GIVENS = {4: (4, 7), 6: (12, 18), 9: (28, 32)}
SEARCH_GIVENS = GIVENS | {9: (20, 26)}
"""Default numbers of givens for puzzles with limits on their search count. Puzzles with more givens rarely need a
search."""
TRAIN_COUNT, TEST_COUNT = 4000, 500
REDRAWS = 30
"""Number of random puzzles of which ``task.redraw`` keeps the hardest. They take about 10 ms on one core."""


class SudokuConfig(TaskConfig):
    """The ``task:`` section for sudoku.

    Attributes:
        size: digits, rows and columns.
        givens: the smallest and largest number of givens of a generated puzzle; by default a medium range.
        search: minimum and maximum search count of a generated puzzle: how many values a solver tries by guessing
            (``reference.solve``). On one core the generator makes about 300 puzzles a second of at least 10, 90 of at
            least 20 and 6 of at least 50.
        train_count: how many training puzzles to generate (by default 4,000), or to draw at random from a file or hub
            data set (by default all).
        test_count: the same for test puzzles (by default, 500 are generated).
        redraw: the share of augmented training examples that get other givens, from which the same answer follows: the
            hardest of ``REDRAWS`` random puzzles with this answer.
        reveal: the share of augmented training examples in which random blanks are filled in from the answer, so that
            the model also sees easier puzzles.
    """

    name: str = "sudoku"
    size: Literal[4, 6, 9] = 9
    givens: tuple[StrictInt, StrictInt] | None = Field(default=None, strict=False)
    search: tuple[StrictInt, StrictInt] | None = Field(default=None, strict=False)
    train_count: int | None = Field(default=None, ge=1)
    test_count: int | None = Field(default=None, ge=1)
    redraw: float = Field(default=0.0, ge=0, le=1)
    reveal: float = Field(default=0.0, ge=0, le=1)

    @model_validator(mode="after")
    def _reachable(self) -> SudokuConfig:
        if self.givens:
            check_givens(self.size, self.givens)
        if self.search and not 0 <= self.search[0] <= self.search[1] <= ANY_RATING:
            raise ValueError(f"search {list(self.search)} must be a minimum and a maximum from 0")
        return self

    @property
    def limits(self) -> Limits:
        """The limits on generated puzzles."""
        givens = self.givens or (SEARCH_GIVENS if self.search else GIVENS)[self.size]
        return Limits(self.size, givens, *(self.search or (0, ANY_RATING)))


class Sudoku(PuzzleTask[Puzzles]):
    """Inputs and labels are tokens, int32 (N, size * size).

    Examples:
        >>> task = Sudoku(SudokuConfig(size=4))
        >>> question = task.parse("3.......4.3...42")
        >>> question.inputs[:4].tolist()
        [4, 1, 1, 1]
    """

    name: ClassVar[str] = "sudoku"
    Config: ClassVar[type[SudokuConfig]] = SudokuConfig
    has_rules: ClassVar[bool] = True
    partitions = ("rows", "columns", "boxes")
    special_tokens, open_token = BLANK + 1, BLANK
    fallback_note: ClassVar[str] = (
        "generated puzzles are used instead: accuracy is not comparable with published numbers"
    )

    def __init__(self, config: SudokuConfig | None = None) -> None:
        self.config = config or SudokuConfig()
        self.size = self.config.size
        self.vocab_size = self.size + 2
        self.seq_len = self.size * self.size
        self.grid_shape, self.box_shape = (self.size, self.size), BOXES[self.size]

    def generated(self, seed: int) -> Sets[Puzzles]:
        config = self.config
        counts = config.train_count or TRAIN_COUNT, config.test_count or TEST_COUNT
        return generated(config.limits, *counts, seed)

    def decode(self, table: Table) -> Puzzles:
        return files.decode_table(table, self.size)

    def encode(self, puzzles: Puzzles) -> Examples:
        return Examples(_tokens(puzzles.questions), _tokens(puzzles.answers), np.zeros(len(puzzles), dtype=np.int32))

    def without_equivalents(self, test: Puzzles, train: Puzzles, source: str) -> tuple[Puzzles, list[str]]:
        return without_equivalents(test, train, source)

    def augment(self, examples: Examples, rng: np.random.Generator) -> Examples:
        """A random symmetric image of each puzzle; ``task.redraw`` replaces givens of some, ``task.reveal`` fills in
        blanks of some."""
        questions, answers = _digits(examples.inputs), _digits(examples.labels)
        questions, answers = random_images(questions, answers, self.size, rng)
        if self.config.redraw:
            chosen = np.flatnonzero(rng.random(len(questions)) < self.config.redraw)
            seed = int(rng.integers(2**63))
            questions[chosen] = engine.redraw(answers[chosen], self.size, MIN_GIVENS[self.size], REDRAWS, seed)
        if self.config.reveal:
            chosen = np.flatnonzero(rng.random(len(questions)) < self.config.reveal)
            shares = rng.random((len(chosen), 1), dtype=np.float32)
            shown = rng.random((len(chosen), self.seq_len), dtype=np.float32) < shares
            questions[chosen] = np.where(shown, answers[chosen], questions[chosen])
        return Examples(_tokens(questions), _tokens(answers), examples.puzzle_ids)

    def images(
        self, examples: Examples, count: int, rng: np.random.Generator
    ) -> tuple[Examples, Callable[[Array], Array]]:
        N, L = examples.inputs.shape
        positions, digits = random_symmetries(N * count, self.size, rng)
        positions[::count], digits[::count] = np.arange(L), np.arange(self.size + 1)
        # A token is a digit + 1, and token 0 is padding.
        tokens = np.concatenate([np.zeros((N * count, 1), dtype=np.intp), digits + 1], axis=1)
        origins, back = np.argsort(positions, axis=1), np.argsort(tokens, axis=1)
        repeated = examples.repeat(count)
        moved = np.take_along_axis(repeated.inputs, positions, axis=1)
        images = np.take_along_axis(tokens, moved, axis=1).astype(np.int32)

        def undo(answers: Array) -> Array:
            relabeled = np.take_along_axis(back, answers.reshape(N * count, L), axis=1)
            return np.take_along_axis(relabeled, origins, axis=1).reshape(N, count, L)

        return Examples.of_questions(images, repeated.puzzle_ids), undo

    def parse(self, text: str, where: str = "") -> Question:
        return parse(text, self.size, where)

    def generate(self, seed: int) -> Question:
        limits = self.config.limits
        puzzles = generate(
            self.size, 1, limits.givens, seed, min_rating=limits.min_rating, max_rating=limits.max_rating
        )
        return self.parse(files.as_lines(puzzles.questions)[0])

    def questions(self, source: str | Path) -> Iterator[Question]:
        return files.questions(source, self.size)

    def format(self, question: Question, answer: Array) -> str:
        return fill_in(question.text, answer, self.size)

    def verify(self, examples: Examples, answers: Array) -> npt.NDArray[np.bool_]:
        kept = ((examples.inputs <= BLANK) | (examples.inputs == answers)).all(axis=-1)
        result: npt.NDArray[np.bool_] = obeys(answers - 1, self.size) & kept
        return result

    def draw(self, question: Question, answer: Array | None = None) -> RenderableType:
        return Drawing(question.inputs, answer, self.size)


def _tokens(grids: Grids) -> IntArray:
    return grids.astype(np.int32) + BLANK


def _digits(tokens: IntArray) -> Grids:
    return tokens.astype(np.uint8) - np.uint8(BLANK)
