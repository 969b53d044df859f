"""The canonical form of a sudoku: one array for all its symmetric images.

It is the smallest image of the answer, compared row by row, and among the symmetries that lead to this image the
smallest image of the question.

Search: relabeling turns the first row into 1, 2, 3... for every order of the columns. The second row then depends on
a single permutation: it maps each column to the column whose digit in the first row equals this column's digit in the
second row. The best orders of columns are looked up by this permutation. With the first two rows and the order of
columns fixed, sorting determines the order of the other rows. The remaining candidates are compared row by row.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from trm_fast.tasks.sudoku.rules import Grids, obeys
from trm_fast.tasks.sudoku.symmetry import group

CHUNK = 2048
"""How many puzzles are searched at a time. It bounds the memory of their candidates."""

Array = npt.NDArray[Any]
Keys = npt.NDArray[np.int64]


def canonical(questions: Grids, answers: Grids, size: int) -> Grids:
    """The canonical forms of N puzzles.

    Args:
        questions: uint8 (N, size * size), 0 for a blank.
        answers: uint8 (N, size * size).
        size: 4, 6 or 9.

    Returns:
        uint8 (N, 2 * size * size), the question first. Two forms are equal if and only if a symmetry of
        ``group(size)`` maps one puzzle to the other.

    Raises:
        ValueError: an answer breaks the rules.
    """
    if len(broken := np.flatnonzero(~obeys(answers, size))):
        raise ValueError(f"answer {broken[0]} breaks the rules")
    forms = np.zeros((len(questions), 2 * size * size), dtype=np.uint8)
    for start in range(0, len(questions), CHUNK):
        rows = slice(start, start + CHUNK)
        forms[rows] = _forms(questions[rows], answers[rows], size)
    return forms


def _forms(questions: Grids, answers: Grids, size: int) -> Grids:
    search, N, cells = _search(size), len(questions), size * size
    orientations, pairs = search.orientations, search.pairs
    oriented = answers[:, orientations].reshape(-1, size)
    digit_columns = np.argsort(oriented, axis=1).reshape(N, len(orientations), size, size)
    digits = oriented.reshape(digit_columns.shape)
    permutations = np.take_along_axis(digit_columns[:, :, pairs[:, 0]], digits[:, :, pairs[:, 1]] - np.intp(1), axis=3)
    puzzle, start, columns = search.candidates(_keys(permutations).reshape(N, -1))
    orientation, pair = np.divmod(start, len(pairs))

    grid: Array = (puzzle * len(orientations) + orientation) * cells
    labels: Array = np.zeros((len(puzzle), size + 1), dtype=np.uint8)  # indexed by digit; a blank stays 0
    label_offset = (size + 1) * np.arange(len(puzzle))
    top = oriented.ravel().take((grid + size * pairs[pair, 0])[:, None] + columns)
    labels.ravel()[label_offset[:, None] + top] = np.arange(1, size + 1)
    first_digits = oriented.ravel().take((grid + columns[:, 0])[:, None] + size * np.arange(size))
    first_digits = labels.ravel().take(label_offset[:, None] + first_digits)
    rows: Array = np.zeros_like(columns)
    for number, (orders, place_values) in enumerate(search.rows):
        chosen = np.flatnonzero(pair == number)
        rows[chosen] = orders[(first_digits[chosen] @ place_values).argmin(axis=1)]

    oriented_questions = questions[:, orientations].ravel()
    # The first two rows of the answers are already the smallest.
    for grids, first_row in ((oriented.ravel(), 2), (oriented_questions, 0)):
        for row in range(first_row, size):
            line = grids.take((grid + size * rows[:, row])[:, None] + columns)
            keys = _keys(np.take_along_axis(labels, line, axis=1))
            first = np.flatnonzero(np.diff(puzzle, prepend=-1))
            kept = np.flatnonzero(keys == np.minimum.reduceat(keys, first)[puzzle])
            if len(kept) < len(puzzle):
                puzzle, grid, columns, labels, rows = (a[kept] for a in (puzzle, grid, columns, labels, rows))
    first = np.flatnonzero(np.diff(puzzle, prepend=-1))
    grid, columns, labels, rows = (a[first] for a in (grid, columns, labels, rows))
    moved = (grid[:, None, None] + size * rows[:, :, None] + columns[:, None, :]).reshape(N, cells)
    images = [np.take_along_axis(labels, grids.take(moved), axis=1) for grids in (oriented_questions, oriented.ravel())]
    return np.concatenate(images, axis=1)


def _keys(lines: Array) -> Keys:
    """Each line (..., size) as a whole number. The numbers have the order of the lines."""
    place_values = 16.0 ** np.arange(lines.shape[-1] - 1, -1, -1)
    return (lines @ place_values).astype(np.int64)


class Search:
    """Tables for the search for canonical forms of one size, and a cache of smallest second rows.

    Attributes:
        orientations: the cells of the upright grid and, where the group has it, of the transposed grid (1 or 2, cells).
        pairs: all pairs of rows that can become the first two rows.
        rows: for each pair, the orders of rows that start with it, and weights. The weighted sum of the rows' first
            digits is smallest for the order that sorts the rows.
        columns: all orders of columns.
    """

    def __init__(self, size: int) -> None:
        symmetries = group(size)
        # A transposition before reordering gives the same set of images as one after reordering.
        cells = np.arange(size * size).reshape(size, size)
        self.orientations = np.stack([cells.ravel(), *([cells.T.ravel()] if symmetries.transposes else [])])
        self.pairs = np.unique(symmetries.rows[:, :2], axis=0)
        orders_by_pair = [symmetries.rows[(symmetries.rows[:, :2] == pair).all(axis=1)] for pair in self.pairs]
        self.rows = [(orders, 16.0 ** (size - 1 - np.argsort(orders, axis=1).T)) for orders in orders_by_pair]
        self.columns = symmetries.columns.astype(np.intp)
        # For each permutation: the smallest second row below 1, 2, 3... and the orders of columns that lead to it.
        # Reordering columns turns a permutation into a conjugate, which has the same smallest row. So one search
        # serves all conjugates.
        self.permutations = self.smallest = np.zeros(0, dtype=np.int64)  # sorted permutations, and their smallest rows
        self.spans = np.zeros((0, 2), dtype=np.intp)  # start and length in ``best``
        self.best = np.zeros((0, size), dtype=np.intp)
        self._add(int(_keys(np.arange(size))))

    def candidates(self, keys: Keys) -> tuple[Array, Array, Array]:
        """The candidates with the smallest second row of each puzzle.

        ``keys`` (N, starts) are the permutations of N puzzles for each start: an orientation and a pair of rows.
        Returns for each candidate its puzzle, its start and its order of columns.
        """
        while True:
            entries = np.searchsorted(self.permutations, keys)
            new = keys[self.permutations.take(entries, mode="clip") != keys]
            if not len(new):
                break
            self._add(int(new[0]))
        smallest = self.smallest[entries]
        puzzle, start = np.nonzero(smallest == smallest.min(axis=1, keepdims=True))
        first, count = self.spans[entries[puzzle, start]].T
        each = np.repeat(np.arange(len(puzzle)), count)
        number = np.arange(len(each)) - (np.cumsum(count) - count)[each]
        return puzzle[each], start[each], self.best[first[each] + number]

    def _add(self, key: int) -> None:
        size = self.columns.shape[1]
        permutation = np.array([key >> 4 * digit & 15 for digit in range(size - 1, -1, -1)])
        inverses = np.argsort(self.columns, axis=1)
        keys = _keys(np.take_along_axis(inverses, permutation[self.columns], axis=1))
        conjugates, first = np.unique(keys, return_index=True)
        best = inverses[first][:, self.columns[keys == keys.min()]]  # (conjugates, orders, size)
        starts = len(self.best) + best.shape[1] * np.arange(len(best))
        self.best = np.concatenate([self.best, best.reshape(-1, size)])
        permutations = np.concatenate([self.permutations, conjugates])
        order = np.argsort(permutations)
        self.permutations = permutations[order]
        self.smallest = np.concatenate([self.smallest, np.full(len(best), keys.min())])[order]
        spans = np.stack([starts, np.full(len(best), best.shape[1])], axis=1)
        self.spans = np.concatenate([self.spans, spans])[order]


_search = lru_cache(Search)
