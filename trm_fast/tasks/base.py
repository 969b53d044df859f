"""What a task is: where examples come from, how text becomes numbers, how an answer is judged and drawn.

The trainer, the solver and the command line know tasks through this file alone. A new task is one
module here that defines a ``Task``, registered in ``trm_fast.tasks``, one YAML file in ``configs/`` and one test.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol

import numpy as np
import numpy.typing as npt
from pydantic import Field
from typing_extensions import Self

from trm_fast.errors import UserError
from trm_fast.labels import IGNORE as IGNORE
from trm_fast.tasks.files import read_text
from trm_fast.validation import Section

Array = npt.NDArray[Any]
IntArray = npt.NDArray[np.int32]


@dataclass(frozen=True)
class Examples:
    """N encoded examples, or questions whose answers are not known (``labels`` of width 0).

    ``inputs``: tokens int32 (N, L), or values float32 (N, L, F). ``labels``: what the model's head is taught, int32
    or float32 (N, ...), for tokens of the shape of the inputs. ``puzzle_ids`` int32 (N,) picks each example's row of
    the puzzle embedding; zeros where a task has none. ``extra``: further arrays (N, ...) that the model's embedding
    and head take by name, such as ``mask`` (N, L), False on padding. ``sources``: what the examples were made of, for
    tasks whose measures or symmetries need more than arrays; ``extra["row"]`` tells which of them each example is.
    """

    inputs: Array
    labels: Array
    puzzle_ids: IntArray
    extra: Mapping[str, Array] = field(default_factory=dict)
    sources: Sequence[Any] = ()

    @classmethod
    def asked(
        cls, inputs: Array, puzzle_ids: IntArray | None = None, extra: Mapping[str, Array] | None = None
    ) -> Examples:
        """Questions alone."""
        ids = np.zeros(len(inputs), dtype=np.int32) if puzzle_ids is None else puzzle_ids
        return cls(inputs, np.zeros((len(inputs), 0), dtype=np.int32), ids, extra or {})

    @classmethod
    def of_arrays(cls, arrays: Mapping[str, Array], sources: Sequence[Any] = ()) -> Examples:
        """What ``arrays`` gave."""
        extra = {name: a for name, a in arrays.items() if name not in ("inputs", "labels", "puzzle_ids")}
        return cls(arrays["inputs"], arrays["labels"], arrays["puzzle_ids"], extra, sources)

    @classmethod
    def joined(cls, parts: Sequence[Examples]) -> Examples:
        """All rows of some examples of one kind, in order."""
        arrays = [part.arrays() for part in parts]
        return cls.of_arrays({name: np.concatenate([a[name] for a in arrays]) for name in arrays[0]})

    def __len__(self) -> int:
        return len(self.inputs)

    def arrays(self) -> dict[str, Array]:
        """Every array by its name."""
        return {"inputs": self.inputs, "labels": self.labels, "puzzle_ids": self.puzzle_ids, **self.extra}

    def take(self, rows: npt.NDArray[np.intp] | slice) -> Examples:
        return Examples.of_arrays({name: array[rows] for name, array in self.arrays().items()}, self.sources)

    def repeat(self, count: int) -> Examples:
        """Each row ``count`` times in a row."""
        return self.take(np.repeat(np.arange(len(self)), count))


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
    """One thing to solve: the text as given, its row of ``Examples`` (inputs (L,) or (L, F)), and where it stood."""

    text: str
    inputs: Array
    where: str = ""
    puzzle_id: int = 0
    extra: Mapping[str, Array] = field(default_factory=dict)

    @staticmethod
    def rows(questions: Sequence[Question]) -> Examples:
        """Questions as rows."""
        ids = np.array([q.puzzle_id for q in questions], dtype=np.int32)
        extra = {name: np.stack([q.extra[name] for q in questions]) for name in questions[0].extra}
        return Examples.asked(np.stack([q.inputs for q in questions]), ids, extra)


@dataclass(frozen=True)
class Candidates:
    """The distinct answers (K, ...) of several tries at one question, best first: by ``votes`` int (K,), the tries that
    gave it, and then by ``confidence`` float32 (K,), their mean confidence."""

    answers: Array
    votes: npt.NDArray[np.int64]
    confidence: npt.NDArray[np.float32]


class TaskConfig(Section):
    """The ``task:`` section of a configuration; tasks extend it with keys of their own."""

    name: str


class DataConfig(Section):
    """The ``data:`` section of a configuration.

    ``source``: None for the task's generator, a path, or ``hf:NAME``. ``test``: a separate test set of the same
    kinds; without it a set's own test split, or ``holdout`` (the share of equivalence classes kept for testing).
    """

    source: str | None = None
    test: str | None = None
    holdout: float = Field(0.1, gt=0, lt=1)


class GrowingRow(Protocol):
    """A causal model's row of symbols, to which more are appended."""

    @property
    def steps(self) -> int:
        """Supervision steps that each symbol takes."""

    def extend(self, inputs: Array, extra: Mapping[str, Array] | None = None) -> npt.NDArray[np.float32]:
        """Log probabilities (V,) of the symbol behind the new ones: ``inputs`` (n, ...) and further arrays by name."""

    def fork(self) -> Self:
        """A copy that can go on otherwise."""


class Decoder(Protocol):
    """What writes symbol by symbol: a solver, or a model alone."""

    def incremental(self) -> GrowingRow:
        """An empty row."""


class Solution(Protocol):
    """What a task reads of a solver's answer."""

    @property
    def raw(self) -> Array: ...

    @property
    def confidence(self) -> float: ...

    @property
    def steps(self) -> int: ...


class Solving(Decoder, Protocol):
    """What a task may ask of the solver that it is given; ``trm_fast.inference.Solver`` is one."""

    def solve(self, question: Question) -> Solution: ...


class Task(ABC):
    """One kind of problem. Instances are cheap, hold no examples and are made from a validated configuration.

    ``noun``: what its examples are called in messages. ``has_rules``: whether ``verify`` can tell a right answer
    without knowing it. ``majority``: whether the most frequent of several tries is the one that counts, unless asked.
    ``masked``: whether its examples have ``extra["mask"]``. ``more_steps_help``: whether a model may take more
    supervision steps than in training.
    """

    name: ClassVar[str]
    Config: ClassVar[type[TaskConfig]]
    noun: ClassVar[str] = "puzzles"
    has_rules: ClassVar[bool] = False
    majority: ClassVar[bool] = False
    more_steps_help: ClassVar[bool] = True

    masked: bool = False
    vocab_size: int = 2
    seq_len: int
    grid_shape: tuple[int, int] | None = None

    @abstractmethod
    def __init__(self, config: Any) -> None:
        """``config``: an instance of ``Config``."""

    def model_keys(self, data: DataConfig) -> dict[str, Any]:
        """The keys of ``TRMConfig`` that this task decides, such as its vocabulary, its length and its head."""
        return {"vocab_size": self.vocab_size, "seq_len": self.seq_len, "grid_shape": self.grid_shape}

    def save_assets(self, folder: Path) -> None:  # noqa: B027 (most tasks have none)
        """Writes what a model of this task needs beside its weights and configuration, such as a tokenizer."""

    def load_assets(self, folder: Path) -> None:  # noqa: B027
        """Reads what ``save_assets`` wrote."""

    @abstractmethod
    def dataset(self, data: DataConfig, seed: int) -> Dataset:
        """Training and test examples; deterministic in ``data`` and ``seed``."""

    def read(self, source: str) -> Examples:
        """Every example of a file (or ``hf:NAME``), in order; a malformed row is a UserError naming file and line."""
        raise UserError(f"the task {self.name} reads no files of examples", wrong_use=True)

    def augment(self, examples: Examples, rng: np.random.Generator) -> Examples:
        """The same examples, each under a random symmetry of the task; vectorised over rows."""
        return examples

    def images(
        self, examples: Examples, count: int, rng: np.random.Generator
    ) -> tuple[Examples, Callable[[Array], Array]]:
        """For N questions ``count`` images each under symmetries, as N * count rows, a question's first one unchanged,
        and what turns answers to the images (N, count, L) into answers to the questions. UserError in a task without
        symmetries."""
        raise UserError(f"the task {self.name} has no symmetries to vote over", wrong_use=True)

    def tidy(self, answers: Array) -> Array:
        """Answers (N, ...) without what means nothing, so that equal answers are equal arrays."""
        return answers

    def right(self, labels: Array, answers: Array) -> npt.NDArray[np.bool_]:
        """Which numbers of the answers (N, ...) are right; labels that don't count are left out by who asks."""
        return labels == answers

    def metrics(self, examples: Examples, answers: Array) -> dict[str, float]:
        """Further measures of the answers (N, ...) to examples, by name."""
        return {}

    def ranked_metrics(self, examples: Examples, ranked: Iterable[Candidates]) -> dict[str, float]:
        """Measures of all that was answered to each example, by name."""
        return {}

    def submission(self, questions: Examples, ranked: Iterable[Candidates]) -> Any:
        """JSON that a competition takes; UserError in a task without one."""
        raise UserError(f"the task {self.name} has no submission format", wrong_use=True)

    def measures(self, solver: Solving, examples: Examples, answers: Array) -> dict[str, float]:
        """What an evaluation reports: ``metrics``, or what takes the solver itself, such as generated text."""
        return self.metrics(examples, answers)

    def report(self, metrics: dict[str, float]) -> list[Any]:
        """Rich renderables of ``metrics``; nothing where a plain list of them is enough."""
        return []

    @abstractmethod
    def parse(self, text: str, where: str = "") -> Question:
        """A question from text; a malformed or contradictory one is a UserError that says what is wrong."""

    def generate(self, seed: int) -> Question:
        """A fresh question; UserError in a task that has no generator."""
        raise UserError(f"the task {self.name} has no generator of questions", wrong_use=True)

    def questions(self, source: str | Path) -> Iterator[Question]:
        """The questions of a file, one a line where a task has no format of its own; ``where`` is file and line."""
        lines = [(number, line) for number, line in enumerate(read_text(source).splitlines(), 1) if line.strip()]
        if not lines:
            raise UserError(f"{source} has no {self.noun}")
        for number, line in lines:
            yield self.parse(line, f"{source}:{number}")

    @abstractmethod
    def format(self, question: Question, answer: Array) -> str:
        """The answer (L,) written in the format of the question."""

    def verify(self, examples: Examples, answers: Array) -> npt.NDArray[np.bool_]:
        """Whether each answer (N, L) obeys the rules and keeps its question; asked only where there are rules."""
        raise NotImplementedError

    def draw(self, question: Question, answer: Array | None = None) -> Any:
        """A rich renderable of the question, or of the answer with what was given kept apart from what was found."""
        return question.text if answer is None else self.format(question, answer)

    def picture(self, question: Question, answer: Array | None = None) -> npt.NDArray[np.uint8]:
        """The question, or the answer, as pixels, uint8 (height, width, 3); by default what ``draw`` shows."""
        from trm_fast.tasks.pictures import picture_of

        return picture_of(self.draw(question, answer))


Split = Literal["train", "test"]
