"""Sudokus as arrays, and their generator."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from trm_fast.errors import UserError
from trm_fast.tasks.sets import PuzzleSet, check_count
from trm_fast.tasks.sudoku.canonical import canonical
from trm_fast.tasks.sudoku.engine import engine
from trm_fast.tasks.sudoku.reference import ANY_RATING
from trm_fast.tasks.sudoku.rules import BOXES, MIN_GIVENS
from trm_fast.tasks.sudoku.symmetry import random_images

CHUNK = 64
"""How many puzzles are generated between progress reports. Only between them can the user interrupt."""


class Puzzles(PuzzleSet[int]):
    """Sudokus with size x size cells, 0 for a blank. Ratings are search counts, as ``reference.solve`` defines them."""

    def images(self, rng: np.random.Generator) -> Puzzles:
        """A random symmetric image of each puzzle, without ratings: a rating is valid for one orientation only."""
        questions, answers = random_images(self.questions, self.answers, self.size, rng)
        return Puzzles(self.size, questions, answers)

    def classes(self) -> list[bytes]:
        return [form.tobytes() for form in canonical(self.questions, self.answers, self.size)]


def check_givens(size: int, givens: tuple[int, int]) -> None:
    """Checks bounds on the number of givens.

    Raises:
        UserError: no puzzle of this size has such a number of givens.
    """
    fewest, largest = givens
    if not MIN_GIVENS[size] <= fewest <= largest <= size * size:
        raise UserError(
            f"givens [{fewest}, {largest}] must be a minimum and a maximum between {MIN_GIVENS[size]} "
            f"(with fewer, no puzzle has exactly one solution) and {size * size}",
            usage_error=True,
        )


def generate(
    size: int,
    count: int,
    givens: tuple[int, int],
    seed: int,
    *,
    first: int = 0,
    min_rating: int = 0,
    max_rating: int = ANY_RATING,
    progress: Callable[[int], object] | None = None,
) -> Puzzles:
    """Puzzles with exactly one solution each, the same for the same seed.

    Args:
        size: 4, 6 or 9.
        count: how many puzzles to generate.
        givens: the smallest and largest number of givens. ``reference.generate`` describes the distribution.
        seed: selects a sequence of puzzles.
        first: the number of the first puzzle in the sequence. Each puzzle depends on seed and number alone.
        min_rating: the smallest search count.
        max_rating: the largest search count.
        progress: called with the number of puzzles generated so far.

    Raises:
        UserError: hardly any puzzle meets the limits, or none.

    Examples:
        >>> puzzles = generate(4, 3, (5, 6), seed=0)
        >>> puzzles.questions.shape
        (3, 16)
    """
    if size not in BOXES:
        raise UserError(f"size must be 4, 6 or 9, not {size}", usage_error=True)
    if count < 1:
        raise UserError(f"the number of puzzles must be 1 or more, not {count}", usage_error=True)
    if not 0 <= min_rating <= max_rating <= ANY_RATING:
        raise UserError(
            f"ratings [{min_rating}, {max_rating}] must be a minimum of 0 or more and a maximum", usage_error=True
        )
    check_givens(size, givens)
    check_count(count, size * size, "puzzles")
    parts = []
    for start in range(0, count, CHUNK):
        n = min(CHUNK, count - start)
        try:
            arrays = engine.generate(size, n, *givens, seed % 2**64, first + start, min_rating, max_rating)
        except RuntimeError as error:
            raise UserError(f"{error}: allow more givens or other ratings") from error
        parts.append(Puzzles(size, *arrays))
        if progress:
            progress(start + n)
    return Puzzles.joined(parts)
