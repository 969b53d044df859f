"""Training and test puzzles with no test puzzle equivalent to a training one."""

from __future__ import annotations

import numpy as np

from trm_fast.tasks import sets
from trm_fast.tasks.sets import Sets
from trm_fast.tasks.sudoku.puzzles import Puzzles, generate
from trm_fast.tasks.sudoku.rules import units
from trm_fast.tasks.tables import CHUNK

SEQUENCE = 0x5472_61696E


def generated(size: int, givens: tuple[int, int], train_count: int, test_count: int, seed: int) -> Sets[Puzzles]:
    """Generated puzzles, all inequivalent: the first ``test_count`` of a sequence for testing, the next for training.

    The sequence is not the one that ``generate`` gives for the same seed, so a file made with it is no training
    data in disguise. The test set stays the same when more training puzzles are asked for. Where there are too few
    classes to go round (4x4 has about a thousand), a fifth of those found is held out, and both sets are random
    symmetric images of puzzles drawn from their classes.
    """
    source = f"generator ({size}x{size}, {givens[0]}-{givens[1]} givens, seed {seed})"
    wanted = train_count + test_count

    def draw(missing: int, first: int) -> Puzzles:
        return generate(size, min(4096, max(256, missing)), givens, seed ^ SEQUENCE, first=first)

    pool = sets.distinct(draw, wanted, 1 / 4)
    if len(pool) >= wanted:
        return Sets(pool.take(slice(test_count, wanted)), pool.take(slice(test_count)), source)

    rng = np.random.default_rng(seed % 2**64)
    train_classes, test_classes = sets.deal(len(pool), 0.2, rng, f"{source}: all puzzles are equivalent")
    note = f"only {len(pool)} classes of such puzzles: {len(test_classes)} held out, examples are symmetric images"
    return Sets(
        pool.take(rng.choice(train_classes, train_count)).images(rng),
        pool.take(rng.choice(test_classes, test_count)).images(rng),
        source,
        [note],
    )


def without_equivalents(test: Puzzles, train: Puzzles, source: str) -> tuple[Puzzles, list[str]]:
    """The test puzzles that are not equivalent to a training one, and a note that counts the others.

    Only puzzles of either set that share a cheap invariant need canonical forms.
    """
    asked, learned = invariants(test), invariants(train)
    shared = set(asked) & set(learned)
    suspects, models = (
        np.array([row for row, value in enumerate(values) if value in shared], dtype=np.intp)
        for values in (asked, learned)
    )
    leaked: list[int] = []
    if len(suspects):
        known = set(train.take(models).classes())
        leaked = [row for row, form in zip(suspects, test.take(suspects).classes(), strict=True) if form in known]
    return sets.without(test, leaked, source)


def invariants(puzzles: Puzzles) -> list[int]:
    """A number of each puzzle that no symmetry changes, and that few others share: the hash of how many givens there
    are in each given's row and column (in either order), in its box and of its digit, sorted."""
    size, boxes = puzzles.size, units(puzzles.size)[2 * puzzles.size :]
    box_of = np.argsort(np.concatenate(boxes)) // size
    found: list[int] = []
    for start in range(0, len(puzzles), CHUNK):
        questions = puzzles.questions[start : start + CHUNK]
        given = questions > 0
        grid = given.reshape(-1, size, size)
        rows = np.repeat(grid.sum(axis=2, dtype=np.uint16), size, axis=1)
        columns = np.tile(grid.sum(axis=1, dtype=np.uint16), (1, size))
        box = given[:, boxes].sum(axis=2, dtype=np.uint16)[:, box_of]
        digits = np.stack([(questions == d).sum(axis=1, dtype=np.uint16) for d in range(size + 1)], axis=1)
        digit = np.take_along_axis(digits, questions.astype(np.intp), axis=1)
        kinds = 1000 * np.maximum(rows, columns) + 100 * np.minimum(rows, columns) + 10 * box + digit
        found += [hash(row.tobytes()) for row in np.sort(np.where(given, kinds, 0), axis=1)]
    return found
