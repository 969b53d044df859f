"""Generates training and test mazes. No test maze is a rotation or reflection of a training maze."""

from __future__ import annotations

from trm_fast.errors import UserError
from trm_fast.tasks.maze.mazes import Mazes, generate
from trm_fast.tasks.sets import Sets, check_count, distinct

TRAINING_SEED = 0x5472_61696E
"""Combined with the seed, so that training data differ from what ``generate`` returns for the same seed."""


def generated(
    shape: tuple[int, int],
    densities: tuple[float, float],
    distance: int,
    train_count: int,
    test_count: int,
    seed: int,
) -> Sets[Mazes]:
    """Generated mazes, no two of them symmetric: the first ``test_count`` of a sequence for testing, the next for
    training.

    The sequence differs from that of ``generate`` with the same seed, so that a file written with this seed contains no
    training data. The test set does not depend on the number of training mazes.

    Raises:
        UserError: the generator finds too few different mazes.
    """
    total = train_count + test_count
    check_count(total, shape[0] * shape[1], "mazes")

    def draw(missing: int, first: int) -> Mazes:
        count = min(1 << 14, missing)
        return generate(shape, count, seed ^ TRAINING_SEED, densities=densities, distance=distance, first=first)

    pool = distinct(draw, total, 1 / 16)
    if len(pool) < total:
        raise UserError(
            f"task: found only {len(pool)} of {total} different mazes of {shape[0]}x{shape[1]} with at least {distance}"
            " steps: lower train_count and test_count, or use larger mazes"
        )
    name = f"generator ({shape[0]}x{shape[1]}, at least {distance} steps, seed {seed})"
    return Sets(pool.take(slice(test_count, total)), pool.take(slice(test_count)), name)
