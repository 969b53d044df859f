"""Mazes as arrays, the generator's front door, and equivalence classes."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from trm_fast.errors import UserError
from trm_fast.tasks.maze.cells import LARGEST
from trm_fast.tasks.maze.engine import engine
from trm_fast.tasks.maze.reference import UNIT
from trm_fast.tasks.maze.symmetry import all_images
from trm_fast.tasks.sets import PuzzleSet

DENSITIES = (0.3, 0.5)
ATTEMPTS = 10_000_000
"""Draws for one maze before its limits count as unreachable: 30 x 30 at 109 steps takes about 50,000."""


class Mazes(PuzzleSet[tuple[int, int]]):
    """Mazes of height x width cells as tokens; a rating is the steps from start to goal."""

    def classes(self) -> list[bytes]:
        return [min(image.tobytes() for image in images) for images in all_images(self.questions, self.size)]


def default_distance(shape: tuple[int, int]) -> int:
    """The least distance of hard mazes of a size: the published 109 at 30 x 30, in proportion for others."""
    height, width = shape
    return max(1, min(height * width // 8, 109 * (height + width) // 60))


def check_limits(shape: tuple[int, int], densities: tuple[float, float], distance: int) -> None:
    """UserError where no maze can be so."""
    height, width = shape
    if not 1 <= min(shape) <= max(shape) <= LARGEST or height * width < 2:
        raise UserError(f"a maze of {height}x{width}: rows and columns must be 1 to {LARGEST}", wrong_use=True)
    if not 0 <= densities[0] <= densities[1] < 1:
        raise UserError(
            f"densities {list(densities)} must be the least and the largest share of walls, from 0 to below 1",
            wrong_use=True,
        )
    if not 1 <= distance < height * width:
        raise UserError(f"a distance of {distance} steps does not fit into {height}x{width} cells", wrong_use=True)


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
    """Mazes ``first`` to ``first + count - 1`` of the sequence that ``seed`` names, with their published answers.

    ``densities``: the range of the probability of a wall; ``distance``: the fewest steps from start to goal. Both
    default to the published kind. ``threads`` (by default one a core) change nothing but the time. ``progress`` gets
    the number made so far. Limits that next to no maze meets are a UserError.
    """
    distance = default_distance(shape) if distance is None else distance
    check_limits(shape, densities, distance)
    if count < 1:
        raise UserError(f"the number of mazes must be 1 or more, not {count}", wrong_use=True)
    low, high = (min(UNIT - 1, round(share * UNIT)) for share in densities)
    make = partial(engine.generate, *shape, min_density=low, max_density=high, min_distance=distance, seed=seed % 2**64)
    # Hard mazes take long each, easy ones are cheap by the thousand.
    chunk = 4 if distance > 40 else 1024
    starts = range(0, count, chunk)
    parts = []
    with ThreadPoolExecutor(threads or os.cpu_count() or 1) as pool:
        jobs = [
            pool.submit(make, count=min(chunk, count - start), first=first + start, attempts=ATTEMPTS)
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
