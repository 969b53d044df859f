"""The task sudoku, for sizes 4, 6 and 9."""

from __future__ import annotations

from trm_fast.tasks.sudoku.files import read, write
from trm_fast.tasks.sudoku.puzzles import Puzzles, generate
from trm_fast.tasks.sudoku.task import Sudoku

__all__ = ["Puzzles", "Sudoku", "generate", "read", "write"]
