"""The task grid: puzzles of any alphabet with a fixed length or shape, from a table of questions and answers."""

from __future__ import annotations

from trm_fast.tasks.grid.task import Grid, GridConfig

__all__ = ["Grid", "GridConfig"]
