"""The exception for mistakes that a user can correct. The command line prints it without a traceback."""

from __future__ import annotations


class UserError(ValueError):
    """Something outside the program is wrong: a file, a row, a key, a puzzle.

    Args:
        message: what is wrong, where (file, line, key) and what to do about it.
        usage_error: whether the command line or the configuration is wrong: exit code 2 instead of 1.
    """

    def __init__(self, message: str, *, usage_error: bool = False) -> None:
        super().__init__(message)
        self.usage_error = usage_error
