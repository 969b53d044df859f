"""Mazes as arrays, and their generator."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from trm_fast.errors import UserError
from trm_fast.tasks.maze.cells import MAX_SIDE
from trm_fast.tasks.maze.engine import engine
from trm_fast.tasks.maze.reference import DENSITY_UNIT
from trm_fast.tasks.maze.symmetry import symmetries
from trm_fast.tasks.sets import PuzzleSet, check_count

DENSITIES = (0.3, 0.5)
MAX_ATTEMPTS = 10_000_000
"""How many draws of a maze may fail before the generator gives up. 30 x 30 cells with 109 steps need about 50,000."""


class Mazes(PuzzleSet[tuple[int, int]]):
    """Mazes of height x width cells, as tokens. A rating is the number of steps from start to goal."""

    def classes(self) -> list[bytes]:
        return [min(image.tobytes() for image in images) for images in self.questions[:, symmetries(self.size)]]


def default_distance(shape: tuple[int, int]) -> int:
    """The minimum number of steps in hard mazes of a size: the published 109 for 30 x 30, scaled for other sizes."""
    height, width = shape
    return max(1, min(height * width // 8, 109 * (height + width) // 60))


def check_limits(shape: tuple[int, int], densities: tuple[float, float], distance: int) -> None:
    """Checks the limits of the generator.

    Raises:
        UserError: no maze meets them.
    """
    height, width = shape
    if not 1 <= min(shape) <= max(shape) <= MAX_SIDE or height * width < 2:
        raise UserError(f"a maze of {height}x{width}: rows and columns must be 1 to {MAX_SIDE}", usage_error=True)
    if not 0 <= densities[0] <= densities[1] < 1:
        raise UserError(
            f"densities {list(densities)} must be the smallest and largest share of walls, from 0 to below 1",
            usage_error=True,
        )
    if not 1 <= distance < height * width:
        raise UserError(f"a distance of {distance} steps does not fit into {height}x{width} cells", usage_error=True)


def generate(
    shape: tuple[int, int],
    count: int,
    seed: int,
    *,
    densities: tuple[float, float] = DENSITIES,
    distance: int | None = None,
    first: int = 0,
    threads: int | None = None,
    progress: Callable[[int], object] | None = None,
) -> Mazes:
    """Mazes with the answers of the published search, the same for the same seed.

    Args:
        shape: rows and columns.
        count: how many mazes to generate.
        seed: selects a sequence of mazes.
        densities: the smallest and largest probability of a wall; by default those of the published data set.
        distance: the smallest number of steps from start to goal; by default that of hard mazes of this size.
        first: the number of the first maze in the sequence. Each maze depends on seed and number alone.
        threads: how many threads generate mazes, by default one per core. The mazes do not depend on it.
        progress: called with the number of mazes generated so far.

    Raises:
        UserError: hardly any maze meets the limits, or none.

    Examples:
        >>> mazes = generate((5, 5), 3, seed=0)
        >>> mazes.questions.shape
        (3, 25)
    """
    distance = default_distance(shape) if distance is None else distance
    check_limits(shape, densities, distance)
    height, width = shape
    if count < 1:
        raise UserError(f"the number of mazes must be 1 or more, not {count}", usage_error=True)
    check_count(count, height * width, "mazes")
    smallest, largest = (min(DENSITY_UNIT - 1, round(share * DENSITY_UNIT)) for share in densities)
    make = partial(
        engine.generate, *shape, min_density=smallest, max_density=largest, min_distance=distance, seed=seed % 2**64
    )
    # Hard mazes take long to generate, so the threads get them in small chunks.
    chunk = 4 if distance > 40 else 1024
    starts = range(0, count, chunk)
    parts = []
    with ThreadPoolExecutor(threads or os.cpu_count() or 1) as pool:
        jobs = [
            pool.submit(make, count=min(chunk, count - start), first=first + start, attempts=MAX_ATTEMPTS)
            for start in starts
        ]
        try:
            for start, job in zip(starts, jobs, strict=True):
                parts.append(Mazes(shape, *job.result()))
                if progress:
                    progress(min(count, start + chunk))
        except RuntimeError as error:
            raise UserError(
                f"{error} ({shape[0]}x{shape[1]} cells, at least {distance} steps): ask for a shorter distance"
            ) from None
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
    return Mazes.joined(parts)
