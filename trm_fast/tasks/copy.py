"""The task copy: copying vectors of real numbers, the smallest test of whether a model preserves its input."""

from __future__ import annotations

from itertools import islice
from typing import Any, ClassVar

import numpy as np
from pydantic import Field
from rich.table import Table
from rich.text import Text

from trm_fast.errors import UserError
from trm_fast.tasks.base import Array, Dataset, Examples, Question, TaskConfig
from trm_fast.tasks.numbers import Numbers, NumbersTask, read_lines, read_numbers, write_numbers
from trm_fast.tasks.sets import check_count


class CopyConfig(TaskConfig):
    """The ``task:`` section for copy.

    Attributes:
        length: the number of values in a vector.
        train_count: how many training vectors to draw, uniformly from [-1, 1]^length.
        test_count: how many test vectors to draw.
        tolerance: the largest absolute error of a right value.
        symmetries: whether training vectors are reflected and permuted at random.
    """

    name: str = "copy"
    length: int = Field(5, ge=1)
    train_count: int = Field(80, ge=1)
    test_count: int = Field(1000, ge=1)
    tolerance: float = Field(0.1, gt=0)
    symmetries: bool = True


class Copy(NumbersTask):
    """Inputs and labels are values, float32 (N, length, 1): one position for each number."""

    name: ClassVar[str] = "copy"
    Config: ClassVar[type[CopyConfig]] = CopyConfig
    noun: ClassVar[str] = "vectors"

    def __init__(self, config: CopyConfig | None = None) -> None:
        self.config = config or CopyConfig()
        self.seq_len = self.config.length

    def generated(self, seed: int) -> Dataset:
        config = self.config
        check_count(config.train_count + config.test_count, config.length, self.noun)
        rng = np.random.default_rng(seed)
        test = _encode(rng.uniform(-1, 1, (config.test_count, config.length)))
        train = _encode(rng.uniform(-1, 1, (config.train_count, config.length)))
        return Dataset(train, test, f"uniform in [-1, 1]^{config.length}, seed {seed}")

    def read(self, source: str, limit: int | None = None) -> Examples:
        return _encode(np.stack([self._vector(text, where) for text, where in islice(read_lines(source), limit)]))

    def augment(self, examples: Examples, rng: np.random.Generator) -> Examples:
        """Reflects and permutes vectors at random, with ``task.symmetries``."""
        if not self.config.symmetries:
            return examples
        order, signs = _random_symmetries(len(examples), self.seq_len, rng)
        moved = np.take_along_axis(examples.inputs, order, axis=1) * signs
        return Examples(moved, moved.copy(), examples.puzzle_ids)

    def images(self, examples: Examples, count: int, rng: np.random.Generator) -> tuple[Examples, Any]:
        N, L = examples.inputs.shape[:2]
        order, signs = _random_symmetries(N * count, L, rng)
        order[::count], signs[::count] = np.arange(L)[:, None], 1
        repeated = examples.repeat(count)
        images = np.take_along_axis(repeated.inputs, order, axis=1) * signs

        def undo(answers: Array) -> Array:
            upright = answers.reshape(N * count, L, 1) * signs
            return np.take_along_axis(upright, np.argsort(order, axis=1), axis=1).reshape(N, count, L, 1)

        return Examples.of_questions(images, repeated.puzzle_ids), undo

    def metrics(self, examples: Examples, answers: Array) -> dict[str, float]:
        return {"mean_absolute_error": float(np.nanmean(np.abs(examples.labels - answers)))}

    def parse(self, text: str, where: str = "") -> Question:
        return Question(text.strip(), self._vector(text, where).astype(np.float32)[:, None], where)

    def format(self, question: Question, answer: Array) -> str:
        return write_numbers(answer[:, 0], question.text)

    def draw(self, question: Question, answer: Array | None = None) -> Table:
        table = Table(show_header=False)
        table.add_row("given", *(f"{v:.3f}" for v in question.inputs[:, 0]))
        if answer is not None:
            near = self.right(question.inputs, answer)[:, 0]
            cells = zip(answer[:, 0], near, strict=True)
            table.add_row("copy", *(Text(f"{v:.3f}", "green" if good else "red") for v, good in cells))
        return table

    def _vector(self, text: str, where: str) -> Numbers:
        values = read_numbers(text, where)
        location = f"{where}: " if where else ""
        if len(values) != self.seq_len:
            raise UserError(f"{location}found {len(values)} numbers, expected {self.seq_len} (task.length)")
        if len(outside := values[np.abs(values) > 1]):
            raise UserError(f"{location}{outside[0]:g} is out of range: the values of this task lie between -1 and 1")
        return values


def _encode(vectors: Numbers) -> Examples:
    values = vectors.astype(np.float32)[:, :, None]
    return Examples(values, values.copy(), np.zeros(len(values), dtype=np.int32))


def _random_symmetries(count: int, length: int, rng: np.random.Generator) -> tuple[Array, Array]:
    """For each of ``count`` vectors a random permutation, int64 (count, length, 1), and random signs, float32 of the
    same shape."""
    order = np.argsort(rng.random((count, length, 1)), axis=1)
    signs = rng.integers(0, 2, (count, length, 1)).astype(np.float32) * 2 - 1
    return order, signs
