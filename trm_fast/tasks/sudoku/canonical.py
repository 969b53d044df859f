"""Canonical form of a sudoku: the smallest image of the answer, read row by row, and among the symmetries that give it
the smallest image of the question.

Relabelling makes the first row 1, 2, 3... whatever the order of columns is, and the second row then depends on one
permutation alone: of each column, in which one the first row has the digit that the second has there. So the best
orders of columns are looked up by it, and once the first two rows and the order of columns are known, the other rows
follow by sorting. What is left of the candidates is compared row by row.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from trm_fast.tasks.sudoku.rules import Grids, obeys
from trm_fast.tasks.sudoku.symmetry import group

CHUNK = 2048
"""Puzzles at a time, which bounds the memory for their candidates."""

Array = npt.NDArray[Any]
Keys = npt.NDArray[np.int64]


def canonical(questions: Grids, answers: Grids, size: int) -> Grids:
    """A form of each pair, uint8 (N, 2 * size * size), question first, equal for two pairs just when one of the
    symmetries of ``group(size)`` turns one into the other. An answer that breaks the rules is a ValueError."""
    if len(broken := np.flatnonzero(~obeys(answers, size))):
        raise ValueError(f"answer {broken[0]} breaks the rules")
    forms = np.zeros((len(questions), 2 * size * size), dtype=np.uint8)
    for start in range(0, len(questions), CHUNK):
        rows = slice(start, start + CHUNK)
        forms[rows] = _forms(questions[rows], answers[rows], size)
    return forms


def _forms(questions: Grids, answers: Grids, size: int) -> Grids:
    search, N, cells = _search(size), len(questions), size * size
    turns, pairs = search.turns, search.pairs
    turned = answers[:, turns].reshape(-1, size)
    where = np.argsort(turned, axis=1).reshape(N, len(turns), size, size)
    digits = turned.reshape(where.shape)
    above = np.take_along_axis(where[:, :, pairs[:, 0]], digits[:, :, pairs[:, 1]] - np.intp(1), axis=3)
    puzzle, start, columns = search.candidates(_keys(above).reshape(N, -1))
    turn, pair = np.divmod(start, len(pairs))

    grid: Array = (puzzle * len(turns) + turn) * cells
    labels: Array = np.zeros((len(puzzle), size + 1), dtype=np.uint8)  # by digit; a blank stays 0
    here = (size + 1) * np.arange(len(puzzle))
    top = turned.ravel().take((grid + size * pairs[pair, 0])[:, None] + columns)
    labels.ravel()[here[:, None] + top] = np.arange(1, size + 1)
    heads = turned.ravel().take((grid + columns[:, 0])[:, None] + size * np.arange(size))
    heads = labels.ravel().take(here[:, None] + heads)
    rows: Array = np.zeros_like(columns)
    for number, (orders, place_values) in enumerate(search.rows):
        chosen = np.flatnonzero(pair == number)
        rows[chosen] = orders[(heads[chosen] @ place_values).argmin(axis=1)]

    asked = questions[:, turns].ravel()
    for grids, after in ((turned.ravel(), 2), (asked, 0)):  # the first two rows of the answers are the same already
        for place in range(after, size):
            line = grids.take((grid + size * rows[:, place])[:, None] + columns)
            keys = _keys(np.take_along_axis(labels, line, axis=1))
            first = np.flatnonzero(np.diff(puzzle, prepend=-1))
            kept = np.flatnonzero(keys == np.minimum.reduceat(keys, first)[puzzle])
            if len(kept) < len(puzzle):
                puzzle, grid, columns, labels, rows = (a[kept] for a in (puzzle, grid, columns, labels, rows))
    first = np.flatnonzero(np.diff(puzzle, prepend=-1))
    grid, columns, labels, rows = (a[first] for a in (grid, columns, labels, rows))
    moved = (grid[:, None, None] + size * rows[:, :, None] + columns[:, None, :]).reshape(N, cells)
    images = [np.take_along_axis(labels, grids.take(moved), axis=1) for grids in (asked, turned.ravel())]
    return np.concatenate(images, axis=1)


def _keys(lines: Array) -> Keys:
    """Each line (..., size) as a number that is ordered as lines are."""
    place_values = 16.0 ** np.arange(lines.shape[-1] - 1, -1, -1)
    return (lines @ place_values).astype(np.int64)


class Search:
    """What the search for canonical forms of a size knows beforehand, and has found out about second rows.

    ``pairs``: what the first two rows may be; ``rows``: for each pair the orders that begin so, and the weights by
    which a number's digits come in the order, so that the least number is of the order that sorts them.
    """

    def __init__(self, size: int) -> None:
        symmetries = group(size)
        # In a group, a transposition before some orders gives the same images as one after some.
        cells = np.arange(size * size).reshape(size, size)
        self.turns = np.stack([cells.ravel(), *([cells.T.ravel()] if symmetries.transposes else [])])
        self.pairs = np.unique(symmetries.rows[:, :2], axis=0)
        begun = [symmetries.rows[(symmetries.rows[:, :2] == pair).all(axis=1)] for pair in self.pairs]
        self.rows = [(orders, 16.0 ** (size - 1 - np.argsort(orders, axis=1).T)) for orders in begun]
        self.columns = symmetries.columns.astype(np.intp)
        # By permutation the smallest second row below 1, 2, 3... and the orders of columns that give it. An order makes
        # of a permutation a conjugate, which has the same smallest row: what one costs is saved for its conjugates.
        self.known = self.least = np.zeros(0, dtype=np.int64)  # permutations, sorted; and their smallest rows
        self.spans = np.zeros((0, 2), dtype=np.intp)  # of ``best``: start and length
        self.best = np.zeros((0, size), dtype=np.intp)
        self._add(int(_keys(np.arange(size))))

    def candidates(self, keys: Keys) -> tuple[Array, Array, Array]:
        """Of the permutations (N, starts) of N puzzles those with a puzzle's smallest second row, once for each order:
        the puzzle, which start, and the order."""
        while True:
            entries = np.searchsorted(self.known, keys)
            new = keys[self.known.take(entries, mode="clip") != keys]
            if not len(new):
                break
            self._add(int(new[0]))
        least = self.least[entries]
        puzzle, start = np.nonzero(least == least.min(axis=1, keepdims=True))
        first, count = self.spans[entries[puzzle, start]].T
        each = np.repeat(np.arange(len(puzzle)), count)
        number = np.arange(len(each)) - (np.cumsum(count) - count)[each]
        return puzzle[each], start[each], self.best[first[each] + number]

    def _add(self, key: int) -> None:
        size = self.columns.shape[1]
        above = np.array([key >> 4 * place & 15 for place in range(size - 1, -1, -1)])
        places = np.argsort(self.columns, axis=1)
        keys = _keys(np.take_along_axis(places, above[self.columns], axis=1))
        conjugates, makers = np.unique(keys, return_index=True)
        best = places[makers][:, self.columns[keys == keys.min()]]  # (conjugates, orders, size)
        starts = len(self.best) + best.shape[1] * np.arange(len(best))
        self.best = np.concatenate([self.best, best.reshape(-1, size)])
        known = np.concatenate([self.known, conjugates])
        sorted_ = np.argsort(known)
        self.known = known[sorted_]
        self.least = np.concatenate([self.least, np.full(len(best), keys.min())])[sorted_]
        spans = np.stack([starts, np.full(len(best), best.shape[1])], axis=1)
        self.spans = np.concatenate([self.spans, spans])[sorted_]


_search = lru_cache(Search)
