"""The one exception for what a person can mend; the command line prints it without a traceback."""

from __future__ import annotations


class UserError(ValueError):
    """Something outside the program is wrong: a file, a row, a key, a puzzle.

    The message says what is wrong, where (file, line, key) and what to do about it.
    ``wrong_use`` marks a wrong command line or configuration (exit code 2 instead of 1).
    """

    def __init__(self, message: str, *, wrong_use: bool = False) -> None:
        super().__init__(message)
        self.wrong_use = wrong_use
