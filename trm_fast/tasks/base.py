"""The interface of a task: its examples, its encoding, and how answers are scored and drawn.

The trainer, the solver and the command line use tasks only through this interface. A new task is one module in this
folder that defines a subclass of ``Task`` and is registered in ``trm_fast.tasks``, one YAML file in ``configs/`` and
one test.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol

import numpy as np
import numpy.typing as npt
from typing_extensions import Self

from trm_fast.errors import UserError
from trm_fast.labels import IGNORE as IGNORE
from trm_fast.tasks.config import DataConfig as DataConfig
from trm_fast.tasks.config import TaskConfig as TaskConfig
from trm_fast.tasks.files import read_text, split_lines
from trm_fast.tasks.tables import question_column

Array = npt.NDArray[Any]
IntArray = npt.NDArray[np.int32]


@dataclass(frozen=True)
class Examples:
    """N encoded examples, or N questions without answers (``labels`` of width 0).

    Attributes:
        inputs: tokens, int32 (N, L), or values, float32 (N, L, F).
        labels: the targets of the model's head, int32 or float32 (N, ...). For token answers they have the shape of
            ``inputs``.
        puzzle_ids: the row of the puzzle embedding that each example uses, int32 (N,). Zeros if a task has no
            puzzle embedding.
        extra: further arrays (N, ...) that the model's embedding and head take by name, such as ``mask`` (N, L),
            which is False on padding.
        sources: the objects that the examples were encoded from, for tasks whose metrics or symmetries need more
            than arrays. ``extra["row"]`` is the index of each example's source.
        names: the name of each example in its file, for tasks whose submissions contain names; otherwise empty.

    Examples:
        >>> questions = Examples.of_questions(np.ones((3, 4), dtype=np.int32))
        >>> len(questions), questions.labels.shape
        (3, (3, 0))
        >>> len(questions.repeat(2))
        6
    """

    inputs: Array
    labels: Array
    puzzle_ids: IntArray
    extra: Mapping[str, Array] = field(default_factory=dict)
    sources: Sequence[Any] = ()
    names: Sequence[str] = ()

    @classmethod
    def of_questions(
        cls,
        inputs: Array,
        puzzle_ids: IntArray | None = None,
        extra: Mapping[str, Array] | None = None,
        names: Sequence[str] = (),
    ) -> Examples:
        """Questions without answers; ``puzzle_ids`` are zeros by default."""
        ids = np.zeros(len(inputs), dtype=np.int32) if puzzle_ids is None else puzzle_ids
        return cls(inputs, np.zeros((len(inputs), 0), dtype=np.int32), ids, extra or {}, names=names)

    @classmethod
    def of_arrays(cls, arrays: Mapping[str, Array], sources: Sequence[Any] = (), names: Sequence[str] = ()) -> Examples:
        """The inverse of ``arrays``."""
        extra = {name: a for name, a in arrays.items() if name not in ("inputs", "labels", "puzzle_ids")}
        return cls(arrays["inputs"], arrays["labels"], arrays["puzzle_ids"], extra, sources, names)

    @classmethod
    def joined(cls, parts: Sequence[Examples]) -> Examples:
        """The rows of several ``Examples`` with the same arrays, in order."""
        arrays = [part.arrays() for part in parts]
        return cls.of_arrays({name: np.concatenate([a[name] for a in arrays]) for name in arrays[0]})

    def __len__(self) -> int:
        return len(self.inputs)

    def arrays(self) -> dict[str, Array]:
        """All arrays by name: ``inputs``, ``labels``, ``puzzle_ids`` and those of ``extra``."""
        return {"inputs": self.inputs, "labels": self.labels, "puzzle_ids": self.puzzle_ids, **self.extra}

    def take(self, rows: npt.NDArray[np.intp] | slice) -> Examples:
        """The examples at some indices."""
        names = np.array(self.names)[rows].tolist() if self.names else ()
        return Examples.of_arrays({name: array[rows] for name, array in self.arrays().items()}, self.sources, names)

    def repeat(self, count: int) -> Examples:
        """Each example ``count`` times in succession."""
        return self.take(np.repeat(np.arange(len(self)), count))


@dataclass(frozen=True)
class Dataset:
    """Training and test examples. No test example is equivalent to a training example.

    ``source`` describes the origin in a few words. ``notes`` are messages for the user, shown before training.
    ``difficulty`` (N,) is larger for harder training examples; None if that is unknown.
    """

    train: Examples
    test: Examples
    source: str
    notes: list[str] = field(default_factory=list)
    difficulty: Array | None = None


@dataclass(frozen=True)
class Question:
    """One puzzle, parsed into tokens.

    ``text`` is the puzzle as the user wrote it and ``where`` its file and line. ``inputs`` (L,) or (L, F),
    ``puzzle_id``, ``extra`` and ``name`` are one row of ``Examples``.
    """

    text: str
    inputs: Array
    where: str = ""
    puzzle_id: int = 0
    extra: Mapping[str, Array] = field(default_factory=dict)
    name: str = ""

    @staticmethod
    def rows(questions: Sequence[Question]) -> Examples:
        """Questions as ``Examples`` without answers."""
        ids = np.array([q.puzzle_id for q in questions], dtype=np.int32)
        extra = {name: np.stack([q.extra[name] for q in questions]) for name in questions[0].extra}
        return Examples.of_questions(np.stack([q.inputs for q in questions]), ids, extra, [q.name for q in questions])


@dataclass(frozen=True)
class Candidates:
    """The K distinct answers of several tries at one question, best first.

    ``answers`` (K, ...) are ordered by ``votes`` int64 (K,), the number of tries that returned each answer, and then by
    ``confidence`` float32 (K,), the mean confidence of these tries.
    """

    answers: Array
    votes: npt.NDArray[np.int64]
    confidence: npt.NDArray[np.float32]


class IncrementalRow(Protocol):
    """A sequence of symbols in a causal model, to which more symbols can be appended."""

    @property
    def steps(self) -> int:
        """The number of supervision steps for each symbol."""

    def extend(self, inputs: Array, extra: Mapping[str, Array] | None = None) -> npt.NDArray[np.float32]:
        """Appends n symbols: ``inputs`` (n, ...), and further arrays by name. Returns the log probabilities of the next
        symbol, (V,)."""

    def fork(self) -> Self: ...


class Decoder(Protocol):
    """A solver or a model that decodes symbol by symbol."""

    def incremental(self) -> IncrementalRow: ...


class Solution(Protocol):
    """The part of a solver's answer that tasks use."""

    @property
    def raw(self) -> Array:
        """The answer as tokens or values, (L,)."""

    @property
    def confidence(self) -> float:
        """The sigmoid of the halting logit."""

    @property
    def steps(self) -> int:
        """The number of supervision steps."""


class SolverLike(Decoder, Protocol):
    """The part of ``trm_fast.inference.Solver`` that tasks use."""

    def solve(self, question: Question) -> Solution: ...


class Task(ABC):
    """One kind of problem. Instances hold no examples and are cheap to create from a validated configuration.

    Attributes:
        name: the name in configurations and commands.
        Config: the class of the ``task:`` section.
        noun: the plural that messages use for examples.
        has_rules: whether ``verify`` can recognize a right answer without a label.
        majority: whether the most frequent answer of several tries wins by default.
        fallback_note: if the task can generate examples in the place of a data set of the Hugging Face hub that is out
            of reach: a note that tells the user so.
        more_steps_help: whether the solver may run more supervision steps than training did, because they improve the
            answers of this task.
        masked: whether examples have ``extra["mask"]``.
        vocab_size: the number of tokens, V.
        seq_len: the number of positions, without the prefix.
        grid_shape: rows and columns of the grid, None if the positions form no grid.
        box_shape: rows and columns of the boxes that the grid is divided into, if it is.
        kept: keys of the ``task:`` section that a run takes from the model that it fine-tunes unless it sets them.
        partitions: names of the partitions of the positions that a model with ``mixing: groups`` reads by default.
        open_token: the input token of positions to fill in, if all other input tokens are part of the answer.
        special_tokens: number of tokens, the first of the vocabulary, that are no symbols, such as padding.
    """

    name: ClassVar[str]
    Config: ClassVar[type[TaskConfig]]
    noun: ClassVar[str] = "puzzles"
    has_rules: ClassVar[bool] = False
    majority: ClassVar[bool] = False
    more_steps_help: ClassVar[bool] = True
    fallback_note: ClassVar[str] = ""
    kept: ClassVar[tuple[str, ...]] = ()
    config: Any
    masked: bool = False
    vocab_size: int = 2
    seq_len: int
    grid_shape: tuple[int, int] | None = None
    box_shape: tuple[int, int] | None = None
    partitions: tuple[str, ...] = ("rows", "columns")
    special_tokens: int = 0
    open_token: int | None = None

    @abstractmethod
    def __init__(self, config: Any) -> None:
        """``config``: an instance of ``Config``, which the task keeps as ``self.config``."""

    @classmethod
    def completed(cls, config: TaskConfig, data: DataConfig) -> TaskConfig:
        """The configuration with the keys that follow from the data of a new run; by default there are none.

        Raises:
            UserError: the data cannot be read.
        """
        return config

    @property
    def reads_files(self) -> bool:
        """Whether ``dataset`` uses ``data.source`` and ``data.test``; by default, whether the task has a ``read``."""
        return type(self).read is not Task.read

    def group_keys(self) -> dict[str, Any]:
        """The keys of ``TRMConfig`` that a model with ``mixing: groups`` takes from the task unless it sets them."""
        return {"groups": self.partitions, "box_shape": self.box_shape, "special_tokens": self.special_tokens}

    def model_keys(self, data: DataConfig) -> dict[str, Any]:
        """The keys of ``TRMConfig`` that follow from the task, such as vocabulary size, length and head."""
        return {"vocab_size": self.vocab_size, "seq_len": self.seq_len, "grid_shape": self.grid_shape}

    def save_assets(self, folder: Path) -> None:  # noqa: B027 (most tasks have none)
        """Writes files that a model needs in addition to its weights and configuration, such as a tokenizer."""

    def adopt(self, trained: Task) -> None:  # noqa: B027
        """Takes over what the tokens of a model mean, for a run that fine-tunes it. ``trained`` is the model's task, of
        the same class. Raises UserError if they mean something else in this task."""

    def load_assets(self, folder: Path) -> None:  # noqa: B027
        """Reads the files of ``save_assets``."""

    @abstractmethod
    def dataset(self, data: DataConfig, seed: int) -> Dataset:
        """Training and test examples, the same for the same ``data`` and ``seed``.

        Raises:
            UserError: the source cannot be read, or one of its rows is malformed.
        """

    def read(self, source: str, limit: int | None = None) -> Examples:
        """The examples of a file or of ``hf:NAME``, in order: all, or the first ``limit``. The rows after them are not
        read.

        Raises:
            UserError: a row is malformed (the message names file and line), or the task reads no files.
        """
        raise UserError(f"the task {self.name} reads no files of examples", usage_error=True)

    def read_counted(self, source: str, limit: int | None = None) -> tuple[Examples, dict[str, int], list[str]]:
        """Like ``read``, with the number of rows that the task leaves out, by reason, and messages about them."""
        return self.read(source, limit), {}, []

    def augment(self, examples: Examples, rng: np.random.Generator) -> Examples:
        """The examples, each under a random symmetry of the task."""
        return examples

    def images(
        self, examples: Examples, count: int, rng: np.random.Generator
    ) -> tuple[Examples, Callable[[Array], Array]]:
        """Symmetric images of N questions, for voting.

        Returns:
            ``count`` images of each question as N * count rows, the first image of a question being the question
            itself, and a function that maps answers to the images (N, count, L) back to answers to the questions, of
            the same shape.

        Raises:
            UserError: the task has no symmetries, or fewer than ``count``.
        """
        raise UserError(f"the task {self.name} has no symmetries to vote over", usage_error=True)

    def normalized(self, answers: Array) -> Array:
        """Answers (N, ...) in which tokens without meaning are reset, so that equal answers are equal arrays."""
        return answers

    def right(self, labels: Array, answers: Array) -> npt.NDArray[np.bool_]:
        """Which elements of the answers (N, ...) are right. The caller excludes labels that are ``IGNORE``."""
        return labels == answers

    def metrics(self, examples: Examples, answers: Array) -> dict[str, float]:
        """Further metrics of answers (N, ...) to examples, by name."""
        return {}

    def ranked_metrics(self, examples: Examples, ranked: Iterable[Candidates]) -> dict[str, float]:
        """Metrics of all candidate answers to each example, by name."""
        return {}

    def submission(self, questions: Examples, ranked: Iterable[Candidates]) -> Any:
        """The answers as a JSON value in the format of a competition.

        Raises:
            UserError: the task has no such format.
        """
        raise UserError(f"the task {self.name} has no submission format", usage_error=True)

    def measures(self, solver: SolverLike, examples: Examples, answers: Array) -> dict[str, float]:
        """The metrics that an evaluation reports: ``metrics``, or metrics that need the solver, such as those of
        generated text."""
        return self.metrics(examples, answers)

    def report(self, metrics: dict[str, float]) -> list[Any]:
        """Rich renderables that show ``metrics``; empty if a plain list of them is enough."""
        return []

    @abstractmethod
    def parse(self, text: str, where: str = "") -> Question:
        """Parses a question. Error messages start with ``where``, its file and line.

        Raises:
            UserError: the text is malformed or contradicts the rules.
        """

    def generate(self, seed: int) -> Question:
        """A generated question, the same for the same seed.

        Raises:
            UserError: the task has no generator.
        """
        raise UserError(f"the task {self.name} has no generator of questions", usage_error=True)

    def questions(self, source: str | Path) -> Iterator[Question]:
        """The questions of a file: a table with a column of questions, or one question on each line, unless the task
        has its own format.

        Raises:
            UserError: the file cannot be read, has no questions, or a question is malformed.
        """
        text = read_text(source)
        if column := question_column(text, str(source)):
            yield from (self.parse(question, where) for question, where in column)
            return
        lines = [(number, line) for number, line in enumerate(split_lines(text), 1) if line.strip()]
        if not lines:
            raise UserError(f"{source} has no {self.noun}")
        for number, line in lines:
            yield self.parse(line, f"{source}:{number}")

    @abstractmethod
    def format(self, question: Question, answer: Array) -> str:
        """The solution: the answer (L,) in the format of the question's text."""

    def verify(self, examples: Examples, answers: Array) -> npt.NDArray[np.bool_]:
        """Whether each answer (N, L) obeys the rules and agrees with its question, bool (N,). Only tasks with
        ``has_rules`` implement this."""
        raise NotImplementedError

    def draw(self, question: Question, answer: Array | None = None) -> Any:
        """A rich renderable of the question, or of the answer with the question's cells set off."""
        return question.text if answer is None else self.format(question, answer)

    def picture(self, question: Question, answer: Array | None = None) -> npt.NDArray[np.uint8]:
        """The question, or the answer, as RGB pixels, uint8 (height, width, 3); by default an image of ``draw``."""
        from trm_fast.tasks.pictures import render_picture

        return render_picture(self.draw(question, answer))


Split = Literal["train", "test"]
