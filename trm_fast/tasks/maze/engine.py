"""Generator and shortest paths: C++ where ``trm_fast._host`` was built, else the same bytes from Python.

This is the one place that chooses. ``reason`` says why the C++ module is missing, None where it is there.
"""

from __future__ import annotations

from importlib import import_module
from typing import Protocol

import numpy as np
import numpy.typing as npt

from trm_fast.tasks.maze import reference
from trm_fast.tasks.maze.cells import Grids

Distances = npt.NDArray[np.int32]
UNIT = reference.UNIT


class Engine(Protocol):
    def generate(
        self,
        height: int,
        width: int,
        count: int,
        min_density: int,
        max_density: int,
        min_distance: int,
        seed: int,
        first: int = 0,
        *,
        attempts: int,
    ) -> tuple[Grids, Grids, Distances]:
        """Mazes and answers, uint8 (count, height * width), and the steps from start to goal, int32 (count,).

        Maze ``i`` is number ``first + i`` of the sequence named by ``seed`` (unsigned, 64 bits) and depends on nothing
        else. A draw takes a wall density uniformly from the bounds (65536ths, 65535 at most), makes each cell a wall
        with that probability, and puts start and goal uniformly on two free cells; it is kept where the goal is at
        least ``min_distance`` steps away. This is plain rejection, without a shortcut that could shift its statistics.
        After ``attempts`` draws of one maze it is a RuntimeError.
        """
        ...

    def solve(self, mazes: Grids, height: int, width: int) -> tuple[Grids, Distances]:
        """Answers by the published rule, and steps from start to goal, -1 (and the maze as it is) without a path.

        The rule: breadth-first search from the start with the neighbours in the order down, left, right, up, each
        cell keeping its first discoverer, then back from the goal. A maze without exactly one start and one goal is a
        ValueError.
        """
        ...

    def distances(self, mazes: Grids, height: int, width: int) -> Distances:
        """The steps that ``solve`` gives, without the paths, which is several times faster."""
        ...


engine: Engine = reference
reason: str | None = None
try:
    engine = import_module("trm_fast._host").maze
except (ImportError, AttributeError) as error:  # the latter: a module built before there were mazes
    reason = str(error)
