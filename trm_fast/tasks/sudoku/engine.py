"""Generator and solver: C++ where ``trm_fast._host`` was built, else the same bytes from Python.

This is the one place that chooses. ``reason`` says why the C++ module is missing, None where it is there.
"""

from __future__ import annotations

from importlib import import_module
from typing import Protocol

import numpy as np
import numpy.typing as npt

from trm_fast.tasks.sudoku import reference
from trm_fast.tasks.sudoku.rules import Grids

Ratings = npt.NDArray[np.int32]
ANY_RATING = reference.ANY_RATING


class Engine(Protocol):
    def generate(
        self,
        size: int,
        count: int,
        min_givens: int,
        max_givens: int,
        seed: int,
        first: int = 0,
        min_rating: int = 0,
        max_rating: int = ANY_RATING,
    ) -> tuple[Grids, Grids, Ratings]:
        """Questions and answers, uint8 (count, size * size), and ratings (see ``solve``), int32 (count,).

        Puzzle ``i`` is number ``first + i`` of the sequence named by ``seed`` (unsigned, 64 bits) and depends on
        nothing else. It has exactly one solution. Its number of givens is drawn uniformly from the bounds; an
        attempt is a random grid whose digits are taken out in random order, and fails where it gets stuck above that
        number or the rating is out of bounds. After 100 failed attempts the number is drawn anew for each one, so
        where few givens or high ratings are rare the numbers lean to the more common ones; after 20,000 it is a
        RuntimeError. Random grids come from a random search, not from a uniform draw over all grids.
        """
        ...

    def solve(self, questions: Grids, size: int) -> tuple[Grids, Grids, Ratings]:
        """Solutions, uint8 (N, size * size); counts, uint8 (N,): 0, 1 or 2 for several; ratings, int32 (N,).

        The rating is a search count: the number of values tried at branching cells by a solver that takes naked and
        hidden singles and branches on a cell with the fewest candidates (lowest index first), until the whole tree
        is exhausted; 0 where singles suffice. It is that of the one orientation given. With several solutions the
        search ends at the second and the first is returned; with none the solution is all zero.
        """
        ...


engine: Engine = reference
reason: str | None = None
try:
    engine = import_module("trm_fast._host").sudoku
except ImportError as error:
    reason = str(error)
