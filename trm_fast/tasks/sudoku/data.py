"""Training and test puzzles with no test puzzle equivalent to a training one."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from trm_fast.tasks import splits
from trm_fast.tasks.sudoku.puzzles import Puzzles, generate, join
from trm_fast.tasks.sudoku.rules import units

SEQUENCE = 0x5472_61696E


@dataclass(frozen=True)
class Sets:
    train: Puzzles
    test: Puzzles
    source: str
    notes: list[str] = field(default_factory=list)


def generated(size: int, givens: tuple[int, int], train_count: int, test_count: int, seed: int) -> Sets:
    """Generated puzzles, all inequivalent: the first ``test_count`` of a sequence for testing, the next for training.

    The sequence is not the one that ``generate`` gives for the same seed, so a file made with it is no training
    data in disguise. The test set stays the same when more training puzzles are asked for. Where there are too few
    classes to go round (4x4 has about a thousand), a fifth of those found is held out, and both sets are random
    symmetric images of puzzles drawn from their classes.
    """
    source = f"generator ({size}x{size}, {givens[0]}-{givens[1]} givens, seed {seed})"
    wanted = train_count + test_count
    seen: set[bytes] = set()
    parts: list[Puzzles] = []
    drawn = 0
    while len(seen) < wanted:
        chunk = generate(size, min(4096, max(256, wanted - len(seen))), givens, seed ^ SEQUENCE, first=drawn)
        drawn += len(chunk)
        before = len(seen)
        fresh = []
        for row, form in enumerate(chunk.classes()):
            if form not in seen:
                seen.add(form)
                fresh.append(row)
        parts.append(chunk.take(np.array(fresh, dtype=np.intp)))
        if len(seen) - before < len(chunk) // 4:
            break
    pool = join(parts)
    if len(pool) >= wanted:
        return Sets(pool.take(slice(test_count, wanted)), pool.take(slice(test_count)), source)

    rng = np.random.default_rng(seed % 2**64)
    train_classes, test_classes = splits.deal(len(pool), 0.2, rng, source)
    note = f"only {len(pool)} classes of such puzzles: {len(test_classes)} held out, examples are symmetric images"
    return Sets(
        pool.take(rng.choice(train_classes, train_count)).images(rng),
        pool.take(rng.choice(test_classes, test_count)).images(rng),
        source,
        [note],
    )


def without_equivalents(test: Puzzles, train: Puzzles, source: str) -> tuple[Puzzles, list[str]]:
    """The test puzzles that are not equivalent to a training one, and a note that counts the others."""
    suspects = _alike(test, train)
    leaked: list[int] = []
    if len(suspects):
        known = set(train.classes())
        leaked = [row for row, form in zip(suspects, test.take(suspects).classes(), strict=True) if form in known]
    return splits.without(test, leaked, source)


def _alike(test: Puzzles, train: Puzzles) -> splits.Rows:
    """The test rows that share a cheap invariant with a training row: only those need canonical forms."""
    known = set(_invariants(train))
    return np.array([row for row, value in enumerate(_invariants(test)) if value in known], dtype=np.intp)


def _invariants(puzzles: Puzzles) -> list[bytes]:
    """How many givens each digit and each box has, both sorted: no symmetry changes that."""
    size = puzzles.size
    digits = np.stack([(puzzles.questions == d).sum(axis=1, dtype=np.uint8) for d in range(1, size + 1)], axis=1)
    boxes = (puzzles.questions[:, units(size)[2 * size :]] > 0).sum(axis=2, dtype=np.uint8)
    rows = np.concatenate([np.sort(digits, axis=1), np.sort(boxes, axis=1)], axis=1)
    return [row.tobytes() for row in rows]
