"""The task symbols: copying strings of letters, forward or backward; the counterpart of ``copy`` with tokens."""

from __future__ import annotations

from itertools import islice
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field
from rich.text import Text

from trm_fast.errors import UserError
from trm_fast.tasks.base import Array, DataConfig, Dataset, Examples, IntArray, Question, Task, TaskConfig
from trm_fast.tasks.sets import check_count, holdout_note, random_split

LETTERS = "abcdefghijklmnopqrstuvwxyz"


class SymbolsConfig(TaskConfig):
    """The ``task:`` section for symbols.

    Attributes:
        length: the number of letters in a string.
        symbols: how many letters of the alphabet are used.
        order: whether the answer is the string itself or the string reversed.
        train_count: how many different training strings to draw.
        test_count: how many different test strings to draw.
    """

    name: str = "symbols"
    length: int = Field(16, ge=1)
    symbols: int = Field(8, ge=2, le=len(LETTERS))
    order: Literal["same", "reversed"] = "same"
    train_count: int = Field(1000, ge=1)
    test_count: int = Field(500, ge=1)


class Symbols(Task):
    """Token 0 is padding, token 1 + k is letter k of the alphabet.

    Examples:
        >>> task = Symbols(SymbolsConfig(length=3, order="reversed"))
        >>> question = task.parse("abc")
        >>> task.format(question, question.inputs[::-1])
        'cba'
    """

    name: ClassVar[str] = "symbols"
    Config: ClassVar[type[SymbolsConfig]] = SymbolsConfig
    noun: ClassVar[str] = "strings"
    has_rules: ClassVar[bool] = True

    def __init__(self, config: SymbolsConfig | None = None) -> None:
        self.config = config or SymbolsConfig()
        self.seq_len = self.config.length
        self.vocab_size = self.config.symbols + 1
        self.letters = LETTERS[: self.config.symbols]

    def dataset(self, data: DataConfig, seed: int) -> Dataset:
        config = self.config
        source = f"random strings of {config.length}, seed {seed}"
        notes: list[str] = []
        if data.source is None:
            strings = self._random_strings(np.random.default_rng((seed, 0)), config.train_count + config.test_count)
            share = config.test_count / (config.train_count + config.test_count)
        else:
            strings, source, share = np.unique(self.read(data.source).inputs, axis=0), data.source, data.holdout
        rng = np.random.default_rng((seed, 1))
        if data.source is not None and data.test is not None:
            train = strings[rng.permutation(len(strings))]
        else:
            train_rows, test_rows = random_split(len(strings), share, rng, f"{source}: there is only one string")
            train, test = strings[train_rows], strings[test_rows]
            if data.source is not None:
                notes = holdout_note(len(test), len(strings), share, self.noun)
        if data.test is not None:
            test = self.read(data.test).inputs
            test_strings = {row.tobytes() for row in test}
            train = train[[row.tobytes() not in test_strings for row in train]]
        return Dataset(self._encode(train), self._encode(test), source, notes)

    def _random_strings(self, rng: np.random.Generator, count: int) -> IntArray:
        """Up to ``count`` distinct random strings, int32 (N, L); fewer if too many duplicates were drawn."""
        check_count(count, self.seq_len, "strings")
        strings = rng.integers(1, self.vocab_size, (count + 16, self.seq_len), dtype=np.int32)
        unique: IntArray = np.unique(strings, axis=0)
        return unique[rng.permutation(len(unique))[:count]]

    def _encode(self, strings: IntArray) -> Examples:
        return Examples(strings, self._answers(strings), np.zeros(len(strings), dtype=np.int32))

    def _answers(self, strings: Array) -> Array:
        return strings.copy() if self.config.order == "same" else strings[:, ::-1].copy()

    def read(self, source: str, limit: int | None = None) -> Examples:
        return self._encode(np.stack([question.inputs for question in islice(self.questions(source), limit)]))

    def augment(self, examples: Examples, rng: np.random.Generator) -> Examples:
        """Each string with its letters replaced according to a random permutation of the alphabet."""
        return self._encode(self._relabeled(examples.inputs, self._permutations(len(examples), rng)))

    def _permutations(self, count: int, rng: np.random.Generator) -> Array:
        order = 1 + np.argsort(rng.random((count, self.config.symbols)), axis=1)
        return np.concatenate([np.zeros((count, 1), dtype=order.dtype), order], axis=1)

    def _relabeled(self, strings: Array, mapping: Array) -> IntArray:
        return np.take_along_axis(mapping, strings, axis=1).astype(np.int32)

    def images(self, examples: Examples, count: int, rng: np.random.Generator) -> tuple[Examples, Any]:
        N, L = examples.inputs.shape
        mapping = self._permutations(N * count, rng)
        mapping[::count] = np.arange(self.vocab_size)
        repeated = examples.repeat(count)

        def undo(answers: Array) -> Array:
            return np.take_along_axis(np.argsort(mapping, axis=1), answers.reshape(N * count, L), axis=1).reshape(
                N, count, L
            )

        return Examples.of_questions(self._relabeled(repeated.inputs, mapping), repeated.puzzle_ids), undo

    def generate(self, seed: int) -> Question:
        letters = np.random.default_rng(seed).integers(self.config.symbols, size=self.seq_len)
        return self.parse("".join(self.letters[i] for i in letters))

    def parse(self, text: str, where: str = "") -> Question:
        location = f"{where}: " if where else ""
        text = text.strip()
        if unknown := [c for c in text if c not in self.letters]:
            raise UserError(f"{location}{unknown[0]!r} is not one of the letters {self.letters}")
        if len(text) != self.seq_len:
            raise UserError(f"{location}found {len(text)} letters, expected {self.seq_len} (task.length)")
        return Question(text, np.array([1 + self.letters.index(c) for c in text], dtype=np.int32), where)

    def format(self, question: Question, answer: Array) -> str:
        return "".join(self.letters[t - 1] if 1 <= t < self.vocab_size else "?" for t in answer.tolist())

    def verify(self, examples: Examples, answers: Array) -> npt.NDArray[np.bool_]:
        result: npt.NDArray[np.bool_] = (answers == self._answers(examples.inputs)).all(axis=-1)
        return result

    def draw(self, question: Question, answer: Array | None = None) -> Text:
        return Text(question.text if answer is None else f"{question.text} -> {self.format(question, answer)}")
