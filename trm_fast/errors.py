"""The exception for mistakes that a user can correct. The command line prints it without a traceback."""

from __future__ import annotations


class UserError(ValueError):
    """Something that the user provided is wrong: a file, a row, a key, a puzzle.

    Args:
        message: what is wrong, in which file, line or key, and how to correct it.
        usage_error: whether the command line or the configuration is wrong. The exit code is then 2 instead of 1.
    """

    def __init__(self, message: str, *, usage_error: bool = False) -> None:
        super().__init__(message)
        self.usage_error = usage_error
