"""The task maze. Token 0 is padding, and i + 1 is character i of ``# SGo``, as in the published data set."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Annotated, ClassVar

import numpy as np
import numpy.typing as npt
from pydantic import Field, Strict, StrictInt, model_validator
from rich.console import RenderableType

from trm_fast.errors import UserError
from trm_fast.tasks.base import Array, Examples, Question, TaskConfig
from trm_fast.tasks.maze import files
from trm_fast.tasks.maze.cells import PATH, as_lines, overlaid
from trm_fast.tasks.maze.data import generated
from trm_fast.tasks.maze.drawing import Drawing
from trm_fast.tasks.maze.engine import engine
from trm_fast.tasks.maze.mazes import DENSITIES, Mazes, check_limits, default_distance, generate
from trm_fast.tasks.maze.pictures import paint
from trm_fast.tasks.maze.rules import judge
from trm_fast.tasks.maze.symmetry import symmetries
from trm_fast.tasks.maze.text import fill_in, parse
from trm_fast.tasks.pictures import Picture
from trm_fast.tasks.puzzle_task import PuzzleTask
from trm_fast.tasks.sets import Sets
from trm_fast.tasks.tables import Table

TRAIN_COUNT, TEST_COUNT = 1000, 500


class MazeConfig(TaskConfig):
    """The ``task:`` section for maze.

    Attributes:
        size: rows and columns, or one number for both.
        densities: the smallest and largest probability of a wall in a generated maze.
        distance: the smallest number of steps from S to G in a generated maze; by default the published 109 for
            30 x 30, scaled for other sizes.
        train_count: how many training mazes to generate (by default 1,000), or to draw at random from a file or hub
            data set (by default all).
        test_count: the same for test mazes (by default, 500 are generated).
        augment: whether training mazes are rotated and reflected at random.
        remake: whether augmented mazes are solved again. The published search chooses among shortest paths by
            direction, so a rotated answer differs from the answer to the rotated maze. Without ``remake`` the answer
            is rotated with the maze, as in the published code.
    """

    name: str = "maze"
    size: StrictInt | Annotated[tuple[StrictInt, StrictInt], Strict(False)] = 30
    densities: Annotated[tuple[float, float], Strict(False)] = DENSITIES
    distance: int | None = Field(default=None, ge=1)
    train_count: int | None = Field(default=None, ge=1)
    test_count: int | None = Field(default=None, ge=1)
    augment: bool = False
    remake: bool = True

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return (self.size, self.size) if isinstance(self.size, int) else self.size

    @model_validator(mode="after")
    def _reachable(self) -> MazeConfig:
        check_limits(self.shape, self.densities, self.distance or 1)
        return self


class Maze(PuzzleTask[Mazes]):
    """Inputs and labels are tokens, int32 (N, height * width).

    Examples:
        >>> task = Maze(MazeConfig(size=3))
        >>> question = task.parse("S.#\\n..#\\n..G")
        >>> question.inputs[:3].tolist()
        [3, 2, 1]
    """

    name: ClassVar[str] = "maze"
    Config: ClassVar[type[MazeConfig]] = MazeConfig
    noun: ClassVar[str] = "mazes"
    has_rules: ClassVar[bool] = True
    fallback_note: ClassVar[str] = "generated mazes are used instead"

    vocab_size = PATH + 1
    partitions = ("rows", "columns", "boxes", "shifted_boxes")
    box_shape = (2, 2)

    def __init__(self, config: MazeConfig | None = None) -> None:
        self.config = config or MazeConfig()
        self.shape = self.grid_shape = self.config.shape
        self.seq_len = self.shape[0] * self.shape[1]

    def generated(self, seed: int) -> Sets[Mazes]:
        config = self.config
        counts = config.train_count or TRAIN_COUNT, config.test_count or TEST_COUNT
        distance = config.distance or default_distance(self.shape)
        return generated(self.shape, config.densities, distance, *counts, seed)

    def decode(self, table: Table) -> Mazes:
        return files.decode_table(table, self.shape)

    def encode(self, puzzles: Mazes) -> Examples:
        ids = np.zeros(len(puzzles), dtype=np.int32)
        return Examples(puzzles.questions.astype(np.int32), puzzles.answers.astype(np.int32), ids)

    def augment(self, examples: Examples, rng: np.random.Generator) -> Examples:
        """Rotates and reflects mazes at random, with ``task.augment``."""
        if not self.config.augment:
            return examples
        tables = symmetries(self.shape)
        positions = tables[rng.integers(len(tables), size=len(examples))]
        inputs = np.take_along_axis(examples.inputs, positions, axis=1)
        if self.config.remake:
            labels = engine.solve(inputs.astype(np.uint8), *self.shape)[0].astype(np.int32)
        else:
            labels = np.take_along_axis(examples.labels, positions, axis=1)
        return replace(examples, inputs=inputs, labels=labels)

    def images(
        self, examples: Examples, count: int, rng: np.random.Generator
    ) -> tuple[Examples, Callable[[Array], Array]]:
        """The rotations and reflections in a fixed order: 8, or 4 for a maze that is not square."""
        tables = symmetries(self.shape)
        if count > len(tables):
            raise UserError(
                f"a maze of {self.shape[0]}x{self.shape[1]} has {len(tables)} symmetric images, not {count}",
                usage_error=True,
            )
        N, L = examples.inputs.shape
        positions, origins = tables[:count], np.argsort(tables[:count], axis=1)
        images = examples.inputs[:, positions].reshape(N * count, L)

        def undo(answers: Array) -> Array:
            result: Array = np.take_along_axis(answers.reshape(N, count, L), origins[None], axis=2)
            return result

        return Examples.of_questions(images, examples.repeat(count).puzzle_ids), undo

    def metrics(self, examples: Examples, answers: Array) -> dict[str, float]:
        """The shares of answers that are a path from S to G, and a shortest path. Exact accuracy counts only the
        shortest path that the published search finds."""
        valid, shortest = judge(examples.inputs, answers, self.shape)
        return {"valid_path": float(valid.mean()), "shortest_path": float(shortest.mean())}

    def parse(self, text: str, where: str = "") -> Question:
        return parse(text, self.shape, where)

    def generate(self, seed: int) -> Question:
        config = self.config
        mazes = generate(self.shape, 1, seed, densities=config.densities, distance=config.distance)
        line = as_lines(mazes.questions)[0].replace(" ", ".")
        return self.parse("\n".join(line[i : i + self.shape[1]] for i in range(0, self.seq_len, self.shape[1])))

    def questions(self, source: str | Path) -> Iterator[Question]:
        return files.questions(source, self.shape)

    def format(self, question: Question, answer: Array) -> str:
        return fill_in(question.text, question.inputs, answer)

    def verify(self, examples: Examples, answers: Array) -> npt.NDArray[np.bool_]:
        """Whether each answer is a shortest path, whichever of them, bool (N,)."""
        return judge(examples.inputs, answers, self.shape)[1]

    def draw(self, question: Question, answer: Array | None = None) -> RenderableType:
        return Drawing(question.inputs, answer, self.shape)

    def picture(self, question: Question, answer: Array | None = None) -> Picture:
        return paint(overlaid(question.inputs, answer), self.shape)
