"""Checks answers against the rules of mazes, without labels."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from trm_fast.tasks.maze.cells import FREE, GOAL, PATH, START, WALL
from trm_fast.tasks.maze.engine import engine

Flags = npt.NDArray[np.bool_]


def judge(questions: npt.NDArray[Any], answers: npt.NDArray[Any], shape: tuple[int, int]) -> tuple[Flags, Flags]:
    """Whether each answer is a path through its maze, and whether it is a shortest path.

    A path keeps walls, start and goal, marks a connection from start to goal and no other cell, and never touches
    itself. A path that touches itself has a shortcut and looks the same as a path with extra marks next to it.

    Args:
        questions: tokens of N mazes (N, cells).
        answers: tokens (N, cells).
        shape: rows and columns.

    Returns:
        Two arrays, bool (N,).
    """
    complete = ((questions == START).sum(axis=1) == 1) & ((questions == GOAL).sum(axis=1) == 1)
    marked = (questions == FREE) & (answers == PATH)
    kept = (marked | (questions == answers)).all(axis=1)
    rows = np.flatnonzero(complete & kept)
    valid, shortest = np.zeros((2, len(questions)), dtype=np.bool_)
    if len(rows):
        mazes = questions[rows].astype(np.uint8)
        walled = np.where((mazes == FREE) & ~marked[rows], np.uint8(WALL), mazes)
        length = marked[rows].sum(axis=1) + 1
        valid[rows] = engine.solve(walled, *shape)[1] == length
        shortest[rows] = valid[rows] & (engine.solve(mazes, *shape)[1] == length)
    return valid, shortest
