"""The task sequence: predicting the next numbers of an arithmetic, geometric or periodic sequence of unstated kind."""

from __future__ import annotations

from itertools import islice
from typing import ClassVar, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator
from rich.text import Text

from trm_fast.errors import UserError
from trm_fast.tasks.base import Array, Dataset, Examples, Question, TaskConfig
from trm_fast.tasks.numbers import Numbers, NumbersTask, read_lines, read_numbers, write_numbers
from trm_fast.tasks.sets import check_count

Kind = Literal["arithmetic", "geometric", "periodic"]
KINDS: tuple[Kind, ...] = ("arithmetic", "geometric", "periodic")


class SequenceConfig(TaskConfig):
    """The ``task:`` section for sequence.

    Attributes:
        length: how many numbers the model sees. A period is at most half as long, so that it is seen twice.
        horizon: how many numbers the model predicts.
        kinds: the kinds of generated sequences, in equal parts.
        ratio: the largest quotient of a geometric sequence; the smallest is its inverse. Half of the quotients are
            negative.
        train_count: how many training sequences to generate.
        test_count: how many test sequences to generate.
        tolerance: the largest error of a right number, as a share of the sequence's scale: the largest magnitude
            among the numbers seen.
    """

    name: str = "sequence"
    length: int = Field(8, ge=4)
    horizon: int = Field(2, ge=1)
    kinds: tuple[Kind, ...] = Field(KINDS, min_length=1, strict=False)
    ratio: float = Field(1.5, gt=1, le=10)
    train_count: int = Field(20_000, ge=1)
    test_count: int = Field(1000, ge=1)
    tolerance: float = Field(0.1, gt=0)

    @model_validator(mode="after")
    def _distinct(self) -> SequenceConfig:
        if len(set(self.kinds)) < len(self.kinds):
            raise ValueError("kinds has duplicates")
        return self


class Sequence(NumbersTask):
    """One position for each predicted number. Every position has all numbers seen as its input.

    ``inputs`` float32 (N, horizon, length) and ``labels`` float32 (N, horizon, 1) are divided by the sequence's scale.
    ``extra["kind"]`` int32 (N,) is an index into ``KINDS``, -1 if the kind is unknown.
    """

    name: ClassVar[str] = "sequence"
    Config: ClassVar[type[SequenceConfig]] = SequenceConfig
    noun: ClassVar[str] = "sequences"

    def __init__(self, config: SequenceConfig | None = None) -> None:
        self.config = config or SequenceConfig()
        self.length = self.input_width = self.config.length
        self.seq_len = self.config.horizon

    def generated(self, seed: int) -> Dataset:
        config = self.config
        numbers = (self.length + 1) * self.seq_len  # each position reads the whole sequence
        check_count(config.train_count + config.test_count, numbers, self.noun)
        train, test = (self._generate(n, (seed, i)) for i, n in enumerate((config.train_count, config.test_count)))
        return Dataset(train, test, f"generated ({', '.join(config.kinds)}, seed {seed})")

    def _generate(self, count: int, seed: tuple[int, int]) -> Examples:
        rng = np.random.default_rng(seed)
        kinds = np.array([KINDS.index(k) for k in self.config.kinds], dtype=np.int32)[
            np.arange(count) % len(self.config.kinds)
        ]
        return self._encode(
            sequences(kinds, self.length + self.seq_len, self.length // 2, self.config.ratio, rng), kinds
        )

    def _encode(self, numbers: Numbers, kinds: npt.NDArray[np.int32]) -> Examples:
        """Sequences (N, length + horizon) as examples."""
        scaled = (numbers / sequence_scale(numbers[:, : self.length])).astype(np.float32)
        ids = np.zeros(len(numbers), dtype=np.int32)
        return Examples(self._inputs(scaled), scaled[:, self.length :, None], ids, {"kind": kinds})

    def _inputs(self, scaled: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        return np.repeat(scaled[:, None, : self.length], self.seq_len, axis=1)

    def read(self, source: str, limit: int | None = None) -> Examples:
        lines = islice(read_lines(source), limit)
        rows = [self._numbers(text, where, (self.length + self.seq_len,)) for text, where in lines]
        return self._encode(np.stack(rows), np.full(len(rows), -1, dtype=np.int32))

    def augment(self, examples: Examples, rng: np.random.Generator) -> Examples:
        """Negates sequences at random."""
        sign = rng.integers(0, 2, (len(examples), 1, 1)).astype(np.float32) * 2 - 1
        return Examples(examples.inputs * sign, examples.labels * sign, examples.puzzle_ids, examples.extra)

    def metrics(self, examples: Examples, answers: Array) -> dict[str, float]:
        """The mean error as a share of the scale, and the exact accuracy for each kind."""
        exact = np.asarray(self.right(examples.labels, answers).reshape(len(answers), -1).all(axis=1))
        measured = {"mean_absolute_error": float(np.abs(examples.labels - answers).mean())}
        for index, kind in enumerate(KINDS):
            if len(rows := np.flatnonzero(examples.extra["kind"] == index)):
                measured[f"exact_accuracy_{kind}"] = float(exact[rows].mean())
        return measured

    def parse(self, text: str, where: str = "") -> Question:
        """A question of ``length`` numbers. The last ``horizon`` numbers of a data file's row are ignored."""
        numbers = self._numbers(text, where, (self.length, self.length + self.seq_len))[None, : self.length]
        scaled = (numbers / sequence_scale(numbers)).astype(np.float32)
        return Question(text.strip(), self._inputs(scaled)[0], where, extra={"kind": np.array(-1, dtype=np.int32)})

    def format(self, question: Question, answer: Array) -> str:
        return write_numbers(self._predicted(question, answer), question.text)

    def draw(self, question: Question, answer: Array | None = None) -> Text:
        seen = read_numbers(question.text)[: self.length]
        text = Text(" ".join(f"{v:.6g}" for v in seen))
        if answer is not None:
            text.append(" ")
            text.append(write_numbers(self._predicted(question, answer), ""), "bold green")
        return text

    def _predicted(self, question: Question, answer: Array) -> Numbers:
        """The predicted numbers, multiplied by the sequence's scale."""
        scale = sequence_scale(read_numbers(question.text)[None, : self.length])[0]
        return answer[:, 0].astype(np.float64) * scale

    def _numbers(self, text: str, where: str, lengths: tuple[int, ...]) -> Numbers:
        values = read_numbers(text, where)
        if len(values) not in lengths:
            location = f"{where}: " if where else ""
            expected = " or ".join(map(str, lengths))
            raise UserError(f"{location}found {len(values)} numbers, expected {expected} (task.length {self.length})")
        return values


def sequences(
    kinds: npt.NDArray[np.int32], count: int, max_period: int, ratio: float, rng: np.random.Generator
) -> Numbers:
    """Random sequences (N, count), one of each of the kinds (N,), which are indices into ``KINDS``."""
    N, positions = len(kinds), np.arange(count)
    first, step = rng.uniform(-1, 1, (2, N, 1))
    quotient = np.exp(rng.uniform(-np.log(ratio), np.log(ratio), (N, 1))) * rng.choice([-1.0, 1.0], (N, 1))
    pattern = rng.uniform(-1, 1, (N, max_period))
    period = rng.integers(2, max_period + 1, (N, 1))
    by_kind = [
        first + step * positions,
        first * quotient**positions,
        np.take_along_axis(pattern, positions % period, axis=1),
    ]
    return np.stack(by_kind)[kinds, np.arange(N)]


def sequence_scale(seen: Numbers) -> Numbers:
    """The largest magnitude in each row of ``seen`` (N, length), (N, 1); 1 for a row of zeros."""
    largest = np.abs(seen).max(axis=1, keepdims=True)
    return np.where(largest > 0, largest, 1.0)
