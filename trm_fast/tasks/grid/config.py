"""The ``task:`` section for grid."""

from __future__ import annotations

import re
from typing import Annotated, Any
from unicodedata import normalize

from pydantic import AfterValidator, BeforeValidator, Field, Strict, model_validator

from trm_fast.tasks.base import TaskConfig
from trm_fast.tasks.grid.cells import SEPARATORS, characters, check_visible
from trm_fast.tasks.grid.cells import Shape as Cells
from trm_fast.tasks.grid.layout import size
from trm_fast.tasks.grid.symmetry import MOVES, Symmetries

MAX_SIZE = 1 << 20
"""The largest number of cells of a question or an answer: that of a model's positions."""


def _shape(value: Any) -> Any:
    """A shape from a length, or from text such as ``6x6``."""
    if isinstance(value, int) and not isinstance(value, bool):
        return (value,)
    if isinstance(value, str) and re.fullmatch(r"\s*\d{1,9}\s*(x\s*\d{1,9}\s*)?", value):
        return tuple(int(part) for part in value.split("x"))
    return value


def _symbols(value: Any) -> Any:
    """Symbols from a text: its characters, or its words if it has spaces. YAML reads digits as numbers. All are in the
    form NFC, as the cells that are read."""
    if isinstance(value, str):
        text = normalize("NFC", value.strip())
        return tuple(text.split()) if re.search(r"\s", text) else tuple(characters(text))
    if isinstance(value, list | tuple):
        texts = (str(item) if isinstance(item, int) and not isinstance(item, bool) else item for item in value)
        return tuple(normalize("NFC", text) if isinstance(text, str) else text for text in texts)
    return value


def _names(value: Any) -> Any:
    return tuple(re.split(r"[,\s]+", value.strip())) if isinstance(value, str) and value.strip() else value


Side = Annotated[int, Field(ge=1, le=MAX_SIZE)]
Shape = Annotated[tuple[Side, ...], Strict(False), Field(min_length=1, max_length=2), BeforeValidator(_shape)]
Symbols = Annotated[tuple[str, ...], Strict(False), BeforeValidator(_symbols)]
Names = Annotated[tuple[Annotated[str, AfterValidator(MOVES.require)], ...], Strict(False), BeforeValidator(_names)]


class GridConfig(TaskConfig):
    """The ``task:`` section for grid. What is not set is inferred from the data when a run starts, and written into its
    ``config.yaml``. Symmetries are never inferred.

    Attributes:
        shape: rows and columns of a question, or its length if it is a line.
        answer_shape: the same of an answer, if it differs.
        vocabulary: the symbols of questions and answers.
        separator: what separates the cells of a text; empty if each character is a cell.
        symmetries: what may be done to question and answer alike: rotate (quarter turns, or half turns if there are not
            as many rows as columns), reflect, transpose. The symbols stay as they are.
        exchangeable: the symbols that may be exchanged for each other, such as colors; not a blank.
        augment: whether training puzzles are changed at random by the symmetries.
        train_count: how many training puzzles to draw at random from the data; by default all.
        test_count: the same for test puzzles.
    """

    name: str = "grid"
    shape: Shape | None = None
    answer_shape: Shape | None = None
    vocabulary: Symbols | None = None
    separator: str | None = None
    symmetries: Names = ()
    exchangeable: Symbols = ()
    augment: bool = True
    train_count: int | None = Field(default=None, ge=1)
    test_count: int | None = Field(default=None, ge=1)

    @property
    def is_complete(self) -> bool:
        """Whether nothing is left to infer."""
        return None not in (self.shape, self.vocabulary, self.separator)

    @property
    def shapes(self) -> tuple[Cells, Cells]:
        """The shapes of question and answer of a complete configuration."""
        assert self.shape is not None
        return self.shape, self.answer_shape or self.shape

    @property
    def group(self) -> Symmetries:
        """The symmetries of a complete configuration."""
        assert self.vocabulary is not None
        tokens = tuple(sorted(1 + self.vocabulary.index(symbol) for symbol in self.exchangeable))
        return Symmetries(self.symmetries, *self.shapes, tokens)

    @model_validator(mode="after")
    def _consistent(self) -> GridConfig:
        if self.separator not in (None, "", *SEPARATORS):
            allowed = ", ".join(map(repr, ("", *SEPARATORS)))
            raise ValueError(f"separator {self.separator!r} must be one of {allowed}")
        for name, symbols in (("vocabulary", self.vocabulary or ()), ("exchangeable", self.exchangeable)):
            if len(set(symbols)) < len(symbols):
                twice = next(symbol for symbol in symbols if symbols.count(symbol) > 1)
                raise ValueError(f"{name} has {twice!r} twice")
            for symbol in symbols:
                check_visible(symbol, f"{name}: ")
        if self.vocabulary is not None:
            if not self.vocabulary:
                raise ValueError("vocabulary is empty")
            if unknown := [symbol for symbol in self.exchangeable if symbol not in self.vocabulary]:
                raise ValueError(f"exchangeable has {unknown[0]!r}, which is not in the vocabulary")
        if len(self.exchangeable) == 1:
            raise ValueError("exchangeable has one symbol only: name those that may be exchanged for each other")
        if self.shape is not None:
            if max(map(size, self.shapes)) > MAX_SIZE:
                raise ValueError(f"shape has more than {MAX_SIZE:,} cells")
            Symmetries(self.symmetries, *self.shapes).tables  # noqa: B018 (raises if one of them changes a shape)
        return self
