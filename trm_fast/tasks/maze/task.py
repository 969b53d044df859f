"""The maze task: tokens are 0 for padding and i + 1 for character i of ``# SGo``, as in the published data set."""

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
    """``size``: rows and columns, or one number for both.

    ``densities``: least and largest probability of a wall in a generated maze; ``distance``: its fewest steps from S to
    G, by default the published 109 at 30 x 30 and in proportion for other sizes. ``train_count``, ``test_count``: how
    many mazes to generate (by default 1,000 and 500), or to draw at random from a file or hub data set (by default
    all). ``augment``: training mazes come rotated and reflected at random. Of many shortest paths the published rule
    picks one by direction, so a turned answer follows another rule; with ``remake`` answers to turned mazes are made
    anew by the rule, without it they are turned along, as the published code does.
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
        return (self.size, self.size) if isinstance(self.size, int) else self.size

    @model_validator(mode="after")
    def _reachable(self) -> MazeConfig:
        check_limits(self.shape, self.densities, self.distance or 1)
        return self


class Maze(PuzzleTask[Mazes]):
    name: ClassVar[str] = "maze"
    Config: ClassVar[type[MazeConfig]] = MazeConfig
    noun: ClassVar[str] = "mazes"
    has_rules: ClassVar[bool] = True
    stand_in: ClassVar[str] = "generated mazes stand in"

    vocab_size = PATH + 1

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
        if not self.config.augment:
            return examples
        tables = symmetries(self.shape)
        places = tables[rng.integers(len(tables), size=len(examples))]
        inputs = np.take_along_axis(examples.inputs, places, axis=1)
        if self.config.remake:
            labels = engine.solve(inputs.astype(np.uint8), *self.shape)[0].astype(np.int32)
        else:
            labels = np.take_along_axis(examples.labels, places, axis=1)
        return replace(examples, inputs=inputs, labels=labels)

    def images(
        self, examples: Examples, count: int, rng: np.random.Generator
    ) -> tuple[Examples, Callable[[Array], Array]]:
        """The rotations and reflections in a fixed order; there are 8, or 4 of a maze that is not square."""
        tables = symmetries(self.shape)
        if count > len(tables):
            raise UserError(
                f"a maze of {self.shape[0]}x{self.shape[1]} has {len(tables)} symmetric images, not {count}",
                wrong_use=True,
            )
        N, L = examples.inputs.shape
        places, origins = tables[:count], np.argsort(tables[:count], axis=1)
        images = examples.inputs[:, places].reshape(N * count, L)

        def undo(answers: Array) -> Array:
            result: Array = np.take_along_axis(answers.reshape(N, count, L), origins[None], axis=2)
            return result

        return Examples.of_questions(images, examples.repeat(count).puzzle_ids), undo

    def metrics(self, examples: Examples, answers: Array) -> dict[str, float]:
        """Shares of answers that are a path from S to G, and a shortest one (of which exact match wants the rule's)."""
        valid, shortest = judge(examples.inputs, answers, self.shape)
        return {"valid_path": float(valid.mean()), "shortest_path": float(shortest.mean())}

    def parse(self, text: str, where: str = "") -> Question:
        return parse(text, self.shape, where)

    def generate(self, seed: int) -> Question:
        config = self.config
        made = generate(self.shape, 1, seed, densities=config.densities, distance=config.distance)
        line = as_lines(made.questions)[0].replace(" ", ".")
        return self.parse("\n".join(line[i : i + self.shape[1]] for i in range(0, self.seq_len, self.shape[1])))

    def questions(self, source: str | Path) -> Iterator[Question]:
        return files.questions(source, self.shape)

    def format(self, question: Question, answer: Array) -> str:
        return fill_in(question.text, question.inputs, answer)

    def verify(self, examples: Examples, answers: Array) -> npt.NDArray[np.bool_]:
        """Whether each answer is a shortest path, whichever of them."""
        return judge(examples.inputs, answers, self.shape)[1]

    def draw(self, question: Question, answer: Array | None = None) -> RenderableType:
        return Drawing(question.inputs, answer, self.shape)

    def picture(self, question: Question, answer: Array | None = None) -> Picture:
        return paint(overlaid(question.inputs, answer), self.shape)
