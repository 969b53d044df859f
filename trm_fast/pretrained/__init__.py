"""Small trained models that ship with the package, one folder each, with the command that trained them."""

NAMES = ("maze-small", "sudoku-4x4", "sudoku-6x6", "sudoku-extreme", "sudoku-cpu")
"""The models. Where several can read a puzzle, the first is the default."""
