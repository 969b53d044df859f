"""The exception for mistakes that a user can correct, and short texts for its message.

The command line prints the message without a traceback. Values in messages may come from any file, so that they are
shortened before they are formatted.
"""

from __future__ import annotations

import re
import reprlib
import textwrap
from typing import Any

VALUE = 80
"""The largest number of characters of a value in a message."""

WORD, LINE, MESSAGE = 160, 190, 1200
"""The largest number of characters of a word, of a printed line, and of a whole message."""


class UserError(ValueError):
    """Something that the user provided is wrong: a file, a row, a key, a puzzle.

    Args:
        message: what is wrong, in which file, line or key, and how to correct it. ``shortened`` is applied to it.
        usage_error: whether the command line or the configuration is wrong. The exit code is then 2 instead of 1.
    """

    def __init__(self, message: str, *, usage_error: bool = False) -> None:
        super().__init__(shortened(message))
        self.usage_error = usage_error


def shown(value: Any) -> str:
    """A value for a message: its ``repr``, shortened. The time does not depend on the size of the value.

    Examples:
        >>> shown("yes"), shown([1] * 9)
        ("'yes'", '[1, 1, 1, 1, 1, 1, ...]')
        >>> len(shown("x" * 1000))
        80
    """
    return cut(_SHORT.repr(value), VALUE)


def cut(text: str, length: int) -> str:
    """A text of at most ``length`` characters: the middle of a longer one is left out.

    Examples:
        >>> cut("abcdefghij", 7)
        'ab...ij'
    """
    if len(text) <= length:
        return text
    head = (length - 2) // 2
    return f"{text[:head]}...{text[len(text) - (length - 3 - head) :]}"


def shortened(message: str, length: int = MESSAGE) -> str:
    """A message without its long middle, and without the middles of long words."""
    return cut(re.sub(rf"\S{{{WORD + 1},}}", lambda word: cut(word[0], WORD), message), length)


def in_lines(message: str) -> str:
    """A message in lines of at most ``LINE`` characters. Control characters are escaped, because a terminal obeys
    them."""
    lines = (re.sub(r"[^\S\n ]|[\x00-\x1f\x7f-\x9f]", _escaped, line) for line in message.splitlines())
    return "\n".join(
        textwrap.fill(line, LINE, subsequent_indent="  ", break_on_hyphens=False, drop_whitespace=True)
        for line in lines
    )


def _escaped(character: re.Match[str]) -> str:
    return repr(character[0])[1:-1]


class _Short(reprlib.Repr):
    def __init__(self) -> None:
        super().__init__()
        self.maxlevel, self.maxstring, self.maxother = 3, VALUE, VALUE

    def repr_int(self, x: int, level: int) -> str:
        digits = int(x.bit_length() * 0.30103)  # str() refuses numbers with thousands of digits
        return f"a number of about {digits} digits" if digits > 4000 else cut(repr(x), VALUE)


_SHORT = _Short()
