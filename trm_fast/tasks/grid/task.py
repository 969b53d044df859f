"""The task grid. Token 0 is padding, and token i + 1 is symbol i of ``task.vocabulary``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from rich.cells import cell_len
from rich.text import Text

from trm_fast.errors import UserError, cut, shown
from trm_fast.tasks import hub
from trm_fast.tasks.base import (
    IGNORE,
    Array,
    DataConfig,
    Dataset,
    Examples,
    IntArray,
    Question,
    Split,
    Task,
    TaskConfig,
)  # fmt: skip
from trm_fast.tasks.grid import files
from trm_fast.tasks.grid.boards import Boards, check_answers
from trm_fast.tasks.grid.cells import UNKNOWN, Shape, list_in, write_list, write_text
from trm_fast.tasks.grid.config import GridConfig
from trm_fast.tasks.grid.layout import (
    Field,
    Layout,
    Types,
    describe,
    infer_layout,
    infer_symbols,
    size,
)
from trm_fast.tasks.grid.symmetry import Symmetries
from trm_fast.tasks.puzzle_task import PuzzleTask
from trm_fast.tasks.sets import Sets
from trm_fast.tasks.tables import Table, decode_ratings, read_table
from trm_fast.tasks.values import as_text, parse_value, question_in

PADDING = 0


class Grid(PuzzleTask[Boards]):
    """Inputs and labels are tokens, int32 (N, L), where L is the longer of question and answer. The shorter one is
    padded: inputs with token 0, labels with ``IGNORE``.

    Examples:
        >>> task = Grid(GridConfig(shape=(2, 2), vocabulary=(".", "a", "b"), separator=""))
        >>> task.parse("a.\\n.b").inputs.tolist()
        [2, 1, 1, 3]
    """

    name: ClassVar[str] = "grid"
    Config: ClassVar[type[GridConfig]] = GridConfig

    special_tokens = 1

    kept = ("shape", "answer_shape", "vocabulary", "separator")

    def __init__(self, config: GridConfig | None = None) -> None:
        c = self.config = config or GridConfig()
        self.notes: list[str] = []
        if c.is_complete and c.vocabulary is not None:
            question, answer = c.shapes
            self.seq_len, self.vocab_size = max(size(question), size(answer)), 1 + len(c.vocabulary)
            self.grid_shape = (
                None if size(question) != size(answer) else question if len(question) == 2 else (1, self.seq_len)
            )

    @classmethod
    def completed(cls, config: TaskConfig, data: DataConfig) -> TaskConfig:
        """Infers what the configuration leaves open from all rows of the data.

        Raises:
            UserError: the data cannot be read, or can be read in several ways.
        """
        assert isinstance(config, GridConfig)
        if config.is_complete or data.source is None:
            return config
        sources: list[tuple[str, Split]] = [(data.source, "train")]
        sources += [(data.test or data.source, "test")] if data.test or data.source.startswith(hub.PREFIX) else []
        fields = [field for source in sources for field in _fields(_table(*source))]
        listed = config.vocabulary is not None
        layout = infer_layout(fields, config.separator, config.shape, config.answer_shape, listed)
        symbols = config.vocabulary or infer_symbols((field, layout.board(field)) for field in fields)
        answer = None if layout.answer == layout.question else layout.answer
        inferred = {
            "shape": layout.question, "answer_shape": answer, "vocabulary": symbols, "separator": layout.separator,
        }  # fmt: skip
        try:
            return GridConfig.model_validate(config.model_dump() | inferred)
        except ValueError as error:
            reason = str(error).partition("Value error, ")[2].partition(" [type=")[0] or str(error)
            raise UserError(f"{data.source}: task: {reason}", usage_error=True) from None

    def adopt(self, trained: Task) -> None:
        symbols, trained_symbols = self.config.vocabulary, trained.config.vocabulary
        same_size = bool(symbols and trained_symbols) and len(symbols) == len(trained_symbols)
        if same_size and symbols != trained_symbols:
            raise UserError(
                f"task.vocabulary is {' '.join(symbols)!r}, and that of the model that is fine-tuned is "
                f"{' '.join(trained_symbols)!r}: its tokens would change their meaning. Leave the vocabulary out, or "
                "keep the model's order",
                usage_error=True,
            )

    def model_keys(self, data: DataConfig) -> dict[str, Any]:
        """Nothing as long as the data are unknown."""
        return super().model_keys(data) if self.config.is_complete else {}

    @cached_property
    def layout(self) -> Layout:
        """How cells are written.

        Raises:
            UserError: the configuration is not complete.
        """
        self._check_complete()
        return Layout(self.config.separator, *self.config.shapes)

    def _check_complete(self) -> None:
        if not self.config.is_complete:
            raise UserError(
                "the task grid learns from a file of your own puzzles: give --data FILE, a table with the columns "
                "question and answer (or set task.shape, task.vocabulary and task.separator)",
                usage_error=True,
            )

    @cached_property
    def group(self) -> Symmetries:
        """The symmetries of the puzzles."""
        self._check_complete()
        group: Symmetries = self.config.group
        return group

    @cached_property
    def _tokens(self) -> dict[str, int]:
        self._check_complete()
        return {symbol: token for token, symbol in enumerate(self.config.vocabulary, 1)}

    def dataset(self, data: DataConfig, seed: int) -> Dataset:
        self._check_complete()
        self.notes = []
        result = super().dataset(data, seed)
        allowed = [*self.config.symmetries, *(["exchangeable symbols"] if self.config.exchangeable else [])]
        about = f"{describe(self.layout, self.config.vocabulary)}; symmetries: {', '.join(allowed) or 'none'}"
        return replace(result, notes=[about, *self.notes, *result.notes])

    def generated(self, seed: int) -> Sets[Boards]:
        raise UserError("the task grid learns from a file of your own puzzles: give --data FILE", usage_error=True)

    def _load(self, source: str, split: Split, limit: int | None = None) -> Boards:
        table = _table(source, split, limit)
        boards = self.decode(table)
        if table.unread:
            self.notes.append(f"{source}: not read: {cut(', '.join(table.unread), 120)}")
        if repeated := check_answers(boards, table.names):
            self.notes.append(f"{source}: {repeated:,} of {len(boards):,} puzzles are equivalent to an earlier one")
        return boards

    def read_counted(self, source: str, limit: int | None = None) -> tuple[Examples, dict[str, int], list[str]]:
        self.notes = []
        return self.read(source, limit), {}, self.notes

    def decode(self, table: Table) -> Boards:
        dtype = np.min_scalar_type(self.vocab_size)
        parts = [
            np.empty((len(table), size(shape)), dtype=dtype) for shape in (self.layout.question, self.layout.answer)
        ]
        types = Types()
        for row, (question, answer) in enumerate(_pairs(table)):
            for part, field in zip(parts, (question, answer), strict=True):
                part[row] = self._read(field, types)
        return Boards(self.group, parts[0], parts[1], decode_ratings(table))

    def _read(self, field: Field, types: Types) -> list[int]:
        """The tokens of a field."""
        board = self.layout.board(field)
        types.check(field, board)
        tokens = [self._tokens.get(symbol, 0) for symbol in board.cells]
        if 0 in tokens:
            cell = tokens.index(0)
            width = len(board.rows[0])
            spot = f"row {cell // width + 1}, column {cell % width + 1}" if board.has_rows else f"cell {cell + 1}"
            symbols = " ".join(symbol if symbol.strip() else shown(symbol) for symbol in self.config.vocabulary)
            raise UserError(
                f"{field.prefix}{shown(board.cells[cell])} ({spot}) is not a symbol of this task: {cut(symbols, 120)} "
                "(task.vocabulary)"
            )
        return tokens

    def encode(self, puzzles: Boards) -> Examples:
        inputs, labels = puzzles.questions.astype(np.int32), puzzles.answers.astype(np.int32)
        ids = np.zeros(len(puzzles), dtype=np.int32)
        return Examples(self._padded(inputs, PADDING), self._padded(labels, IGNORE), ids)

    def _padded(self, tokens: IntArray, padding: int) -> IntArray:
        return np.pad(tokens, ((0, 0), (0, self.seq_len - tokens.shape[1])), constant_values=padding)

    def without_equivalents(self, test: Boards, train: Boards, source: str) -> tuple[Boards, list[str]]:
        check_answers(Boards.joined([replace(part, ratings=np.zeros(len(part), np.int32)) for part in (train, test)]), [
            *(f"the training data, puzzle {row}" for row in range(1, len(train) + 1)),
            *(f"{source}, puzzle {row}" for row in range(1, len(test) + 1)),
        ])  # fmt: skip
        return super().without_equivalents(test, train, source)

    def augment(self, examples: Examples, rng: np.random.Generator) -> Examples:
        """Each puzzle under a random symmetry, with ``task.augment``."""
        if not self.config.augment or (self.group.count == 1 and not self.group.exchangeable):
            return examples
        rows = rng.integers(self.group.count, size=len(examples))
        maps = self.group.relabelings(len(examples), self.vocab_size, rng)
        questions, answers = self.group.tables
        inputs = _moved(examples.inputs, questions[rows], maps)
        return replace(examples, inputs=inputs, labels=_moved(examples.labels, answers[rows], maps))

    def images(
        self, examples: Examples, count: int, rng: np.random.Generator
    ) -> tuple[Examples, Callable[[Array], Array]]:
        group = self.group
        if not group.exchangeable and count > group.count:
            raise UserError(
                f"{count} symmetries: these puzzles have {group.count} by task.symmetries, the identity included",
                usage_error=True,
            )
        N, L = examples.inputs.shape
        rows = np.tile(np.arange(count) % group.count, N)
        maps = group.relabelings(N * count, self.vocab_size, rng)
        maps[::count] = np.arange(self.vocab_size)
        repeated = examples.repeat(count)
        questions, answers = group.tables
        images = _moved(repeated.inputs, questions[rows], maps)
        origins, back = np.argsort(answers, axis=1)[rows], np.argsort(maps, axis=1)

        def undo(moved: Array) -> Array:
            return _moved(moved.reshape(N * count, L), origins, back).astype(moved.dtype).reshape(N, count, L)

        return Examples.of_questions(images, repeated.puzzle_ids), undo

    def normalized(self, answers: Array) -> Array:
        """Answers without tokens behind their last cell."""
        kept = np.arange(answers.shape[-1]) < size(self.layout.answer)
        return np.where(kept, answers, PADDING).astype(answers.dtype)

    def parse(self, text: str, where: str = "") -> Question:
        if text.lstrip().startswith("{") and "{" not in self._tokens:
            text = as_text(question_in(parse_value(text, f"{where}: " if where else ""), where))
        field = Field(text.strip("\r\n"), "question", where)
        tokens = np.array([self._read(field, Types())], dtype=np.int32)
        return Question(field.text, self._padded(tokens, PADDING)[0], where)

    def questions(self, source: str | Path) -> Iterator[Question]:
        for text, where in files.questions(source, self.layout):
            yield self.parse(text, where)

    def format(self, question: Question, answer: Array) -> str:
        symbols = self._symbols(answer)
        board = self.layout.board(Field(question.text, "question", ""))
        if board.types is not None and (items := list_in(question.text)) is not None:
            return write_list(symbols, self.layout.answer, items)
        return write_text(symbols, self.layout.answer, self.layout.separator, question.text)

    def _symbols(self, answer: Array) -> list[str]:
        tokens = answer[: size(self.layout.answer)].tolist()
        return [self.config.vocabulary[token - 1] if 0 < token < self.vocab_size else UNKNOWN for token in tokens]

    def draw(self, question: Question, answer: Array | None = None) -> Text:
        """The question; or the answer, in which the cells that differ from the question are green."""
        shape: Shape = self.layout.question if answer is None else self.layout.answer
        tokens = (question.inputs if answer is None else answer)[: size(shape)]
        symbols = self._symbols(answer) if answer is not None else [self.config.vocabulary[t - 1] for t in tokens]
        same = np.ones(size(shape), dtype=np.bool_)
        if answer is not None and self.layout.answer == self.layout.question:
            same = question.inputs[: size(shape)] == tokens
        width = max(cell_len(symbol) for symbol in self.config.vocabulary)
        text, columns = Text(), shape[-1]
        for cell, symbol in enumerate(symbols):
            if cell:
                text.append("\n" if cell % columns == 0 else " ")
            text.append(symbol + " " * (width - cell_len(symbol)), None if same[cell] else "bold green")
        return text


def _table(source: str, split: Split, limit: int | None = None) -> Table:
    return hub.load(source, split, limit) if source.startswith(hub.PREFIX) else read_table(source, limit)


def _pairs(table: Table) -> Iterator[tuple[Field, Field]]:
    for question, answer, where in zip(table.questions, table.answers, table.names, strict=True):
        for name, text in (("question", question), ("answer", answer)):
            if not text.strip("\r\n"):
                raise UserError(f"{where}: the {name} is missing")
        yield Field(question.strip("\r\n"), "question", where), Field(answer.strip("\r\n"), "answer", where)


def _fields(table: Table) -> Iterator[Field]:
    for pair in _pairs(table):
        yield from pair


def _moved(tokens: Array, positions: Array, maps: Array) -> IntArray:
    """Tokens (N, L) with cells moved as ``positions`` (N, cells) tell and symbols exchanged by ``maps`` (N, V). Padding
    and ``IGNORE`` behind the cells stay."""
    cells = positions.shape[1]
    moved = np.take_along_axis(tokens[:, :cells], positions, axis=1)
    result = tokens.astype(np.int32)
    result[:, :cells] = np.take_along_axis(maps, moved, axis=1)
    return result
