"""The task maze, for mazes of up to 64 x 64 cells."""

from __future__ import annotations

from trm_fast.tasks.maze.files import read, write
from trm_fast.tasks.maze.mazes import Mazes, generate
from trm_fast.tasks.maze.task import Maze

__all__ = ["Maze", "Mazes", "generate", "read", "write"]
