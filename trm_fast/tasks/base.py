"""What a task is: where examples come from, how text becomes tokens, how an answer is judged and drawn.

The trainer, the solver and the command line know tasks through this file alone. A new task is one
module here that defines a ``Task``, registered in ``trm_fast.tasks``, one YAML file in ``configs/`` and one test.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field

from trm_fast.errors import UserError

IGNORE = -100
"""Label of a position that carries no loss and does not count for accuracy."""

IntArray = npt.NDArray[np.int32]


@dataclass(frozen=True)
class Examples:
    """Encoded examples: ``inputs`` and ``labels`` are int32 of shape (N, L); labels may be ``IGNORE``.

    ``puzzle_ids`` (N,) picks each example's row of the puzzle embedding; zeros where a task has none.
    """

    inputs: IntArray
    labels: IntArray
    puzzle_ids: IntArray

    def __len__(self) -> int:
        return len(self.inputs)

    def take(self, rows: npt.NDArray[np.intp] | slice) -> Examples:
        return Examples(self.inputs[rows], self.labels[rows], self.puzzle_ids[rows])


@dataclass(frozen=True)
class Dataset:
    """Training and test examples with no test example equivalent to a training one.

    ``source`` names the origin in a few words; ``notes`` are lines a person should see before training.
    """

    train: Examples
    test: Examples
    source: str
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Question:
    """One thing to solve: the text as given, its tokens (int32, shape (L,)), and where it stood."""

    text: str
    tokens: IntArray
    where: str = ""


class TaskConfig(BaseModel):
    """The ``task:`` section of a configuration; tasks extend it with keys of their own."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    name: str


class DataConfig(BaseModel):
    """The ``data:`` section of a configuration.

    ``source``: None for the task's generator, a path, or ``hf:NAME``. ``test``: a separate test set of the same
    kinds; without it a set's own test split, or ``holdout`` (the share of equivalence classes kept for testing).
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    source: str | None = None
    test: str | None = None
    holdout: float = Field(0.1, gt=0, lt=1)


class Task(ABC):
    """One kind of problem. Instances are cheap, hold no data and are made from a validated configuration."""

    name: ClassVar[str]
    Config: ClassVar[type[TaskConfig]]

    vocab_size: int
    seq_len: int
    grid_shape: tuple[int, int] | None

    @abstractmethod
    def __init__(self, config: Any) -> None:
        """``config``: an instance of ``Config``."""

    @abstractmethod
    def dataset(self, data: DataConfig, seed: int) -> Dataset:
        """Training and test examples; deterministic in ``data`` and ``seed``."""

    @abstractmethod
    def read(self, source: str) -> Examples:
        """Every example of a file (or ``hf:NAME``), in order; a malformed row is a UserError naming file and line."""

    @abstractmethod
    def augment(self, examples: Examples, rng: np.random.Generator) -> Examples:
        """The same examples, each under a random symmetry of the task; vectorised over rows."""

    def images(
        self, inputs: IntArray, count: int, rng: np.random.Generator
    ) -> tuple[IntArray, Callable[[npt.NDArray[np.int64]], npt.NDArray[np.int64]]]:
        """For questions (N, L) ``count`` images (N, count, L) under symmetries, the first unchanged, and what turns
        answers to the images (N, count, L) into answers to the questions. UserError in a task without symmetries."""
        raise UserError(f"the task {self.name} has no symmetries to vote over", wrong_use=True)

    @abstractmethod
    def parse(self, text: str, where: str = "") -> Question:
        """A question from text; a malformed or contradictory one is a UserError that says what is wrong."""

    @abstractmethod
    def questions(self, source: str | Path) -> Iterator[Question]:
        """The questions of a file: a data file of this task or plain text; ``where`` is file and line."""

    @abstractmethod
    def format(self, question: Question, answer: npt.NDArray[Any]) -> str:
        """The answer's tokens (L,) written in the format of the question."""

    @abstractmethod
    def verify(self, inputs: npt.NDArray[Any], answers: npt.NDArray[Any]) -> npt.NDArray[np.bool_] | None:
        """Whether each answer (N, L) obeys the rules and keeps its question (N, L); None in a task without rules."""

    @abstractmethod
    def draw(self, question: Question, answer: npt.NDArray[Any] | None = None) -> Any:
        """A rich renderable of the question, or of the answer with what was given kept apart from what was found."""


Split = Literal["train", "test"]
