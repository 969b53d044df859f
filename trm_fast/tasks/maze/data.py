"""Training and test mazes with no test maze a rotation or reflection of a training one."""

from __future__ import annotations

from trm_fast.errors import UserError
from trm_fast.tasks.maze.mazes import Mazes, generate
from trm_fast.tasks.sets import Sets, distinct

SEQUENCE = 0x5472_61696E


def generated(
    shape: tuple[int, int],
    densities: tuple[float, float],
    distance: int,
    train_count: int,
    test_count: int,
    seed: int,
) -> Sets[Mazes]:
    """Generated mazes, all different under symmetry: the first ``test_count`` of a sequence for testing, then training.

    The sequence is not the one that ``generate`` gives for the same seed, so a file made with it is no training data
    in disguise. The test set stays the same when more training mazes are asked for.
    """
    wanted = train_count + test_count

    def draw(missing: int, first: int) -> Mazes:
        count = min(1 << 14, missing)
        return generate(shape, count, seed ^ SEQUENCE, densities=densities, distance=distance, first=first)

    pool = distinct(draw, wanted, 1 / 16)
    if len(pool) < wanted:
        raise UserError(
            f"task: {wanted} different mazes of {shape[0]}x{shape[1]} with at least {distance} steps are not to be "
            f"found, {len(pool)} were: lower train_count and test_count, or ask for larger mazes"
        )
    name = f"generator ({shape[0]}x{shape[1]}, at least {distance} steps, seed {seed})"
    return Sets(pool.take(slice(test_count, wanted)), pool.take(slice(test_count)), name)
