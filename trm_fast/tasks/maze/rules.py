"""What makes an answer right, without knowing it."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from trm_fast.tasks.maze.cells import FREE, GOAL, PATH, START, WALL
from trm_fast.tasks.maze.engine import engine

Flags = npt.NDArray[np.bool_]


def judge(questions: npt.NDArray[Any], answers: npt.NDArray[Any], shape: tuple[int, int]) -> tuple[Flags, Flags]:
    """Whether each answer (N, cells) is a valid path of its maze, and whether it is a shortest one.

    Valid: walls, start and goal are kept, and the cells marked as path are one way from start to goal: nothing else is
    marked, and the way nowhere touches itself (a path that does has a shortcut, and is not told apart from marks
    beside it).
    """
    sound = ((questions == START).sum(axis=1) == 1) & ((questions == GOAL).sum(axis=1) == 1)
    marked = (questions == FREE) & (answers == PATH)
    kept = (marked | (questions == answers)).all(axis=1)
    rows = np.flatnonzero(sound & kept)
    valid, shortest = np.zeros((2, len(questions)), dtype=np.bool_)
    if len(rows):
        mazes = questions[rows].astype(np.uint8)
        walled = np.where((mazes == FREE) & ~marked[rows], np.uint8(WALL), mazes)
        length = marked[rows].sum(axis=1) + 1
        valid[rows] = engine.solve(walled, *shape)[1] == length
        shortest[rows] = valid[rows] & (engine.solve(mazes, *shape)[1] == length)
    return valid, shortest
