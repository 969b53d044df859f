"""Generates training and test puzzles, and removes test puzzles that are equivalent to training puzzles."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from trm_fast.tasks import sets
from trm_fast.tasks.sets import Sets
from trm_fast.tasks.sudoku.puzzles import Puzzles, generate
from trm_fast.tasks.sudoku.reference import ANY_RATING
from trm_fast.tasks.sudoku.rules import units
from trm_fast.tasks.tables import CHUNK

TRAINING_SEED = 0x5472_61696E
"""Combined with the seed, so that training data differ from what ``generate`` returns for the same seed."""


class Limits(NamedTuple):
    """Limits on generated puzzles. Ratings are search counts, as ``reference.solve`` defines them."""

    size: int
    givens: tuple[int, int]
    min_rating: int = 0
    max_rating: int = ANY_RATING


def generated(limits: Limits, train_count: int, test_count: int, seed: int) -> Sets[Puzzles]:
    """Generated puzzles, no two of them equivalent: the first ``test_count`` of a sequence for testing, the next for
    training.

    The sequence differs from that of ``generate`` with the same seed, so that a file written with this seed contains no
    training data. The test set does not depend on the number of training puzzles. Where there are too few symmetry
    classes (4x4 has about a thousand), a fifth of them is held out, and both sets are random symmetric images of
    puzzles of their classes.
    """
    size, givens, min_rating, max_rating = limits
    search = "" if (min_rating, max_rating) == (0, ANY_RATING) else f"search count {min_rating}-{max_rating}, "
    source = f"generator ({size}x{size}, {givens[0]}-{givens[1]} givens, {search}seed {seed})"
    count = train_count + test_count
    sets.check_count(count, size * size, "puzzles")

    def draw(missing: int, first: int) -> Puzzles:
        return generate(
            size, min(4096, max(256, missing)), givens, seed ^ TRAINING_SEED, first=first, min_rating=min_rating,
            max_rating=max_rating,
        )  # fmt: skip

    pool = sets.distinct(draw, count, 1 / 4)
    if len(pool) >= count:
        return Sets(pool.take(slice(test_count, count)), pool.take(slice(test_count)), source)

    rng = np.random.default_rng(seed % 2**64)
    train_classes, test_classes = sets.random_split(len(pool), 0.2, rng, f"{source}: all puzzles are equivalent")
    note = f"only {len(pool)} classes of such puzzles: {len(test_classes)} held out, examples are symmetric images"
    return Sets(
        pool.take(rng.choice(train_classes, train_count)).images(rng),
        pool.take(rng.choice(test_classes, test_count)).images(rng),
        source,
        [note],
    )


def without_equivalents(test: Puzzles, train: Puzzles, source: str) -> tuple[Puzzles, list[str]]:
    """The test puzzles that are not equivalent to a training puzzle, and a note that counts the others.

    To save time, canonical forms are computed only for puzzles whose ``invariants`` occur in both sets.
    """
    test_invariants, train_invariants = invariants(test), invariants(train)
    shared = set(test_invariants) & set(train_invariants)
    test_rows, train_rows = (
        np.array([row for row, value in enumerate(values) if value in shared], dtype=np.intp)
        for values in (test_invariants, train_invariants)
    )
    leaked: list[int] = []
    if len(test_rows):
        train_classes = set(train.take(train_rows).classes())
        test_classes = test.take(test_rows).classes()
        leaked = [row for row, form in zip(test_rows, test_classes, strict=True) if form in train_classes]
    return sets.without(test, leaked, source)


def invariants(puzzles: Puzzles) -> list[int]:
    """A number for each puzzle that is equal for all symmetric images and rarely equal for other puzzles.

    It is a hash over all givens, sorted, of the number of givens in the given's row and column (in either order), in
    its box, and with its digit.
    """
    size, boxes = puzzles.size, units(puzzles.size)[2 * puzzles.size :]
    box_of = np.argsort(np.concatenate(boxes)) // size
    hashes: list[int] = []
    for start in range(0, len(puzzles), CHUNK):
        questions = puzzles.questions[start : start + CHUNK]
        givens = questions > 0
        grid = givens.reshape(-1, size, size)
        rows = np.repeat(grid.sum(axis=2, dtype=np.uint16), size, axis=1)
        columns = np.tile(grid.sum(axis=1, dtype=np.uint16), (1, size))
        box = givens[:, boxes].sum(axis=2, dtype=np.uint16)[:, box_of]
        digits = np.stack([(questions == d).sum(axis=1, dtype=np.uint16) for d in range(size + 1)], axis=1)
        digit = np.take_along_axis(digits, questions.astype(np.intp), axis=1)
        kinds = 1000 * np.maximum(rows, columns) + 100 * np.minimum(rows, columns) + 10 * box + digit
        hashes += [hash(row.tobytes()) for row in np.sort(np.where(givens, kinds, 0), axis=1)]
    return hashes
