"""Symmetries of puzzles: how the cells of a question and of its answer move together, and which symbols may be
exchanged for each other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from trm_fast.registry import Registry
from trm_fast.tasks.grid.cells import Shape

Array = npt.NDArray[Any]
Table = npt.NDArray[np.intp]
Move = Callable[[Table], Table]

MOVES: Registry[tuple[Move, ...]] = Registry("symmetry")
"""The generators of each symmetry: functions from a grid's cell numbers (rows, columns) to those of its image."""


def _turned(cells: Table) -> Table:
    return np.rot90(cells, 1 if cells.shape[0] == cells.shape[1] else 2)


MOVES["rotate"] = (_turned,)
MOVES["reflect"] = (np.fliplr, np.flipud)
MOVES["transpose"] = (np.transpose,)


class Form(NamedTuple):
    """The canonical form of a puzzle: question and answer. ``ambiguous``: a symmetry maps the question to itself, but
    not the answer."""

    question: bytes
    answer: bytes
    ambiguous: bool


@dataclass(frozen=True)
class Symmetries:
    """The symmetries of a task.

    Args:
        names: keys of ``MOVES``.
        question, answer: the shapes.
        exchangeable: the tokens that may be exchanged for each other.
    """

    names: tuple[str, ...]
    question: Shape
    answer: Shape
    exchangeable: tuple[int, ...] = ()

    @cached_property
    def tables(self) -> tuple[Table, Table]:
        """Cell c of the image of a question is ``question[tables[0][i, c]]``, and likewise for answers; the identity
        first. The same index i is the same symmetry.

        Raises:
            ValueError: a symmetry changes a shape.
        """
        grids = [
            np.arange(int(np.prod(s))).reshape(s if len(s) == 2 else (1, *s)) for s in (self.question, self.answer)
        ]
        generators: list[tuple[Table, Table]] = []
        for name in self.names:
            for move in MOVES[name]:
                moved = [move(grid) for grid in grids]
                if any(image.shape != grid.shape for image, grid in zip(moved, grids, strict=True)):
                    raise ValueError(f"{name} needs as many rows as columns")
                if name == "rotate" and _mixed(grids):
                    raise ValueError("rotate needs a question and an answer that are both square, or both not")
                generators.append((moved[0].ravel(), moved[1].ravel()))
        images = {(tuple(grids[0].ravel().tolist()), tuple(grids[1].ravel().tolist())): None}
        pending = list(images)
        while pending:
            question, answer = pending.pop()
            for q, a in generators:
                image = tuple(np.array(question)[q].tolist()), tuple(np.array(answer)[a].tolist())
                if image not in images:
                    images[image] = None
                    pending.append(image)
        return np.array([q for q, _ in images], dtype=np.intp), np.array([a for _, a in images], dtype=np.intp)

    @property
    def count(self) -> int:
        """The number of symmetries that move cells, the identity included."""
        return len(self.tables[0])

    def relabelings(self, count: int, tokens: int, rng: np.random.Generator) -> Table:
        """Random exchanges of symbols, (count, tokens): the token that replaces each token."""
        chosen = np.array(self.exchangeable, dtype=np.intp)
        maps: Table = np.tile(np.arange(tokens, dtype=np.intp), (count, 1))
        if len(chosen):
            maps[:, chosen] = chosen[np.argsort(rng.random((count, len(chosen))), axis=1)]
        return maps

    def forms(self, questions: Array, answers: Array) -> list[Form]:
        """The canonical forms of N puzzles (N, cells each). The questions of two forms are equal if and only if a
        symmetry maps one question to the other."""
        if not self.exchangeable and self.count == 1:
            return [Form(q.tobytes(), a.tobytes(), False) for q, a in zip(questions, answers, strict=True)]
        best: list[Form | None] = [None] * len(questions)
        for q_table, a_table in zip(*self.tables, strict=True):
            q, a, ambiguous = self._relabeled(questions[:, q_table], answers[:, a_table])
            for row, (previous, question, answer) in enumerate(zip(best, q, a, strict=True)):
                form = Form(question.tobytes(), answer.tobytes(), bool(ambiguous[row]))
                if previous is None or form.question < previous.question:
                    best[row] = form
                elif form.question == previous.question and form.answer != previous.answer:
                    best[row] = Form(previous.question, min(previous.answer, form.answer), True)
        return [form for form in best if form is not None]

    def _relabeled(self, questions: Array, answers: Array) -> tuple[Array, Array, Array]:
        """The puzzles with exchangeable symbols numbered in the order in which they first occur, and whether an answer
        has one of several symbols that its question does not have."""
        if not self.exchangeable:
            return questions, answers, np.zeros(len(questions), dtype=np.bool_)
        chosen = np.array(self.exchangeable)
        joined = np.concatenate([questions, answers], axis=1)
        length, width = joined.shape[1], questions.shape[1]
        hits = [joined == token for token in chosen]
        first = np.stack([np.where(hit.any(1), hit.argmax(1), length) for hit in hits], axis=1)
        order = np.argsort(first, axis=1, kind="stable")
        maps = np.tile(np.arange(int(max(joined.max(), chosen.max())) + 1, dtype=joined.dtype), (len(joined), 1))
        np.put_along_axis(maps, chosen[order], np.broadcast_to(np.sort(chosen).astype(joined.dtype), order.shape), 1)
        absent = first >= width
        ambiguous = (absent.sum(1) > 1) & (absent & (first < length)).any(1)
        relabeled = np.take_along_axis(maps, joined.astype(np.intp), axis=1)
        return relabeled[:, :width], relabeled[:, width:], ambiguous


def _mixed(grids: Sequence[Table]) -> bool:
    square = [grid.shape[0] == grid.shape[1] for grid in grids]
    return square[0] != square[1]
