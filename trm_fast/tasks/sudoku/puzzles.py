"""Puzzles as arrays, the generator's front door, and equivalence classes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from trm_fast.errors import UserError
from trm_fast.tasks.sets import PuzzleSet
from trm_fast.tasks.sudoku.canonical import canonical
from trm_fast.tasks.sudoku.engine import engine
from trm_fast.tasks.sudoku.reference import ANY_RATING
from trm_fast.tasks.sudoku.rules import BOXES, FEWEST_GIVENS
from trm_fast.tasks.sudoku.symmetry import random_images

CHUNK = 64
"""Puzzles between two reports of progress (and two chances to interrupt)."""


class Puzzles(PuzzleSet[int]):
    """Sudokus of size x size cells, 0 for a blank; a rating is a search count."""

    def images(self, rng: np.random.Generator) -> Puzzles:
        """Each puzzle under a random symmetry; a rating holds for one orientation and is dropped."""
        questions, answers = random_images(self.questions, self.answers, self.size, rng)
        return Puzzles(self.size, questions, answers)

    def classes(self) -> list[bytes]:
        return [form.tobytes() for form in canonical(self.questions, self.answers, self.size)]


def check_givens(size: int, givens: tuple[int, int]) -> None:
    """UserError where no puzzle of this size can have such numbers of givens."""
    few, many = givens
    if not FEWEST_GIVENS[size] <= few <= many <= size * size:
        raise UserError(
            f"givens [{few}, {many}] must be a minimum and a maximum between {FEWEST_GIVENS[size]} "
            f"(fewer never leave one solution) and {size * size}",
            wrong_use=True,
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
    """Puzzles ``first`` to ``first + count - 1`` of the sequence that ``seed`` names, each with exactly one solution.

    The number of givens is drawn uniformly from the two bounds where it can be reached; ``reference.generate`` says
    what happens where that is rare, and what the rating (a search count) is. ``progress`` gets the number made so far.
    Limits that no puzzle, or next to none, can meet are a UserError.
    """
    if size not in BOXES:
        raise UserError(f"size must be 4, 6 or 9, not {size}", wrong_use=True)
    if count < 1:
        raise UserError(f"the number of puzzles must be 1 or more, not {count}", wrong_use=True)
    if not 0 <= min_rating <= max_rating <= ANY_RATING:
        raise UserError(f"ratings [{min_rating}, {max_rating}] must be a minimum and a maximum from 0", wrong_use=True)
    check_givens(size, givens)
    parts = []
    for start in range(0, count, CHUNK):
        n = min(CHUNK, count - start)
        try:
            made = engine.generate(size, n, *givens, seed % 2**64, first + start, min_rating, max_rating)
        except RuntimeError as error:
            raise UserError(f"{error}: allow more givens or other ratings") from error
        parts.append(Puzzles(size, *made))
        if progress:
            progress(start + n)
    return Puzzles.joined(parts)
